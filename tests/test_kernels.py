"""The compiled kernels: built once, equal to the plain operators; why there are none is known."""
import os
import subprocess

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from common.core import native, processes
from common.layers.attention import attend
from common.layers.basic import Dropout
from common.layers.fast import GELU, Fast, LayerNorm, Linear, Silu, kernels
from common.layers.fast.activation import MaskedGelu
from common.layers.fast.dropout import draw_mask
from tests.test_fast_layers import Call, values_and_gradients

pytestmark = pytest.mark.smoke
PROCESSOR = processes.processor()


@pytest.fixture(scope='module')
def library():
    found, missing = native.load(native.SOURCE, PROCESSOR)
    if found is None:
        pytest.skip(f'no kernels: {missing}')
    return found


@pytest.fixture
def compiled(library, monkeypatch):
    """Kernels, as after set_up_cpu; the function switches them on or off."""
    def switch(on=False):
        monkeypatch.setattr(native.Kernels, 'library', library if on else None)

    switch(True)
    return switch


def with_float32(make, shape, out, compiled, scale=1.0):
    """Values and gradients by the kernels in float32, and by Paddle's operators in float64."""
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal(size) * scale for size in (shape, out))
    layer = make()
    values = [random.standard_normal(p.shape) for p in layer.parameters()]

    def run(dtype):
        layer.to(dtype=dtype)
        for parameter, value in zip(layer.parameters(), values, strict=True):
            parameter.set_value(value.astype(dtype))
        return values_and_gradients(layer, x.astype(dtype), weight.astype(dtype))

    assert kernels.has_kernels()
    found = run('float32')
    compiled()
    return found, run('float64')


@pytest.mark.parametrize('scale', [1.0, 30.0])
@pytest.mark.parametrize('make, shape, out', [
    (GELU, (3, 7, 1001), (3, 7, 1001)),
    (Silu, (3, 7, 1001), (3, 7, 1001)),
    (lambda: Call(Linear(12, 7), MaskedGelu()), (40, 12), (40, 7)),
    (lambda: LayerNorm(33), (5, 9, 33), (5, 9, 33)),
    (lambda: LayerNorm(384, epsilon=1e-6), (300, 384), (300, 384)),
])
def test_values_and_gradients_are_the_plain_layer_s(make, shape, out, scale, compiled):
    found, expected = with_float32(make, shape, out, compiled, scale)
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == np.float32
        assert np.abs(own - other).max() < 4e-6 * np.abs(other).max()


@pytest.mark.parametrize('bias', [None, (3, 7, 7), (2, 3, 7, 7), (1, 7, 7)])
def test_attention_is_the_plain_one(bias, compiled):
    random = np.random.default_rng(0)
    q, k, v, weight = (random.standard_normal((4, 3, 7, 5)) for _ in range(4))
    bias = None if bias is None else random.standard_normal(bias) * 9

    def run(dtype):
        inputs = [None if x is None else paddle.to_tensor(x.astype(dtype), stop_gradient=False)
                  for x in (q, k, v, bias)]
        y, weights = attend(*inputs[:3], 0.3, Dropout(), inputs[3], return_weights=True)
        (y * paddle.to_tensor(weight.astype(dtype))).sum().backward()
        return [y.numpy(), weights.numpy(), *(x.grad.numpy() for x in inputs if x is not None)]

    found = run('float32')
    compiled()
    for own, other in zip(found, run('float64'), strict=True):
        assert np.abs(own - other).max() < 4e-6 * np.abs(other).max()


def softmax(x):
    return kernels.softmax(x, 1.0) if kernels.has_kernels() else F.softmax(x)


