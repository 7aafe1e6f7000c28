"""Varied-size window attention against a plain loop, and against plain window attention."""
import copy
import math

import numpy as np
import paddle
import pytest

from common.core.errors import InputError
from common.layers.vsa import FORMS
from common.layers.windows import (
    WindowAttention,
    relative_position_bias,
    relative_position_index,
    window_partition,
    window_reverse,
)
from tests.vsa_reference import plain_vsa

from vitaev2_vsa.vsa import VSAWindowAttention


def layer_of(dim=8, heads=2, window=4, out_dim=None, spread=1.0, **options):
    """A layer whose windows move and stretch by `spread`."""
    paddle.seed(3)
    layer = VSAWindowAttention(dim, heads, window, out_dim, **options)
    for part in (layer.sampling_offsets, layer.sampling_scales):
        part.weight.set_value(part.weight * (3.0 * spread))
        part.bias.set_value(part.bias * spread)
    return layer


def image(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


def plain(layer, x, form):
    """The plain loop over a map [B, C, H, W]."""
    return plain_vsa(layer, x.transpose(0, 2, 3, 1), form).transpose(0, 3, 1, 2)


@pytest.mark.smoke
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('sampling', ['auto', 'gather', 'grid_sample'])
@pytest.mark.parametrize('height, width, window, out_dim', [
    (8, 8, 4, None), (8, 12, 4, 16), (9, 7, 4, None), (5, 14, 7, None), (3, 9, 4, 4), (2, 2, 3, 8),
    (1, 8, 4, None), (5, 1, 4, None), (1, 1, 4, None)])
def test_against_a_plain_loop(float64, sampling, height, width, window, out_dim, form):
    layer = layer_of(window=window, out_dim=out_dim, sampling=sampling, form=form)
    x = image(2, 8, height, width)
    got = layer(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(got, plain(layer, x, form), rtol=0, atol=1e-12)


@pytest.mark.smoke
def test_the_forms_differ_where_a_map_is_not_square_or_not_of_whole_windows(float64):
    layers = [layer_of(form=form) for form in FORMS]
    for height, width, same in ((8, 8, True), (8, 12, False), (9, 9, False), (2, 2, False)):
        x = paddle.to_tensor(image(1, 8, height, width))
        difference = float((layers[0](x) - layers[1](x)).abs().max())
        assert (difference == 0) == same, (height, width)


@pytest.mark.parametrize('size', [(64, 64), (80, 80), (64, 96), (32, 40)],
                         ids=['256', '320', '256x384', 'second stage of 256x320'])
def test_first_maps_of_larger_images(float64, size):
    layer = layer_of(dim=4, heads=2, window=7)
    x = image(1, 4, *size)
    got = layer(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(got, plain(layer, x, 'classification'), rtol=0, atol=1e-12)


@pytest.mark.smoke
@pytest.mark.parametrize('height, width, form', [
    (8, 8, 'classification'), (9, 14, 'classification'), (9, 14, 'detection')])
def test_both_samplings_have_the_same_gradients(float64, height, width, form):
    results = []
    for sampling in ('gather', 'grid_sample'):
        layer = layer_of(sampling=sampling, form=form)
        x = paddle.to_tensor(image(2, 8, height, width), stop_gradient=False)
        y = layer(x)
        (y * paddle.to_tensor(image(*y.shape, seed=1))).sum().backward()
        results.append([y, x.grad, *(p.grad for p in layer.parameters())])
    for first, second in zip(*results, strict=True):
        assert np.abs(first.numpy()).max() > 0
        np.testing.assert_allclose(first.numpy(), second.numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.smoke
def test_without_moves_it_is_plain_window_attention(float64):
    layer = layer_of(spread=0.0)
    plain = WindowAttention(8, 2, 4, relative_position=True)
    for name in ('qkv.weight', 'qkv.bias', 'proj.weight', 'proj.bias',
                 'relative_position_bias_table'):
        plain.state_dict()[name].set_value(layer.state_dict()[name])
    x = image(2, 12, 8, 8)
    windows = plain(window_partition(paddle.to_tensor(x), 4))
    expected = window_reverse(windows, 4, 12, 8).numpy()
    got = layer(paddle.to_tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.smoke
def test_partition_and_reverse():
    x = image(2, 6, 9, 5)
    windows = window_partition(paddle.to_tensor(x), 3)
    np.testing.assert_array_equal(windows.numpy()[4].reshape(3, 3, 5), x[0, 3:6, 3:6])
    np.testing.assert_array_equal(window_reverse(windows, 3, 6, 9).numpy(), x)


@pytest.mark.smoke
def test_relative_position_bias():
    layer = WindowAttention(8, 2, 3, relative_position=True)
    layer.relative_position_bias_table.set_value(image(25, 2).astype('float32'))
    table, bias = layer.relative_position_bias_table.numpy(), relative_position_bias(layer).numpy()
    for query, key in np.ndindex(9, 9):
        dy, dx = query // 3 - key // 3, query % 3 - key % 3
        np.testing.assert_array_equal(bias[:, query, key], table[(dy + 2) * 5 + dx + 2])


def bias_layer(kind):
    """A layer with windows of 12: its 529 rows are more than a bfloat16 counts to."""
    paddle.seed(0)
    return VSAWindowAttention(8, 2, 12) if kind == 'vsa' \
        else WindowAttention(8, 2, 12, relative_position=True)


@pytest.mark.smoke
@pytest.mark.parametrize('kind', ['vsa', 'window'])
def test_the_index_is_no_weight_and_survives_what_layers_go_through(kind, monkeypatch):
    layer = bias_layer(kind)
    assert not [name for name in layer.state_dict() if 'index' in name]
    expected = relative_position_bias(layer).numpy()
    assert expected.std() > 0.01 or kind == 'window'  # the owner of a WindowAttention fills it
    np.testing.assert_array_equal(relative_position_bias(copy.deepcopy(layer)).numpy(), expected)
    with paddle.LazyGuard():
        lazy = bias_layer(kind)
    lazy.relative_position_bias_table.initialize()
    lazy.set_state_dict({'relative_position_bias_table': layer.relative_position_bias_table})
    np.testing.assert_array_equal(relative_position_bias(lazy).numpy(), expected)
    x = paddle.randn([1, 8, 12, 12] if kind == 'vsa' else [1, 144, 8])
    with monkeypatch.context() as patch:
        patch.delattr(paddle, 'to_tensor')  # nothing is copied from NumPy in a forward pass
        layer(x)
    for dtype in ('float64', 'bfloat16'):
        moved = copy.deepcopy(layer)
        moved.to(dtype=dtype)
        table = moved.relative_position_bias_table.astype('float32').numpy()
        np.testing.assert_array_equal(
            relative_position_bias(moved).astype('float32').numpy(),
            table[relative_position_index(12)].T.reshape(2, 144, 144))


@pytest.mark.smoke
@pytest.mark.parametrize('sampling', ['gather', 'grid_sample'])
def test_windows_far_outside_give_zero_keys_not_a_crash(sampling):
    layer = layer_of(sampling=sampling)
    layer.sampling_offsets.bias.set_value(paddle.full([4], 1e12))
    x = paddle.to_tensor(image(1, 8, 8, 8).astype('float32'))
    got = layer(x).numpy()
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[0, :, 3, 5], layer.proj.bias.numpy(), atol=1e-6)


@pytest.mark.smoke
@pytest.mark.parametrize('sampling', ['gather', 'grid_sample'])
def test_nan_stays_a_nan_in_its_window(sampling):
    """Its coordinates are NaN, with which Paddle 2.6's grid_sample crashes."""
    x = image(1, 8, 8, 8).astype('float32')
    x[0, 3, 1, 1] = np.nan
    got = layer_of(spread=0.0, sampling=sampling)(paddle.to_tensor(x)).numpy()
    inside = np.zeros((8, 8), bool)
    inside[:4, :4] = True
    np.testing.assert_array_equal(np.isnan(got), np.broadcast_to(inside, got.shape))


@pytest.mark.smoke
@pytest.mark.parametrize('sampling', ['gather', 'grid_sample'])
def test_coordinate_that_is_nan_gives_nan(sampling):
    layer = layer_of(sampling=sampling)
    layer.sampling_offsets.bias.set_value(np.array([np.nan, 0, 0, 0], np.float32))
    assert np.isnan(layer(paddle.randn([1, 8, 8, 8])).numpy()).all()


@pytest.mark.smoke
@pytest.mark.parametrize('sampling', ['gather', 'grid_sample'])
@pytest.mark.parametrize('height, width, form', [
    (8, 8, 'classification'), (9, 7, 'classification'), (1, 5, 'classification'),
    (9, 7, 'detection'), (1, 5, 'detection')])
def test_exported_graph_agrees(tmp_path, height, width, sampling, form):
    layer = layer_of(sampling=sampling, form=form)
    layer.eval()
    spec = [paddle.static.InputSpec([None, 8, height, width], 'float32')]
    paddle.jit.save(layer, str(tmp_path / 'vsa'), spec)
    loaded = paddle.jit.load(str(tmp_path / 'vsa'))
    for batch in (1, 3):
        x = paddle.randn([batch, 8, height, width])
        np.testing.assert_allclose(loaded(x).numpy(), layer(x).numpy(), rtol=0, atol=1e-5)


@pytest.mark.smoke
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('full_graph', [False, True])
def test_to_static_agrees(full_graph, form):
    layer, x = layer_of(form=form), paddle.randn([2, 8, 9, 7])
    expected = layer(x).numpy()
    got = paddle.jit.to_static(layer, full_graph=full_graph)(x)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.smoke
def test_static_mode_agrees():
    x = image(2, 8, 9, 7).astype('float32')
    paddle.enable_static()
    try:
        program, start = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(program, start):
            static = VSAWindowAttention(8, 2, 4)
            y = static(paddle.static.data('x', [None, *x.shape[1:]], 'float32'))
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(start)
        values = executor.run(program, {'x': x}, [y, *static.parameters()])
    finally:
        paddle.disable_static()
    layer = VSAWindowAttention(8, 2, 4)
    for parameter, value in zip(layer.parameters(), values[1:], strict=True):
        parameter.set_value(value)
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), values[0], rtol=0, atol=1e-5)


@pytest.mark.smoke
def test_what_cannot_be_exported_is_said(tmp_path):
    spec = [paddle.static.InputSpec([None, 8, None, 8], 'float32')]
    with pytest.raises(InputError, match='got an open height or width, expected fixed ones'):
        paddle.jit.save(layer_of(), str(tmp_path / 'vsa'), spec)


@pytest.mark.smoke
def test_learned_windows():
    layer = layer_of(spread=0.0)
    layer.sampling_offsets.bias.set_value(paddle.to_tensor([0.2, 0.0, 0.0, -0.4]))
    layer.sampling_scales.bias.set_value(paddle.to_tensor([0.0, 1.0, -0.5, 0.0]))
    windows = layer.windows(paddle.zeros([3, 8, 8, 12]))
    assert all(value.shape == [3, 2, 2, 3, 2] for value in windows)
    # offsets are shares of half a map of 12 (8) pixels, over its 3 (2) windows
    shift_x, shift_y = 0.2 / 3 * 11 / 2, -0.4 / 2 * 7 / 2
    centre = windows.centre.numpy()
    np.testing.assert_allclose(centre[0, 0, 1, 2], [9.5 + shift_x, 5.5], rtol=1e-5)
    np.testing.assert_allclose(centre[2, 1, 0, 1], [5.5, 1.5 + shift_y], rtol=1e-5)
    np.testing.assert_allclose(windows.size.numpy()[0, 0, 0, 0], [4, 8])
    np.testing.assert_allclose(windows.size.numpy()[0, 1, 0, 0], [2, 4])
    columns, rows = layer.coordinates(paddle.zeros([3, 8, 12, 8]))       # [B, nh, nw, n, s]
    np.testing.assert_allclose(columns.numpy()[0, 0, 1, 1], 5.5 + np.array([-.75, -.25, .25, .75]))
    np.testing.assert_allclose(rows.numpy().mean(-1).transpose(0, 3, 1, 2),
                               windows.centre.numpy()[:, :, :, :, 1], rtol=1e-5)


@pytest.mark.smoke
def test_learned_windows_of_the_detection_form():
    """Offsets count in windows of the other side, and centres from the map without its padding."""
    layer = layer_of(spread=0.0, form='detection')
    layer.sampling_offsets.bias.set_value(paddle.to_tensor([0.2, 0.4, 0.0, 0.0]))
    x = paddle.zeros([1, 8, 5, 18])  # padded to 8 x 20: 1 row above, 2 below; a column on each side
    windows = layer.windows(x)
    assert windows.centre.shape == [1, 2, 2, 5, 2]
    shift_x, shift_y = 0.2 / 1 * 19 / 2, 0.4 / 4 * 7 / 2
    np.testing.assert_allclose(windows.centre.numpy()[0, 0, 1, 2],
                               [8 + 1.5 - 1 + shift_x, 4 + 1.5 - 1 + shift_y], rtol=1e-5)
    np.testing.assert_allclose(windows.centre.numpy()[0, 1, 0, 0], [0.5, 0.5], rtol=1e-5)
    columns, rows = layer.coordinates(x.transpose([0, 2, 3, 1]))           # [B, nh, nw, n, s]
    np.testing.assert_allclose(columns.numpy()[0, 0, 0, 1], [-1, 0, 1, 2], atol=1e-5)
    np.testing.assert_allclose(rows.numpy().mean(-1).transpose(0, 3, 1, 2),
                               windows.centre.numpy()[:, :, :, :, 1], rtol=1e-5)


@pytest.mark.smoke
def test_coordinates_are_float32_for_half_precision():
    layer = layer_of()
    x = paddle.to_tensor(image(1, 8, 8, 8).astype('float16'))
    for value, wide in zip(layer.coordinates(x), layer.coordinates(x.astype('float32')),
                           strict=True):
        assert value.dtype == paddle.float32
        np.testing.assert_array_equal(value.numpy(), wide.numpy())


@pytest.mark.smoke
def test_autocast_does_not_reach_the_regression(monkeypatch):
    """On a CPU autocast changes no operator, so this looks at the level that layers run at."""
    tracer, levels = paddle.base.framework._dygraph_tracer(), {}
    layer = layer_of()
    for name in ('qkv', 'sampling_offsets', 'sampling_scales'):
        getattr(layer, name).register_forward_pre_hook(
            lambda *_, name=name: levels.update({name: int(tracer._amp_level)}))
    monkeypatch.setattr(tracer, '_amp_dtype', 'bfloat16')
    monkeypatch.setattr(tracer, '_amp_level', paddle.base.core.AmpLevel.O1)
    layer(paddle.randn([1, 8, 8, 8]))
    assert levels == {'qkv': 1, 'sampling_offsets': 0, 'sampling_scales': 0}


@pytest.mark.skipif(not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()),
                    reason='autocast needs a GPU, this machine has none')
def test_coordinates_are_the_same_under_autocast():
    layer, x = layer_of(), paddle.randn([1, 8, 8, 8])
    expected = layer.coordinates(x)
    with paddle.amp.auto_cast(level='O1', dtype='bfloat16'):
        assert layer.qkv(x).dtype == paddle.bfloat16
        got = layer.coordinates(x)
    for value, wanted in zip(got, expected, strict=True):
        assert value.dtype == paddle.float32
        np.testing.assert_array_equal(value.numpy(), wanted.numpy())


@pytest.mark.smoke
def test_errors_and_start():
    for heads, out_dim in ((2, 9), (3, 9), (3, None)):
        with pytest.raises(InputError, match=f'MODEL.NUM_HEADS: got {heads}, expected a divisor of '
                                             f'the channels, 8 in and {out_dim or 8} out'):
            VSAWindowAttention(8, heads, out_dim=out_dim)
    for dim, out_dim, channels in ((9, None, 9), (8, 9, 9)):
        with pytest.raises(InputError, match=f'MODEL.NUM_HEADS: got 2, expected a divisor of the '
                                             f'{channels} channels'):
            WindowAttention(dim, 2, 4, out_dim)
    with pytest.raises(ValueError, match="sampling: got 'fast', expected"):
        VSAWindowAttention(8, 2, sampling='fast')
    with pytest.raises(InputError, match="MODEL.VSA_FORM: got 'x', expected one of classification, "
                                         'detection'):
        VSAWindowAttention(8, 2, form='x')
    layer = VSAWindowAttention(256, 8)
    assert layer.proj.weight.numpy().std() == pytest.approx(1 / 16 / math.sqrt(3), rel=0.02)
    assert np.abs(layer.sampling_offsets.bias.numpy()).max() > 0
    assert layer.relative_position_bias_table.numpy().std() == pytest.approx(0.02, rel=0.1)
