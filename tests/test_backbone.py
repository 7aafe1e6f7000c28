"""Backbones: upstream's maps and gradients, images of any size, and each option."""
import math

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from common.backbone import Backbone, create_backbone
from common.config import plain_config
from common.layers.feature_pyramid import SimpleFeaturePyramid
from common.layers.recompute import Recomputed
from common.layers.vsa import FORMS, TokenVSA
from common.train.checkpoint import save_weights
from common.zoo import create_model, model_config
from tests.conftest import refusal
from tests.reference import Case, own_names, relative_error
from tests.torch_files import write_pth
from tests.vsa_reference import plain_vsa

STAGES = {'token_dims': [8, 16, 32, 64], 'depths': [1, 1, 1, 1], 'num_heads': [1, 2, 2, 4],
          'window_size': 4}
CELLS = {**STAGES, 'embed_dims': [4, 4, 8, 8], 'groups': [1, 4, 4, 8],
         'reduction_heads': [1, 1, 2, 2], 'reduction_groups': [1, 4, 4, 4], 'mlp_ratio': 2.0}
PLAIN = {'image_size': 64}
# {kind: (name, keys)}
KINDS = {
    'mixed': ('vitaev2_s', CELLS), 'window': ('vitaev2_window_s', CELLS),
    'vsa': ('vitaev2_vsa_s', CELLS), 'swin': ('swin_tiny', STAGES),
    'swin vsa': ('swin_tiny_vsa', STAGES),
    'vit': ('vit_digits', {**PLAIN, 'patch_size': 16, 'depth': 1, 'embed_dim': 16}),
    'vitae': ('vitae_tiny', {'token_dims': [8, 8, 24], 'embed_dims': [4, 4, 12],
                             'depths': [0, 0, 1], 'groups': [1, 1, 4], 'num_heads': [1, 1, 2]}),
    'vitae, class token': ('vitae_large', {
        **PLAIN, 'embed_dims': [16] * 3, 'token_dims': [16] * 3, 'depths': [0, 0, 1],
        'num_heads': [1, 1, 2], 'groups': [1, 1, 4]}),
}
VSA = ('vsa', 'swin vsa')
PLAIN_KINDS = ('vit', 'vitae', 'vitae, class token')


def new(kind, seed=0, make=create_backbone, **options):
    """A small backbone in training mode."""
    paddle.seed(seed)
    name, keys = KINDS[kind]
    return make(name, **{**keys, **options})


def small(kind, **options):
    """The same, whose windows move and whose statistics are not 0 and 1."""
    found = new(kind, **options)
    for layer in found.sublayers():
        if isinstance(layer, TokenVSA):
            layer.sampling_offsets.weight.set_value(layer.sampling_offsets.weight * 4)
            layer.sampling_scales.weight.set_value(layer.sampling_scales.weight * 4)
        if isinstance(layer, nn.BatchNorm2D):
            layer._mean.set_value(paddle.randn(layer._mean.shape) * 0.1)
            layer._variance.set_value(paddle.rand(layer._variance.shape) + 0.5)
    return found


def image(height, width, batch=1, seed=0):
    """In Paddle's default type."""
    pixels = np.random.RandomState(seed).standard_normal([batch, 3, height, width])
    return paddle.to_tensor(pixels.astype(paddle.get_default_dtype()))


def weighted_sum(maps, seed=1):
    """A number that depends on every entry of some maps."""
    random = np.random.RandomState(seed)
    return paddle.add_n([(x * paddle.to_tensor(random.standard_normal(x.shape).astype(
        paddle.get_default_dtype()))).sum() for x in maps])


def arrays(layer):
    return {name: value.numpy().copy() for name, value in layer.state_dict().items()}


def gradients(layer):
    return {name: p.grad.numpy() for name, p in layer.named_parameters() if not p.stop_gradient}


# Upstream's numbers

# {case: (model, largest difference of a map's value)}
UPSTREAM = {
    'det_ViTAEv2_VSA_S_256x320': ('vitaev2_vsa_s', 1e-6),       # padded on both sides
    'det_ViTAEv2_VSA_S_448x224': ('vitaev2_vsa_s', 1e-6),
    'det_ViTAEv2_window_S_256x320': ('vitaev2_window_s', 1e-8),
    'det_ViTAEv2_S_224x224': ('vitaev2_s', 1e-8),
    'det_ViTAEv2_S_448x224': ('vitaev2_s', 1e-8),
}
SHORT = ('det_ViTAEv2_VSA_S_256x320', 'det_ViTAEv2_window_S_256x320')


