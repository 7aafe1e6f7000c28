"""The wheel, and the checkout, as the one package `paddle_vitae`, and the command `paddle-vitae`.

One wheel is built and installed into an empty virtual environment. By default that has no copy of
Paddle and so on: a .pth file shows it the site-packages of this Python, from which the project
itself is shut out. With -m long everything comes from the package index.
"""
import ast
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

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


def test_every_import_of_ours_is_rewritten_and_nothing_else_is_changed():
    """Also those within functions. A name in quotes would be missed, so there is none."""
    for path in shipped():
        old = path.read_bytes()
        new = checkout.rewritten(old, OURS, str(path))
        assert len(old.splitlines()) == len(new.splitlines())
        assert new.replace(b'from paddle_vitae.', b'from ') == old.replace(
            b'from paddle_vitae.version', b'from version')
        for node in ast.walk(ast.parse(new)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert not any(module.split('.')[0] in OURS for module in checkout.modules_of(node))


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
    'from \\\n  common.zoo import MODELS', 'def f():\n    import vitae.vitae'])
def test_import_of_another_form_is_refused(line):
    with pytest.raises(SyntaxError, match='x.py:[12]: got .*, expected from '):
        checkout.rewritten(line.encode(), OURS, 'x.py')


def test_forms_that_are_rewritten_and_left():
    old = (b'\xef\xbb\xbf# \xc3\xa4\nfrom  common.zoo import (\n    a)\nimport os; from common import b\n'
           b'from commonplace import c\nfrom . import common\nx = "from common.zoo import d"\r\n'
           b'def f(): from vit.vit import e\n')
    new = checkout.rewritten(old, OURS)
    assert new == (old.replace(b'from  common.zoo', b'from paddle_vitae.common.zoo')
                   .replace(b'from common import b', b'from paddle_vitae.common import b')
                   .replace(b'from vit.vit', b'from paddle_vitae.vit.vit'))


# A checkout

