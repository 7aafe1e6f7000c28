"""README and docs/: what they show runs, or is read by the real parsers; links lead somewhere.

pages.py says which blocks run. All of them run in one process, in a folder with the few files that
they name; they speak of large models and weights, so the words in REPLACED are replaced by small
ones. A block that needs another word fails, and is not left out.
"""
import argparse
import ast
import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys

import paddle
import pytest
import yaml
from PIL import Image

from common.config import set_options, update_config
from common.core.errors import InputError
from common.digits import main as write_digits
from common.engines.detection.config import list_recipes as list_detectors
from common.engines.detection.config import read_config as read_detector
from common.engines.segmentation.config import list_recipes as list_segmenters
from common.engines.segmentation.config import read_config as read_segmenter
from common.export import export_model
from common.runner import make_parser
from common.zoo import create_model, model_config, with_recipe
from paddle_vitae.cli import COMMANDS
from tests.conftest import ROOT
from tests.pages import (
    FAMILIES,
    MORE_PAGES,
    PAGES,
    all_blocks,
    anchors,
    blocks,
    commands,
    inline_commands,
)

# Models and files of the pages, and the small ones that take their place.
REPLACED = {
    'vit_base_patch16_224.pdparams': 'digits.pdparams',
    'ViT-B_16-224.npz': 'digits.pdparams',
    'ViT-B_16.npz': 'digits_21k.pdparams',
    'vit_base_patch16_224': 'vit_digits',
    'vit_small_patch16_224': 'vit_digits',
    'vitae_small': 'vitae_digits',
    'image_size=[192, 256]': 'image_size=[32, 48]',
}
# What is added to a training, so that it takes a second; and an evaluation of a report.
SHORT = ['-o', 'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0', '-o', 'DATA.NUM_WORKERS=0']
# What cannot run here: it downloads, waits for ever, measures for minutes, needs PaddleDetection or
# PaddleSeg, or starts Paddle once more (which other tests do). Nor can what names data that are
# not there, /dataset/imagenet for one.
PARSED_ONLY = ('cifar', 'serve', 'benchmark', 'detection', 'segmentation', 'env', 'export',
               'zoo')
NOT_THERE = ('/data', '/dataset', '://')


