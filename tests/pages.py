"""What the pages hold for a test: their blocks, the commands in these, links and headings.

A block of ```shell or ```python runs as it stands (run_pages.py). One that needs ImageNet, a
network, several GPUs or minutes has the line `<!-- parsed: REASON -->` before it, which no reader
of the page sees: its commands are read by the real parsers instead. So are all commands within a
sentence or a table.
"""
import re
import shlex
from typing import NamedTuple

from tests.conftest import ROOT

FAMILIES = ('vit', 'vitae', 'vitaev2_vsa')
PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('README_*.md')), *sorted(ROOT.glob('docs/*.md')),
         *sorted(ROOT.glob('docs/cn/*.md')),
         *(ROOT / family / 'README.md' for family in FAMILIES),
         *(ROOT / 'vitaev2_vsa' / task / 'README.md' for task in ('detection', 'segmentation'))]
# Their blocks are not run: those of CONTRIBUTING.md make a family, in test_new_family.py.
MORE_PAGES = [ROOT / name for name in (
    'CONTRIBUTING.md', 'common/README.md', 'tests/README.md', 'tests/reliability/README.md')]


class Block(NamedTuple):
    """A fenced block: the page, its place there, its language, its text, whether it is run."""
    page: str
    number: int
    language: str
    text: str
    runs: bool

    @property
    def name(self):
        return f'{self.page}, block {self.number}'


def blocks(path):
    """The fenced blocks of a page, in their order."""
    text = path.read_text(encoding='utf-8')
    found = re.finditer(r'^(<!-- parsed: .+ -->\n)?```(\w*)\n(.*?)^```$', text, re.M | re.S)
    return [Block(str(path.relative_to(ROOT)), number, match[2], match[3], match[1] is None)
            for number, match in enumerate(found)]


def all_blocks(language, paths=PAGES):
    """The blocks of one language, of all pages that are run."""
    return [block for path in paths for block in blocks(path) if block.language == language]


def commands(text):
    """The commands of a shell block, each a list of words; variables before one are left out."""
    text = re.sub(r'\\\n\s*', '', text)
    for line in text.splitlines():
        line = re.sub(r'(^|\s)#.*$', '', line)
        for part in re.split(r'\s(?:&&|\|)\s', line):
            words = shlex.split(part)
            while words and re.match(r'[A-Z_]+=', words[0]):
                words.pop(0)
            if words:
                yield words


def inline_commands(text):
    """The commands between backticks, in a sentence or a table, that are meant to be typed.

    Brackets around a flag that may be left out are taken off. Left out: the mere name of a command,
    and what is shortened by '...'.
    """
    text = re.sub(r'^```.*?^```$', '', text, flags=re.M | re.S)
    for code in re.findall(r'`([^`]+)`', text):
        code = ' '.join(code.split()).replace('\\|', '|')
        code = re.sub(r'([A-Z])\.\.\.', r'\1', code)  # IMAGE... is one or more
        code = re.sub(r'\[(-[^]]*)\]', r'\1', code)
        start = re.match(r'(?:paddle-vitae|python -m common\.\w+|'
                         r'main\.py(?= (?:train|eval|infer|export|params|speed))) ', code)
        if start and '...' not in code:
            words = shlex.split(code)
            if len(words) > len(start[0].split()) + 1:
                yield ['python', *words] if words[0] == 'main.py' else words


def anchors(text):
    """The places of a page that a link may name, as GitHub makes them of its headings."""
    text = re.sub(r'^```.*?^```$', '', text, flags=re.M | re.S)
    found = set(re.findall(r'<a (?:id|name)="([^"]+)">', text))
    for heading in re.findall(r'^#+ (.+)$', text, re.M):
        heading = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading).lower()
        slug = re.sub(r'[^\w\- ]', '', heading).replace(' ', '-')
        while slug in found:
            slug += '-1'
        found.add(slug)
    return found
