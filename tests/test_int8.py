"""Exports in int8: which operators, how near, what is refused."""
import importlib.util
import os
from types import SimpleNamespace

import numpy as np
import pytest

from common.apis import Eager
from common.deploy import export_int8 as module
from common.deploy.evaluation import evaluate_exported
from common.deploy.int8 import Node, choose, relative_error
from common.export import export_int8, export_model, main
from common.layers.macs import count_parameters
from common.runtimes import load_exported
from common.zoo import create_model
from tests.conftest import refusal

MISSING = [name for name in ('paddle2onnx', 'onnx', 'onnxruntime', 'ml_dtypes')
           if importlib.util.find_spec(name) is None]
needs_int8 = pytest.mark.skipif(bool(MISSING), reason=f'not installed: {", ".join(MISSING)}')


def photos(count, seed=0):
    """Pictures with one colour each and some noise, which a model tells apart."""
    random = np.random.RandomState(seed)
    colours = random.randint(0, 200, (count, 1, 1, 3))
    return list((colours + random.randint(0, 50, (count, 32, 32, 3))).astype(np.uint8))


def spread_model():
    """A ViT with logits that depend on the picture."""
    model = create_model('vit_digits', depth=1)
    for parameter in model.parameters():
        if not parameter.stop_gradient and parameter.ndim > 1:
            parameter.set_value(parameter * 4)
    return model


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """(model, folder, export.json) of an export in int8."""
    model = spread_model()
    folder = tmp_path_factory.mktemp('int8') / 'new'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'LEAST_AGREEMENT', 0.0)
        return model, folder, export_int8(model, folder, photos(40))


@needs_int8
def test_what_is_int8_and_what_is_float(exported):
    """Weights by channel, activations by tensor; softmax, LayerNorm and GELU get and give float."""
    import onnx
    _, folder, metadata = exported
    graph = onnx.load(folder / 'model.onnx').graph
    makers = {name: node for node in graph.node for name in node.output}
    weights = {one.name: one for one in graph.initializer}
    products = [node for node in graph.node if node.op_type in ('MatMul', 'Gemm', 'Conv')]
    facts = metadata['int8']
    assert len(products) == facts['operators'] == 8
    for node in products:
        sources = [makers.get(name) for name in node.input[:2]]
        is_int8 = all(source is not None and source.op_type == 'DequantizeLinear'
                      for source in sources)
        assert is_int8 == (node.name not in facts['in float32'])
        if is_int8 and sources[1].input[0] in weights:
            weight, scale = (onnx.numpy_helper.to_array(weights[sources[1].input[index]])
                             for index in (0, 1))
            channels = weight.shape[0 if node.op_type == 'Conv' else -1]
            assert weight.dtype == np.int8 and scale.shape == (channels,)
            assert np.abs(weight.astype(int)).max() <= 64  # no sum of two products leaves 16 bits
    quantised = {name for node in graph.node if node.op_type == 'DequantizeLinear'
                 for name in node.output}
    for node in graph.node:
        if node.op_type in ('Softmax', 'LayerNormalization', 'Erf'):
            assert not quantised & set(node.input)


@needs_int8
def test_the_logits_are_near_in_each_runtime(exported):
    model, folder, metadata = exported
    pixels = np.ascontiguousarray(np.stack(photos(8, seed=1)).transpose(0, 3, 1, 2))
    expected = Eager(model)(pixels)
    assert metadata['precision'] == 'int8' and metadata['int8']['calibrated'] == 32  # 8 are apart
    for runtime in metadata['int8']['runtimes']:
        classifier = load_exported(folder, runtime)
        error = relative_error(expected, classifier(pixels))
        assert 1e-4 < error < 0.2, runtime
        assert relative_error(expected[:1], classifier(pixels[:1])) < 0.2


@needs_int8
def test_the_file_is_smaller(exported):
    """A quarter and the graph, which is small only beside the weights of a larger model."""
    model, folder, _ = exported
    assert os.path.getsize(folder / 'model.onnx') < 0.5 * 4 * count_parameters(model)


@needs_int8
def test_what_is_not_good_enough_is_not_written(tmp_path, monkeypatch):
    """All graphs were tried, the ones with more in float32 last."""
    monkeypatch.setattr(module, 'LEAST_AGREEMENT', 1.1)
    tried = []
    quantise = module.Quantizer.quantise
    monkeypatch.setattr(module.Quantizer, 'quantise', lambda self, nodes, file: tried.append(
        list(nodes)) or quantise(self, nodes, file))
    monkeypatch.setattr(module.Quantizer, 'measure', lambda self: [
        Node(name, macs, 0.1) for name, macs in self.candidates().items()])
    message = refusal(export_int8, spread_model(), tmp_path / 'new', photos(8))
    assert message.startswith('int8: ') and 'get the class that the model gives them' in message
    assert 'products and convolutions in float32; nothing is written. More images' in message
    assert len(tried) > 1 and sorted(map(len, tried), reverse=True) == list(map(len, tried))
    assert not list(tmp_path.iterdir())


