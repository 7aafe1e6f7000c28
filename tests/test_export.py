"""Exported graphs compute what the model does, in every runtime; wrong ones are not written."""
import importlib.util
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from PIL import Image

from common import predict
from common.apis import Eager, Preprocessing, inference_model
from common.core import processes
from common.deploy import graph
from common.deploy.check import check, in_batches, tolerance_of
from common.deploy.export import check_runtimes
from common.deploy.folder import check_replaceable
from common.deploy.graph import reason_in
from common.deploy.paddle_inference import inference_settings
from common.deploy.precision import check_cpu_bfloat16
from common.export import export_model, runtime_of
from common.runtimes import OnnxRuntime, OpenVino, PaddleInference, check_bfloat16, load_exported
from common.train.checkpoint import write_atomically
from common.zoo import create_model
from tests.conftest import refusal, run_script

NAMES = ['vit_digits', 'vitae_digits', 'vitaev2_vsa_digits']
CLASSES = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine']
MISSING = [name for name in ('paddle2onnx', 'onnx', 'onnxruntime')
           if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f'not installed: {", ".join(MISSING)}')
needs_openvino = pytest.mark.skipif(
    bool(MISSING) or importlib.util.find_spec('openvino') is None,
    reason=f'not installed: {", ".join(MISSING) or "openvino"}')
FORMATS = ['paddle', pytest.param('onnx', marks=needs_onnx)]


def model_of(name):
    """With logits far enough from 0 to be compared: the weights are random."""
    paddle.seed(0)
    model = create_model(name)
    for parameter in model.parameters():
        if parameter.name.endswith('.b_0') and not parameter.stop_gradient:
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    model.class_names = CLASSES
    return model


def random_pixels(count, height=32, width=32):
    return np.random.RandomState(1).randint(0, 256, (count, 3, height, width)).astype(np.uint8)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """(model, folder) of a name and a format; each is made once."""
    made = {}

    def get(name, format):
        if (name, format) not in made:
            model = model_of(name)
            folder = tmp_path_factory.mktemp('exported') / f'{name}_{format}'
            export_model(model, folder, format)
            made[name, format] = model, folder
        return made[name, format]

    return get