# Running

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Weights, a run, images, data sets and an export, under the names of the pages."""
    folder = tmp_path_factory.mktemp('pages')
    (folder / 'folder').mkdir()
    for name in ('snake.jpg', 'seven.png', 'folder/a.png', 'image.png', 'photo.jpg'):
        Image.new('RGB', (48, 40)).save(folder / name)
    for name, classes in (('digits.pdparams', 10), ('best.pdparams', 10),
                          ('digits_21k.pdparams', 21843)):
        model = create_model('vit_digits', num_classes=classes)
        paddle.save(model.state_dict(), str(folder / name))
    paddle.save(create_model('vitaev2_vsa_digits').state_dict(), str(folder / 'vsa.pdparams'))
    export_model(create_model('vit_digits'), str(folder / 'digits_onnx'), 'paddle')
    (folder / 'configs').symlink_to(ROOT / 'vit' / 'configs')
    write_digits([str(folder / 'digits')])
    for name, count in (('train', 160), ('val', 60)):
        file = folder / 'digits' / f'{name}_list.txt'
        lines = file.read_text().splitlines()
        file.write_text('\n'.join(lines[::len(lines) // count]) + '\n')
    for label in range(2):
        (folder / 'photos' / f'class {label}').mkdir(parents=True)
        images = sorted((folder / 'digits' / 'train' / str(label)).glob('*.png'))[:24]
        for image in images:
            image.rename(folder / 'photos' / f'class {label}' / image.name)
    lines = [line for line in (folder / 'digits' / 'train_list.txt').read_text().splitlines()
             if (folder / 'digits' / line.rsplit(' ', 1)[0]).exists()]
    (folder / 'digits' / 'train_list.txt').write_text('\n'.join(lines) + '\n')
    # in the place of published weights: a file that lies in the cache already
    entry = ('{page: https://a.org, file: digits.pdparams, format: pdparams, origin: x, '
             'image_size: 32}')
    (folder / 'weights.yaml').write_text(
        f'vit_digits: {{digits: {entry}, augreg_in21k: {entry}}}\n')
    return folder


def small(text):
    """The text with small models in the place of large ones."""
    for word, other in REPLACED.items():
        text = text.replace(word, other)
    return text


def can_run(words):
    """Whether a command of a block that runs is one that can run here; else it is parsed."""
    return (words[0] == 'paddle-vitae' and words[1] in COMMANDS and words[1] not in PARSED_ONLY
            and not any(place in word for word in words for place in NOT_THERE))


def steps_to_run():
    """(where it stands, step) of all that runs, each once: Python first, then commands."""
    found = {}
    for block in all_blocks('python'):
        if block.runs:
            step = {'kind': 'python', 'code': small(block.text)}
            code = ast.unparse(ast.parse(block.text))  # a Chinese page has other comments
            found.setdefault(code, (block.name, step))
    for block in all_blocks('shell'):
        for words in commands(block.text) if block.runs else ():
            if can_run(words):
                words = [small(word) for word in words] + (SHORT if words[1] == 'train' else [])
                found.setdefault(tuple(words),
                                 (f'{block.name}: {" ".join(words)}',
                                  {'kind': 'command', 'words': words}))
    return list(found.values())


def test_what_the_pages_show_runs(folder):
    """In one process: a run for RUN, then the blocks of Python, then the commands."""
    first = {'kind': 'command', 'words': [
        'paddle-vitae', 'train', '-cfg', 'vit_digits', '-data_path', 'digits', '-output', 'runs',
        *SHORT]}
    link = {'kind': 'python', 'code': 'import glob, os\n'
            'os.symlink(glob.glob("runs/vit_digits-train-*")[0], "RUN")'}
    steps = [('the run', first), ('its name', link), *steps_to_run()]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PADDLE_VITAE_CACHE': str(folder),
                   'PADDLE_VITAE_REGISTRY': str(folder / 'weights.yaml'),
                   'FAMILY_FOLDER': str(ROOT / 'vit')}
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'tests.run_pages'], cwd=folder, text=True,
        input=json.dumps([step for _, step in steps]), capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    failed = [f'{where}\n{error}'
              for (where, _), error in zip(steps, results, strict=True) if error]
    assert not failed, '\n'.join(failed)


def test_python_and_commands_are_found():
    kinds = [step['kind'] for _, step in steps_to_run()]
    assert kinds.count('python') >= 6 and kinds.count('command') >= 15


# Parsing

class Parsed(Exception):
    """What a parser made of a command line; it ends the command before its work."""


@pytest.fixture
def parsers(monkeypatch):
    """Every argparse parser ends by raising what it has parsed."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(parser, *args, **options):
        raise Parsed(parse(parser, *args, **options))

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_end)


def parsed(function, arguments):
    """The flags of a command, or an AssertionError with what its parser says."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            function(arguments)
    except Parsed as end:
        return end.args[0]
    except SystemExit as end:
        if end.code in (0, None):  # -h
            return argparse.Namespace()
    raise AssertionError(said.getvalue() or 'did not parse its command line')


def check_tool(module, function, arguments):
    """The flags by the real parser; the config and its keys, where the model is one of the zoo."""
    args = parsed(getattr(importlib.import_module(module), function), arguments)
    options = getattr(args, 'o', None) or []
    cfg = getattr(args, 'cfg', None)
    if cfg in (None, 'NAME', 'RECIPE'):
        return
    if module == 'common.detection':
        assert cfg in list_detectors()
        read_detector(cfg, options)
    elif module == 'common.segmentation':
        assert cfg in list_segmenters()
        read_segmenter(cfg, args)
    else:
        check_run(model_config(cfg), args) if module == 'common.runner' else \
            set_options(model_config(cfg), options)


def check_run(config, args):
    """The config of a training or an evaluation with its recipe, flags and keys."""
    if args.recipe and args.recipe != 'my.yaml':
        config = with_recipe(config, args.recipe)
    update_config(config, args)


def check_script(arguments):
    """A family's main_multi_gpu.py: its flags, a yaml that is there, and the keys."""
    args = parsed(lambda argv: make_parser().parse_args(argv), arguments)
    found = [ROOT / family / args.cfg for family in FAMILIES if (ROOT / family / args.cfg).exists()]
    assert found, f'no family has {args.cfg}'
    check_run(model_config(str(found[0])), args)


