"""Executes the notebooks, as `make notebooks` and CI do: python -m tests.notebooks [-write]

Each runs in an empty folder, from its text alone; a command that fails stops it, and what it prints
is compared with what its text says. -write puts what it printed and drew into the file, without
what changes from run to run but says nothing: the times of cells.
"""
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'notebooks').glob('*.ipynb'))
SECONDS = 240  # for one cell
# IPython goes on after a `!` command that failed, and the notebooks send its errors to files.
CHECK_COMMANDS = """
def checked(command, shell=get_ipython(), plain=get_ipython().system):
    plain(command)
    if shell.user_ns['_exit_code']:
        raise RuntimeError(f"exit status {shell.user_ns['_exit_code']}: {command}")
get_ipython().system = checked
del checked
"""
# What the texts rest on: patterns of what is printed, and the least that their numbers may be.
CLAIMS = {
    'finetune_on_photos': [
        (r'all is well', None), (r"classes: 3: 'flower', 'portrait', 'temple'", None),
        (r'classifier: new, \[96, 3\]; the file has \[96, 10\]', None),
        (r'accuracy ([\d.]+)% on 39 images', 75), (r'\(copy\)\.jpg .*?([01]\.\d+)', .9),
        (r'007\.jpg +temple: ([\d.]+)%', 50), (r"'pred_class': 'flower'", None)],
    'look_inside': [
        (r'vit_digits: best, .*?acc@1 ([\d.]+)%', 90),
        (r'vitae_digits: best, .*?acc@1 ([\d.]+)%', 95),
        (r'vitaev2_vsa_digits: best, .*?acc@1 ([\d.]+)%', 95)],
}


def execute(file):
    """The notebook of a file, with outputs of now. Raises nbclient's error for that of a cell."""
    book = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(book, timeout=SECONDS, kernel_name='python3',
                                resources={'metadata': {'path': folder}})
        with client.setup_kernel():
            client.kc.execute(CHECK_COMMANDS, silent=True)
            for index, cell in enumerate(book.cells):
                client.execute_cell(cell, index)
    for cell in book.cells:
        cell.metadata.pop('execution', None)
    return book


def missing(name, book):
    """What a notebook does not print though its text rests on it, each in words."""
    outputs = [output for cell in book.cells for output in cell.get('outputs', [])]
    said = ''.join(output.get('text', output.get('data', {}).get('text/plain', ''))
                   for output in outputs)
    for pattern, least in CLAIMS.get(name, []):
        found = re.search(pattern, said)
        if not found:
            yield f'{pattern} is not printed'
        elif least is not None and float(found[1]) < least:
            yield f'{found[0]}: expected {least} or more'


def main():
    os.environ['PYTHONPATH'] = str(ROOT)  # the kernel's folder is another one
    for file in FILES:
        start = time.monotonic()
        book = execute(file)
        for cell in book.cells:
            for output in cell.get('outputs', []):
                if output.get('name') == 'stderr':
                    sys.exit(f'{file.name}: on standard error: {output["text"]}')
        if wrong := list(missing(file.stem, book)):
            sys.exit(f'{file.name}: {"; ".join(wrong)}')
        if '-write' in sys.argv[1:]:
            nbformat.write(book, file)
        print(f'{file.name}: {len(book.cells)} cells in {time.monotonic() - start:.0f} s')


if __name__ == '__main__':
    main()
