"""The wheel, and the checkout, as the one package `paddle_vitae`, and the command `paddle-vitae`.

One wheel is built and installed into an empty virtual environment. By default that has no copy of
Paddle and so on: a .pth file shows it the site-packages of this Python, from which the project
itself is shut out. With -m long all packages come from the index.
"""
import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from common import cifar, serve
from common.zoo import FAMILIES, MODELS, list_models
from paddle_vitae import NAMES, checkout, cli
from paddle_vitae.version import VERSION
from tests.conftest import ROOT, write_image_list

OURS = checkout.folders()
QUICK = ['-dataset=list', '-batch_size=4', '-image_size=32', '-o', 'TRAIN.NUM_EPOCHS=1', '-o',
         'TRAIN.WARMUP_EPOCHS=0', '-o', 'MODEL.DEPTH=1', '-o', 'DATA.NUM_WORKERS=0']


def run(command, folder, code=0, **options):
    """(standard output, standard error) of a command that must end with an exit code. It has none
    of the variables by which Python finds modules of this checkout."""
    environment = {key: value for key, value in os.environ.items()
                   if key not in ('PYTHONPATH', 'PYTHONHOME', 'PYTHONSAFEPATH')}
    done = subprocess.run([str(word) for word in command], cwd=folder, text=True,
                          capture_output=True, env=environment, timeout=300, **options)
    assert done.returncode == code, (done.returncode, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout, done.stderr


# The rewriting of imports

def shipped():
    """The Python files that a wheel has of the checkout's folders."""
    return [path for folder in OURS for path in sorted((ROOT / folder).rglob('*.py'))
            if path.name not in checkout.SCRIPTS and 'output' not in path.parts]


def test_folders_are_common_and_the_families():
    assert checkout.folders() == ['common', *sorted(FAMILIES)]


@pytest.mark.smoke
def test_every_import_of_ours_is_rewritten_and_nothing_else_is_changed():
    """Also those within functions. A name in quotes would be missed, so there is none."""
    for path in shipped():
        old = path.read_bytes()
        new = checkout.rewritten(old, OURS, str(path))
        assert len(old.splitlines()) == len(new.splitlines())
        assert new.replace(b'from paddle_vitae.', b'from ') == old.replace(
            b'from paddle_vitae.version', b'from version')
        ours = {module.partition('.')[0] for node in ast.walk(ast.parse(new))
                for module in checkout.modules_of(node)} & set(OURS)
        assert not ours, path
        assert not re.findall(rf'^\s*>>> from ({"|".join(OURS)})\b', new.decode(), re.M), path


def texts(tree):
    """The texts of a source that are no docstrings."""
    documents = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr):
                documents.add(first.value)
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
            and isinstance(node.value, str) and node not in documents]


@pytest.mark.smoke
def test_no_text_names_a_module_by_its_place_in_a_checkout():
    """import_module('common.zoo'), -m common.x, 'from common.x import y' of a child process, the
    name by which something is pickled: none of them would work in a wheel."""
    module = re.compile(rf'\b({"|".join(OURS)})\.(?!yaml|py\b|com\b)[a-z_]+|-m common\b')
    found = {f'{path.relative_to(ROOT)}: {text[:60]!r}' for path in shipped()
             for text in texts(ast.parse(path.read_text())) if module.search(text)}
    assert found == {"common/core/modules.py: 'common.core.modules'"}  # what it is not in a wheel
    assert module.search('common.zoo') and module.search('python -m common.zoo')


@pytest.mark.parametrize('line', [
    'import common.zoo', 'import common', 'import vit.vit as v', 'import os, common.zoo',
    'from \\\n  common.zoo import MODELS', 'def f():\n    import vitae.vitae',
    'from  common.zoo import MODELS', 'import os; from common import zoo',
    'def f(): from vit.vit import build_vit'])
def test_import_of_another_form_is_refused(line):
    with pytest.raises(SyntaxError, match='x.py:[12]: got an import of .*, expected a line: from '):
        checkout.rewritten(line.encode(), OURS, 'x.py')


