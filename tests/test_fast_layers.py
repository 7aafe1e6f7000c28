"""The layers that run other operations on a CPU than Paddle's plain ones: equal to those."""
import numpy as np
import paddle
import pytest
from paddle import nn

from common.core.processes import set_up_mkl
from common.layers.basic import Dropout
from common.layers.conditional_position import ConditionalPosition
from common.layers.fast import Conv2D, Fast, LayerNorm, Linear, gelu_linear, mean_rows
from common.layers.fast.activation import MaskedGelu
from common.layers.fast.dropout import draw_mask
from common.layers.fast.tiles import TILE
from common.layers.recompute import recompute_cells
from common.zoo import create_model

pytestmark = pytest.mark.smoke


@pytest.fixture
def plain(monkeypatch):
    """A function that switches the plain forms on."""
    return lambda: monkeypatch.setattr(Fast, 'plain', True)


class Call(nn.Layer):
    """A function, or a layer with more arguments, as a layer."""

    def __init__(self, function, *arguments):
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x):
        return self.function(x, *self.arguments)


def values_and_gradients(layer, x, weight):
    """The output, and the gradients of its product with `weight`: of x and of each parameter."""
    x = paddle.to_tensor(x, stop_gradient=False)
    y = layer(x)
    (y * paddle.to_tensor(weight)).sum().backward()
    found = [y.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in layer.parameters())]
    layer.clear_gradients()
    return found


def assert_equal_but_for_rounding(found, expected, dtype):
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == other.dtype and own.shape == other.shape
        scale = max(np.abs(other).max(), 1e-30)
        assert np.abs(own - other).max() / scale < (1e-13 if dtype == 'float64' else 2e-6)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('make, shape, out', [
    (lambda: Linear(12, 7), (5, 12), (5, 7)),
    (lambda: Linear(12, 7), (2, 5, 12), (2, 5, 7)),
    (lambda: Linear(12, 7), (2, 3, 4, 12), (2, 3, 4, 7)),
    (lambda: Linear(12, 7, bias_attr=False), (2, 5, 12), (2, 5, 7)),
    (lambda: Call(Linear(12, 7), MaskedGelu()), (2, 5, 12), (2, 5, 7)),
    (lambda: Call(Linear(12, 7, bias_attr=False), MaskedGelu()), (2, 5, 12), (2, 5, 7)),
    (lambda: Conv2D(6, 8, 3, 2, 1), (2, 6, 9, 7), (2, 8, 5, 4)),
    (lambda: Conv2D(6, 12, 3, 1, 2, dilation=2, groups=3), (2, 6, 9, 7), (2, 12, 9, 7)),
    (lambda: Conv2D(6, 6, 7, 1, 3, groups=6), (1, 6, 5, 5), (1, 6, 5, 5)),
    (lambda: Conv2D(6, 8, 1, bias_attr=False), (2, 6, 4, 4), (2, 8, 4, 4)),
    (lambda: LayerNorm(12), (5, 12), (5, 12)),
    (lambda: LayerNorm(12, epsilon=1e-3), (2, 3, 4, 12), (2, 3, 4, 12)),
    (lambda: Call(mean_rows), (2, 7, 12), (2, 12)),
])
def test_values_and_gradients_are_the_plain_layer_s(make, shape, out, dtype, plain):
    random = np.random.default_rng(0)
    layer = make()
    layer.to(dtype=dtype)
    for parameter in layer.parameters():
        parameter.set_value(random.standard_normal(parameter.shape).astype(dtype))
    x, weight = (random.standard_normal(size).astype(dtype) for size in (shape, out))
    with paddle.no_grad():
        in_evaluation = layer(paddle.to_tensor(x)).numpy()
    found = values_and_gradients(layer, x, weight)
    plain()
    expected = values_and_gradients(layer, x, weight)
    assert_equal_but_for_rounding(found, expected, dtype)
    assert_equal_but_for_rounding([in_evaluation], expected[:1], dtype)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('h, w', [(TILE - 1, TILE), (TILE, 2 * TILE), (2 * TILE + 3, TILE + 1),
                                  (1, 5), (2, 2), (3 * TILE + 1, 1)])
