"""Checks a site that lies in a folder: each link leads to a file and a place that are there, and
nothing is loaded from a network. Links to other sites are counted, not followed.
"""
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser loads by itself; `link` also names other pages, which it does not load.
LOADED = {('img', 'src'), ('script', 'src'), ('source', 'src'), ('iframe', 'src'), ('video', 'src'),
          ('object', 'data'), ('use', 'href')}
NOT_LOADED = ('canonical', 'next', 'prev', 'alternate', 'edit')
IN_CSS = re.compile(r'@import\s+["\']([^"\']+)|url\(\s*["\']?([^"\')]+)')


class Page(HTMLParser):
    """The places of a page, its links, what it loads, and the text of its styles."""

    def __init__(self, text):
        super().__init__()
        self.places, self.links, self.loaded, self.styles = set(), [], [], []
        self.in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.in_style = tag == 'style'
        self.places |= {values[name] for name in ('id', 'name') if values.get(name)}
        # the theme's script loads a library for a diagram of this class from a network
        if 'mermaid' in (values.get('class') or '').split():
            self.loaded.append('https://unpkg.com/mermaid')
        for name, value in attributes:
            if (tag, name) in LOADED or (tag == 'link' and name == 'href'
                                         and values.get('rel') not in NOT_LOADED):
                self.loaded.append(value)
            elif tag in ('a', 'area', 'link') and name == 'href':
                self.links.append(value)

    def handle_data(self, data):
        if self.in_style:
            self.styles.append(data)


def loaded_by_css(text):
    """What a style sheet loads."""
    return [first or second for first, second in IN_CSS.findall(text)]


def check(site: Path) -> tuple[list[str], str]:
    """(a sentence for each thing that is wrong, counts in words) of a site's folder."""
    pages = {path: Page(path.read_text(encoding='utf-8')) for path in sorted(site.rglob('*.html'))}
    wrong, count, outside = [], 0, set()
    for path, page in pages.items():
        for link in [*page.loaded, *page.links]:
            parts = urlsplit(link or '')
            if parts.scheme or parts.netloc:
                outside.add(link)
                continue
            count += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= 'index.html'
            place = unquote(parts.fragment)
            if not target.is_file() or not target.is_relative_to(site.resolve()):
                wrong.append(f'{path.relative_to(site)}: {link} leads to no file')
            elif place and target in pages and place not in pages[target].places:
                wrong.append(f'{path.relative_to(site)}: {link} leads to no place of its page')
    loads = [(path, link) for path, page in pages.items()
             for link in [*page.loaded, *loaded_by_css('\n'.join(page.styles))]]
    loads += [(path, link) for path in site.rglob('*.css')
              for link in loaded_by_css(path.read_text(encoding='utf-8'))]
    wrong += [f'{path.relative_to(site)}: loads {link}' for path, link in loads
              if re.match(r'(?:https?:)?//', link or '')]
    return wrong, f'{count} links lead somewhere, {len(outside)} to other sites'
