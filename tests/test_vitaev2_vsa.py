"""ViTAEv2 and Swin: any size, padding against plain loops, features, attention, windows."""
import json

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.nn.initializer import Uniform

from common.core.errors import InputError
from common.layers.attention import split_heads
from common.layers.vsa import Pointwise
from common.layers.windows import (
    TokenWindowAttention,
    relative_position_bias,
    window_partition,
)
from common.train.optim import decayed_parameters
from common.zoo import create_model, list_models
from tests.conftest import ROOT, run_script
from tests.torch_files import write_pth

from vitaev2_vsa.swin import PatchMerging, ShiftedWindowAttention, Swin, shift_regions
from vitaev2_vsa.vitaev2_vsa import ViTAEv2, stage_rates

CELLS = {'image_size': 32, 'num_classes': 10, 'ratios': (4, 2), 'embed_dims': (8, 8),
         'token_dims': (16, 32), 'depths': (1, 2), 'num_heads': (2, 4), 'reduction_heads': (2, 4),
         'groups': (4, 8), 'reduction_groups': (1, 4), 'mlp_ratio': 2.0, 'window_size': 3}
BLOCKS = {'image_size': 32, 'num_classes': 10, 'dims': (16, 32), 'depths': (2, 2),
          'num_heads': (2, 4), 'window_size': 3}
KINDS = {
    'transformer': lambda: ViTAEv2(attention=('transformer',) * 2, **CELLS),
    'window': lambda: ViTAEv2(attention=('window',) * 2, **CELLS),
    'vsa': lambda: ViTAEv2(attention=('vsa',) * 2, **CELLS),
    'swin': lambda: Swin(attention=('window',) * 2, **BLOCKS),
    'swin vsa': lambda: Swin(attention=('vsa',) * 2, **BLOCKS),
}


def small(kind):
    paddle.seed(0)
    return KINDS[kind]()