@pytest.mark.parametrize('channels, kernel', [(3, 7), (4, 3)])
def test_position_embedding_is_a_depthwise_convolution(h, w, channels, kernel, dtype, plain,
                                                       monkeypatch):
    random = np.random.default_rng(0)
    layer = ConditionalPosition(channels, kernel)
    layer.to(dtype=dtype)
    for parameter in layer.parameters():
        parameter.set_value(random.standard_normal(parameter.shape).astype(dtype))
    x, weight = (random.standard_normal((2, h * w, channels)).astype(dtype) for _ in range(2))
    call = Call(layer, h, w)
    found = values_and_gradients(call, x, weight)
    for name, value in (('LARGE', 1), ('CHANNELS', 2)):  # the last part of three channels is one
        monkeypatch.setattr(f'common.layers.fast.tiles.{name}', value)
    in_parts = values_and_gradients(call, x, weight)
    with paddle.no_grad():
        in_evaluation = call(paddle.to_tensor(x)).numpy()
    plain()
    expected = values_and_gradients(call, x, weight)
    assert_equal_but_for_rounding(found, expected, dtype)
    assert_equal_but_for_rounding(in_parts, expected, dtype)
    assert_equal_but_for_rounding([in_evaluation], expected[:1], dtype)
    convolution = nn.functional.conv2d(
        paddle.to_tensor(x.transpose(0, 2, 1).reshape(2, channels, h, w)), layer.weight, layer.bias,
        padding=kernel // 2, groups=channels).numpy()
    assert_equal_but_for_rounding(
        found[:1], [x + convolution.reshape(2, channels, -1).transpose(0, 2, 1)], dtype)


@pytest.mark.parametrize('make', [lambda: Linear(4, 4), lambda: LayerNorm(4)])
@pytest.mark.parametrize('frozen', ['x', 'weight', 'bias'])
def test_what_is_frozen_gets_no_gradient(frozen, make):
    layer = make()
    x = paddle.randn([2, 4])
    parts = {'x': x, 'weight': layer.weight, 'bias': layer.bias}
    for name, part in parts.items():
        part.stop_gradient = name == frozen
    layer(x).sum().backward()
    assert {name for name, part in parts.items() if part.grad is None} == {frozen}


@pytest.mark.parametrize('p', [0.0005, 0.1, 0.25, 0.999])
def test_dropout_drops_with_its_probability(p):
    paddle.seed(2)
    dropped = 1 - draw_mask([7, 300001], p).numpy().astype('float64')
    noise = np.sqrt(p * (1 - p) / dropped.size)
    assert abs(dropped.mean() - p) < 4 * noise
    # neighbours have nothing to do with each other
    pairs = ((dropped[:, 1:] - p) * (dropped[:, :-1] - p)).mean() / (p * (1 - p))
    assert abs(pairs) < 4 / np.sqrt(dropped.size)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_dropout_scales_what_stays_and_its_gradient(dtype):
    layer, x = Dropout(0.3), paddle.ones([3, 5, 7], dtype)
    x.stop_gradient = False
    y = layer(x * 2)
    kept = y.numpy() != 0
    assert 0 < kept.sum() < kept.size and y.numpy().dtype == dtype
    np.testing.assert_allclose(y.numpy(), kept * 2 / 0.7, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), y.numpy(), rtol=1e-6)


def test_dropout_s_draws_are_those_of_the_seed(plain):
    layer, x = Dropout(0.5), paddle.ones([40])

    def draws():
        paddle.seed(5)
        return [layer(x).numpy().tolist() for _ in range(2)]

    first, second = draws()
    assert first != second and draws() == [first, second]
    plain()
    assert [first, second] != draws() == draws()  # Paddle's own


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_gelu_and_dropout_before_a_linear_layer(dtype):
    """Their results are computed again in the backward pass, with the same mask."""
    random = np.random.default_rng(0)
    linear, dropout = Linear(12, 7), Dropout(0.4)
    linear.to(dtype=dtype)
    x, weight = (random.standard_normal(size).astype(dtype) for size in ((2, 5, 12), (2, 5, 7)))
    together = Call(linear, None)
    together.forward = lambda x: gelu_linear(x, linear, dropout)
    apart = Call(linear, None)
    apart.forward = lambda x: linear(dropout(nn.functional.gelu(x)))
    paddle.seed(1)
    found = values_and_gradients(together, x, weight)
    paddle.seed(1)
    assert_equal_but_for_rounding(found, values_and_gradients(apart, x, weight), dtype)