def load_case(case, name, tmp_path):
    """A backbone with a case's weights, as an upstream detector's file has them."""
    detector = {f'backbone.{key}': value for key, value in case.weights().items()}
    write_pth(str(tmp_path / 'a.pth'),
              {'state_dict': {**detector, 'neck.weight': np.ones([3], np.float32)}})
    backbone = create_backbone(name, pretrained=str(tmp_path / 'a.pth'))
    assert "names behind the prefix 'backbone.'" in backbone.notes
    assert '1 arrays beside the model are left out: neck.weight' in backbone.notes
    backbone.eval()
    return backbone


@pytest.mark.parametrize('name', [
    name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in UPSTREAM])
def test_maps_and_gradients_are_upstream_s(name, float64, tmp_path):
    """Gradients where the case has them."""
    case, (model, atol) = Case('fidelity', name), UPSTREAM[name]
    backbone = load_case(case, model, tmp_path)
    maps = backbone(paddle.to_tensor(case.images().astype('float64')))
    total = 0
    for index, (x, meta) in enumerate(zip(maps, case.meta['maps'], strict=True)):
        assert x.shape == meta['shape']
        np.testing.assert_allclose(x.numpy().reshape(-1)[meta['positions']],
                                   case.arrays[f'map{index}_f64'], rtol=0, atol=atol)
        for got, key in ((x.mean(), 'mean'), (x.std(unbiased=False), 'std'), (x.norm(), 'l2')):
            assert got.item() == pytest.approx(meta[key], rel=1e-6), key
        direction = case.random(f'direction:map{index}').standard_normal(x.shape)
        total += (x * paddle.to_tensor(direction.astype('float32').astype('float64'))).sum()
    if 'grad_names' not in case.meta:
        return
    assert total.item() == pytest.approx(case.meta['loss_f64'], rel=1e-6)
    total.backward()
    found, names = gradients(backbone.model), own_names(backbone.model, case)
    norms = [np.linalg.norm(found[names[key]]) for key in case.meta['grad_names']]
    assert relative_error(norms, case.arrays['grad_l2']) <= 1e-6


# Sizes

@pytest.mark.smoke
@pytest.mark.parametrize('kind', KINDS)
def test_any_image_size_and_padding_inside_is_padding_outside(kind):
    """The last size has maps whose sides are below a window."""
    backbone = small(kind)
    plain = kind in PLAIN_KINDS
    assert backbone.strides == (4, 8, 16, 32)
    assert backbone.channels == ((256,) * 4 if plain else (8, 16, 32, 64))
    backbone.eval()
    step = 16 if plain else 4
    with paddle.no_grad():
        for height, width in ((32, 64), (37, 62), (5, 75), (1, 2)):
            inside = backbone(image(height, width))
            padded = F.pad(image(height, width), [0, -width % step, 0, -height % step])
            outside = backbone(padded)
            for x, y, channels, stride in zip(inside, outside, backbone.channels,
                                              backbone.strides, strict=True):
                h, w = math.ceil(height / stride), math.ceil(width / stride)
                assert x.shape == [1, channels, h, w]
                np.testing.assert_array_equal(x.numpy(), y.numpy()[:, :, :h, :w])
                assert np.isfinite(x.numpy()).all() and x.numpy().any()


@pytest.mark.smoke
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('kind', VSA)
def test_odd_sizes_are_those_of_plain_windows(float64, monkeypatch, kind, form):
    """All cells, with learned windows by loops: maps of 9 x 6, 5 x 3, 3 x 2 and 2 x 1."""
    backbone = small(kind, vsa_form=form)
    backbone.eval()
    got = backbone(image(35, 22))
    calls = []

    def by_loops(layer, x, h, w):
        calls.append(layer)
        tokens = plain_vsa(layer, x.numpy().reshape(-1, h, w, x.shape[-1]), form)
        return paddle.to_tensor(tokens.reshape(-1, h * w, layer.out_dim))

    monkeypatch.setattr(TokenVSA, 'forward', by_loops)
    for x, expected in zip(got, backbone(image(35, 22)), strict=True):
        np.testing.assert_allclose(x.numpy(), expected.numpy(), rtol=0, atol=1e-10)
    assert len(calls) == (4 if kind == 'swin vsa' else 8)


