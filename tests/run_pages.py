"""Runs steps from the pages in one process, since each start of Paddle takes seconds.

python -m tests.run_pages < STEPS > RESULTS, both JSON: of each step {kind: python | command, code
or words} the text of its error, or null. The folder that it is started in holds the files that the
steps name, see test_pages.py.
"""
import contextlib
import glob
import importlib
import io
import json
import os
import sys
import traceback

# What a block of Python uses without having made it: an image for a model, pixels for a classifier.
BEFORE = '''
import numpy as np, paddle
image = paddle.zeros([2, 3, 32, 32])
pixels = np.zeros([2, {shape}], np.uint8)
'''


def run_python(code, family_folder):
    """Runs a block in a namespace of its own; one that imports `config` as in a family's folder."""
    shape = '3, 32, 32' if '[B, 3, H, W]' in code else '40, 48, 3'
    code = BEFORE.format(shape=shape) + code
    if 'from config import' not in code:
        exec(code, {'__name__': 'block'})
        return
    others = {name: sys.modules.pop(name, None) for name in ('config', 'datasets', 'vit')}
    sys.path.insert(0, family_folder)
    try:
        exec(code, {'__name__': 'block'})
    finally:
        sys.path.remove(family_folder)
        for name, module in others.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def run_command(words):
    """Runs `paddle-vitae NAME ...`; a word with * is the files that it matches, as in a shell."""
    from paddle_vitae.cli import COMMANDS
    command = COMMANDS[words[1]]
    arguments = []
    for word in words[2:]:
        arguments += sorted(glob.glob(word)) if '*' in word and glob.glob(word) else [word]
    main = getattr(importlib.import_module(command.module), command.function)
    try:
        main(arguments)
    except SystemExit as end:
        if end.code not in (0, None):
            raise RuntimeError(f'exit code {end.code}') from None


def main():
    results = []
    for step in json.load(sys.stdin):
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                if step['kind'] == 'python':
                    run_python(step['code'], os.environ['FAMILY_FOLDER'])
                else:
                    run_command(step['words'])
            results.append(None)
        except Exception:  # noqa: BLE001 - the test says which step it was
            results.append(f'{said.getvalue()[-2000:]}\n{traceback.format_exc()}')
    print(json.dumps(results))


if __name__ == '__main__':
    main()
