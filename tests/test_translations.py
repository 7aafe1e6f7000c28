"""The Chinese pages: none is behind the English one that it follows, unnoticed; what both have is
the same. Their blocks and links are checked by test_pages.py."""
import re

import pytest

from tests.conftest import ROOT
from tests.translations import CHINESE, behind, marks, renewed

ENGLISH = '''# Data

words of one line

```shell
# no heading
paddle-vitae digits digits
```

## Lists

a list

## Why

reasons
'''
CHINESE_PAGE = '# 数据\n\n## 列表\n\n<!-- follows docs/data.md\n- Why\n-->\n'


@pytest.mark.parametrize('path', CHINESE, ids=lambda path: path.stem)
def test_no_chinese_page_is_behind_its_english_one(path):
    assert not behind(path), '\n'.join(behind(path))


@pytest.fixture
def page(tmp_path):
    """A Chinese page with a mark as it is written, beside its English one."""
    (tmp_path / 'docs' / 'cn').mkdir(parents=True)
    (tmp_path / 'docs' / 'data.md').write_text(ENGLISH)
    page = tmp_path / 'docs' / 'cn' / 'data.md'
    page.write_text(renewed(CHINESE_PAGE, tmp_path), encoding='utf-8')
    assert list(marks(page.read_text(encoding='utf-8'))['docs/data.md']) == ['Data', 'Lists', 'Why']
    return page


@pytest.mark.parametrize('old, new, message', [
    ('a list', 'another list', "changed: 'Lists'"),
    ('paddle-vitae digits digits', 'paddle-vitae digits FOLDER', "changed: 'Data'"),
    ('## Why', '## Tables\n\na table\n\n## Why', "new: 'Tables'"),
    ('## Lists', '## Lists of images', "new: 'Lists of images'; gone: 'Lists'"),
    ('words of one line', 'words of\none line', None),
    ('reasons', 'other reasons', None),  # of a section that is left out
])
def test_changed_sections_are_named(page, tmp_path, old, new, message):
    assert behind(page, tmp_path) == []
    (tmp_path / 'docs' / 'data.md').write_text(ENGLISH.replace(old, new))
    lines = behind(page, tmp_path)
    if message is None:
        assert lines == []
        return
    line, = lines
    assert f'docs/cn/data.md is behind docs/data.md: {message}. ' in line
    assert line.endswith('python -m tests.translations docs/cn/data.md')
    page.write_text(renewed(page.read_text(encoding='utf-8'), tmp_path), encoding='utf-8')
    assert behind(page, tmp_path) == []
    assert marks(page.read_text(encoding='utf-8'))['docs/data.md']['Why'] == '-'


@pytest.mark.parametrize('mark, message', [
    ('', 'expected marks'),
    ('<!-- follows docs/data.md\nno digest\n-->\n', 'expected marks'),
    ('<!-- follows docs/date.md\n-->\n', 'docs/date.md, which is not there'),
])
def test_broken_marks_are_said(page, tmp_path, mark, message):
    page.write_text(f'# 数据\n\n{mark}', encoding='utf-8')
    assert message in behind(page, tmp_path)[0]


def test_chinese_pages_open_with_a_command_and_are_linked():
    readme = (ROOT / 'README_cn.md').read_text(encoding='utf-8')
    assert len(readme) <= 9 * 1024  # characters
    for path in CHINESE[1:]:
        opening = r'# .+\n\n(?:<!-- parsed: .+ -->\n)?```(?:shell|python)\n'
        assert re.match(opening, path.read_text(encoding='utf-8')), path
        assert f'](docs/cn/{path.name})' in readme, path


def test_no_line_breaks_within_chinese_text():
    """They would be shown as spaces."""
    for path in CHINESE:
        text = re.sub(r'^```.*?^```$', '', path.read_text(encoding='utf-8'), flags=re.M | re.S)
        assert not re.findall(r'.*[\u3000-\u9fff\uff00-\uffef]\n[\u3000-\u9fff].*', text), path


def test_both_readmes_name_the_other_on_their_first_screen():
    for name, other in (('README.md', 'README_cn.md'), ('README_cn.md', 'README.md')):
        assert f']({other})' in (ROOT / name).read_text(encoding='utf-8')[:600], name


def test_both_readmes_have_the_same_models():
    english, chinese = (
        re.findall(r'^\| (`\w+`) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|',
                   (ROOT / name).read_text(encoding='utf-8'), re.M)
        for name in ('README.md', 'README_cn.md'))
    assert len(english) >= 15 and english == chinese