@pytest.mark.smoke
@pytest.mark.parametrize('kind', VSA)
def test_forms_of_backbones_and_classifiers(float64, kind, tmp_path):
    """The detection form unless said otherwise, whatever a classifier's file says; one set of
    weights for both, which are equal on a square of whole windows."""
    classifier = small(kind, make=create_model, num_classes=5)
    file = str(tmp_path / 'a.pdparams')
    assert classifier.config.MODEL.VSA_FORM == 'classification'
    save_weights(file, classifier, {'config': plain_config(classifier.config),
                                    'class_names': list('abcde')})
    detection, same = (new(kind, seed=1, pretrained=file, **options)
                       for options in ({}, {'vsa_form': 'classification'}))
    unnamed = create_backbone(None, pretrained=file, norm=False)
    assert [b.model.config.MODEL.VSA_FORM for b in (detection, same, unnamed)] == \
        ['detection', 'classification', 'detection']
    assert any(note.startswith('head: left out; the file has [64, 5]') for note in detection.notes)
    for layer in (detection, same, unnamed):
        layer.eval()
    square, other = image(128, 128), image(64, 96)
    for x, y in zip(detection(other), same(other), strict=True):
        assert np.abs(x.numpy() - y.numpy()).max() > 1e-3
    for x, y in zip(detection(square), same(square), strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=0, atol=1e-12)


@pytest.mark.smoke
def test_a_run_s_form_and_a_yaml_s_hold(tmp_path):
    name, keys = KINDS['vsa']
    model = create_model(name, vsa_form='detection', num_classes=2, **keys)
    save_weights(str(tmp_path / 'a.pdparams'), model,
                 {'config': plain_config(model.config), 'class_names': None})
    again = create_model(name, str(tmp_path / 'a.pdparams'), **keys)
    assert again.config.MODEL.VSA_FORM == 'detection'
    assert all(layer.form == FORMS['detection'] for layer in again.sublayers()
               if isinstance(layer, TokenVSA))
    yaml = tmp_path / 'a.yaml'
    yaml.write_text('MODEL: {TYPE: swin, NAME: a, VSA_FORM: classification}')
    backbone = create_backbone(str(yaml), attention=['window'] * 4, **STAGES)
    assert backbone.model.config.MODEL.VSA_FORM == 'classification'
    assert 'VSA_FORM' not in model_config('vit_digits').MODEL


# Options

@pytest.mark.smoke
def test_maps_come_in_the_order_of_out_indices():
    every, some = small('mixed'), small('mixed', out_indices=[3, 1])
    assert some.out_indices == (3, 1) and some.channels == (64, 16) and some.strides == (32, 8)
    every.eval(), some.eval()
    maps = every(image(40, 50))
    for x, expected in zip(some(image(40, 50)), (maps[3], maps[1]), strict=True):
        np.testing.assert_array_equal(x.numpy(), expected.numpy())
    first, calls = small('mixed', out_indices=(0,)), []
    first.model.layers[1].RC.register_forward_pre_hook(lambda *_: calls.append(1))
    assert len(first(image(40, 50))) == 1 and not calls
    pyramid = small('vit', out_indices=(2, 0))
    assert [x.shape[2:] for x in pyramid(image(40, 50))] == [[3, 4], [10, 13]]
    assert not hasattr(pyramid.model.pyramid, 'level1')


@pytest.mark.smoke
@pytest.mark.parametrize('kind, norm, wanted', [
    ('swin', 'auto', True), ('swin', False, False), ('mixed', 'auto', False),
    ('mixed', True, True)])
def test_norms_of_maps(kind, norm, wanted):
    """Swin's by default. They normalise the channels of each place."""
    backbone = small(kind, norm=norm)
    found = {name for name in arrays(backbone) if name.startswith('model.norm')}
    assert found == {f'model.norm{i}.{part}' for i in range(4) for part in ('weight', 'bias')
                     if wanted}
    if not wanted:
        return
    without = small(kind, norm=False)
    backbone.eval(), without.eval()
    backbone.model.norm1.weight.set_value(paddle.arange(16, dtype='float32'))
    backbone.model.norm1.bias.set_value(paddle.ones([16]))
    x, got = (layer(image(20, 30))[1].numpy() for layer in (without, backbone))
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, expected * np.arange(16).reshape(16, 1, 1) + 1,
                               rtol=1e-4, atol=1e-4)