def error_of(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.smoke
@pytest.mark.parametrize('format', FORMATS)
@pytest.mark.parametrize('name', NAMES)
def test_a_graph_computes_what_the_model_does(exported, name, format):
    model, folder = exported(name, format)
    classifier, eager = load_exported(folder), Eager(model)
    assert type(classifier) is {'paddle': PaddleInference, 'onnx': OnnxRuntime}[format]
    for batch in (5, 1, 2):
        pixels = random_pixels(batch)
        expected = eager(pixels)
        got = classifier(pixels)
        assert got.dtype == np.float32 and got.shape == (batch, 10)
        assert error_of(got, expected) < 1e-5
    assert error_of(expected[:1], expected[1:]) > 1e-3  # the logits depend on the picture


@needs_openvino
@pytest.mark.parametrize('name', NAMES)
def test_openvino_computes_what_the_model_does(exported, name):
    """In float32 also on processors with bfloat16, which OpenVINO takes unless told otherwise."""
    model, folder = exported(name, 'onnx')
    facts = json.loads((folder / 'export.json').read_text())
    assert facts['check']['runtimes'] == {'onnx': '', 'openvino': ''}
    pixels, (classifier, eager) = random_pixels(5), (load_exported(folder, 'openvino'),
                                                     Eager(model))
    assert type(classifier) is OpenVino
    expected = eager(pixels)
    got, alone = classifier(pixels), classifier(pixels[:1])
    assert got.dtype == np.float32 and error_of(got, expected) < 1e-5
    assert error_of(alone, expected[:1]) < 1e-5


@needs_openvino
def test_threads_and_types_of_openvino(exported):
    _, folder = exported('vit_digits', 'onnx')
    for threads in (1, 2):
        compiled = load_exported(folder, 'openvino', threads).model
        assert compiled.get_property('INFERENCE_NUM_THREADS') == threads
        assert compiled.get_property('INFERENCE_PRECISION_HINT').to_string() == 'f32'


@needs_openvino
def test_bfloat16_of_openvino_is_near(exported):
    try:
        check_cpu_bfloat16()
    except ValueError as error:
        pytest.skip(str(error))
    model, folder = exported('vit_digits', 'onnx')
    pixels = random_pixels(8)
    error = error_of(load_exported(folder, 'openvino-bf16')(pixels), Eager(model)(pixels))
    assert 1e-5 < error < 3e-2


@pytest.mark.smoke
def test_a_runtime_in_which_the_check_found_a_fault(exported, tmp_path):
    """It is refused by name; a graph is written if it is right in its format's own runtime."""
    expected = {'images': np.array([[1.0, -2.0]])}
    found = check_runtimes(expected, {'onnx': expected, 'openvino': {'images': -expected['images']},
                                      'third': {'images': np.zeros([1, 3])}},
                           {'fourth': 'it cannot'}, 1e-4, 'onnx')
    assert found['runtimes'] == {
        'onnx': '', 'fourth': 'it cannot',
        'openvino': 'its logits differ by 2 of the largest, expected at most 0.0001',
        'third': 'its logits differ by inf of the largest, expected at most 0.0001'}
    folder = tmp_path / 'copy'
    shutil.copytree(exported('vit_digits', 'paddle')[1], folder)
    facts = json.loads((folder / 'export.json').read_text())
    facts['check']['runtimes'] = {'paddle': 'it differs'}
    (folder / 'export.json').write_text(json.dumps(facts))
    assert 'paddle: when this was exported, the check found: it differs' \
        in refusal(load_exported, folder)


@pytest.mark.smoke
def test_a_graph_of_stages_with_a_class_token(tmp_path):
    """The token is put before the patches of an open batch, in a cell."""
    model = create_model('vitae_large', image_size=32, num_classes=10, EMBED_DIMS=[16] * 3,
                         TOKEN_DIMS=[16] * 3, DEPTHS=[0, 0, 2], NUM_HEADS=[1, 1, 2],
                         GROUPS=[1, 1, 4], RATIOS=[8, 1, 1])
    export_model(model, tmp_path / 'graph', 'paddle')
    expected, got = (run(random_pixels(3)) for run in (
        Eager(model), load_exported(tmp_path / 'graph')))
    assert error_of(got, expected) < 1e-5


class Graph(nn.Layer):
    """A function as a layer, with a parameter: Paddle 2.6 loads no graph without any."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.zero = self.create_parameter([1], default_initializer=nn.initializer.Constant(0.0))

    def forward(self, x):
        return self.function(x + self.zero)


def factor_of_a_sum(x):
    numbers = x.astype('int32')
    return ((numbers + numbers[:, :1]) * 28).astype('float32')


def share_of_a_sum(x):
    place = x + x[:, :1]
    return place - paddle.floor(place)


@pytest.mark.smoke
@pytest.mark.parametrize('function', [factor_of_a_sum, share_of_a_sum])
def test_passes_that_are_wrong_are_left_out(function, tmp_path):
    """With the passes of WRONG_PASSES, oneDNN of Paddle 3.3.1 computes other numbers: each function
    is the smallest one found. (For the pass of a reshape there is none smaller than a window
    attention with learned windows.)"""
    x = paddle.to_tensor(np.random.RandomState(0).uniform(-9, 9, (2, 3, 4)).astype(np.float32))
    paddle.jit.save(Graph(function), str(tmp_path / 'graph'),
                    [paddle.static.InputSpec([None, 3, 4], 'float32')])
    graph, = (path for path in tmp_path.iterdir() if path.suffix in ('.json', '.pdmodel'))
    settings = inference_settings(str(graph), str(tmp_path / 'graph.pdiparams'), 'fp32', 1)
    predictor = paddle.inference.create_predictor(settings)
    got = PaddleInference.run(SimpleNamespace(predictor=predictor), x.numpy())
    np.testing.assert_allclose(got, function(x).numpy(), rtol=0, atol=1e-5)


@pytest.mark.smoke
@pytest.mark.parametrize('name', NAMES)
def test_bfloat16_is_near(exported, name):
    try:
        check_bfloat16()
    except ValueError as error:
        pytest.skip(str(error))
    model, folder = exported(name, 'paddle')
    pixels = random_pixels(8)
    error = error_of(load_exported(folder, 'paddle-bf16')(pixels), Eager(model)(pixels))
    assert 1e-5 < error < 3e-2


@pytest.mark.smoke
@pytest.mark.parametrize('format', FORMATS)
def test_what_a_folder_says(exported, format):
    model, folder = exported('vit_digits', format)
    facts = json.loads((folder / 'export.json').read_text())
    assert facts['format'] == format and facts['model'] == 'vit_digits'
    assert facts['num_classes'] == 10 and facts['versions']['paddle'] == paddle.__version__
    assert facts['check']['tolerance'] == 1e-4
    assert 0 <= facts['check']['random pictures']['error'] < 1e-5
    assert set(os.listdir(folder)) == {'export.json', *facts['files']}
    assert not list(folder.parent.glob('*.tmp*'))
    classifier = load_exported(folder)
    assert classifier.preprocessing == Preprocessing.of(model.config)
    assert classifier.class_names == CLASSES and classifier.num_classes == 10
    image = np.ascontiguousarray(random_pixels(1, 50, 70)[0].transpose(1, 2, 0))
    found, expected = inference_model(classifier, image), inference_model(model, image)
    assert found['pred_class'] == expected['pred_class'] in CLASSES
    np.testing.assert_allclose(found['pred_scores'], expected['pred_scores'], atol=1e-5)


@needs_onnx
def test_names_and_open_batch_of_onnx(exported):
    import onnx

    model = onnx.load(exported('vit_digits', 'onnx')[1] / 'model.onnx')
    assert [(one.domain, one.version) for one in model.opset_import] == [('', 17)]
    shapes = {value.name: [one.dim_param or one.dim_value
                           for one in value.type.tensor_type.shape.dim]
              for value in (*model.graph.input, *model.graph.output)}
    assert shapes == {'image': ['batch', 3, 32, 32], 'logits': ['batch', 10]}


def test_sampling_has_its_own_tolerance(exported):
    for name, tolerance in zip(NAMES, (1e-4, 1e-4, 1e-3), strict=True):
        assert tolerance_of(exported(name, 'paddle')[0]) == tolerance


def test_height_and_width_of_their_own(tmp_path):
    model = create_model('vit_digits', image_size=[16, 24])
    export_model(model, tmp_path / 'new', 'paddle')
    pixels = random_pixels(2, 16, 24)
    classifier = load_exported(tmp_path / 'new')
    assert error_of(classifier(pixels), Eager(model)(pixels)) < 1e-5
    message = refusal(classifier, random_pixels(2, 24, 16))
    assert message == ('pixels: got uint8[2, 3, 24, 16], expected uint8[B, 3, 16, 24], for which '
                       'the model was exported')


class Wrapped(nn.Layer):
    """A model that does something else in a graph."""

    def __init__(self, in_graph):
        super().__init__()
        self.model = model_of('vit_digits')
        self.config = self.model.config
        self.in_graph = in_graph

    def forward(self, x):
        if paddle.in_dynamic_mode():
            return self.model(x)
        return self.in_graph(self.model, x)


def slightly_off(model, x):
    return model(x) * 1.001


def turned(model, x):
    """Paddle2ONNX ends the process when it meets affine_grid."""
    grid = F.affine_grid(paddle.eye(2, 3).unsqueeze(0), [1, 3, 32, 32])
    return model(x) + F.grid_sample(x[:1], grid).mean() * 0


def no_graph(model, x):
    raise TypeError('not this way')


@pytest.mark.smoke
def test_a_wrong_graph_is_not_written(exported, tmp_path):
    shutil.copytree(exported('vit_digits', 'paddle')[1], tmp_path / 'old')
    message = refusal(export_model, Wrapped(slightly_off), tmp_path / 'old', 'paddle')
    assert message == ('export: the paddle graph is wrong: on 4 random pictures its logits differ '
                       'by 0.001 of the largest, expected at most 0.0001; nothing is written')
    load_exported(tmp_path / 'old')  # the earlier export is as it was
    assert os.listdir(tmp_path) == ['old']


@pytest.mark.smoke
def test_what_counts_as_wrong():
    right = np.array([[1.0, -2.0], [0.5, 0.0]])
    expected = {'images': right}
    assert check(expected, {'images': right + 1e-4}, 1e-4, 'onnx')['images'] \
        == {'count': 2, 'error': pytest.approx(0.5e-4)}
    assert check({'images': right * 0}, {'images': right * 0}, 1e-4, 'onnx')['images']['error'] == 0
    for got in (right + 3e-4, right * np.nan, np.array([[np.nan, -2], [0.5, 0]]), -right):
        assert 'the onnx graph is wrong: on 2 images' \
            in refusal(check, expected, {'images': got}, 1e-4, 'onnx')
    assert 'the graph gives logits [1, 2] for 2 images, expected [2, 2]' \
        in refusal(check, expected, {'images': right[:1]}, 1e-4, 'onnx')


@pytest.mark.smoke
def test_batches_of_the_check():
    pixels, sizes = random_pixels(9), []
    logits = in_batches(lambda batch: sizes.append(len(batch)) or batch[:, :, 0, 0], pixels)
    assert sizes == [1, 3, 1, 3, 1]
    np.testing.assert_array_equal(logits, pixels[:, :, 0, 0])


@pytest.mark.smoke
def test_a_model_that_makes_no_graph(tmp_path):
    message = refusal(export_model, Wrapped(no_graph), tmp_path / 'new', 'paddle')
    assert message == 'export: Paddle cannot make a graph: TypeError: not this way'
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_a_converter_that_dies_is_one_line(tmp_path):
    message = refusal(export_model, Wrapped(turned), tmp_path / 'new', 'onnx')
    assert message.startswith('export: converting the graph failed with SIGABRT: [ERROR]')
    assert not list(tmp_path.iterdir())


@pytest.mark.smoke
@pytest.mark.parametrize('output, reason', [
    ('log\nerror: this\n', 'error: this'),
    ('Failed to convert PaddlePaddle model: no\nUnboundLocalError: x\n',
     'Failed to convert PaddlePaddle model: no'),
    ('Traceback\nKeyError: 1\n  at exit\n', 'KeyError: 1'), ('last words\n\n', 'last words'),
    ('', 'it printed nothing')])
def test_why_a_process_failed(output, reason):
    assert reason_in(output) == reason


@pytest.mark.smoke
def test_folders_that_are_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'notes.txt').write_text('')
    (tmp_path / 'weights').mkdir()
    (tmp_path / 'weights' / 'model.pdiparams').write_text('')
    (tmp_path / 'both').mkdir()
    for name in ('export.json', 'model.onnx', 'notes.txt'):
        (tmp_path / 'both' / name).write_text('')
    assert refusal(check_replaceable, tmp_path / 'file').endswith('got a file, expected a folder')
    for folder, name in (('mine', 'notes.txt'), ('weights', 'model.pdiparams'),
                         ('both', 'notes.txt')):
        assert f'got a folder with {name}, expected a new one' \
            in refusal(check_replaceable, tmp_path / folder)
        assert 'got a folder with' in refusal(export_model, None, tmp_path / folder, 'paddle')


@pytest.mark.smoke
def test_an_earlier_export_is_replaced(exported, tmp_path):
    folder = tmp_path / 'new'
    shutil.copytree(exported('vit_digits', 'paddle')[1], folder)
    (folder / 'model.onnx').write_text('of an export to onnx')
    before = load_exported(folder)(random_pixels(1))
    model = model_of('vit_digits')
    model.classifier.weight.set_value(model.classifier.weight * 2)
    export_model(model, folder, 'paddle')
    assert error_of(load_exported(folder)(random_pixels(1)), before) > 0.1
    assert not (folder / 'model.onnx').exists()
    assert os.listdir(tmp_path) == ['new']


@pytest.mark.smoke
@pytest.mark.parametrize('key, value, message', [
    ('format', 'tflite', "format: got 'tflite', expected paddle or onnx"),
    ('format', None, 'format: got None, expected str'),
    ('class_names', ['one'], 'got 1 class names, expected 10'),
    ('class_names', [1] * 10, 'class_names: expected null or a list of strings'),
    ('preprocessing', {'image_size': '32'}, "DATA.IMAGE_SIZE: got '32', expected"),
    ('files', {}, 'damaged or changed')])
def test_broken_facts(exported, tmp_path, key, value, message):
    folder = tmp_path / 'copy'
    shutil.copytree(exported('vit_digits', 'paddle')[1], folder)
    facts = json.loads((folder / 'export.json').read_text())
    (folder / 'export.json').write_text(json.dumps({**facts, key: value}))
    assert message in refusal(load_exported, folder)


@pytest.mark.smoke
def test_damaged_folders(exported, tmp_path):
    folder = tmp_path / 'copy'
    assert 'got no export.json, expected' in refusal(load_exported, folder)
    shutil.copytree(exported('vit_digits', 'paddle')[1], folder)
    with open(folder / 'model.pdiparams', 'r+b') as stream:
        stream.truncate(1000)
    assert 'model.pdiparams: damaged or changed' in refusal(load_exported, folder)
    (folder / 'model.pdiparams').unlink()
    assert 'model.pdiparams: missing' in refusal(load_exported, folder)
    for content in ('{', '[' * 100_000, '[]'):
        (folder / 'export.json').write_text(content)
        assert 'export.json: ' in refusal(load_exported, folder)


@pytest.mark.smoke
def test_runtimes_that_do_not_fit(exported, tmp_path, monkeypatch):
    model, folder = exported('vit_digits', 'paddle')
    assert "got 'onnx', expected paddle, paddle-bf16 or auto for an export to paddle" \
        in refusal(load_exported, folder, 'onnx')
    assert "precision: got 'int8'" in refusal(PaddleInference, folder, 'int8')
    assert 'threads: got 0' in refusal(PaddleInference, folder, 'fp32', 0)
    assert "runtime: got 'torch', expected one of eager" in refusal(runtime_of, model, 'torch')
    assert "format: got 'torch'" in refusal(export_model, model, tmp_path, 'torch')
    (tmp_path / 'cpuinfo').write_text('flags\t\t: fpu avx2 avx512f\n')
    monkeypatch.setattr(processes, 'CPU_INFO', tmp_path / 'cpuinfo')
    assert 'this CPU does not multiply bfloat16' in refusal(load_exported, folder, 'paddle-bf16')


@pytest.mark.smoke
def test_what_onnx_needs(exported, tmp_path, monkeypatch):
    model, _ = exported('vit_digits', 'paddle')
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, 'find_spec', lambda name: None)
        message = refusal(export_model, model, tmp_path / 'new', 'onnx')
        assert 'got no paddle2onnx, onnx, onnxruntime' in message
        assert "'paddle-vitae[export]'" in message
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    monkeypatch.setattr(graph, 'MOST_ONNX_BYTES', 1000)
    assert 'GB of weights, expected less' in refusal(export_model, model, tmp_path / 'new', 'onnx')


@pytest.mark.smoke
def test_tools(tmp_path):
    """Trained elsewhere, exported, used: the same classes as the model's own."""
    write_atomically({'model': model_of('vit_digits').state_dict(), 'class_names': CLASSES},
                     str(tmp_path / 'best.pdparams'))
    for index, pixels in enumerate(random_pixels(5)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f'{index}.png')
    model = ['-cfg', 'vit_digits', '-pretrained', tmp_path / 'best.pdparams']
    code, out, error = run_script(['-m', 'common.export', *model, '-output', tmp_path / 'new',
                                   '-images', tmp_path], folder='.')
    assert code == 0, error
    assert 'vit_digits as paddle' in out and '\n5 images: logits differ' in out
    found = []
    for which in (model, ['-exported', tmp_path / 'new']):
        code, out, error = run_script(['-m', 'common.predict', tmp_path, '-topk', 10, *which,
                                       '-json', tmp_path / 'out.json'], folder='.')
        assert code == 0, error
        found.append(json.loads((tmp_path / 'out.json').read_text()))
    for one, other in zip(*found, strict=True):
        assert [each['name'] for each in one['classes']] \
            == [each['name'] for each in other['classes']] and one['file'] == other['file']
    assert {each['name'] for each in found[0][0]['classes']} == set(CLASSES)


@pytest.mark.smoke
@pytest.mark.parametrize('flags, message', [
    ('-exported folder -cfg vit_digits', '-exported: got -cfg too, expected one of the two'),
    ('-exported folder -o A=1', '-exported: got -o too, expected one of the two'),
    ('-cfg vit_digits', "-pretrained: got none, expected weights, a run's folder, or -exported"),
    ('', "-pretrained: got none, expected weights, a run's folder, or -exported")])
def test_flags_that_do_not_go_together(flags, message):
    args = predict.make_parser().parse_args(['image.png', *flags.split()])
    assert refusal(predict.classifier_of, args) == message


@needs_onnx
def test_runtime_of(exported):
    model, _ = exported('vit_digits', 'paddle')
    pixels = random_pixels(3)
    classifier = runtime_of(model, 'onnx')
    assert isinstance(classifier, OnnxRuntime) and classifier.class_names == CLASSES
    assert error_of(classifier(pixels), runtime_of(model)(pixels)) < 1e-5
