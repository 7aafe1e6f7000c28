"""The rules of the layout that keep the code easy to change, checked on the sources."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.zoo import FAMILIES
from tests.conftest import ROOT

SOURCES = sorted(path for folder in ('common', *FAMILIES) for path in (ROOT / folder).glob('*.py'))
SCRIPTS = ('main_multi_gpu.py', 'load_pytorch_weights.py')


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: f'{path.parent.name}/{path.name}')
def test_arrows(path):
    """common knows no family, but for zoo.py; families know common only; scripts their siblings."""
    siblings = {other.stem for other in path.parent.glob('*.py')}
    for name in imports(path):
        top = name.split('.')[0]
        if path.parent.name == 'common':
            assert top not in FAMILIES, name
        elif path.name not in SCRIPTS:
            assert top not in siblings | set(FAMILIES), name
    if path.name not in SCRIPTS:
        assert 'sys.path' not in path.read_text()


def test_common_does_not_name_a_family():
    for path in (ROOT / 'common').glob('*.py'):
        if path.name != 'zoo.py':
            words = re.findall(r'\b(?:vitae\w*|vsa)\b', path.read_text().lower())
            assert not words, (path.name, words)


def test_families_have_no_init_and_the_same_entries():
    for family in FAMILIES:
        folder = ROOT / family
        assert not (folder / '__init__.py').exists()
        for name in (f'{family}.py', 'config.py', 'datasets.py', 'main_multi_gpu.py', 'README.md',
                     'run_train_multi.sh', 'run_eval_multi.sh', 'run_finetune_multi.sh'):
            assert (folder / name).is_file(), f'{family}/{name}'


def test_readme_links_lead_somewhere():
    for readme in [ROOT / 'README.md', *(ROOT / family / 'README.md' for family in FAMILIES)]:
        for link in re.findall(r'\]\(([^)#]+)[^)]*\)', readme.read_text()):
            if not link.startswith('http'):
                assert (readme.parent / link).exists(), f'{readme.name}: {link}'


def test_no_weights_or_large_files():
    for path in Path(ROOT / 'tests').rglob('*'):
        assert not path.is_file() or path.stat().st_size < 1 << 20, path


IMPORT_ALL = '''
import importlib, logging, os, pkgutil, signal, sys, warnings
import cv2, matplotlib.pyplot, numpy, paddle, PIL.Image, tqdm, yaml
import common

cv2.setNumThreads(2)
# what other libraries do when they are imported is theirs
def state():
    return {
        'threads of OpenCV': cv2.getNumThreads(), 'environment': dict(os.environ),
        'signal handlers': {number: signal.getsignal(number) for number in signal.valid_signals()},
        'filters of warnings': list(warnings.filters), 'path': list(sys.path),
        'log': (logging.root.level, list(logging.root.handlers)),
        'flags of Paddle': paddle.get_flags(['FLAGS_use_stride_kernel', 'FLAGS_check_nan_inf']),
        'types': paddle.get_default_dtype(), 'errors of numpy': numpy.geterr(),
        'limits': (PIL.Image.MAX_IMAGE_PIXELS, sys.getrecursionlimit()),
        'folder': os.getcwd(), 'hooks': (sys.excepthook, sys.displayhook)}

before = state()
count = 0
for module in pkgutil.walk_packages(common.__path__, 'common.'):
    importlib.import_module(module.name)
    count += 1
    after = state()
    assert after == before, (module.name, [key for key in after if after[key] != before[key]])
print(count)
'''


def test_import_changes_nothing_in_the_user_s_process():
    """OpenCV's threads, the environment, signals, warnings, logs, flags: of every module."""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', IMPORT_ALL], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 50
