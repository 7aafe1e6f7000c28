"""Builds the site of the documentation in site/; `make docs` calls it.

The pages are those that GitHub shows, and none is written twice: they are copied to build/docs/,
each to its place in the repository, so that links between them lead where they did. On the way

- a link to a file of the code leads to a page with that file, a link to a folder to a list of it;
- notebooks become pages, as they were saved (nothing is run);
- docs/api.md has all of the docstrings, which mkdocstrings reads from the sources.

MkDocs does the rest; a warning of its is an error. check.py then follows each link of the site.
"""
import base64
import json
import logging
import posixpath
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

from docs.site import api
from docs.site.check import check

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / 'build' / 'docs'
SITE = ROOT / 'site'
FENCE = re.compile(r'^(`{3,})[^`\n]*\n.*?^\1$', re.M | re.S)
LINK = re.compile(r'(\]\()([^)\s#]+)(#[^)\s]*)?(\))')
PICTURES = ('.png', '.jpg', '.svg', '.gif')
LANGUAGES = {'.py': 'python', '.yaml': 'yaml', '.yml': 'yaml', '.sh': 'shell', '.c': 'c'}
# The pages that nav does not name, by the start of their path and in this order.
GROUPS = {'README_cn.md': '中文', 'docs/cn/': '中文', 'notebooks/': 'Notebooks', '': 'More'}


def tracked() -> list[str]:
    """The files of the repository, and new ones that git does not ignore."""
    done = subprocess.run(['git', '-c', 'core.quotePath=false', 'ls-files', '--cached', '--others',
                           '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{done.stderr.strip()}\nexpected a clone, whose pages git knows')
    return sorted({name for name in done.stdout.splitlines() if (ROOT / name).is_file()})


def is_page(name: str) -> bool:
    """Whether a file is a page of the site, and no template or fixture."""
    return (name.endswith('.md') and not name.startswith(('.', 'tests/fixtures/'))) or (
        name.startswith('notebooks/') and name.endswith('.ipynb'))


def staged_name(name: str) -> str:
    """The name in build/docs/ of a page, or of the page that shows a file or a folder/.

    MkDocs leaves out what begins with a dot.
    """
    name = f'{name}files' if name.endswith('/') else name
    return (name if name.endswith('.md') else f'{name}.md').removeprefix('.')


def outside_fences(text: str, change) -> str:
    """The text, changed where it is no block of code."""
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[end:fence.start()]), fence[0]]
        end = fence.end()
    return ''.join([*parts, change(text[end:])])


def relink(name: str, text: str, shown: set[str]) -> str:
    """The text of a page with links to files and folders of the code made links to their pages.

    Args:
        name: the page, as it is named in the repository.
        text: its Markdown.
        shown: the files and folders that a page links to are added to it.
    """
    def target(match):
        start, link, anchor, end = match.groups(default='')
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
        if '://' in link or link.endswith(('.md', *PICTURES)) or not (ROOT / path).exists():
            return match[0]
        if (ROOT / path).is_dir():
            path = f'{path}/'
        if not is_page(path):
            shown.add(path)
            anchor = ''  # a line's number
        link = posixpath.relpath(staged_name(path), posixpath.dirname(name) or '.')
        return f'{start}{link}{anchor}{end}'

    return outside_fences(text, lambda part: LINK.sub(target, part))


def notebook(text: str, name: str) -> str:
    """The Markdown of a notebook; its pictures are written beside the page."""
    parts = []
    for number, cell in enumerate(json.loads(text)['cells']):
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code':
            parts.append(source)
            continue
        parts.append(f'```python\n{source}\n```')
        for place, output in enumerate(cell['outputs']):
            data = output.get('data', {})
            said = ''.join(output.get('text', data.get('text/plain', '')))
            if 'image/png' in data:
                picture = f'{Path(name).stem}_{number}_{place}.png'
                (STAGE / name).with_name(picture).write_bytes(base64.b64decode(data['image/png']))
                said = ''
                parts.append(f'![{picture}]({picture})')
            if said.strip():
                parts.append(f'```text\n{said.rstrip()}\n```')
    return '\n\n'.join(parts) + '\n'