@pytest.mark.smoke
def test_forms_that_are_rewritten_and_left():
    old = (b'\xef\xbb\xbf# \xc3\xa4\nfrom common.zoo import (\n    a)\nfrom common import b\n'
           b'from commonplace import c\nfrom . import common\nx = "from common.zoo import d"\r\n'
           b'def f():\n    """\n    >>> from vit.vit import e\n    """\n    from vitae import g')
    new = checkout.rewritten(old, OURS)
    assert new == (old.replace(b'\nfrom common.zoo', b'\nfrom paddle_vitae.common.zoo')
                   .replace(b'from common import b', b'from paddle_vitae.common import b')
                   .replace(b'from vit', b'from paddle_vitae.vit'))


# A user's script, for a checkout and a wheel

SCRIPT = '''
import os, pickle, sys
before = {name for name in sys.modules}
state = list(sys.path), dict(os.environ)
import paddle_vitae
new = {name.partition('.')[0] for name in set(sys.modules) - before}
assert not new & {'paddle', 'numpy', 'PIL', 'common', 'yaml'}, new
assert state == (list(sys.path), dict(os.environ))
assert set(NAMES) <= set(dir(paddle_vitae)) == set(dir(paddle_vitae)) | set(paddle_vitae.__all__)
from paddle_vitae import *
for name in NAMES:
    assert callable(getattr(paddle_vitae, name)), name
assert len(list_models()) >= 46 and 'common' not in sys.modules

import common, vit, config                       # the user's own
assert (common.OWNER, vit.OWNER, config.OWNER) == ('user',) * 3

from paddle_vitae.vit.vit import VisionTransformer
from paddle_vitae.vitaev2_vsa.vsa import VSAWindowAttention
model = create_model('vit_digits', depth=1)
assert type(model) is VisionTransformer and isinstance(model, ImageClassifier)
assert type(model).__module__ == 'paddle_vitae.vit.vit'
assert pickle.loads(pickle.dumps(type(model))) is type(model)
assert type(create_model('vitaev2_vsa_digits')).__module__ == 'paddle_vitae.vitaev2_vsa.vitaev2_vsa'
try:
    create_model('vit_digit')
except InputError as error:
    assert 'vitae_digits' in str(error)
else:
    raise AssertionError
assert not {name.partition('.')[0] for name in sys.modules if hasattr(sys.modules[name], '__file__')
            and 'paddle_vitae' in str(sys.modules[name].__file__)} - {'paddle_vitae'}

def in_a_child(cls):
    import paddle_vitae
    return cls.__module__, len(paddle_vitae.list_models()), sys.modules['common'].OWNER

if __name__ == '__main__':
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        assert pool.submit(in_a_child, type(model)).result() == (
            'paddle_vitae.vit.vit', len(list_models()), 'user')
    print('well', paddle_vitae.__version__, paddle_vitae.__file__)
'''


@pytest.fixture(scope='module')
def user(tmp_path_factory):
    """A user's folder, whose modules have the names of ours; and a script, and images."""
    folder = tmp_path_factory.mktemp('user')
    for name in ('common', 'vit', 'data', 'train'):
        (folder / name).mkdir()
        (folder / name / '__init__.py').write_text("OWNER = 'user'\n")
    for name in ('config', 'datasets', 'zoo', 'runner', 'vitae'):
        (folder / f'{name}.py').write_text("OWNER = 'user'\n")
    (folder / 'script.py').write_text(SCRIPT.replace('NAMES', repr(sorted(NAMES))))
    write_image_list(folder / 'images', train=8, val=4, size=(40, 36))
    return folder


