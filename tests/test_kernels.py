"""The compiled kernels: built once, equal to the plain operators; why there are none is known."""
import os
import subprocess

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from common.core import native, processes
from common.layers import conditional_position
from common.layers.attention import Attention, attend, attend_qkv
from common.layers.basic import Dropout
from common.layers.conditional_position import ConditionalPosition
from common.layers.fast import GELU, Conv2D, Fast, LayerNorm, Linear, Silu, kernels
from common.layers.fast.activation import MaskedGelu
from common.layers.fast.dropout import draw_mask
from common.layers.recompute import recompute_cells
from common.layers.recording import recorded_attention
from common.layers.windows import TokenWindowAttention
from common.train.adamw import AdamW
from common.zoo import create_model
from tests.test_fast_layers import Call, values_and_gradients

from vitaev2_vsa.swin import ShiftedWindowAttention, Swin

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


@pytest.fixture
def parts(library, monkeypatch):
    """A function that has the kernels' work divided among so many threads."""
    return lambda threads: monkeypatch.setattr(library, 'thread_count', lambda: threads)


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


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('B, N, n, d', [(2, 7, 3, 5), (1, 1100, 1, 4), (2, 1, 2, 3)])
def test_attention_of_q_k_and_v_side_by_side(B, N, n, d, threads, compiled, parts):
    """1100 tokens are several blocks of scores, the last a smaller one."""
    parts(threads)
    found, expected = with_float32(lambda: Call(attend_qkv, n, 0.3, Dropout()), (B, N, 3 * n * d),
                                   (B, N, n * d), compiled)
    for own, other in zip(found, expected, strict=True):
        assert np.abs(own - other).max() < 4e-6 * np.abs(other).max()


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('make, C', [
    (lambda: TokenWindowAttention(8, 2, 3, out_dim=6, relative_position=True), 6),
    (lambda: TokenWindowAttention(8, 2, 3), 8),
    (lambda: ShiftedWindowAttention(8, 2, 3, 0, 0.0, 0.0), 8),
    (lambda: ShiftedWindowAttention(8, 2, 3, 1, 0.0, 0.0), 8)])
@pytest.mark.parametrize('h, w', [(6, 9), (5, 7), (3, 2)])
def test_attention_in_windows(make, C, h, w, threads, compiled, parts):
    """Padded, shifted, with regions, the gradient of the bias table too."""
    parts(threads)
    found, expected = with_float32(lambda: Call(make(), h, w), (2, h * w, 8), (2, h * w, C),
                                   compiled)
    for own, other in zip(found, expected, strict=True):
        assert np.abs(own - other).max() < 1e-5 * np.abs(other).max()


@pytest.mark.parametrize('make', [
    lambda: Call(Attention(8, 2, attention_dropout=0.4)),
    lambda: Call(TokenWindowAttention(8, 2, 3, attention_dropout=0.4), 6, 3)])
def test_attention_drops_what_the_plain_one_drops(make, compiled):
    def seeded(x):
        paddle.seed(3)
        return layer(x)

    random = np.random.default_rng(0)
    x, weight = (random.standard_normal([2, 18, 8]).astype('float32') for _ in range(2))
    layer = make()
    call = Call(seeded)
    call.layer = layer
    found = values_and_gradients(call, x, weight)
    compiled()
    for own, other in zip(found, values_and_gradients(call, x, weight), strict=True):
        assert np.abs(own - other).max() < 1e-5 * np.abs(other).max()


@pytest.mark.parametrize('frozen', ['relative_position_bias_table', 'qkv.weight qkv.bias'])
def test_what_is_frozen_gets_no_gradient(frozen, compiled):
    layer = ShiftedWindowAttention(8, 2, 3, 1, 0.0, 0.0)
    parameters = dict(layer.named_parameters())
    for name in frozen.split():
        parameters[name].stop_gradient = True
    layer(paddle.randn([1, 36, 8]), 6, 6).sum().backward()
    assert [name for name, p in parameters.items() if p.grad is None] == frozen.split()


def test_attention_s_input_may_be_used_twice_and_has_its_hooks(compiled):
    qkv = paddle.randn([2, 5, 12])
    weight = paddle.randn([2, 5, 4])

    def gradient(uses, hook=None):
        x = qkv.clone()
        x.stop_gradient = False
        inner = x * 1
        if hook is not None:
            inner.register_hook(hook)
        sum((attend_qkv(inner, 2, 0.3, Dropout()) * weight).sum() for _ in range(uses)).backward()
        return x.grad.numpy()

    np.testing.assert_allclose(gradient(2), 2 * gradient(1), rtol=1e-6)
    np.testing.assert_allclose(gradient(1, lambda g: g * 3), 3 * gradient(1), rtol=1e-6)


@pytest.mark.parametrize('name', ['vit_digits', 'swin'])
def test_recomputed_blocks_of_attention_have_the_same_bits(name, compiled):
    found = []
    for recompute in (False, True):
        paddle.seed(3)
        model = tiny_swin() if name == 'swin' else create_model(name, attention_dropout=0.1)
        if recompute:
            recompute_cells(model)
        paddle.seed(4)
        (model(paddle.randn([2, 3, 32, 32])) ** 2).sum().backward()
        found.append([p.grad.numpy() for p in model.parameters()])
    for own, other in zip(*found, strict=True):
        np.testing.assert_array_equal(own, other)