@pytest.mark.smoke
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('height, width', [(32, 32), (48, 20), (8, 8), (4, 36)])
def test_any_size_also_in_training(kind, height, width):
    model = small(kind)
    image = paddle.randn([2, 3, height, width])
    model.train()
    F.cross_entropy(model(image), paddle.to_tensor([1, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.stop_gradient or np.isfinite(parameter.grad.numpy()).all(), name
    model.eval()
    h, w = -(-height // 8), -(-width // 8)
    raw, featmap = model.extract_feat(image, 'raw'), model.extract_feat(image, 'featmap')
    assert [value.shape for value in raw] == [[2, height * width // 16, 16], [2, h * w, 32]]
    np.testing.assert_array_equal(
        featmap[-1].numpy(), raw[-1].numpy().reshape(2, h, w, 32).transpose(0, 3, 1, 2))
    average = model.extract_feat(image, 'avg_featmap')[-1]
    np.testing.assert_array_equal(average.numpy(), model.forward_features(image).numpy())
    for weights, (rows, columns) in zip(model.get_attention(image, [0, -1]),
                                        [(height // 4, width // 4), (h, w)], strict=True):
        tokens, windows = 9, -(-rows // 3) * -(-columns // 3)
        assert weights.shape[-1] == (rows * columns if kind == 'transformer' else tokens)
        assert kind == 'transformer' or weights.shape[1] == windows
        np.testing.assert_allclose(weights.numpy().sum(-1), 1, atol=1e-5)


def biases_before_batch_norm(model):
    """Their gradient is zero but for rounding: BatchNorm takes the mean away."""
    return {f'{name}.{index}.bias' for name, layers in model.named_sublayers()
            if isinstance(layers, nn.Sequential) for index in range(len(layers) - 1)
            if isinstance(layers[index + 1], nn.BatchNorm2D)}


@pytest.mark.parametrize('name', [*list_models('*v2_*'), *list_models('swin*')])
def test_every_model_trains_a_step(name):
    paddle.seed(0)
    model = create_model(name, num_classes=10, image_size=64, droppath=0.0)
    optimizer = paddle.optimizer.SGD(1.0, parameters=model.parameters())
    parameters = {key: p for key, p in model.named_parameters() if not p.stop_gradient}
    image, label = paddle.randn([2, 3, 64, 64]), paddle.to_tensor([1, 2])
    F.cross_entropy(model(image), label).backward()
    optimizer.step()
    still = biases_before_batch_norm(model)
    assert still <= parameters.keys()
    for key, parameter in parameters.items():
        assert np.isfinite(parameter.grad.numpy()).all(), key
        assert np.isfinite(parameter.numpy()).all(), key
        assert key in still or parameter.grad.numpy().any(), key


@pytest.mark.parametrize('name', ['vitaev2_window_s', 'vitaev2_vsa_s', 'swin_tiny'])
@pytest.mark.parametrize('height, width', [(256, 256), (320, 320), (256, 384), (192, 192)])
def test_larger_sizes(name, height, width):
    """192 has a last map of 6x6, smaller than a window; upstream's VSA divides by zero there."""
    model = create_model(name, num_classes=10, depths=[1, 1, 1, 1])
    model.eval()
    with paddle.no_grad():
        assert np.isfinite(model(paddle.randn([1, 3, height, width])).numpy()).all()


def attention_of_groups(layer, x, group, padded):
    """Plain attention of a window layer: every place of x [h, w, C] to those of its group."""
    h, w, C = x.shape
    n, d, s = layer.num_heads, layer.head_dim, layer.window_size
    qkv = (x @ layer.qkv.weight.numpy() + layer.qkv.bias.numpy()).reshape(h, w, 3, n, d)
    result = np.zeros((h, w, n, d))
    places = list(np.ndindex(h, w))
    for y, x_ in places:
        keys = [(j, i) for j, i in places if group(j, i) == group(y, x_)]
        for head in range(n):
            scores = np.array([qkv[y, x_, 0, head] @ qkv[j, i, 1, head] * d ** -0.5
                               for j, i in keys])
            if layer.relative_position_bias_table is not None:
                rows = [(y - j + s - 1) * (2 * s - 1) + x_ - i + s - 1 for j, i in keys]
                scores = scores + layer.relative_position_bias_table.numpy()[rows, head]
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            result[y, x_, head] = sum(weight * qkv[j, i, 2, head]
                                      for weight, (j, i) in zip(weights, keys, strict=True))
    out = result.reshape(h, w, n * d) @ layer.proj.weight.numpy() + layer.proj.bias.numpy()
    top, left, height, width = padded
    return out[top:top + height, left:left + width]


@pytest.mark.smoke
@pytest.mark.parametrize('h, w', [(6, 6), (7, 5), (2, 8)])
def test_window_attention_pads_evenly_before_qkv(float64, h, w):
    paddle.seed(1)
    layer = TokenWindowAttention(8, 2, 3, out_dim=4)
    x = np.random.RandomState(0).standard_normal((h, w, 8))
    down, right = -h % 3, -w % 3
    top, left = down // 2, right // 2
    padded = np.pad(x, ((top, down - top), (left, right - left), (0, 0)))
    expected = attention_of_groups(layer, padded, lambda y, x: (y // 3, x // 3), (top, left, h, w))
    got = layer(paddle.to_tensor(x.reshape(1, h * w, 8)), h, w).numpy().reshape(h, w, 4)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.smoke
@pytest.mark.parametrize('h, w, shift', [(8, 8, 0), (8, 8, 2), (8, 12, 2), (7, 10, 2), (4, 4, 2)])
def test_shifted_windows(float64, h, w, shift):
    """Rolling and masking is the same as windows whose borders are moved by the shift."""
    paddle.seed(1)
    layer = ShiftedWindowAttention(8, 2, 4, shift, 0.0, 0.0)
    layer.relative_position_bias_table.set_value(paddle.randn([49, 2]))
    x = np.random.RandomState(0).standard_normal((h, w, 8))
    padded = np.pad(x, ((0, -h % 4), (0, -w % 4), (0, 0)))
    move = 0 if (h, w) == (4, 4) else shift  # one window alone is not shifted
    expected = attention_of_groups(
        layer, padded, lambda y, x: ((y - move) // 4, (x - move) // 4), (0, 0, h, w))
    got = layer(paddle.to_tensor(x.reshape(1, h * w, 8)), h, w).numpy().reshape(h, w, 8)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def plain_mask(h, w, s, shift):
    """The mask of microsoft/Swin-Transformer, [nW, s * s, s * s]."""
    regions, parts = np.zeros((1, h, w, 1), np.float32), (
        slice(0, -s), slice(-s, -shift), slice(-shift, None))
    for index, (rows, columns) in enumerate((rows, columns) for rows in parts for columns in parts):
        regions[:, rows, columns] = index
    regions = window_partition(paddle.to_tensor(regions), s).numpy()[:, :, 0]
    return np.where(regions[:, None] != regions[:, :, None], -100, 0).astype(np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize('h, w, s, shift', [(8, 12, 4, 2), (14, 7, 7, 3), (6, 9, 3, 1)])
def test_regions_mask_as_swin_s_mask_does(h, w, s, shift):
    paddle.seed(1)
    layer = ShiftedWindowAttention(8, 2, s, shift, 0.0, 0.0)
    layer.relative_position_bias_table.set_value(paddle.randn([(2 * s - 1) ** 2, 2]))
    mask = plain_mask(h, w, s, shift)
    windows = paddle.randn([3 * len(mask), s * s, 8])
    regions = paddle.to_tensor(shift_regions(h, w, s, shift))
    q, k, _ = split_heads(layer.qkv(windows), 2)
    scores = paddle.matmul(q * layer.head_dim ** -0.5, k, transpose_y=True)
    scores = (scores + relative_position_bias(layer)).reshape([3, len(mask), 2, s * s, s * s])
    expected = F.softmax(scores + paddle.to_tensor(mask).unsqueeze(1), axis=-1)
    _, got = layer.with_weights(windows, regions)
    np.testing.assert_array_equal(got.numpy(), expected.reshape(got.shape).numpy())


class FixedMap(paddle.nn.Layer):
    def __init__(self, layer, h, w):
        super().__init__()
        self.layer, self.size = layer, (h, w)

    def forward(self, x):
        return self.layer(x, *self.size)


@pytest.mark.smoke
@pytest.mark.parametrize('make', [lambda: ShiftedWindowAttention(8, 2, 7, 3, 0.0, 0.0),
                                  lambda: TokenWindowAttention(8, 2, 7)], ids=['swin', 'window'])
def test_exported_windows_hold_no_mask(make, tmp_path):
    """As pairs of places the mask of shifted windows would have 154 thousand numbers."""
    layer = FixedMap(make(), 56, 56)
    layer.eval()
    spec = [paddle.static.InputSpec([None, 56 * 56, 8], 'float32')]
    paddle.jit.save(layer, str(tmp_path / 'layer'), spec)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 300_000
    loaded = paddle.jit.load(str(tmp_path / 'layer'))
    for batch in (1, 3):
        x = paddle.randn([batch, 56 * 56, 8])
        np.testing.assert_allclose(loaded(x).numpy(), layer(x).numpy(), rtol=0, atol=1e-5)


@pytest.mark.smoke
@pytest.mark.parametrize('h, w', [(4, 6), (5, 3)])
def test_patch_merging(float64, h, w):
    layer = PatchMerging(4)
    x = np.random.RandomState(0).standard_normal((2, h, w, 4))
    padded = np.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    parts = [padded[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    joined = np.concatenate(parts, -1)
    centred = joined - joined.mean(-1, keepdims=True)
    normed = centred / np.sqrt(joined.var(-1, keepdims=True) + 1e-5)
    expected = (normed @ layer.reduction.weight.numpy()).reshape(2, -1, 8)
    got, *size = layer(paddle.to_tensor(x.reshape(2, h * w, 4)), h, w)
    assert size == [-(-h // 2), -(-w // 2)]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


@pytest.mark.smoke
def test_drop_path_slices_are_upstream_s():
    rates = stage_rates(0.1, [2, 2, 8, 2], 'upstream')
    unit = 0.1 / 13
    for got, first, count in zip(rates, [0, 2, 2, 8], [2, 2, 8, 2], strict=True):
        np.testing.assert_allclose(got, [unit * (first + i) for i in range(count)])
    rates = stage_rates(0.1, [2, 2, 8, 2], 'cumulative')
    np.testing.assert_allclose(sum(rates, []), np.linspace(0, 0.1, 14))
    model = create_model('vitaev2_s')
    assert [cell.drop_path.p for cell in model.layers[3].NC] == pytest.approx([.0615385, .0692308])
    with pytest.raises(ValueError, match="got 'none', expected upstream or cumulative"):
        stage_rates(0.1, [2], 'none')


@pytest.mark.smoke
@pytest.mark.parametrize('kind', ['vsa', 'swin vsa'])
def test_windows_in_pixels_of_the_image(kind):
    model = small(kind)
    for cell in model.cells():
        for part in (cell.attn.sampling_offsets, cell.attn.sampling_scales):
            part.weight.set_value(paddle.zeros_like(part.weight))
            part.bias.set_value(paddle.zeros_like(part.bias))
    model.cells()[0].attn.sampling_scales.bias.set_value(paddle.ones([4]))
    windows = model.get_windows(paddle.randn([2, 3, 24, 48]), 0)  # a map of 6 x 12
    assert windows.centre.shape == [2, 2, 2, 4, 2]
    # windows of 3 tokens of 4 pixels; the first covers pixels 0 to 12
    np.testing.assert_allclose(windows.centre.numpy()[0, 0, 0, 0], [6, 6], rtol=1e-6)
    np.testing.assert_allclose(windows.centre.numpy()[1, 1, 1, 2], [30, 18], rtol=1e-6)
    np.testing.assert_allclose(windows.size.numpy(), 24)
    np.testing.assert_allclose(model.get_windows(paddle.randn([2, 3, 24, 48])).size.numpy(), 24)
    with pytest.raises(ValueError, match='got 0, expected a layer with varied-size windows'):
        small('window').get_windows(paddle.randn([1, 3, 32, 32]), 0)


@pytest.mark.smoke
def test_windows_in_pixels_of_the_detection_form():
    """A map of 5 x 10 has a column of padding on its left, so its first window begins at -4 px."""
    model = ViTAEv2(attention=('vsa',) * 2, vsa_form='detection', **CELLS)
    attention = model.cells()[0].attn
    for part in (attention.sampling_offsets, attention.sampling_scales):
        part.weight.set_value(paddle.zeros_like(part.weight))
        part.bias.set_value(paddle.zeros_like(part.bias))
    windows = model.get_windows(paddle.randn([1, 3, 20, 40]), 0)
    np.testing.assert_allclose(windows.centre.numpy()[0, 0, 0, 0], [2, 6], rtol=1e-6)
    np.testing.assert_allclose(windows.centre.numpy()[0, 1, 1, 3], [38, 18], rtol=1e-6)
    np.testing.assert_allclose(windows.size.numpy(), 12)


@pytest.mark.smoke
def test_errors_are_clear():
    with pytest.raises(ValueError, match='got 30x32, expected .* multiples of 4'):
        small('vsa')(paddle.randn([1, 3, 30, 32]))
    with pytest.raises(ValueError, match='got 30x32, expected .* multiples of 4'):
        small('swin')(paddle.randn([1, 3, 30, 32]))
    with pytest.raises(ValueError, match="ATTENTION: got 'full', expected transformer, window"):
        ViTAEv2(**{**CELLS, 'attention': ('full', 'vsa')})
    with pytest.raises(ValueError, match="ATTENTION: got 'transformer', expected window or vsa"):
        Swin(**{**BLOCKS, 'attention': ('transformer', 'vsa')})
    with pytest.raises(ValueError, match=r'TOKEN_DIMS: got \[16, 24\], expected each to be twice'):
        Swin(attention=('window',) * 2, **{**BLOCKS, 'dims': (16, 24)})


@pytest.mark.smoke
@pytest.mark.parametrize('model, changes, message', [
    (ViTAEv2, {'depths': (1, 1, 1)},
     'MODEL.DEPTHS: got 3 entries, expected one for each of the 2 stages of MODEL.ATTENTION'),
    (ViTAEv2, {'reduction_groups': (1,)}, 'MODEL.REDUCTION_GROUPS: got 1 entries'),
    (ViTAEv2, {'attention': ('window',) * 5}, 'MODEL.ATTENTION: got 5 stages, expected 1 to 4'),
    (Swin, {'num_heads': (1, 2, 4)},
     'MODEL.NUM_HEADS: got 3 entries, expected one for each of the 2 stages of MODEL.ATTENTION'),
    (Swin, {'dims': (16,)}, 'MODEL.TOKEN_DIMS: got 1 entries'),
    (Swin, {'attention': ()}, 'MODEL.ATTENTION: got 0 stages, expected at least 1'),
    (ViTAEv2, {'groups': (4, 5)}, 'MODEL.GROUPS: got 5, expected a divisor of the channels of each '
                                  'convolution, 32, 64, 32, 32'),
    (ViTAEv2, {'reduction_groups': (2, 4)}, 'MODEL.REDUCTION_GROUPS: got 2, expected a divisor of '
                                            'the channels of each convolution, 3, 8, 8, 16'),
    (ViTAEv2, {'ratios': (3, 2)}, r'MODEL.RATIOS: got 3, expected 1, 2, 4 or \(first stage\) 8'),
    (ViTAEv2, {'ratios': (4, 8)}, 'MODEL.RATIOS: got 8, expected'),
    (ViTAEv2, {'num_heads': (2, 5)}, 'MODEL.NUM_HEADS: got 5, expected a divisor of the .*32'),
    (Swin, {'num_heads': (3, 4)}, 'MODEL.NUM_HEADS: got 3, expected a divisor of the .*16'),
    (ViTAEv2, {'reduction_heads': (3, 4)}, 'MODEL.REDUCTION_HEADS: got 3, expected a divisor of '
                                           'the .*16 channels')])
def test_lists_that_do_not_fit_are_named(model, changes, message):
    sizes, kinds = (BLOCKS, ['window', 'vsa']) if model is Swin \
        else (CELLS, ['transformer', 'window', 'vsa'])
    for kind in kinds:
        with pytest.raises(InputError, match=message):
            model(**{**sizes, 'attention': (kind,) * 2, **changes})


@pytest.mark.smoke
def test_vsa_s_reduction_heads_divide_its_channels_in():
    """24 and 8 scales' channels make 96 and 24, of which 16 heads divide the first alone."""
    sizes = {**CELLS, 'embed_dims': (24, 8), 'reduction_heads': (16, 16)}
    ViTAEv2(**{**sizes, 'attention': ('vsa', 'window')})
    with pytest.raises(InputError, match='REDUCTION_HEADS: got 16, expected a divisor of the 24 '
                                         'and the 32 channels'):
        ViTAEv2(**{**sizes, 'attention': ('vsa', 'vsa')})


@pytest.mark.smoke
@pytest.mark.parametrize('ratios, stride', [((4, 2), 4), ((8, 2), 8), ((2, 4), 8), ((1, 2), 1)])
def test_other_ratios_at_their_smallest_and_another_size(ratios, stride):
    model = ViTAEv2(**{**CELLS, 'ratios': ratios, 'attention': ('window', 'transformer')})
    for size in ((stride, stride), (3 * stride, 5 * stride)):
        assert np.isfinite(model(paddle.randn([2, 3, *size])).numpy()).all()
    if stride > 1:
        with pytest.raises(InputError, match=f'multiples of {stride}'):
            model(paddle.randn([2, 3, stride, stride // 2]))


@pytest.mark.smoke
def test_model_of_another_family_is_refused():
    code, _, err = run_script(['main_multi_gpu.py', '-cfg=./configs/vitaev2_vsa_digits.yaml',
                               '-o', 'MODEL.TYPE=vit'], folder='vitaev2_vsa')
    assert code == 1
    assert err == "error: MODEL.TYPE: got 'vit', expected vitaev2_vsa or swin\n"


@pytest.mark.smoke
def test_swin_s_bias_tables_are_not_decayed():
    model = small('swin')
    left = {name for name, _ in model.named_parameters()} - decayed_parameters(model)
    assert 'layers.0.blocks.0.attn.relative_position_bias_table' in left
    assert 'layers.0.blocks.0.attn.qkv.weight' not in left


@pytest.mark.smoke
def test_official_swin_names_load(tmp_path):
    """Names, wrapping and index buffers of microsoft/Swin-Transformer's files."""
    model = create_model('swin_tiny', num_classes=10, depths=[2, 2], token_dims=[8, 16],
                         num_heads=[2, 4], attention=['window'] * 2)
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == 'patch_embed.proj.weight'
    assert 'layers.0.downsample.reduction.weight' in names
    linear = {f'{name}.weight' for name, layer in model.named_sublayers()
              if isinstance(layer, paddle.nn.Linear)}
    state = {name: value.numpy().T.copy() if name in linear else value.numpy().copy()
             for name, value in model.state_dict().items()}
    state['layers.0.blocks.1.attn_mask'] = np.zeros((64, 49, 49), np.float32)
    state['layers.0.blocks.1.attn.relative_position_index'] = np.zeros((49, 49), np.int64)
    write_pth(str(tmp_path / 'swin.pth'), {'model': state})
    copy = create_model('swin_tiny', pretrained=str(tmp_path / 'swin.pth'), num_classes=10,
                        depths=[2, 2], token_dims=[8, 16], num_heads=[2, 4],
                        attention=['window'] * 2)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(copy.state_dict()[name].numpy(), value.numpy())


EXPORT = '''
import sys, os, json
import numpy as np, paddle
import paddle.static
sys.path[:0] = [{root!r}]
from common.zoo import create_model
import paddle2onnx, onnxruntime

def errors(form):
    paddle.seed(0)
    model = create_model('vitaev2_vsa_s', num_classes=10, image_size=[40, 56], vsa_form=form,
                         attention=['vsa'], ratios=[4], embed_dims=[16], token_dims=[32],
                         depths=[1], num_heads=[2], groups=[8], reduction_heads=[1],
                         reduction_groups=[1])
    model.eval()
    for layer in model.sublayers():
        if type(layer).__name__ == 'TokenVSA':
            for part in (layer.sampling_offsets, layer.sampling_scales):
                part.weight.set_value(part.weight * 3)
    x = paddle.randn([2, 3, 40, 56])
    expected = model(x).numpy()
    spec = [paddle.static.InputSpec([None, 3, 40, 56], 'float32', 'x')]
    paddle.onnx.export(model, form, input_spec=spec, opset_version=17)
    session = onnxruntime.InferenceSession(form + '.onnx')
    found = [float(np.abs(session.run(None, {{'x': x.numpy()[:n]}})[0] - expected[:n]).max())
             for n in (1, 2)]
    return found, float(np.abs(expected).max())

print(json.dumps([errors('classification'), errors('detection')]))
'''


@pytest.mark.skipif(paddle.__version__.startswith('2.'),
                    reason='paddle2onnx 2 needs Paddle 3; paddlepaddle>=3 is missing')
def test_exported_onnx_agrees(tmp_path):
    """By Paddle's own call, with padded cells; test_export.py has the stages of a model."""
    code, out, err = run_script(['-c', EXPORT.format(root=str(ROOT))], folder=str(tmp_path),
                                env={'POLYGRAPHY_AUTOINSTALL_DEPS': '0'})
    assert code == 0, err
    for errors, largest in json.loads(out.splitlines()[-1]):
        assert max(errors) <= 1e-3 and largest > 0.01


@pytest.mark.smoke
@pytest.mark.parametrize('kind', ['vsa', 'swin vsa'])
def test_vsa_s_linear_layers_are_initialised_once(kind, monkeypatch):
    """As convolutions of PyTorch are; a model's linear layers are normal, and not these."""
    drawn, draw = [], Uniform.__call__
    monkeypatch.setattr(Uniform, '__call__', lambda self, parameter, block=None:
                        drawn.append(tuple(parameter.shape)) or draw(self, parameter, block))
    model = small(kind)
    layers = [layer for layer in model.sublayers() if isinstance(layer, Pointwise)]
    convolutions = [layer for layer in model.sublayers() if isinstance(layer, nn.Conv2D)]
    assert len(layers) >= 8
    assert sorted(drawn) == sorted(
        tuple(parameter.shape) for layer in layers + convolutions
        for parameter in (layer.weight, layer.bias))
    for layer in layers:
        bound = layer.weight.shape[0] ** -0.5
        assert bound / 2 < np.abs(layer.weight.numpy()).max() <= bound


ALONE = '''
import sys
import paddle
from vsa import VSAWindowAttention
print(list(VSAWindowAttention(dim=16, num_heads=4)(paddle.randn([1, 16, 10, 13])).shape))
assert not {'vitaev2_vsa', 'swin', 'common.zoo'} & set(sys.modules)
'''


@pytest.mark.smoke
def test_the_attention_can_be_used_alone():
    """As a user of its folder does, without the models of the family."""
    code, out, err = run_script(['-c', ALONE], folder='vitaev2_vsa',
                                env={'PYTHONPATH': str(ROOT)})
    assert code == 0, err
    assert out == '[1, 16, 10, 13]\n'
