"""Executes the notebooks, as `make notebooks` and CI do: python -m tests.notebooks [-write]

Each runs in an empty folder, from its text alone. -write puts what it printed and drew into the
file, without what changes from run to run but says nothing: counts and times of cells.
"""
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'notebooks').glob('*.ipynb'))
SECONDS = 240  # for one cell


def execute(file):
    """The notebook of a file, with outputs of now. Raises nbclient's error for that of a cell."""
    book = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(book, timeout=SECONDS, kernel_name='python3',
                       resources={'metadata': {'path': folder}}).execute()
    for cell in book.cells:
        cell.metadata.pop('execution', None)
    return book


def main():
    os.environ['PYTHONPATH'] = str(ROOT)  # the kernel's folder is another one
    for file in FILES:
        start = time.monotonic()
        book = execute(file)
        for cell in book.cells:
            for output in cell.get('outputs', []):
                if output.get('name') == 'stderr':
                    sys.exit(f'{file.name}: on standard error: {output["text"]}')
        if '-write' in sys.argv[1:]:
            nbformat.write(book, file)
        print(f'{file.name}: {len(book.cells)} cells in {time.monotonic() - start:.0f} s')


if __name__ == '__main__':
    main()