def check_python(page, words):
    """`python ...`: a module with -m, or a script of a family's folder."""
    if words[0] == '-m':
        module, arguments = words[1], words[2:]
        if module == 'paddle.distributed.launch':
            index = next(i for i, word in enumerate(arguments)
                         if word.endswith('.py') or 'paddle-vitae' in word)
            return check_python(page, arguments[index:])
        if module == 'paddle_vitae':
            return check_command(page, ['paddle-vitae', *arguments])
        if module in ('venv', 'pytest'):
            return [check_file(word) for word in arguments if word.endswith('.py')]
        if module.startswith('tests.'):
            return importlib.util.find_spec(module) or pytest.fail(f'no {module}')
        return check_tool(module, 'main', arguments)
    if words[0] == 'main_multi_gpu.py':
        return check_script(words[1:])
    if words[0] == 'load_pytorch_weights.py':
        return check_tool('common.convert', 'main', [
            word.replace('./configs/', '').replace('.yaml', '') for word in words[1:]])
    task = 'segmentation' if 'segmentation' in page else 'detection'
    assert words[0] == 'main.py', words
    return check_tool(f'common.{task}', 'main', words[1:])


def check_file(name):
    assert any((ROOT / place / name).exists() for place in (
        '.', *FAMILIES, 'vitaev2_vsa/detection', 'vitaev2_vsa/segmentation')), f'no file {name}'


def check_install(words):
    """Extras of this project are there; other packages are not looked up."""
    extras = re.findall(r'^(\w+) = \[', (ROOT / 'pyproject.toml').read_text(), re.M)
    for word in words:
        for names in re.findall(r'^(?:\.|paddle-vitae)\[([\w,]+)\]$', word):
            assert set(names.split(',')) <= set(extras), word


def check_make(words):
    folder = ''
    if words[:1] == ['-C']:
        folder, words = words[1], words[2:]
    makefile = (ROOT / folder / 'Makefile').read_text()
    targets = re.search(r'^\.PHONY: (.*)$', makefile, re.M)[1].split()
    assert all(word in targets or '=' in word for word in words), words


def check_url(words):
    served = (ROOT / 'common/serving/app.py').read_text()
    for path in re.findall(r'127\.0\.0\.1:\d+(/[\w/]+)', ' '.join(words)):
        assert f"'{path}'" in served, path


def check_command(page, words):
    """Any command of the pages; one of another kind fails, so that none is left out."""
    program, *rest = words
    if program == 'paddle-vitae' and rest[0].startswith('-'):
        return
    if program == 'paddle-vitae':
        assert rest[0] in COMMANDS, f'no command {rest[0]}'
        module = COMMANDS[rest[0]].module
        check_tool('paddle_vitae.env' if module == 'env' else module, COMMANDS[rest[0]].function,
                   rest[1:])
    elif program.endswith(('python', 'python3')):
        check_python(page, rest)
    elif program == 'make':
        check_make(rest)
    elif program == 'pip' or program.endswith('/pip'):
        check_install(rest)
    elif program in ('sh', 'bash'):
        check_file(rest[0])
    elif program == 'curl':
        check_url(rest)
    elif program.startswith('./'):
        check_make(['-C', 'examples/cpp', program[2:]])
    else:
        assert program in ('cd', '.', 'git', 'nohup', 'ls'), f'what is {program}?'


@pytest.mark.parametrize('path', [*PAGES, *MORE_PAGES], ids=lambda path: str(
    path.relative_to(ROOT)))
def test_commands_are_what_the_parsers_take(path, parsers):
    page = str(path.relative_to(ROOT))
    shown = [words for block in blocks(path) if block.language == 'shell'
             for words in commands(block.text)]
    for words in [*shown, *inline_commands(path.read_text(encoding='utf-8'))]:
        try:
            check_command(page, words)
        except (AssertionError, InputError) as error:
            raise AssertionError(f'{page}: {" ".join(words)}\n{error}') from None


def test_commands_stand_in_blocks_that_are_marked_as_shell():
    for path in [*PAGES, *MORE_PAGES]:
        for block in blocks(path):
            if block.language not in ('shell', 'python', 'yaml'):
                found = re.findall(r'^(?:paddle-vitae|python|make|pip|sh|cd|git|curl) .*',
                                   block.text, re.M)
                assert not found, f'{block.name}: {found}'


@pytest.mark.parametrize('words, message', [
    (['paddle-vitae', 'predict', '-pretraind', 'a', 'b'], 'unrecognized'),
    (['paddle-vitae', 'train', '-cfg', 'vit_digits', '-o', 'TRAIN.NUM_EPOCH=1'], 'NUM_EPOCHS'),
    (['paddle-vitae', 'trian'], 'no command'),
    (['python', 'main_multi_gpu.py', '-cfg=./configs/vit_dig.yaml'], 'no family has'),
    (['pip', 'install', 'paddle-vitae[serv]'], 'serv'),
    (['make', 'dem'], 'dem'),
    (['frobnicate'], 'what is'),
])
def test_planted_mistake_in_a_command_is_found(words, message, parsers):
    with pytest.raises((AssertionError, InputError), match=message):
        check_command('README.md', words)