def test_recomputed_blocks_drop_the_same(float64):
    images = paddle.randn([2, 3, 32, 32])
    found = []
    for recompute in (False, True):
        paddle.seed(3)
        model = create_model('vit_digits', dropout=0.2, attention_dropout=0.1, droppath=0.3)
        model.train()
        if recompute:
            recompute_cells(model)
        paddle.seed(4)
        (model(images) ** 2).sum().backward()
        found.append([p.grad.numpy() for p in model.parameters()])
    for own, other in zip(*found, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-12 * np.abs(other).max())


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('name', ['vit_digits', 'vitae_digits', 'vitaev2_vsa_digits'])
def test_model_s_gradients_are_the_plain_layers(name, recompute, plain, float64):
    paddle.seed(3)
    model = create_model(name, DROPPATH=0.0)
    model.eval()  # no random numbers; gradients flow
    if recompute:
        model.train()
        for layer in model.sublayers():
            if hasattr(layer, 'p'):
                layer.p = 0.0
        recompute_cells(model)
    images = paddle.randn([2, 3, *[model.config.DATA.IMAGE_SIZE] * 2])

    def gradients():
        (model(images) ** 2).sum().backward()
        found = {name: p.grad.numpy() for name, p in model.named_parameters()
                 if p.grad is not None}
        model.clear_gradients()
        return found

    found = gradients()
    plain()
    expected = gradients()
    assert found.keys() == expected.keys()
    scale = max(np.abs(value).max() for value in expected.values())
    for key, value in expected.items():
        assert np.abs(found[key] - value).max() <= 1e-11 * scale, key


@pytest.mark.parametrize('make, shape', [
    (lambda: nn.Sequential(Conv2D(3, 4, 2, 2), nn.Flatten(), Linear(16, 5), LayerNorm(5)),
     (2, 3, 4, 4)),
    (lambda: create_model('vit_digits', DROPPATH=0.0), (2, 3, 32, 32))])
def test_they_may_be_in_code_that_is_made_static_by_pieces(make, shape):
    model = make()
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal(size).astype('float32') for size in (shape, (1, 1)))
    expected = values_and_gradients(model, x, weight)
    found = values_and_gradients(paddle.jit.to_static(model, full_graph=False), x, weight)
    assert_equal_but_for_rounding(found, expected, 'float32')


def test_graph_has_the_plain_operations(tmp_path):
    """Paddle Inference and ONNX fuse those."""
    model = nn.Sequential(Conv2D(3, 4, 2, 2), nn.Flatten(), Linear(16, 5), LayerNorm(5))
    graph = paddle.jit.to_static(model, full_graph=True,
                                 input_spec=[paddle.static.InputSpec([None, 3, 4, 4])])
    text = str(graph.forward.concrete_program.main_program)
    for name in ('conv2d', 'matmul', 'layer_norm'):
        assert name in text, name
    for name in ('batch_norm', 'addmm', 'py_layer'):
        assert name not in text, name


def test_mkl_is_told_only_on_amd_and_never_against_the_user(monkeypatch):
    import os
    monkeypatch.setenv('MKL_DEBUG_CPU_TYPE', '4')
    set_up_mkl()
    assert os.environ['MKL_DEBUG_CPU_TYPE'] == '4'
    monkeypatch.delenv('MKL_DEBUG_CPU_TYPE')
    with open('/proc/cpuinfo') as stream:
        text = stream.read()
    set_up_mkl()
    expected = None
    if 'AuthenticAMD' in text and 'avx2' in text:
        expected = '7' if 'avx512bw' in text else '5'
    assert os.environ.get('MKL_DEBUG_CPU_TYPE') == expected