def test_extreme_numbers_are_what_they_are_without(compiled):
    numbers = paddle.to_tensor([[0.0, -1e4, 1e4, 5.0], [np.nan, 1.0, 2.0, 3.0],
                                [-np.inf, 1.0, 2.0, 3.0]], 'float32')
    finite = numbers[:1]
    cases = [(GELU(), finite), (Silu(), finite), (LayerNorm(4), numbers[:2]),
             (softmax, numbers)]
    found = [case(x).numpy() for case, x in cases]
    assert np.isnan(GELU()(numbers).numpy()[1, 0]) and np.isnan(Silu()(numbers).numpy()[1, 0])
    compiled()
    for own, (case, x) in zip(found, cases, strict=True):
        np.testing.assert_allclose(own, case(x).numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('p', [0.1, 0.25, 0.999])
@pytest.mark.parametrize('shape', [(1,), (7,), (3, 5, 1031)])
def test_masks_are_numpy_s(shape, p, compiled):
    paddle.seed(1)
    own = draw_mask(shape, p).numpy()
    compiled()
    paddle.seed(1)
    other = draw_mask(shape, p).numpy()
    assert own.shape == other.shape == shape and own.dtype == other.dtype
    np.testing.assert_array_equal(own, other)


def test_dropout_is_the_plain_one(compiled):
    x = np.random.default_rng(0).standard_normal((9, 300)).astype('float32')
    linear, dropout = Linear(300, 4), Dropout(0.3)
    for layer in (dropout, Call(linear, MaskedGelu(draw_mask([9, 300], 0.3), 0.3))):
        compiled_form, plain_form = [], []
        for found, on in ((compiled_form, True), (plain_form, False)):
            compiled(on)
            paddle.seed(1)
            found += values_and_gradients(layer, x, layer(paddle.to_tensor(x)).numpy())
        for own, other in zip(compiled_form, plain_form, strict=True):
            np.testing.assert_allclose(own, other, atol=4e-6 * np.abs(other).max())


@pytest.mark.skipif(paddle.__version__.startswith('2.'),
                    reason='Paddle 2.6 cannot: kernels-by-pieces in core/compat.py')
def test_they_may_be_in_code_that_is_made_static_by_pieces(compiled):
    model = nn.Sequential(Linear(8, 8), GELU(), Silu(), LayerNorm(8),
                          Call(Linear(8, 4), MaskedGelu()))
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal(size).astype('float32') for size in ((5, 8), (5, 4)))
    expected = values_and_gradients(model, x, weight)
    found = values_and_gradients(paddle.jit.to_static(model, full_graph=False), x, weight)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-6)


def test_one_switch_turns_all_off(compiled, monkeypatch):
    monkeypatch.setattr(native.Kernels, 'library', 'no kernel can be called')
    monkeypatch.setattr(Fast, 'plain', True)
    model = nn.Sequential(Linear(8, 8), GELU(), Silu(), LayerNorm(8), Dropout(0.5))
    model(paddle.ones([2, 8])).sum().backward()


@pytest.mark.parametrize('variables, said', [
    ({'CC': 'no-such-compiler'}, "'no-such-compiler'"),
    ({'CC': 'false'}, 'exit status 1'),
    ({'CC': 'no-such-compiler', native.SWITCH: '0'}, f'{native.SWITCH}=0')])
def test_why_there_are_none_is_one_line(variables, said, tmp_path, monkeypatch):
    monkeypatch.setattr(native, 'CAN_BUILD', True)
    for name, value in {'PADDLE_VITAE_CACHE': str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    library, missing = native.load.__wrapped__(native.SOURCE, PROCESSOR)  # its results are kept
    assert library is None and said in missing and '\n' not in missing
    assert not os.listdir(tmp_path) or not os.listdir(tmp_path / 'kernels')


def test_a_processor_is_the_same_at_another_frequency(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, 'CPU_INFO', tmp_path / 'cpuinfo')
    text = 'model name\t: Some CPU\ncpu MHz\t\t: {}\nflags\t\t: fpu avx2\n\nprocessor\t: 1\n'
    found = set()
    for frequency in ('2596.120', '801.004'):
        (tmp_path / 'cpuinfo').write_text(text.format(frequency))
        found.add(processes.processor())
    assert found == {'Some CPU fpu avx2'}


def test_built_once_and_again_for_another_source(compiled, tmp_path, monkeypatch):
    monkeypatch.setenv('PADDLE_VITAE_CACHE', str(tmp_path))
    source = tmp_path / 'one.c'
    source.write_text('int one(void) { return 1; }')
    path = native.built(str(source), PROCESSOR)
    before = os.stat(path).st_mtime_ns
    assert native.built(str(source), PROCESSOR) == path and os.stat(path).st_mtime_ns == before
    source.write_text('int one(void) { return 2; }')
    assert native.built(str(source), PROCESSOR) != path
    source.write_text('int one(void) {')
    with pytest.raises(subprocess.CalledProcessError) as caught:
        native.built(str(source), PROCESSOR)
    assert 'error' in native.reason(caught.value)
    assert sorted(name.rpartition('.')[2] for name in os.listdir(tmp_path / 'kernels')) == \
        ['so', 'so']