class Detector(nn.Layer):
    """What an engine has: a Layer around the backbone, whose train() is called."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


@pytest.mark.smoke
@pytest.mark.parametrize('batch_norm', ['train', 'frozen'])
def test_frozen_statistics_stay_and_are_used(float64, batch_norm):
    backbone = small('mixed', batch_norm=batch_norm, drop_path=0.0)
    detector, before, x = Detector(backbone), arrays(backbone), image(20, 30, batch=2)
    detector.train()
    training = backbone(x)
    weighted_sum(training).backward()
    moved = {name for name, value in arrays(backbone).items() if (value != before[name]).any()}
    expected = {name for name in before if name.endswith(('._mean', '._variance'))}
    assert moved == (expected if batch_norm == 'train' else set()) and expected
    found = gradients(backbone)
    assert all(value.any() for name, value in found.items() if '.PCM.1.' in name)
    for name, value in before.items():
        backbone.state_dict()[name].set_value(value)
    detector.eval()
    differences = [np.abs(x.numpy() - y.numpy()).max()
                   for x, y in zip(training, backbone(x), strict=True)]
    assert max(differences) > 1e-3 if batch_norm == 'train' else max(differences) < 1e-12


@pytest.mark.smoke
def test_statistics_over_ranks(monkeypatch):
    """SyncBatchNorm has no operator on a CPU, so it is only looked at."""
    assert refusal(small, 'mixed', batch_norm='sync') == \
        "batch_norm: got 'sync', for which Paddle has no operator on a CPU; expected 'train' or " \
        "'frozen' there"
    plain = small('mixed')
    monkeypatch.setattr(paddle, 'get_device', lambda: 'gpu:0')
    found = create_backbone(KINDS['mixed'][0], batch_norm='sync', recompute=True, **CELLS)
    kinds = {type(layer) for layer in found.sublayers() if hasattr(layer, '_variance')}
    assert kinds == {nn.SyncBatchNorm}
    assert {name: value.shape for name, value in found.state_dict().items()} == \
        {name: value.shape for name, value in plain.state_dict().items()}
    cell = found.model.cells()[0]
    assert isinstance(cell.forward, Recomputed) and len(cell.forward.norms) == 2


@pytest.mark.smoke
@pytest.mark.parametrize('kind', ['vsa', 'swin', 'vit'])
def test_recomputing_gives_the_same_gradients(float64, kind):
    results = []
    for recompute in (False, True):
        backbone = small(kind, recompute=recompute, drop_path=0.4)
        paddle.seed(5)
        maps = backbone(image(40, 50, batch=2))
        weighted_sum(maps).backward()
        results.append({**gradients(backbone), **arrays(backbone),
                        **{f'map{i}': x.numpy() for i, x in enumerate(maps)}})
    plain, again = results
    for name, value in plain.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.smoke
def test_drop_path_reaches_the_cells():
    assert small('swin', drop_path=0.3).model.cells()[-1].drop_path.p == 0.3
    assert small('vit', drop_path_rate=0.2).model.config.MODEL.DROPPATH == 0.2


@pytest.mark.smoke
@pytest.mark.parametrize('kind', KINDS)
def test_every_parameter_gets_a_gradient(kind):
    """What only a classifier needs is gone; a distributed training stops at unused parameters."""
    backbone = small(kind)
    weighted_sum(backbone(image(37, 62, batch=2))).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.stop_gradient or parameter.grad is not None, name
    assert 'head' not in ' '.join(arrays(backbone))


@pytest.mark.smoke
def test_exported_backbone_agrees(tmp_path):
    for kind in ('vsa', 'vit'):
        backbone = small(kind, out_indices=(0, 2))
        backbone.eval()
        spec = [paddle.static.InputSpec([None, 3, 37, 50], 'float32')]
        paddle.jit.save(backbone, str(tmp_path / kind), spec)
        loaded = paddle.jit.load(str(tmp_path / kind))
        for batch in (1, 2):
            x = image(37, 50, batch=batch)
            for got, expected in zip(loaded(x), backbone(x), strict=True):
                np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)
    spec = [paddle.static.InputSpec([None, 3, None, 50], 'float32')]
    assert 'got an open height or width' in refusal(
        paddle.jit.save, backbone, str(tmp_path / 'open'), spec)


# The simple feature pyramid

def layer_norm(layer, x):
    """Over the channels of [C, h, w]."""
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
    return x * layer.weight.numpy()[:, None, None] + layer.bias.numpy()[:, None, None]


def deconvolution(layer, x):
    """[C, h, w] -> [D, 2 h, 2 w], each place by itself."""
    weight, (_, h, w) = layer.weight.numpy(), x.shape                      # [C, D, 2, 2]
    result = np.zeros([weight.shape[1], 2 * h, 2 * w])
    for y, x_ in np.ndindex(h, w):
        block = np.einsum('c,cdij->dij', x[:, y, x_], weight)
        result[:, 2 * y:2 * y + 2, 2 * x_:2 * x_ + 2] = block
    return result + layer.bias.numpy()[:, None, None]


def convolution(layer, x):
    """[C, h, w] -> [D, h, w] with a kernel of 1 or 3 and zeros around the map; no bias."""
    weight, (_, h, w) = layer.weight.numpy(), x.shape                      # [D, C, k, k]
    k = weight.shape[-1]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    return sum(np.einsum('chw,dc->dhw', x[:, i:i + h, j:j + w], weight[:, :, i, j])
               for i, j in np.ndindex(k, k))


def plain_level(level, x, index):
    """One map of ViTDet's pyramid, appendix A.2."""
    layers = list(level)
    if index == 0:
        x = layer_norm(layers[1], deconvolution(layers[0], x))
        x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        x, layers = deconvolution(layers[3], x), layers[4:]
    elif index == 1:
        x, layers = deconvolution(layers[0], x), layers[1:]
    elif index == 3:
        _, h, w = x.shape
        x = np.stack([[x[:, i:i + 2, j:j + 2].max((1, 2)) for j in range(0, w, 2)]
                      for i in range(0, h, 2)]).transpose(2, 0, 1)
        layers = layers[1:]
    x = layer_norm(layers[1], convolution(layers[0], x))
    return layer_norm(layers[3], convolution(layers[2], x))