def tiny_swin():
    return Swin(32, num_classes=3, patch_size=2, dims=[4, 8], depths=[2, 1], num_heads=[1, 2],
                attention=['window'] * 2, window_size=4)


def test_recorded_weights_leave_the_output_as_it_is(compiled):
    model, images = tiny_swin(), paddle.randn([2, 3, 32, 32])
    model.eval()
    with paddle.no_grad():
        expected = model(images)
        with recorded_attention([cell.attn for cell in model.cells()]) as calls:
            found = model(images)
    assert len(calls) == 3
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_graphs_have_the_plain_attention(compiled):
    for model in (create_model('vit_digits'), tiny_swin()):
        model.eval()
        graph = paddle.jit.to_static(model, full_graph=True, input_spec=[
            paddle.static.InputSpec([2, 3, 32, 32])])
        text = str(graph.forward.concrete_program.main_program)
        assert 'softmax' in text and 'py_layer' not in text


@pytest.mark.parametrize('size', [1, 13, 100003])
def test_adamw_is_its_formula(size, compiled):
    """Decayed and not, with a rate of its own; against float64, and Paddle's operator."""
    random = np.random.default_rng(0)
    values, gradients = random.standard_normal([2, size]), random.standard_normal([3, 2, size])
    beta1, beta2, epsilon, decay, rates = 0.9, 0.95, 1e-6, 0.3, (0.1, 0.025)

    def run(kind, on):
        compiled(on)
        weights = [paddle.create_parameter([size], 'float32') for _ in range(2)]
        for weight, value in zip(weights, values, strict=True):
            weight.set_value(value.astype('float32'))
        optimizer = kind(0.1, beta1, beta2, epsilon, weights, decay,
                         apply_decay_param_fun=lambda name: name == weights[0].name)
        weights[1].optimize_attr['learning_rate'] = 0.25
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = paddle.to_tensor(gradient.astype('float32'))
            optimizer.step()
        states = [value.numpy() for name, value in optimizer.state_dict().items()
                  if name != 'LR_Scheduler']
        return [weight.numpy() for weight in weights], states

    weights, states = run(AdamW, True)
    for kind in (AdamW, paddle.optimizer.AdamW):
        others = run(kind, False)
        for own, other in zip([*weights, *states], [*others[0], *others[1]], strict=True):
            assert own.shape == other.shape and own.dtype == other.dtype
            np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)
    for index, rate in enumerate(rates):
        weight, first, second = values[index], 0.0, 0.0
        for t, gradient in enumerate(gradients[:, index], 1):
            first = beta1 * first + (1 - beta1) * gradient
            second = beta2 * second + (1 - beta2) * gradient ** 2
            weight = weight * (1 - rate * (0.0 if index else decay)) - rate * (
                first / (1 - beta1 ** t)) / (np.sqrt(second / (1 - beta2 ** t)) + epsilon)
        np.testing.assert_allclose(weights[index], weight, rtol=1e-5, atol=1e-5)


def test_adamw_of_other_types_is_paddle_s(compiled, monkeypatch):
    called = []
    monkeypatch.setattr(kernels, 'adamw', lambda *arguments: called.append(arguments))
    for dtype, calls in (('float64', 0), ('float32', 1)):
        weight = paddle.create_parameter([3], dtype)
        weight.grad = paddle.ones([3], dtype)
        before = weight.numpy()
        AdamW(0.1, parameters=[weight], weight_decay=0.0).step()
        assert len(called) == calls
        np.testing.assert_allclose(weight.numpy(), before - 0.1 * (not calls), rtol=1e-6)


def convolution_by_loops(x, weight, bias, dy, groups):
    """The result and the gradients of x, weight and bias, in float64, one tap after the other."""
    (B, _, H, W), C = x.shape, weight.shape[1]
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]).reshape(B, groups, C, H + 2, W + 2)
    weight = weight.reshape(groups, -1, C, 3, 3)
    dy = dy.reshape(B, groups, -1, H, W)
    y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(weight)
    for i, j in np.ndindex(3, 3):
        part = ..., slice(i, i + H), slice(j, j + W)
        seen, tap = x[part], weight[..., i, j]                             # [g, D, C]
        y += np.einsum('bgchw,gdc->bgdhw', seen, tap)
        dx[part] += np.einsum('bgdhw,gdc->bgchw', dy, tap)
        dw[..., i, j] = np.einsum('bgchw,bgdhw->gdc', seen, dy)
    y, dy = y.reshape(B, -1, H, W), dy.reshape(B, -1, H, W)
    dx = dx[..., 1:-1, 1:-1].reshape(B, -1, H, W)
    return y + bias[:, None, None], dx, dw.reshape(-1, C, 3, 3), dy.sum((0, 2, 3))