@pytest.mark.smoke
def test_checkout_follows_edits_and_runs_no_pyc_of_the_other_form(tmp_path):
    """The same file under both names, one after the other, with .pyc files written."""
    for folder in ('common/core', 'paddle_vitae', 'vit/configs'):
        (tmp_path / folder).mkdir(parents=True)
    for name in ('__init__', 'checkout', 'version'):
        (tmp_path / 'paddle_vitae' / f'{name}.py').write_text(
            (ROOT / 'paddle_vitae' / f'{name}.py').read_text())
    (tmp_path / 'vit' / 'config.py').write_text('')
    (tmp_path / 'common' / '__init__.py').write_text('')
    (tmp_path / 'common' / 'one.py').write_text('from common.two import NAME\n')
    two = tmp_path / 'common' / 'two.py'
    two.write_text('NAME = __name__\n')
    by_both = ['from common.one import NAME; print(NAME)',
               'from paddle_vitae.common.one import NAME; print(NAME)']
    for code, expected in (*zip(by_both, ('common.two', 'paddle_vitae.common.two'), strict=True),
                           (by_both[0], 'common.two')):
        out, _ = run([sys.executable, '-c', code], tmp_path)
        assert out.strip() == expected
    two.write_text("NAME = 'edited'\n")
    assert run([sys.executable, '-c', by_both[1]], tmp_path)[0].strip() == 'edited'


# The command

@pytest.mark.smoke
def test_help_fits_a_screen_and_imports_nothing():
    lines = cli.usage().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    out, _ = run([sys.executable, '-m', 'paddle_vitae', '--help'], ROOT)
    assert out.splitlines() == lines
    code = 'import sys\nfrom paddle_vitae.cli import main\n' \
           'try: main(["-h"])\nexcept SystemExit: pass\n' \
           'assert not {"paddle", "numpy", "PIL", "common", "argparse"} & set(sys.modules)'
    run([sys.executable, '-c', code], ROOT)


@pytest.mark.smoke
def test_unknown_command_is_one_line_with_the_nearest(capsys):
    for word, nearest in (('trian', 'train'), ('visualise', 'visualize'), ('x\ny' * 99, None)):
        with pytest.raises(SystemExit) as caught:
            cli.main([word])
        text = str(caught.value.code)
        assert text.startswith('error: unknown command ') and '\n' not in text
        assert nearest is None or f'the nearest is {nearest} ' in text
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 1 and 'usage' in capsys.readouterr().err
    cli.main(['--version'])
    assert capsys.readouterr().out == f'paddle-vitae {VERSION}\n'


# Every sub-command's help, in one process.
ALL_HELPS = '''
import contextlib, io, json, sys
from paddle_vitae import cli
texts = {}
for name in cli.COMMANDS:
    if name == 'predict':  # train -h and eval -h came before: a run starts without matplotlib
        assert 'paddle' in sys.modules and 'matplotlib' not in sys.modules
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.main([name, '-h'])
    texts[name] = out.getvalue()
print(json.dumps(texts))
'''
# These do not end, or need a network.
NOT_RUN = ('serve', 'cifar')
# Every example, with the flags that make it quick.
EXAMPLES = '''
import json, shlex, sys, glob
from paddle_vitae import cli
for name, example in json.loads(sys.argv[1]):
    words = [found for word in example for found in sorted(glob.glob(word)) or [word]]
    if name == 'train':
        words += ['-train_fraction=0.1', '-o', 'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0']
    if name == 'benchmark':
        words += ['-rounds', '1', '-batch_size', '1']
    print('---', name, flush=True)
    try:
        cli.main(words)
    except SystemExit as error:
        assert not error.code, (name, error.code)
'''


def example_of(name, text):
    """The words of the one example with which a help ends."""
    match = re.search(rf'\nexample:\n  paddle-vitae ({name}\b.*)\n\Z', text)
    assert match and text.startswith(f'usage: paddle-vitae {name} '), text[-300:]
    return shlex.split(match[1])