@pytest.mark.smoke
def test_which_nodes_stay_float():
    nodes = [Node('cheap and bad', 1.0, 0.3), Node('dear and bad', 90.0, 0.3),
             Node('good', 9.0, 0.001), Node('cheap and good', 1.0, 0.01)]
    assert choose(nodes, 0.0, 0.0) == []
    assert choose(nodes, 0.02, 0.0) == ['cheap and bad', 'cheap and good']
    assert choose(nodes, 0.01, 0.0) == ['cheap and bad']
    assert choose(nodes, 1.0, 0.02) == ['cheap and bad', 'dear and bad', 'cheap and good'][:2]
    assert choose(nodes, 1.0, 0.5) == []  # the square root of 0.18 is below it
    assert choose(nodes, 1.0, 0.0) == [node.name for node in nodes]
    # a denominator that becomes 0: beside its error the others would vanish in a difference
    nodes.append(Node('denominator', 1.0, 1e8))
    assert choose(nodes, 0.03, 0.0) == ['cheap and bad', 'cheap and good', 'denominator']


@pytest.mark.smoke
def test_error_is_relative_to_what_tells_images_apart():
    expected = np.array([[100.0, 1.0], [100.0, 3.0]])
    deviation = (expected - expected.mean(axis=0)).std()
    assert relative_error(expected, expected + 0.5) == pytest.approx(0.5 / deviation)
    assert relative_error(expected, expected) == 0
    assert relative_error(np.ones([1, 2]), np.ones([1, 2]) * 2) == pytest.approx(1.0)


@pytest.mark.smoke
def test_accuracy_decides_where_there_is_a_validation_set(monkeypatch):
    """With one that counts, classes that differ from the model's do not."""
    judge = module.Judge.__new__(module.Judge)
    judge.expected, judge.float_accuracy = np.eye(4), 0.98
    monkeypatch.setattr(module, 'load_exported', lambda folder, runtime: runtime)
    for accuracy, agrees, problem in (
            (0.977, False, ''), (0.98, True, ''),
            (0.976, True, 'the accuracy falls from 98.00% to 97.60%, expected at most 0.3 points'),
            (None, True, ''), (None, False, '0.0% of 4 images get the class that the model gives '
                                            'them, expected at least 99%')):
        judge.accuracy = lambda exported, accuracy=accuracy: accuracy
        got = np.eye(4) if agrees else np.eye(4)[::-1]
        assert judge.judged('onnx', 'folder', got)['problem'] == problem


@pytest.mark.smoke
def test_evaluation_counts_like_the_training_program(tmp_path):
    """Of the exports' logits on the digits that scikit-learn has."""
    model = create_model('vit_digits')
    export_model(model, tmp_path / 'new', 'paddle')
    classifier = load_exported(tmp_path / 'new')
    seen = []
    plain = classifier.run
    classifier.run = lambda images: seen.append(plain(images)) or seen[-1]
    result = evaluate_exported(classifier, dataset='digits')
    from sklearn.datasets import load_digits

    logits = np.concatenate(seen)
    assert result['seen'] == len(logits) == 355 < len(load_digits().target)
    assert 0 <= result['acc1'] <= result['acc5'] <= 1
    message = refusal(evaluate_exported, classifier, dataset='digits', o=['DATA.CROP_PCT=0.5'])
    assert message.startswith('-o DATA.CROP_PCT=0.5: got it with -exported, expected another key')


@pytest.mark.smoke
@pytest.mark.parametrize('flags, message', [
    ('-int8 x -format paddle', '-format: got paddle with -int8, expected onnx'),
    ('-data_path x', '-data_path: got it without -int8, which compares accuracies'),
    ('-dataset digits', '-dataset: got it without -int8, which compares accuracies')])
def test_flags_of_the_command(flags, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(['-pretrained', 'x', '-output', 'y', *flags.split()])
    assert str(end.value) == f'error: {message}'


@pytest.mark.smoke
def test_what_cannot_be_int8(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'check_int8', lambda: None)
    model = create_model('vit_digits', depth=1)
    assert 'got no images to calibrate with' in refusal(export_int8, model, tmp_path / 'new', [])
    model = SimpleNamespace(multi_label=True)
    monkeypatch.setattr(module, 'Eager', lambda model: model)
    assert 'of several classes' in refusal(export_int8, model, tmp_path / 'new', [1])
    assert not list(tmp_path.iterdir())
