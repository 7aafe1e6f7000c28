"""The examples of the public functions and of the READMEs run as they stand.

A docstring's example runs in an empty folder, with nothing imported. A README's ```python block
runs in a child process, in a folder with the few files that it names; it speaks of large models and
weights that are not at hand, so the words in REPLACED are replaced by small ones. A block that
needs another word fails, and is not left out.
"""
import doctest
import importlib
import inspect
import operator
import os
import re
import subprocess
import sys

import paddle
import pytest
from PIL import Image

from common.export import export_model
from common.zoo import create_model
from tests.conftest import ROOT

# What a user calls: each has type hints, and a docstring with these parts.
PUBLIC = {
    'common.zoo': ['create_model', 'list_models', 'model_config', 'build_model', 'fetch_weights',
                   'with_recipe'],
    'common.backbone': ['Backbone', 'create_backbone'],
    'common.apis': ['init_model', 'inference_model', 'classify', 'Preprocessing', 'set_device'],
    'common.config': ['base_config', 'load_config', 'update_config', 'set_options',
                      'model_arguments'],
    'common.weights.load': ['load_pretrained', 'read_weights'],
    'common.layers.macs': ['count_macs', 'count_parameters'],
    'common.convert': ['convert'],
    'common.export': ['export_model', 'runtime_of'],
    'common.runtimes': ['load_exported'],
    'common.attention_maps': ['attention_maps', 'rollout'],
    'common.layers.classifier': [
        'ImageClassifier.extract_feat', 'ImageClassifier.get_attention',
        'ImageClassifier.reset_classifier'],
    'common.probing.linear_probe': ['probe'],
    'common.reporting.source': ['open_source'],
    'common.reporting.report': ['write_report'],
    'common.data.datasets': ['get_dataset'],
    'common.engines.shapes': ['draw_pictures'],
    'common.engines.detection.config': ['list_recipes', 'read_config'],
    'common.engines.detection.optim': ['StepSchedule'],
    'common.engines.detection.shapes': ['write_shapes'],
    'common.engines.segmentation.config': ['list_recipes', 'read_config'],
    'common.engines.segmentation.components': ['build_model'],
    'common.engines.segmentation.data': ['find_pairs'],
    'common.engines.segmentation.pictures': ['overlay'],
    'common.engines.segmentation.training': ['rate_at'],
    'common.data.tensor_loader': ['get_dataloader'],
    'common.train.optim': ['build_optimizer'],
    'common.train.schedule': ['build_schedule'],
    'common.train.ema': ['build_ema'],
    'common.train.losses': ['build_loss'],
    'vitaev2_vsa.vsa': ['VSAWindowAttention'],
}
FUNCTIONS = [(module, name) for module, names in PUBLIC.items() for name in names]


def public(module, name):
    return operator.attrgetter(name)(importlib.import_module(module))


def parameters_of(thing):
    """The parameters of a function, or of a class's constructor; without `self`."""
    return [parameter for parameter in inspect.signature(thing).parameters.values()
            if parameter.name != 'self']


@pytest.mark.smoke
@pytest.mark.parametrize('module, name', FUNCTIONS)
def test_public_function_has_type_hints(module, name):
    thing = public(module, name)
    assert all(parameter.annotation is not parameter.empty for parameter in parameters_of(thing)
               if parameter.kind is not parameter.VAR_KEYWORD)
    signature = inspect.signature(thing)
    assert inspect.isclass(thing) or signature.return_annotation is not signature.empty


@pytest.mark.smoke
@pytest.mark.parametrize('module, name', FUNCTIONS)
def test_public_function_says_what_it_takes_and_gives(module, name):
    thing = public(module, name)
    text = inspect.getdoc(thing)
    parameters = {parameter.name for parameter in parameters_of(thing)}
    described = re.findall(r'^ {4}(\w+(?:, \w+)*):', text, re.M)
    assert parameters <= {word for words in described for word in words.split(', ')}
    if not inspect.isclass(thing) and inspect.signature(thing).return_annotation is not None:
        assert '\nReturns:\n' in text or '\nYields:\n' in text
    assert '\nSource: ' in text and '\nExample:\n    >>> ' in text