def groups_of_models():
    """B, G, C, D, H, W: images, groups, channels of a group in and out, map; some of the models',
    and others."""
    random = np.random.default_rng(1)
    drawn = random.integers((1, 2, 4, 4, 1, 1), (12, 4, 10, 10, 40, 40), [6, 6]).tolist()
    return [(2, 2, 4, 16, 28, 28), (2, 2, 16, 4, 14, 14), (9, 3, 4, 4, 7, 7), (1, 2, 4, 8, 1, 1),
            (3, 2, 8, 5, 2, 3), *drawn]


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('B, G, C, D, H, W', groups_of_models())
def test_convolutions_in_groups(B, G, C, D, H, W, threads, compiled, parts, monkeypatch):
    random = np.random.default_rng(0)
    layer = Conv2D(G * C, G * D, 3, 1, 1, groups=G)
    arrays = [random.standard_normal(shape) for shape in (
        (B, G * C, H, W), layer.weight.shape, layer.bias.shape, (B, G * D, H, W))]
    x, weight, bias, dy = (array.astype('float32') for array in arrays)
    layer.weight.set_value(weight)
    layer.bias.set_value(bias)
    found = values_and_gradients(layer, x, dy)
    monkeypatch.setattr(F, 'conv2d', None)  # a kernel it is
    parts(threads)
    expected = convolution_by_loops(*(v.astype('float64') for v in (x, weight, bias, dy)), G)
    for own, again, other in zip(values_and_gradients(layer, x, dy), found, expected, strict=True):
        assert own.dtype == np.float32 and own.shape == other.shape
        np.testing.assert_array_equal(own, again)
        assert np.abs(own - other).max() < 4e-6 * np.abs(other).max()


@pytest.mark.parametrize('frozen', [('x',), ('weight',), ('bias',), ('weight', 'bias')])
def test_convolutions_in_groups_of_what_is_frozen(frozen, compiled):
    layer = Conv2D(8, 8, 3, 1, 1, groups=2, bias_attr=None if 'bias' in frozen[:1] else False)
    x = paddle.to_tensor(np.ones([2, 8, 5, 5], 'float32'), stop_gradient='x' in frozen)
    for name, parameter in layer.named_parameters():
        parameter.stop_gradient = name in frozen

    def gradients():
        layer(x).square().sum().backward()
        found = [None if p.grad is None else p.grad.numpy() for p in (x, *layer.parameters())]
        layer.clear_gradients()
        x.clear_gradient()
        return found

    found = gradients()
    compiled()
    for own, other in zip(found, gradients(), strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('options', [
    {'stride': 2}, {'padding': 0}, {'padding': 'SAME'}, {'padding': 2, 'dilation': 2},
    {'groups': 1}, {'groups': 4}, {'kernel_size': 5}, {'padding': [1, 2]}])
def test_other_convolutions_are_paddle_s(options, compiled, monkeypatch):
    layer = Conv2D(8, 12, **{'kernel_size': 3, 'padding': 1, 'groups': 2, **options})
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal([2, 8, 9, 7]).astype('float32'))
    monkeypatch.setattr(kernels, 'convolution', None)
    found = layer(x).numpy()
    np.testing.assert_allclose(found, nn.Conv2D.forward(layer, x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('B, h, w, C, k', [
    (2, 14, 14, 16, 7), (3, 7, 7, 8, 7), (1, 1, 1, 1, 7), (2, 3, 19, 37, 7), (2, 9, 2, 20, 7),
    (2, 9, 8, 20, 3), (3, 4, 5, 3, 1), (5, 4, 30, 33, 9)])
def test_depthwise_convolutions(B, h, w, C, k, threads, compiled, parts, monkeypatch):
    layer = Call(ConditionalPosition(C, k), h, w)
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal((B, h * w, C)).astype('float32') for _ in range(2))
    with monkeypatch.context() as patch:  # a kernel it is
        patch.setattr(conditional_position, 'add_depthwise_convolution', None)
        once = values_and_gradients(layer, x, weight)
        parts(threads)
        found = values_and_gradients(layer, x, weight)
    compiled()
    layer.to(dtype='float64')
    expected = values_and_gradients(layer, x.astype('float64'), weight.astype('float64'))
    for own, again, other in zip(found, once, expected, strict=True):
        np.testing.assert_array_equal(own, again)
        assert np.abs(own - other).max() < 4e-6 * max(np.abs(other).max(), 1)


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


def test_kernels_are_for_float32_whatever_the_default_is(library, monkeypatch):
    monkeypatch.setattr(native.Kernels, 'library', library)

    def gradients(model, images):
        paddle.seed(0)
        model(images).sum().backward()
        found = [p.grad.numpy() for p in model.parameters() if p.grad is not None]
        model.clear_gradients()
        return found

    for name in ('vit_digits', 'vitaev2_vsa_digits', 'vitae_digits'):
        model, images = create_model(name, dropout=0.0, attention_dropout=0.0), paddle.ones(
            [2, 3, 32, 32])
        model.train()
        expected = gradients(model, images)
        paddle.set_default_dtype('float64')
        try:
            found = gradients(model, images)
        finally:
            paddle.set_default_dtype('float32')
        assert all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))