def with_docstrings(text: str) -> str:
    """docs/api.md with the docstrings of its names below each of its tables."""
    for heading, _, names in api.SECTIONS:
        start = text.index(f'\n## {heading}\n')
        end = text.find('\n## ', start + 1)
        section = text[start:end]
        for name in names:
            row = api.line(name)
            section = section.replace(row, re.sub(r'\]\([^)]*\)', f'](#{name})', row, count=1))
        section += ''.join(f'\n::: {name}\n' for name in names
                           if name.rpartition('.')[0] not in names)  # a method is in its class
        text = text[:start] + section + text[end:]
    return text.replace(api.WHERE, 'below each table')


def file_page(path: str, files: list[str]) -> str:
    """A page with a file of the code, or with a list of a folder; the search leaves it out."""
    opening = f'---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n# {path}\n\n'
    if path.endswith('/'):
        inside = [name[len(path):] for name in files if name.startswith(path)]
        inside = [name for name in inside if '/' not in name]
        return opening + ''.join(f'- [{name}]({staged_name(name)})\n' for name in inside)
    text = (ROOT / path).read_text(encoding='utf-8')
    return f'{opening}``````{LANGUAGES.get(Path(path).suffix, "text")}\n{text}\n``````\n'


def stage() -> list[str]:
    """Fills build/docs/; returns the names of the pages there, without those of the code."""
    shutil.rmtree(STAGE, ignore_errors=True)
    files = tracked()
    pages = [name for name in files if is_page(name)]
    shown = set()
    for name in pages:
        target = STAGE / staged_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text(encoding='utf-8')
        if name.endswith('.ipynb'):
            text = notebook(text, name)
        if ROOT / name == api.PAGE:
            text = with_docstrings(text)
        target.write_text(relink(name, text, shown), encoding='utf-8')
    for name in files:
        if name.endswith(PICTURES) and (STAGE / name).parent.is_dir():
            shutil.copyfile(ROOT / name, STAGE / name)
    folders = [path for path in shown if path.endswith('/')]
    shown.update(name for name in files if posixpath.dirname(name) + '/' in folders)
    for path in sorted(shown):
        if not is_page(path):
            target = STAGE / staged_name(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file_page(path, files), encoding='utf-8')
    for name in ('extra.css', 'iframe-worker.js'):
        shutil.copyfile(Path(__file__).with_name(name), STAGE / name)
    return [staged_name(name) for name in pages]


def named(nav) -> list[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav)
            for page in named(part)]


def with_all(nav: list, pages: list[str]) -> list:
    """The navigation with groups of the pages that it does not name."""
    groups = {}
    for page in sorted(set(pages) - set(named(nav)), key=lambda page: (page.count('/'), page)):
        start = next(start for start in GROUPS if page.startswith(start))
        groups.setdefault(GROUPS[start], []).append(page)
    return [*nav, *({group: groups[group]} for group in dict.fromkeys(GROUPS.values())
                    if group in groups)]


def build_site(pages: list[str]):
    """Fills site/ from build/docs/, without a page for addresses that are not there."""
    try:
        import jieba  # the words of a Chinese sentence, for the search
        from mkdocs.commands.build import build
        from mkdocs.config import load_config
    except ImportError as error:
        sys.exit(f"{error}: expected the extra docs, pip install -e '.[docs]'")
    jieba.setLogLevel(logging.WARNING)
    config = load_config(str(Path(__file__).with_name('mkdocs.yml')), strict=True)
    config.nav = with_all(config.nav, pages)
    build(config)
    (SITE / '404.html').unlink()  # its links are for a server at a known address


def main():
    """Builds and checks; ends with the exit code 1 and the reasons, if something is wrong."""
    api.PAGE.write_text(api.page(), encoding='utf-8')
    warnings.filterwarnings('ignore')
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s %(message)s')
    pages = stage()
    build_site(pages)
    wrong, counts = check(SITE)
    if wrong:
        sys.exit('\n'.join(wrong))
    print(f'site/index.html: {len(pages)} pages of text, {counts}')


if __name__ == '__main__':
    main()