CHECKOUT = '''
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
    (folder / 'script.py').write_text(CHECKOUT.replace('NAMES', repr(sorted(NAMES))))
    write_image_list(folder / 'images', train=8, val=4, size=(40, 36))
    return folder


def test_checkout_has_the_same_names_beside_a_user_s_own(user):
    """As after `pip install -e .`, which puts the root on the path; the user's folder is first."""
    script = (user / 'script.py').read_text()
    (user / 'editable.py').write_text(f'import sys\nsys.path.append({str(ROOT)!r})\n{script}')
    out, _ = run([sys.executable, '-W', 'ignore', 'editable.py'], user)
    assert out.split()[:2] == ['well', VERSION] and str(ROOT) in out


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

def help_of(name, command=(sys.executable, '-m', 'paddle_vitae')):
    return run([*command, name, '-h'], ROOT)[0]


def test_help_fits_a_screen_and_imports_nothing():
    lines = cli.usage().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    out, _ = run([sys.executable, '-X', 'importtime', '-m', 'paddle_vitae', '--help'], ROOT)
    assert out.splitlines() == lines
    code = 'import sys\nfrom paddle_vitae.cli import main\ntry: main(["-h"])\nexcept SystemExit: pass\n' \
           'assert not {"paddle", "numpy", "PIL", "common", "argparse"} & set(sys.modules)'
    run([sys.executable, '-c', code], ROOT)


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
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.main([name, '-h'])
    texts[name] = out.getvalue()
print(json.dumps(texts))
'''
# They need a network, do not end, or are measured by test_package's other tests and their own.
NOT_RUN = ('serve', 'cifar')
# Every example, with the flags that make it quick.
EXAMPLES = '''
import json, shlex, sys, glob
from paddle_vitae import cli
for name, example in json.loads(sys.argv[1]):
    words = [found for word in example for found in sorted(glob.glob(word)) or [word]]
    if name == 'train':
        words += ['-o', 'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0']
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
    out, _ = run([sys.executable, '-W', 'ignore', '-c', f'import sys; sys.path.append({str(ROOT)!r})'
                  f'\n{EXAMPLES}', chain], tmp_path)
    assert re.findall('^--- (.*)$', out, re.M) == order
    for file in ('features.npz', 'attention.png', 'digits.safetensors', 'digits_export/export.json'):
        assert (tmp_path / file).is_file()


def test_examples_that_are_not_run_are_parsed():
    from common import cifar, serve
    args = serve.make_parser().parse_args(example_of('serve', help_of('serve'))[1:])
    assert (args.cfg, args.pretrained) == ('vit_digits', 'runs/*')
    assert example_of('cifar', help_of('cifar')) == ['cifar', 'cifar10', 'data'] and cifar.main


# env

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
def wheel(tmp_path_factory):
    """A wheel, built from a copy of the checkout with what an earlier build left behind."""
    work = tmp_path_factory.mktemp('wheel')
    names = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', *OURS, 'paddle_vitae',
                            '*.toml', '*.in', 'setup.py', 'README.md', 'CHANGELOG.md', 'LICENSE'],
                           cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if (ROOT / name).is_file() and not name.startswith('tests/'):
            (work / 'source' / name).parent.mkdir(parents=True, exist_ok=True)
            (work / 'source' / name).write_bytes((ROOT / name).read_bytes())
    for stale in ('build/lib/common/old.py', 'vit/output/run/config.yaml', 'vit/output/a.py'):
        (work / 'source' / stale).parent.mkdir(parents=True, exist_ok=True)
        (work / 'source' / stale).write_text('')
    run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', work, work / 'source'], '/')
    return next(work.glob('*.whl'))


def test_wheel_has_one_package_with_everything(wheel):
    assert wheel.stat().st_size < 1_000_000
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
    assert not any(name.endswith(('/checkout.py', '/main_multi_gpu.py', '.pyc', '.sh')) or
                   '/output/' in name or name.endswith('old.py') for name in names)
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


def make_environment(folder, wheel, extras, borrow):
    """An empty virtual environment with the wheel; its Python, and the seconds that it took.

    borrow: whether the other packages are those of this Python's environment, of which the finder
        of this checkout (an editable installation) is left out.
    """
    start = time.monotonic()
    venv.create(folder, with_pip=not borrow)
    python = folder / 'bin' / 'python'
    if borrow:
        inside = Path(sysconfig.get_path('purelib', vars={'base': str(folder),
                                                          'platbase': str(folder)}))
        # a line of a .pth file that is a folder goes on the path; the .pth files in it do not count
        outside = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}
        (inside / 'outer.pth').write_text('\n'.join(sorted(outside)) + '\n')
        run([sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps',
             '--ignore-installed', wheel], '/')
    else:
        run([python, '-m', 'pip', 'install', '-q', f'{wheel}[{extras}]'], '/')
    return python, time.monotonic() - start


@pytest.fixture(scope='module')
def python(tmp_path_factory, wheel):
    return make_environment(tmp_path_factory.mktemp('empty') / 'venv', wheel, '', borrow=True)[0]


def test_installed_package_beside_a_user_s_own_modules(python, user):
    out, _ = run([python, '-W', 'ignore', 'script.py'], user)
    words = out.split()
    assert words[:2] == ['well', VERSION] and str(ROOT) not in out
    site = Path(words[2]).parent.parent
    own = {path.name for path in site.iterdir() if not path.name.startswith(('pip', '_distutils',
                                                                             'setuptools', 'pkg_'))}
    assert own == {'paddle_vitae', f'paddle_vitae-{VERSION}.dist-info', 'outer.pth'}
    out, _ = run([python, '-c', 'import sys; print(sys.path)'], '/')
    assert str(ROOT) not in out
    for name in ('common', 'vit', 'config'):  # site-packages has none
        run([python, '-c', f'import importlib.util as u; assert u.find_spec({name!r}) is None'], '/')


def test_installed_command_does_all_that_a_checkout_does(python, user):
    check_installed(python, user)


def check_installed(python, user):
    """Models, training in one and in two processes, and by Paddle's launcher, evaluation, restart,
    prediction, export, page; in a folder whose modules have the names of ours."""
    command = python.parent / 'paddle-vitae'
    assert run([command, '--version'], '/')[0].split()[1] == VERSION
    out, _ = run([command, 'zoo', 'vit*'], user)
    assert len(out.splitlines()) - 2 == len(list_models('vit*'))
    data = [f'-data_path={user / "images"}', *QUICK]
    run([command, 'train', '-cfg', 'vit_digits', '-output=one', *data], user)
    weights, = (user / 'one').glob('*/best.pdparams')
    run([command, 'train', '-cfg=vit_digits', '-output=two', '-nprocs=2', '-max_restarts=1', *data],
        user)
    assert '2 x cpu' in next((user / 'two').glob('*/log.txt')).read_text()
    run([python, '-W', 'ignore', '-m', 'paddle.distributed.launch', '--nproc_per_node=2',
         f'--log_dir={user / "logs"}', command, 'train', '-cfg=vit_digits', '-output=three', *data],
        user)
    assert '2 x cpu' in next((user / 'three').glob('*/log.txt')).read_text()
    out, _ = run([command, 'eval', '-cfg=vit_digits', '-output=four', '-pretrained', weights,
                  *data], user)
    assert 'on 4 images' in out
    flags = ['-cfg', 'vit_digits', '-o', 'MODEL.DEPTH=1', '-pretrained', weights]
    image = user / 'images' / 'val' / '0.jpg'
    assert '0.jpg  class ' in run([command, 'predict', *flags, image], user)[0]
    out, _ = run([python, '-m', 'paddle_vitae', 'export', *flags, '-output', 'graph'], user)
    assert f'"project": "{VERSION}"' in (user / 'graph' / 'export.json').read_text(), out
    run([python, '-m', 'paddle_vitae.common.predict', '-exported', 'graph', image], user)
    check_page(python.parent, flags, user)


def check_page(bin_folder, flags, user):
    """The page comes from the package."""
    code = ('import sys; from paddle_vitae.common.serving.app import PAGE; '
            'print(open(PAGE).read()[:15])')
    assert '<!doctype html>' in run([bin_folder / 'python', '-c', code], user)[0].lower()