def test_each_command_s_help_ends_with_an_example_that_works(tmp_path):
    texts = json.loads(run([sys.executable, '-W', 'ignore', '-c', ALL_HELPS], ROOT)[0])
    assert texts.keys() == cli.COMMANDS.keys()
    examples = {name: example_of(name, text) for name, text in texts.items()}
    order = ['digits', 'train', *sorted(examples.keys() - {'digits', 'train', *NOT_RUN})]
    chain = json.dumps([(name, examples[name]) for name in order])
    path = f'import sys; sys.path.append({str(ROOT)!r})'
    out, _ = run([sys.executable, '-W', 'ignore', '-c', f'{path}\n{EXAMPLES}', chain], tmp_path)
    assert re.findall('^--- (.*)$', out, re.M) == order
    for file in ('features.npz', 'attention.png', 'digits.safetensors',
                 'digits_export/export.json'):
        assert (tmp_path / file).is_file()


def test_examples_that_are_not_run_are_parsed():
    parser = serve.make_parser()
    args = parser.parse_args(example_of('serve', parser.format_help())[1:])
    assert (args.cfg, args.pretrained) == ('vit_digits', 'runs/*')
    parser = cifar.make_parser()
    args = parser.parse_args(example_of('cifar', parser.format_help())[1:])
    assert (args.name, args.folder) == ('cifar10', 'data')


# env

@pytest.mark.smoke
def test_env_says_what_is_missing_and_names_nobody(tmp_path):
    """With this Python's Paddle, without any package, and with a Paddle that fails."""
    out, _ = run([sys.executable, '-m', 'paddle_vitae', 'env'], ROOT)
    facts = dict(re.match(r'([^:]+): +(.*)', line).groups() for line in out.splitlines())
    assert facts['paddle-vitae'] == f'{VERSION}, a checkout' and 'built for ' in facts['Paddle']
    assert 'numpy ' in facts['packages'] and 'cores usable' in facts['CPU']
    assert facts['set_up_cpu'] and facts['OMP_NUM_THREADS'] and facts['SIMD']

    (tmp_path / 'paddle.py').write_text(
        f'raise OSError("{tmp_path}/lib/libcudnn.so.8: cannot open; {Path.home()}/x y.so")')
    program = 'import sys; sys.path[:0] = [{!r}, {!r}]; from paddle_vitae.env import main; main([])'
    for path, words in ((tmp_path, 'FAILS to be imported: OSError: .../lib/libcudnn.so.8'),
                        (ROOT, 'MISSING: pip install')):
        out, _ = run([sys.executable, '-I', '-S', '-c', program.format(str(path), str(ROOT))], '/')
        assert words in out and 'not known: ' in out
        assert str(tmp_path) not in out and f'{Path.home()}/' not in out


def test_env_says_that_the_import_of_paddle_was_killed(tmp_path):
    (tmp_path / 'paddle.py').write_text('import os, signal; os.kill(os.getpid(), signal.SIGILL)')
    code = f'import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; ' \
           f'from paddle_vitae.env import main; main([])'
    assert 'FAILS to be imported: SIGILL' in run([sys.executable, '-S', '-c', code], '/')[0]


# A wheel

