"""Every row of the table of faults has a test, and the scoreboard counts them right."""
import ast
import re
from pathlib import Path

import pytest

from tests.reliability.scoreboard import (
    ROWS,
    TESTS,
    main,
    read,
    rows_of,
    state_of,
)

pytestmark = pytest.mark.smoke


def names():
    """(file, name) of all tests."""
    for file in sorted(TESTS.rglob('test_*.py')):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith('test'):
                yield file.relative_to(TESTS), node.name


def test_every_row_has_a_test():
    assert len(ROWS) == len(set(ROWS)) == 132
    found = {row for _, name in names() for row in rows_of(name)}
    assert found == set(ROWS)


def test_readme_lists_every_row_with_its_tests():
    text = (Path(__file__).parent / 'README.md').read_text(encoding='utf-8')
    lines = dict(re.findall(r'^\| (\w\d+) \|(.*)$', text, re.M))
    assert set(lines) == set(ROWS)
    for file, name in names():
        for row in rows_of(name):
            file_name = str(file)
            assert f'`{file_name}::{name}`' in lines[row], f'{row}: {file_name}::{name}'
    listed = set(re.findall(r'`([\w/]+\.py)::(\w+)`', text))
    assert listed <= {(str(file), name) for file, name in names()}


def test_ids_of_a_name():
    assert rows_of('test_a_W1') == ['W1']
    assert rows_of('test_a_vit_D4_D6_D10[x_W1]') == ['D4', 'D6', 'D10']
    assert rows_of('test_W1_a') == rows_of('test_conv2d_2') == rows_of('test_a[b_W1]') == []


CASE = '<testcase classname="a" name="{}">{}</testcase>'


def test_counts_and_exit_code(tmp_path, capsys):
    file = tmp_path / 'a.xml'

    def written(*extra):
        cases = [CASE.format(f'test_{row}', '') for row in ROWS]
        file.write_text(f'<testsuites><testsuite>{"".join([*cases, *extra])}</testsuite>'
                        '</testsuites>')
        with pytest.raises(SystemExit) as end:
            main(str(file))
        return end.value.code

    assert written(CASE.format('test_b[1]', '<failure/>')) == 0
    assert '132 rows: 132 ok' in capsys.readouterr().out
    assert written(CASE.format('test_b_W1_W2[1]', '<failure/>')) == 1
    assert '| W2 | 2 | 1 | 1 | 0 | 0 | FAILED |' in capsys.readouterr().out
    assert written(CASE.format('test_b_W1', '<error/>')) == 1
    assert written(CASE.format('test_b_W1', '<skipped type="pytest.xfail"/>')) == 0
    assert state_of(read(file)['W1']).startswith('in part')
    file.write_text(f'<testsuite>{CASE.format("test_b_W1", "<skipped/>")}</testsuite>')
    with pytest.raises(SystemExit, match='1'):
        main(str(file))
    assert '| W1 | 1 | 0 | 0 | 0 | 1 | NOT RUN |' in capsys.readouterr().out
