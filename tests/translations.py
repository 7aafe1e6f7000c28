"""The Chinese pages, and what has changed in the English ones since they were written.

python -m tests.translations              which Chinese pages are behind, by heading
python -m tests.translations PAGE ...     renews the marks of pages that were brought up to date

A Chinese page ends with a mark for each English page that it follows, a comment that no reader
sees:

    <!-- follows docs/data.md
    3f0c6a41d2 Data: your photos, lists, tables, archives
    - In Python
    -->

A line has the digest of a section and its heading; '-' stands for one that the Chinese page leaves
to the English one on purpose. Where lines are broken does not count.
"""
import hashlib
import re
import sys

from tests.conftest import ROOT

CHINESE = [ROOT / 'README_cn.md', *sorted(ROOT.glob('docs/cn/*.md'))]
MARK = re.compile(r'^<!-- follows (\S+)\n((?:(?:[0-9a-f]{10}|-) .+\n)*)-->$', re.M)
LEFT_OUT = '-'


def sections(text):
    """{heading: digest} of a page; a heading that comes again gets a number."""
    found, lines, fenced = {}, {}, False
    heading = ''
    for line in text.splitlines():
        fenced ^= line.startswith('```')
        title = re.match(r'#+ (.+)', line)
        if title and not fenced:
            heading, number = title[1].strip(), 2
            while heading in lines:
                heading, number = f'{title[1].strip()} ({number})', number + 1
        lines.setdefault(heading, []).append(line)
    for heading, words in lines.items():
        words = ' '.join('\n'.join(words).split())
        if words:
            found[heading] = hashlib.sha256(words.encode()).hexdigest()[:10]
    return found


def marks(text):
    """{English page: {heading: digest or '-'}} of a Chinese page."""
    return {page: {heading: digest for digest, heading in
                   (line.split(' ', 1) for line in lines.splitlines())}
            for page, lines in MARK.findall(text)}


def differences(noted, now):
    """In words, what is other in an English page than what was noted of it; [] for nothing."""
    kinds = {
        'changed': [name for name, digest in now.items()
                    if noted.get(name, digest) not in (digest, LEFT_OUT)],
        'new': [name for name in now if name not in noted],
        'gone': [name for name in noted if name not in now]}
    return [f'{kind}: {", ".join(map(repr, names))}' for kind, names in kinds.items() if names]


def behind(path, root=ROOT):
    """A line for each English page that a Chinese page is behind, and for a mark that is broken."""
    text, page = path.read_text(encoding='utf-8'), str(path.relative_to(root))
    found = marks(text)
    if not found or len(found) != len(re.findall(r'<!-- follows\b', text)):
        return [f'{page}: expected marks of the form that tests/translations.py shows, at its end']
    lines = []
    for english, noted in found.items():
        if not (root / english).exists():
            lines.append(f'{page}: follows {english}, which is not there')
            continue
        other = differences(noted, sections((root / english).read_text(encoding='utf-8')))
        if other:
            lines.append(
                f'{page} is behind {english}: {"; ".join(other)}. Bring the Chinese text up to '
                f'date (CONTRIBUTING.md says how without Chinese), then '
                f'python -m tests.translations {page}')
    return lines


def renewed(text, root=ROOT):
    """A Chinese page with its marks as they are to be now; what is left out stays so."""
    def renew(match):
        noted = marks(match[0])[match[1]]
        now = sections((root / match[1]).read_text(encoding='utf-8'))
        lines = [f'{LEFT_OUT if noted.get(name) == LEFT_OUT else digest} {name}\n'
                 for name, digest in now.items()]
        return f'<!-- follows {match[1]}\n{"".join(lines)}-->'

    return MARK.sub(renew, text)


def main(arguments):
    for name in arguments:
        path = ROOT / name
        path.write_text(renewed(path.read_text(encoding='utf-8')), encoding='utf-8')
    lines = [line for path in CHINESE for line in behind(path)]
    print('\n'.join(lines) or 'no Chinese page is behind')
    return 1 if lines else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
