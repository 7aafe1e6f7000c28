"""The site of the documentation: what docs/site/ does without MkDocs. `make docs` builds it."""
import base64
import json

import pytest

from docs.site import api, build
from docs.site.check import check
from paddle_vitae import NAMES
from tests.test_examples import FUNCTIONS

LISTED = [name for _, _, names in api.SECTIONS for name in names]


def test_list_of_the_interface_is_current():
    assert api.PAGE.read_text(encoding='utf-8') == api.page(), '`make docs` writes docs/api.md anew'


def test_list_of_the_interface_has_all_public_names_once():
    public = {f'{module}.{name}' for module, name in FUNCTIONS}
    public |= {f'common.{module}.{name}' for name, module in NAMES.items()}
    assert set(LISTED) == public, 'SECTIONS of docs/site/api.py'
    assert len(LISTED) == len(set(LISTED))


def test_page_of_the_interface_gets_each_docstring_once():
    text = build.with_docstrings(api.page())
    shown = [line[4:] for line in text.splitlines() if line.startswith('::: ')]
    methods = [name for name in LISTED if name.rpartition('.')[0] in LISTED]
    assert sorted([*shown, *methods]) == sorted(LISTED) and methods
    assert all(f'](#{name})' in text for name in LISTED)
    assert '](../common' not in text and api.WHERE not in text


def test_links_to_code_lead_to_pages_of_it():
    shown = set()
    text = ('[a](training.md#x) ![b](attention.png) [c](../common/zoo.py#L3) [d](../vit/configs) '
            '[e](https://a.org/b.py) [f](gone.py) [g](../.ci/run)\n```\n[h](../common/zoo.py)\n```')
    assert build.relink('docs/a.md', text, shown) == (
        '[a](training.md#x) ![b](attention.png) [c](../common/zoo.py.md) '
        '[d](../vit/configs/files.md) [e](https://a.org/b.py) [f](gone.py) [g](../ci/run.md)\n'
        '```\n[h](../common/zoo.py)\n```')
    assert shown == {'common/zoo.py', 'vit/configs/', '.ci/run'}


def test_notebook_becomes_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(build, 'STAGE', tmp_path)
    picture = base64.b64encode(b'png').decode()
    cells = [
        {'cell_type': 'markdown', 'source': ['# A\n', 'b']},
        {'cell_type': 'code', 'source': ['c()'], 'outputs': [
            {'output_type': 'stream', 'text': ['d\n', 'e\n']},
            {'output_type': 'display_data', 'data': {'image/png': picture, 'text/plain': ['f']}}]},
        {'cell_type': 'code', 'source': ['g'], 'outputs': [
            {'output_type': 'execute_result', 'data': {'text/plain': ['h']}}]}]
    assert build.notebook(json.dumps({'cells': cells}), 'a.ipynb') == (
        '# A\nb\n\n```python\nc()\n```\n\n```text\nd\ne\n```\n\n![a_1_1.png](a_1_1.png)\n\n'
        '```python\ng\n```\n\n```text\nh\n```\n')
    assert (tmp_path / 'a_1_1.png').read_bytes() == b'png'


def test_no_page_is_missing_from_the_navigation():
    nav = [{'Home': 'README.md'}, {'Data': ['docs/data.md', {'Large': 'docs/scale.md'}]}]
    pages = ['README.md', 'docs/data.md', 'docs/scale.md', 'docs/new.md', 'docs/cn/data.md',
             'README_cn.md', 'notebooks/a.ipynb.md']
    assert build.with_all(nav, pages) == [
        *nav, {'中文': ['README_cn.md', 'docs/cn/data.md']},
        {'Notebooks': ['notebooks/a.ipynb.md']}, {'More': ['docs/new.md']}]
    assert build.with_all(nav, pages[:3]) == nav


GOOD = '<a href="b.html#place">b</a><a href="https://a.org">a</a><link rel="next" href="b.html">'


@pytest.mark.parametrize('body, said', [
    ('', None),
    ('<a href="c.html">c</a>', 'c.html leads to no file'),
    ('<a href="../a.html">a</a>', '../a.html leads to no file'),
    ('<a href="b.html#other">b</a>', 'b.html#other leads to no place'),
    ('<a href="#here">a</a>', '#here leads to no place'),
    ('<img src="gone.png">', 'gone.png leads to no file'),
    ('<script src="https://a.org/x.js"></script>', 'loads https://a.org/x.js'),
    ('<link rel="stylesheet" href="//a.org/x.css">', 'loads //a.org/x.css'),
    ('<style>@import "https://a.org/x.css"</style>', 'loads https://a.org/x.css'),
    ('<pre class="mermaid">a</pre>', 'loads https://unpkg.com/mermaid'),
])
def test_planted_fault_of_a_site_is_found(tmp_path, body, said):
    site = tmp_path / 'site'
    site.mkdir()
    (tmp_path / 'a.html').write_text('')
    (site / 'a.html').write_text(GOOD + body)
    (site / 'b.html').write_text('<h1 id="place">b</h1>')
    wrong, counts = check(site)
    assert [said in line for line in wrong] == ([True] if said else []), wrong
    assert said or counts == '2 links lead somewhere, 1 to other sites'


def test_planted_font_of_a_network_is_found(tmp_path):
    (tmp_path / 'a.css').write_text('a { x: url("x.png"); src: url(https://a.org/f.woff) }')
    assert check(tmp_path)[0] == ['a.css: loads https://a.org/f.woff']