@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the checkout, with what an earlier build and a run have left there."""
    source = tmp_path_factory.mktemp('source')
    for name in (*OURS, 'paddle_vitae'):
        shutil.copytree(ROOT / name, source / name,
                        ignore=shutil.ignore_patterns('__pycache__', 'output'))
    for name in ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'README.md', 'CHANGELOG.md',
                 'LICENSE'):
        shutil.copy(ROOT / name, source)
    for stale in ('build/lib/common/old.py', 'vit/output/run/config.yaml', 'vit/output/a.py'):
        (source / stale).parent.mkdir(parents=True, exist_ok=True)
        (source / stale).write_text('')
    return source


@pytest.fixture(scope='module')
def wheel(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp('wheel')
    run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', folder, source], '/')
    return next(folder.glob('*.whl'))


def test_wheel_has_one_package_with_everything(wheel):
    assert wheel.stat().st_size < 1_500_000  # code and names of classes; no pictures, no weights
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info, = (name for name in names if name.endswith('.dist-info/METADATA'))
        metadata = archive.read(info).decode()
        entry = archive.read(info.replace('METADATA', 'entry_points.txt')).decode()
    assert {name.split('/')[0] for name in names} == {'paddle_vitae', info.split('/')[0]}
    files = {name.removeprefix('paddle_vitae/') for name in names}
    for pattern in ('common/**/*.py', 'common/**/*.html', 'common/**/*.txt', '*/configs/*.yaml',
                    *(f'{family}/*_names.py' for family in FAMILIES),
                    *(f'{folder}/{file}.py' for folder, file, _ in MODELS.values())):
        assert {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)} <= files, pattern
    assert not any(name.endswith(('/checkout.py', '/main_multi_gpu.py', '.pyc', '.sh', 'old.py'))
                   or '/output/' in name for name in names)
    check_metadata(message_from_string(metadata))
    assert 'paddle-vitae = paddle_vitae.cli:main' in entry


def check_metadata(metadata):
    assert metadata['Version'] == VERSION and metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Description-Content-Type'] == 'text/markdown' and metadata['Summary']
    assert metadata.get_all('Project-URL') and len(metadata.get_all('Classifier')) > 5
    assert {'cpu', 'gpu', 'export', 'serve', 'digits'} <= set(metadata.get_all('Provides-Extra'))


def test_changelog_has_this_version():
    text = (ROOT / 'CHANGELOG.md').read_text()
    assert re.findall(r'^## (.*)$', text, re.M)[:2] == ['Unreleased', VERSION]


def make_environment(folder, *what, borrow=True):
    """An empty virtual environment, into which pip has installed something; its Python.

    Args:
        folder: of the environment.
        what: pip's arguments.
        borrow: whether the other packages are those of this Python's environment. A .pth file puts
            its site-packages on the path, whose own .pth files then do not count: a checkout that
            is installed there in editable mode is left out.
    """
    venv.create(folder)
    python = folder / 'bin' / 'python'
    if borrow:
        code = 'import sysconfig; print(sysconfig.get_path("purelib"))'
        inside = run([python, '-c', code], '/')[0].strip()
        outer = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}
        (Path(inside) / 'outer.pth').write_text('\n'.join(sorted(outer)) + '\n')
        what = ['--no-deps', '--ignore-installed', *what]
    run([sys.executable, '-m', 'pip', '--python', python, 'install', '-q', *what], '/')
    return python


@pytest.fixture(scope='module')
def python(tmp_path_factory, wheel):
    return make_environment(tmp_path_factory.mktemp('empty') / 'venv', wheel)


@pytest.mark.smoke
def test_installed_package_beside_a_user_s_own_modules(python, user):
    out, _ = run([python, '-W', 'ignore', 'script.py'], user)
    words = out.split()
    assert words[:2] == ['well', VERSION]
    site = Path(words[2]).parent.parent
    tools = ('_distutils', 'distutils', 'setuptools', 'pkg_', '__pycache__')
    assert {path.name for path in site.iterdir() if not path.name.startswith(tools)} == {
        'paddle_vitae', f'paddle_vitae-{VERSION}.dist-info', 'outer.pth'}
    code = ('import importlib.util as u, json, sys; print(json.dumps([sys.path, '
            '[u.find_spec(name) for name in ("common", "vit", "config", "datasets")]]))')
    out, _ = run([python, '-c', code], '/')
    places, found = json.loads(out)
    assert str(ROOT) not in places and found == [None] * 4


@pytest.mark.smoke
def test_installed_command_trains_and_uses_models(python, user):
    check_installed(python, user)


@pytest.mark.long
def test_wheel_in_a_really_empty_environment(tmp_path, wheel, user):
    """All packages from the index, Paddle too."""
    check_installed(make_environment(tmp_path / 'venv', f'{wheel}[cpu,serve]', borrow=False), user)


# Commands one after the other in one process; then python -m paddle_vitae.common.predict.
USE = '''
import json, runpy, sys
from paddle_vitae.cli import main
for words in json.loads(sys.argv[1]):
    main(words)
del sys.argv[1]
runpy.run_module('paddle_vitae.common.predict', run_name='__main__', alter_sys=True)
'''


def check_installed(python, user):
    """Models, training in two processes under the supervisor, and going on, evaluation, prediction,
    export, page; in a folder whose modules have the names of ours.

    Each run draws its curves, which crashes where Paddle 2.6 is imported before Pillow.
    """
    command, out = python.parent / 'paddle-vitae', user / python.parent.parent.parent.name
    assert run([command, '--version'], '/')[0].split()[1] == VERSION
    data = [f'-data_path={user / "images"}', *QUICK]
    run([command, 'train', '-cfg=vit_digits', f'-output={out}', '-nprocs=2', '-max_restarts=1',
         *data], user)
    run_folder, = out.glob('vit_digits-train-*')
    assert '2 x cpu' in (run_folder / 'log.txt').read_text()
    told, _ = run([command, 'eval', '-cfg=vit_digits', f'-output={out}', '-pretrained', run_folder,
                   *data], user)
    assert 'on 4 images' in told
    told, _ = run([python, '-m', 'paddle_vitae', 'train', '-cfg=vit_digits', f'-output={out}',
                   '-nprocs=2', '-resume', run_folder, *data, '-o', 'TRAIN.NUM_EPOCHS=2'], user)
    assert 'last.pdparams, after epoch 1' in told and 'epoch 2/2' in told
    flags = ['-cfg', 'vit_digits', '-o', 'MODEL.DEPTH=1', '-pretrained', run_folder]
    image = user / 'images' / 'val' / '0.jpg'
    told, _ = run([python, '-W', 'ignore', '-c', USE, json.dumps([
        ['zoo', 'vit_tiny*'], ['predict', *map(str, flags), str(image)],
        ['export', *map(str, flags), '-output', str(out / 'graph')]]),
        '-exported', out / 'graph', image], user)
    assert told.count('vit_tiny') >= len(list_models('vit_tiny*'))
    assert told.count('0.jpg  class ') == 2
    assert json.loads((out / 'graph' / 'export.json').read_text())['versions']['project'] == VERSION
    check_page([command, 'serve', *flags, '-port', '0'], user)


def check_page(command, user):
    """Starts the server, and gets its page and what it says about the model."""
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    server = subprocess.Popen(list(map(str, command)), cwd=user, stdout=subprocess.PIPE, text=True,
                              env=environment)
    try:
        address = re.search(r'http://\S+', server.stdout.readline())[0]
        with urllib.request.urlopen(address) as page:
            assert b'<html' in page.read()
        with urllib.request.urlopen(f'{address}api/model') as facts:
            assert json.load(facts)['name'] == 'vit_digits'
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


@pytest.mark.long
def test_installed_command_under_paddle_s_launcher(python, user, tmp_path):
    command = python.parent / 'paddle-vitae'
    run([python, '-W', 'ignore', '-m', 'paddle.distributed.launch', '--nproc_per_node=2',
         f'--log_dir={tmp_path / "logs"}', command, 'train', '-cfg=vit_digits',
         f'-output={tmp_path}', f'-data_path={user / "images"}', *QUICK], user)
    assert '2 x cpu' in next(tmp_path.glob('*/log.txt')).read_text()


def test_editable_installation_has_both_names(tmp_path_factory, source, user):
    """As `pip install -e .` makes it: paddle_vitae anywhere, common and vit where they are the
    first of this name."""
    python = make_environment(tmp_path_factory.mktemp('editable') / 'venv', '-e', source)
    out, _ = run([python, '-W', 'ignore', 'script.py'], user)
    assert out.split()[:2] == ['well', VERSION] and str(source) in out
    out, _ = run([python, '-c', 'from common.zoo import list_models; from vit.vit import build_vit;'
                  'print(len(list_models()), build_vit.__module__)'], '/')
    assert out.split() == [str(len(list_models())), 'vit.vit']
    assert run([python.parent / 'paddle-vitae', '--version'], user)[0].split()[1] == VERSION