@pytest.mark.smoke
@pytest.mark.parametrize('module, name', FUNCTIONS)
def test_example_runs(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paddle.seed(0)
    text = inspect.getdoc(public(module, name))
    example = doctest.DocTestParser().get_doctest(text, {}, f'{module}.{name}', None, 0)
    assert example.examples
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=said.append)
    assert runner.failures == 0, ''.join(said)


# The pages

PAGES = [ROOT / 'README.md', ROOT / 'README_cn.md', *sorted(ROOT.glob('docs/*.md')),
         *(ROOT / family / 'README.md' for family in ('vit', 'vitae', 'vitaev2_vsa'))]
REPLACED = {
    'vit_base_patch16_224.pdparams': 'digits.pdparams',
    'ViT-B_16-224.npz': 'digits.pdparams',
    'ViT-B_16.npz': 'digits_21k.pdparams',
    'vit_base_patch16_224': 'vit_digits',
    'image_size=[192, 256]': 'image_size=[32, 48]',
    'vitae_small': 'vitae_digits',
}
# What a block uses without having made it: an image for a model, and pixels for a classifier.
BEFORE = '''
import numpy as np, paddle
image = paddle.zeros([2, 3, 32, 32])
pixels = np.zeros([2, {shape}], np.uint8)
'''


def blocks():
    for page in PAGES:
        if page.exists():
            for number, block in enumerate(re.findall(r'^```python\n(.*?)^```', page.read_text(),
                                                      re.M | re.S)):
                yield pytest.param(page, block, id=f'{page.relative_to(ROOT)}-{number}')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Weights, a run, images and an export, under the names of the pages."""
    folder = tmp_path_factory.mktemp('pages')
    (folder / 'folder').mkdir()
    for name in ('snake.jpg', 'seven.png', 'folder/a.png', 'image.png'):
        Image.new('RGB', (48, 40)).save(folder / name)
    (folder / 'RUN').mkdir()
    model = create_model('vit_digits')
    for name in ('digits.pdparams', 'RUN/best.pdparams', 'best.pdparams'):
        paddle.save(model.state_dict(), str(folder / name))
    model = create_model('vit_digits', num_classes=21843)
    paddle.save(model.state_dict(), str(folder / 'digits_21k.pdparams'))
    (folder / 'configs').symlink_to(ROOT / 'vit' / 'configs')
    # in the place of published weights: a file that lies in the cache already
    entry = ('{page: https://a.org, file: digits.pdparams, format: pdparams, origin: x, '
             'image_size: 32}')
    (folder / 'weights.yaml').write_text(
        f'vit_digits: {{digits: {entry}, augreg_in21k: {entry}}}\n')
    return folder


@pytest.mark.parametrize('page, block', blocks())
def test_block_of_a_page_runs(page, block, folder):
    for word, small in REPLACED.items():
        block = block.replace(word, small)
    if 'digits_onnx' in block and not (folder / 'digits_onnx').exists():
        export_model(create_model('vit_digits'), str(folder / 'digits_onnx'), 'paddle')
    path = [str(ROOT)]
    if 'from config import' in block:  # as in a family's folder
        path.insert(0, str(ROOT / 'vit'))
    shape = '3, 32, 32' if '[B, 3, H, W]' in block else '40, 48, 3'
    code = BEFORE.format(shape=shape) + block
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=folder, text=True,
                          capture_output=True,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(path),
                               'PADDLE_VITAE_CACHE': str(folder),
                               'PADDLE_VITAE_REGISTRY': str(folder / 'weights.yaml')})
    assert done.returncode == 0, f'{block}\n{done.stderr}'


def test_blocks_are_found():
    assert len(list(blocks())) >= 4
