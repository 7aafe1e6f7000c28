"""ViT against the reference: logits, features, loss and every gradient norm, in float64."""
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from common.zoo import build_model, model_config
from tests.reference import Case, relative_error, set_weights

CASES = ['vit_tiny_patch16_224', 'vit_small_patch32_384', 'vit_base_patch32_224',
         'vit_base_patch16_224']


def test_rule_makes_the_weights_of_the_fixture():
    case = Case('fidelity', 'paddlevit_vit_tiny_patch16_224')
    weights = {**case.weights(), '(input)': case.images()}
    for name, first in case.meta['fill_check'].items():
        np.testing.assert_array_equal(weights[name].ravel()[:4], np.float32(first))


def build(case, name):
    model = build_model(model_config(name))
    set_weights(model, case.weights())
    model.eval()
    return model


@pytest.mark.smoke
@pytest.mark.parametrize('name', CASES[:1])
def test_tiny(float64, name):
    hold(Case('fidelity', f'paddlevit_{name}'), name)


@pytest.mark.parametrize('name', CASES[1:])
def test_larger(float64, name):
    hold(Case('fidelity', f'paddlevit_{name}'), name)


def hold(case, name):
    model = build(case, name)
    assert sum(p.size for p in model.parameters()) == case.meta['params_total']
    features = model.forward_features(paddle.to_tensor(case.images().astype('float64')))
    logits = model.forward_head(features)
    assert np.abs(features.numpy() - case.arrays['features_f64']).max() <= 1e-8
    assert np.abs(logits.numpy() - case.arrays['logits_f64']).max() <= 1e-8

    loss = F.cross_entropy(logits, paddle.to_tensor(case.arrays['labels']))
    loss.backward()
    assert abs(loss.item() - case.arrays['loss_f64']) <= 1e-8
    gradients = {name: np.linalg.norm(p.grad.numpy()) for name, p in model.named_parameters()}
    norms = [gradients[name] for name in case.meta['grad_names']]
    assert relative_error(norms, case.arrays['grad_l2']) <= 1e-6


@pytest.mark.parametrize('name', CASES)
def test_float32_error_is_the_reference_s_own(name):
    case = Case('fidelity', f'paddlevit_{name}')
    model = build(case, name)
    with paddle.no_grad():
        logits = model(paddle.to_tensor(case.images())).numpy()
    error = np.abs(logits - case.arrays['logits_f64']).max()
    assert error <= 10 * case.meta['f32_vs_f64']['logits']['max_abs']


def from_flax(weights, depth=12):
    """Google's names and layouts -> this project's, for the hybrid ViT."""
    result = {
        'cls_token': weights['cls'],
        'position_embedding': weights['Transformer/posembed_input/pos_embedding'],
        'patch_embedding.patch_embedding.weight': weights['embedding/kernel'].transpose(3, 2, 0, 1),
        'patch_embedding.patch_embedding.bias': weights['embedding/bias'],
        'classifier.weight': weights['head/kernel'], 'classifier.bias': weights['head/bias'],
        'encoder.encoder_norm.weight': weights['Transformer/encoder_norm/scale'],
        'encoder.encoder_norm.bias': weights['Transformer/encoder_norm/bias']}
    for name, value in weights.items():
        if name.startswith(('conv_root', 'gn_root', 'block')):
            target = 'patch_embedding.backbone.' + name.replace('/', '.')
            if name.endswith('/kernel'):
                result[target.replace('kernel', 'weight')] = value.transpose(3, 2, 0, 1)
            else:
                result[target.replace('scale', 'weight')] = value.ravel()
    for layer in range(depth):
        source, target = f'Transformer/encoderblock_{layer}/', f'encoder.layers.{layer}.'
        attention = source + 'MultiHeadDotProductAttention_1/'
        width = weights[attention + 'out/bias'].shape[0]
        for flax, kind in (('kernel', 'weight'), ('bias', 'bias')):
            parts = [weights[f'{attention}{part}/{flax}'].reshape(-1, width)
                     for part in ('query', 'key', 'value')]
            stacked = np.concatenate(parts, axis=1)
            result[f'{target}attn.qkv.{kind}'] = stacked if kind == 'weight' else stacked[0]
            out = weights[f'{attention}out/{flax}']
            result[f'{target}attn.out.{kind}'] = out.reshape(-1, width) if kind == 'weight' else out
            for index in (0, 1):
                result[f'{target}mlp.fc{index + 1}.{kind}'] = \
                    weights[f'{source}MlpBlock_3/Dense_{index}/{flax}']
        for flax, norm in (('LayerNorm_0', 'attn_norm'), ('LayerNorm_2', 'mlp_norm')):
            result[f'{target}{norm}.weight'] = weights[f'{source}{flax}/scale']
            result[f'{target}{norm}.bias'] = weights[f'{source}{flax}/bias']
    return result


def test_hybrid(float64):
    case = Case('fidelity', 'npz_R50+ViT-B_16_224')
    model = build_model(model_config('vit_base_r50_s16_224'))
    assert sum(p.size for p in model.parameters()) == case.meta['params_total']
    set_weights(model, from_flax(case.weights()))
    model.eval()
    with paddle.no_grad():
        features = model.forward_features(paddle.to_tensor(case.images().astype('float64')))
        logits = model.forward_head(features).numpy()
    assert np.abs(features.numpy() - case.arrays['features_f64']).max() <= 1e-8
    assert np.abs(logits - case.arrays['logits_f64']).max() <= 1e-8