@pytest.mark.smoke
def test_simple_pyramid_is_the_paper_s(float64):
    paddle.seed(0)
    pyramid = SimpleFeaturePyramid(8)
    for parameter in pyramid.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    x = np.random.RandomState(0).standard_normal([1, 8, 3, 2])
    for index, got in enumerate(pyramid(paddle.to_tensor(x))):
        expected = plain_level(getattr(pyramid, f'level{index}'), x[0], index)
        np.testing.assert_allclose(got.numpy()[0], expected, rtol=0, atol=1e-9)


@pytest.mark.smoke
@pytest.mark.parametrize('kind', PLAIN_KINDS)
def test_pyramid_stands_on_the_last_map(kind):
    backbone = small(kind)
    backbone.eval()
    seen = []
    backbone.model.pyramid.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(image(32, 48))
    last = backbone.model.extract_feat(image(32, 48), 'featmap')[-1]
    np.testing.assert_array_equal(seen[0].numpy(), last.numpy())
    assert last.shape[2:] == [2, 3]


# Weights

@pytest.mark.smoke
@pytest.mark.parametrize('kind', ['swin', 'vit', 'vitae, class token'])
def test_classifier_s_file_gives_all_but_what_it_has_not(kind, tmp_path):
    model = new(kind, make=create_model, num_classes=5)
    paddle.save(model.state_dict(), str(tmp_path / 'a.pdparams'))
    backbone = new(kind, seed=1, pretrained=str(tmp_path / 'a.pdparams'))
    state = arrays(model)
    made = 'model.pyramid' if kind in PLAIN_KINDS else 'model.norm'
    for name, value in arrays(backbone).items():
        if not name.startswith(made):
            np.testing.assert_array_equal(value, state[name.removeprefix('model.')])
    parts = ['pyramid'] if kind in PLAIN_KINDS else [f'norm{i}' for i in range(4)]
    notes = [f'{part}: new; the file has none' for part in parts]
    if backbone.model.pool_parts != ('pre_logits',):
        pool, = backbone.model.pool_parts
        notes.insert(0, f'{pool}: left out; the file has [{model.num_features}]')
    head, *others = backbone.notes
    assert 'left out; the file has' in head and others == notes


@pytest.mark.smoke
@pytest.mark.parametrize('kind', ['swin', 'vit', 'mixed'])
def test_backbone_s_own_file_gives_everything_also_inside_a_detector(kind, tmp_path):
    backbone = small(kind)
    state, before = backbone.state_dict(), arrays(backbone)
    paddle.save(state, str(tmp_path / 'a.pdparams'))
    paddle.save({**{f'backbone.{name}': value for name, value in state.items()},
                 'neck.weight': paddle.ones([3])}, str(tmp_path / 'b.pdparams'))
    for file in ('a', 'b'):
        again = new(kind, seed=1, pretrained=str(tmp_path / f'{file}.pdparams'))
        assert not any('new' in note for note in again.notes)
        for name, value in arrays(again).items():
            np.testing.assert_array_equal(value, before[name])
    assert '1 arrays beside the model are left out: neck.weight' in again.notes
    if kind == 'swin':
        without = new(kind, pretrained=str(tmp_path / 'a.pdparams'), norm=False)
        assert 'norm3: left out; the file has [64]' in without.notes


