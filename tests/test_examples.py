"""The examples of the public functions run as they stand; those of the pages are in test_pages.py.

A docstring's example runs in an empty folder, with nothing imported.
"""
import doctest
import importlib
import inspect
import operator
import re

import paddle
import pytest

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
    assert '\nSource: ' in text and '\nExamples:\n    >>> ' in text


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