def test_marks_and_shells_are_read():
    text = 'A=1 make test && cd x   # why\npython a \\\n-b | head'
    assert list(commands(text)) == [['make', 'test'], ['cd', 'x'], ['python', 'a', '-b'], ['head']]
    assert list(inline_commands('`paddle-vitae zoo` `paddle-vitae zoo x` `paddle-vitae a ... b`')) \
        == [['paddle-vitae', 'zoo', 'x']]


# Links, keys, the first page

def every_page():
    return [*PAGES, *MORE_PAGES, ROOT / 'CHANGELOG.md']


def test_links_lead_to_files_and_headings():
    for path in every_page():
        text = re.sub(r'^```.*?^```$', '', path.read_text(encoding='utf-8'), flags=re.M | re.S)
        for link in re.findall(r'\]\(([^)\s]+)\)', text):
            if link.startswith(('http://', 'https://')):
                continue
            file, _, anchor = link.partition('#')
            target = (path.parent / file) if file else path
            assert target.exists(), f'{path}: {link}'
            if anchor and target.suffix == '.md':
                assert anchor in anchors(target.read_text(encoding='utf-8')), f'{path}: {link}'


def test_templates_ask_for_the_environment_and_the_workflow_has_each_python():
    for name in ('ISSUE_TEMPLATE/fault.yml', 'ISSUE_TEMPLATE/wish.yml', 'pull_request_template.md'):
        assert 'paddle-vitae env' in (ROOT / '.github' / name).read_text()
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
    job = workflow['jobs']['run']
    supported = re.findall(r'Python :: (3\.\d+)', (ROOT / 'pyproject.toml').read_text())
    assert job['strategy']['matrix']['python'] == supported
    assert any(step.get('run') == 'bash .ci/run' for step in job['steps'])


def leaves(node, prefix=''):
    """The dotted names of a config's keys and nodes."""
    for name in node:
        yield f'{prefix}{name}'
        if hasattr(node[name], 'keys'):
            yield from leaves(node[name], f'{prefix}{name}.')


def test_keys_that_the_pages_name_are_there():
    known = {name for model in ('vit_digits', 'vitae_digits', 'vitaev2_vsa_digits', 'swin_tiny')
             for name in leaves(model_config(model))}
    known |= set(leaves(read_detector())) | set(leaves(read_segmenter()))
    for path in every_page():
        if path.name in ('CONTRIBUTING.md', 'CHANGELOG.md'):  # a key that is to be added; old ones
            continue
        named = re.findall(r'\b(?:DATA|AUG|MODEL|TRAIN)\.[A-Z][A-Z_.0-9]*[A-Z0-9]',
                           path.read_text(encoding='utf-8'))
        assert set(named) <= known, f'{path}: {set(named) - known}'


OLD_HEADINGS = (
    'two-commands install published-weights data train-evaluate-fine-tune a-runs-folder '
    'flags-and-config runs-that-are-stopped in-python use-a-trained-model predict '
    'look-inside-a-model what-a-model-gets-wrong features-of-images a-baseline-without-training '
    'deployment a-page-to-try-a-model speed recipes several-gpus-several-machines faq licence')


def test_readme_is_one_screen_and_keeps_its_old_anchors():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert len(text.encode()) <= 9 * 1024
    assert set(OLD_HEADINGS.split()) <= anchors(text)


def test_readme_s_models_are_those_of_the_families():
    """Parameters, multiply-adds and accuracies: the families' tables, which the code prints."""
    rows = {}
    for family in FAMILIES:
        for line in (ROOT / family / 'README.md').read_text(encoding='utf-8').splitlines():
            cells = [cell.strip() for cell in line.split('|')[1:-1]]
            if len(cells) == 11:
                rows[cells[0]] = cells
    table = re.findall(r'^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \|',
                       (ROOT / 'README.md').read_text(encoding='utf-8'), re.M)
    assert len(table) >= 15
    for name, params, macs, accuracy in table:
        row = rows[name]
        assert (params, macs) == (row[4], row[5]), name
        assert float(accuracy) == float(row[1]), name


def test_every_page_of_docs_opens_with_a_command_and_is_linked():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    for path in (ROOT / 'docs').glob('*.md'):
        opening = r'# .+\n\n(?:<!-- parsed: .+ -->\n)?```(?:shell|python)\n'
        assert re.match(opening, path.read_text(encoding='utf-8')), path
        assert f'](docs/{path.name})' in readme, path