@pytest.mark.smoke
def test_file_of_swin_s_detector_gives_its_norms(tmp_path):
    """The names of Swin-Transformer-Object-Detection, in PyTorch's layout."""
    backbone = small('swin')
    linear = {f'{name}.weight' for name, layer in backbone.named_sublayers()
              if isinstance(layer, nn.Linear)}
    state = {name.replace('model.', 'backbone.', 1): value.T.copy() if name in linear else value
             for name, value in arrays(backbone).items()}
    assert 'backbone.norm3.weight' in state and 'backbone.layers.0.blocks.0.norm1.weight' in state
    write_pth(str(tmp_path / 'a.pth'), {'state_dict': {
        **state, 'neck.lateral_convs.0.conv.bias': np.ones([4], np.float32)}})
    again = new('swin', seed=1, pretrained=str(tmp_path / 'a.pth'))
    for name, value in arrays(again).items():
        np.testing.assert_array_equal(value, arrays(backbone)[name])


@pytest.mark.smoke
@pytest.mark.parametrize('kind', KINDS)
def test_no_classes_give_features(kind):
    model = small(kind, make=create_model, num_classes=0)
    other = small(kind, make=create_model, num_classes=7)
    for layer in (model, other):
        layer.eval()
    state = arrays(other)
    for name, value in model.state_dict().items():
        value.set_value(state[name])
    got = model(image(64, 64))
    assert got.shape == [1, model.num_features] and model.num_classes == 0
    np.testing.assert_array_equal(got.numpy(), other.forward_features(image(64, 64)).numpy())


@pytest.mark.smoke
def test_errors_are_clear(tmp_path):
    for wrong in ([], [0, 4], [1, 1], [-1], ['0']):
        assert refusal(small, 'mixed', out_indices=wrong) == \
            f'out_indices: got {wrong}, expected different numbers from 0 to 3'
    assert refusal(create_backbone, 'vitaev2_vsa_digits') == \
        'out_indices: got [0, 1, 2, 3], expected different numbers from 0 to 1'
    assert refusal(small, 'mixed', norm='layer') == \
        "norm: got 'layer', expected 'auto', True or False"
    assert refusal(small, 'vit', norm=True).startswith("norm: got True, expected 'auto' or False")
    assert refusal(small, 'mixed', batch_norm='eval') == \
        "batch_norm: got 'eval', expected one of train, frozen, sync"
    assert refusal(create_backbone, 'vit_digits') == \
        'backbone: got a model whose last map has stride 8 and 96 channels, expected stride 16 ' \
        'and a multiple of 4 channels, which the simple feature pyramid needs'
    assert refusal(small, 'mixed', num_classes=3) == \
        'num_classes: got 3, expected nothing: a backbone has no classifier'
    assert refusal(small, 'vit', vsa_form='detection').startswith('vsa_form: unknown key')
    assert refusal(small, 'vsa', vsa_form='x').startswith("vsa_form: MODEL.VSA_FORM: got 'x'")
    assert refusal(Backbone, nn.Linear(2, 3)).startswith('model: got a Linear, expected')
    paddle.save(create_model('vit_digits').state_dict(), str(tmp_path / 'a.pdparams'))
    message = refusal(small, 'mixed', pretrained=str(tmp_path / 'a.pdparams'))
    assert 'these weights are not for this model' in message and 'vit_digits' in message


@pytest.mark.smoke
def test_config_of_a_detector_is_not_taken_for_a_classifier_s(tmp_path):
    """A checkpoint that a detection or segmentation of this project has written."""
    backbone = new('vit', seed=3)
    detector = nn.Sequential(('backbone', nn.Sequential(('net', backbone))), ('neck', nn.Silu()))
    file = str(tmp_path / 'best.pdparams')
    save_weights(file, detector, {
        'config': {'MODEL': {'BACKBONE': 'vit_digits', 'NUM_CLASSES': 3},
                   'DATA': {'DATASET': 'own', 'CROP_PCT': 7.0}},
        'class_names': ['disc', 'square', 'triangle']})
    other = new('vit', pretrained=file)
    for name, value in arrays(backbone).items():
        np.testing.assert_array_equal(arrays(other)[name], value)
