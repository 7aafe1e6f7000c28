"""The notebooks as they are saved; `make notebooks` executes them."""
import ast
import json
import re

import pytest

from tests.conftest import ROOT

FILES = sorted((ROOT / 'notebooks').glob('*.ipynb'))
MOST_BYTES = 400_000  # for GitHub to show it


def test_there_are_notebooks():
    assert {file.name for file in FILES} >= {'finetune_on_photos.ipynb', 'look_inside.ipynb'}


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_saved_notebook_is_whole_and_names_no_machine(file):
    text = file.read_text(encoding='utf-8')
    book = json.loads(text)
    assert len(text) < MOST_BYTES and book['nbformat'] == 4
    assert book['metadata']['kernelspec']['name'] == 'python3'
    code = [cell for cell in book['cells'] if cell['cell_type'] == 'code']
    assert [cell['execution_count'] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        ast.parse(re.sub(r'^(\s*)!.*', r'\1pass', ''.join(cell['source']), flags=re.M))
    outputs = [output for cell in code for output in cell['outputs']]
    assert any('image/png' in output.get('data', {}) for output in outputs)
    for output in outputs:
        assert output['output_type'] != 'error' and output.get('name') != 'stderr'
    said = json.dumps([[output.get('text'), output.get('data', {}).get('text/plain')]
                       for output in outputs])
    assert not re.search(r'/(home|root|tmp|usr|work)/|Traceback|WARNING', said)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_links_of_notebooks_lead_somewhere(file):
    cells = json.loads(file.read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown')
    links = re.findall(r'\]\(([^)#]+)[^)]*\)', text)
    assert links
    for link in links:
        assert '://' in link or (file.parent / link).is_file(), link
