"""The rules of the layout that keep the code easy to change, checked on the sources."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.zoo import FAMILIES
from tests.conftest import ROOT

SCRIPTS = ('main_multi_gpu.py', 'load_pytorch_weights.py', 'main.py')
# What stands in a line may import what stands in the lines above it, and its own room.
LAYERS = (
    'core',
    'config',
    'layers',
    'weights hub',
    'zoo',
    'backbone',
    'data',
    'train',
    'apis',
    'model_flags',
    'attention_maps',
    'deploy inspection probing serving',
    'reporting',
    'engines',
    'runtimes',
    'benchmarks',
    'benchmarks',  # they measure all that stands above
    'planning',
    # the commands, each a parser and a call
    'benchmark cifar convert curves detection digits export features pack plan predict pretrained '
    'probe processes report runner segmentation serve verify_dataset visualize',
)
RANKS = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms.split()}


def sources(root, *folders):
    return sorted(path for folder in folders for path in (root / folder).rglob('*.py'))


def module_of(path, root):
    """(name, whether it is a package) of a file, as it is imported from the root."""
    parts = path.relative_to(root).with_suffix('').parts
    is_package = parts[-1] == '__init__'
    return '.'.join(parts[:-1] if is_package else parts), is_package


def imports(path, root):
    """What a file imports, wherever in it: full names of modules, or of names in them.

    Also what it has imported by a name in quotes: `import_module('common.zoo')`, and families'
    files through the registry of the models: `load_family_file('vit', 'vit')` is vit.vit.
    """
    name, is_package = module_of(path, root)
    package = name.split('.') if is_package else name.split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[:len(package) + 1 - node.level] if node.level else []
            module = '.'.join([*start, *filter(None, [node.module])])
            yield from (f'{module}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Call):
            function = getattr(node.func, 'attr', getattr(node.func, 'id', None))
            texts = [argument.value for argument in node.args
                     if isinstance(argument, ast.Constant) and isinstance(argument.value, str)]
            if function in ('import_module', '__import__') and texts:
                yield texts[0]
            elif function == 'load_family_file' and len(texts) == 2:
                yield 'common.zoo.load_family_file'
                yield '.'.join(texts)


def room_of(module):
    """'data' for common.data and common.data.lists, 'zoo' for common.zoo; None outside common."""
    parts = module.split('.')
    return parts[1] if parts[0] == 'common' and len(parts) > 1 else None


def wrong_arrows(root):
    """Sentences about the imports that LAYERS and the rules for families do not allow."""
    found = []
    for path in sources(root, 'common'):
        name, _ = module_of(path, root)
        room = room_of(name)
        if room is None:  # common/__init__.py
            continue
        if room not in RANKS:
            found.append(f'{name}: is in no layer')
            continue
        for target in imports(path, root):
            other = room_of(target)
            if target.split('.')[0] in FAMILIES:
                found.append(f'{name} -> {target}: common knows no family')
            elif other in RANKS and other != room and RANKS[other] >= RANKS[room]:
                found.append(f'{name} -> {target}: upward, or beside')
    return found + wrong_family_arrows(root)


def wrong_family_arrows(root):
    """Families use common, below the registry of the models; scripts also their siblings."""
    found = []
    for family in FAMILIES:
        for path in sources(root, family):
            name, _ = module_of(path, root)
            siblings = {other.stem for other in path.parent.glob('*.py')}
            for target in imports(path, root):
                top, room = target.split('.')[0], room_of(target)
                if path.name in SCRIPTS:
                    allowed = top in siblings or top not in FAMILIES
                elif path.name == 'datasets.py':
                    allowed = top not in siblings | set(FAMILIES)
                else:
                    allowed = top not in siblings | set(FAMILIES) and \
                        (room is None or RANKS[room] < RANKS['zoo'])
                if not allowed:
                    found.append(f'{name} -> {target}')
            if path.name not in SCRIPTS and 'sys.path' in path.read_text():
                found.append(f'{name}: sys.path')
    return found


def test_nothing_imports_the_package_but_its_version():
    """paddle_vitae stands above all: it imports common, which would be a circle."""
    found = {target for path in sources(ROOT, 'common', *FAMILIES)
             for target in imports(path, ROOT) if target.split('.')[0] == 'paddle_vitae'}
    assert found == {'paddle_vitae.version.VERSION'}


def circles(root):
    """The modules of common that import each other, directly or not, as sets."""
    modules = {module_of(path, root)[0]: path for path in sources(root, 'common')}
    arrows = {}
    for name, path in modules.items():
        targets = set()
        for target in imports(path, root):
            module = target if target in modules else target.rpartition('.')[0]
            if module in modules and module != name and module != 'common':
                targets.add(module)
        arrows[name] = targets
    reached = {}
    for name in modules:
        found, left = set(), [name]
        while left:
            for target in arrows[left.pop()] - found:
                found.add(target)
                left.append(target)
        reached[name] = found
    return {frozenset(other for other in found if name in reached[other])
            for name, found in reached.items() if name in found}


def test_arrows():
    assert wrong_arrows(ROOT) == []
    assert circles(ROOT) == set()


# (file, line that is put into it, what is said)
PLANTED = {
    'a room upward': ('common/core/sizes.py', 'import common.layers.basic', 'upward'),
    'in a function': ('common/weights/load.py', 'def f():\n    from common.zoo import MODELS',
                      'upward'),
    'relative': ('common/data/lists.py', 'from ..train import optim', 'upward'),
    'of the package': ('common/layers/basic.py', 'from common import zoo', 'upward'),
    'by a name in quotes': ('common/config.py', "import importlib\n"
                            "importlib.import_module('common.data.lists')", 'upward'),
    'between commands': ('common/serve.py', 'from common.predict import main as other', 'beside'),
    'beside': ('common/inspection/drawing.py', 'from common.serving import app', 'beside'),
    'to a family': ('common/train/optim.py', 'from vit.vit import build_vit', 'no family'),
    'a family to the registry': ('vit/vit.py', 'from common.zoo import build_model', 'common.zoo'),
    'a family through the registry': (
        'vitae/vitae.py', "from common import zoo\nzoo.load_family_file('vit', 'vit')", 'vit.vit'),
    'a family to a family': ('vit/vit.py', 'import vitae.vitae', 'vitae.vitae'),
    'a new file without a layer': ('common/new.py', '', 'no layer'),
    'a new room without a layer': ('common/new/file.py', '', 'no layer'),
    'sys.path': ('vit/config.py', "import sys; sys.path.append('.')", 'sys.path'),
}


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp('copy')
    for path in sources(ROOT, 'common', *FAMILIES):
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    return root


@pytest.mark.parametrize('kind', PLANTED)
def test_planted_arrow_is_found(kind, copy):
    file, line, message = PLANTED[kind]
    path = copy / file
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{before or ""}\n{line}\n')
    try:
        found = wrong_arrows(copy)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
    assert any(message in sentence for sentence in found), found
    assert wrong_arrows(copy) == []


def test_planted_circle_is_found(copy):
    path = copy / 'common' / 'core' / 'errors.py'
    before = path.read_text()
    path.write_text(f'{before}\ndef later():\n    from common.core.flags import add_flag\n')
    try:
        assert any('common.core.flags' in circle for circle in circles(copy))
    finally:
        path.write_text(before)


def test_common_does_not_name_a_family():
    for path in (ROOT / 'common').rglob('*.py'):
        # VSA is an attention that several models share
        if str(path.relative_to(ROOT / 'common')) not in ('zoo.py', 'layers/vsa.py',
                                                          'layers/__init__.py'):
            text = re.sub(r'paddle[-_]vitae', '', path.read_text().lower())  # the project
            words = re.findall(r'\b(?:vitae\w*|vsa)\b', text)
            assert not words, (path.name, words)


def test_families_have_no_init_and_the_same_entries():
    for family in FAMILIES:
        folder = ROOT / family
        assert not (folder / '__init__.py').exists()
        for name in (f'{family}.py', 'config.py', 'datasets.py', 'main_multi_gpu.py', 'README.md',
                     'run_train_multi.sh', 'run_eval_multi.sh', 'run_finetune_multi.sh'):
            assert (folder / name).is_file(), f'{family}/{name}'


def test_index_of_common_leads_to_files_and_names_every_room():
    text = (ROOT / 'common' / 'README.md').read_text()
    index = text[:text.index('## Performance')]
    for file in re.findall(r'`([\w./]+\.py)`', index):
        assert (ROOT / 'common' / file).is_file() or (ROOT / file).is_file(), file
    for layer in LAYERS:
        for room in layer.split():
            assert re.search(rf'\b{room}\b', index), room
    for room in (ROOT / 'common').iterdir():
        if (room / '__init__.py').is_file():
            assert ast.get_docstring(ast.parse((room / '__init__.py').read_text())), room


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
