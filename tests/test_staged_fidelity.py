"""ViTAE, ViTAEv2 and VSA: the numbers of upstream, through a .pth file and create_model."""
import json

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from common.layers.macs import count_macs, count_parameters
from common.train.optim import decayed_parameters
from common.zoo import build_model, create_model, model_config
from tests.reference import FIXTURES, Case, own_names, relative_error
from tests.torch_files import write_pth

CASES = [('ViTAE_basic_Tiny', 'vitae_tiny'), ('ViTAE_basic_Small', 'vitae_small'),
         ('ViTAE_basic_Base', 'vitae_base'), ('ViTAEv2_S', 'vitaev2_s'),
         ('ViTAEv2_S_allwindow', 'vitaev2_window_s'), ('ViTAEv2_VSA_S', 'vitaev2_vsa_s')]


@pytest.mark.parametrize('case, name', CASES)
def test_pth_file_gives_upstream_s_numbers(float64, case, name, tmp_path):
    case = Case('fidelity', f'{case}_224')
    file = str(tmp_path / 'a.pth.tar')
    weights = {f'module.{key}': value for key, value in case.weights().items()}
    weights |= {f'module.{key}': np.zeros(shape, np.int64)
                for key, shape, kind in case.meta['state_dict'] if kind == 'buffer_int'}
    write_pth(file, {'epoch': 300, 'state_dict_ema': weights})
    model = create_model(name, pretrained=file)
    model.eval()
    assert count_parameters(model) == case.meta['params_total']
    trainable = sum(p.size for p in model.parameters() if not p.stop_gradient)
    assert trainable == case.meta['params_trainable']
    features = model.forward_features(paddle.to_tensor(case.images().astype('float64')))
    logits = model.forward_head(features)
    assert np.abs(features.numpy() - case.arrays['features_f64']).max() <= 1e-8
    assert np.abs(logits.numpy() - case.arrays['logits_f64']).max() <= 1e-8
    F.cross_entropy(logits, paddle.to_tensor(case.arrays['labels'])).backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    names = own_names(model, case)
    norms = [np.linalg.norm(gradients[names[key]].numpy()) for key in case.meta['grad_names']]
    assert relative_error(norms, case.arrays['grad_l2']) <= 1e-6

    paddle.set_default_dtype('float32')
    model = create_model(name, pretrained=file)
    model.eval()
    with paddle.no_grad():
        logits = model(paddle.to_tensor(case.images())).numpy()
    error = np.abs(logits - case.arrays['logits_f64']).max()
    assert error <= 10 * case.meta['f32_vs_f64']['logits']['max_abs']
    if 'vsa' in name:
        assert error <= 5e-5


@pytest.mark.smoke
@pytest.mark.parametrize('case, name', CASES)
def test_macs_are_upstream_s(case, name):
    config = model_config(name)
    macs = count_macs(lambda: build_model(config), 224)
    assert macs == pytest.approx(Case('fidelity', f'{case}_224').meta['macs_per_image'], rel=0.01)


@pytest.mark.smoke
@pytest.mark.parametrize('case, name', [
    CASES[0], CASES[2], CASES[3], CASES[5]])
def test_decay_groups_are_upstream_s_on_request(case, name):
    groups = json.loads((FIXTURES / 'recipe' / 'param_groups.json').read_text())['groups'][case]
    model = create_model(name)
    own = own_names(model, Case('fidelity', f'{case}_224'))
    kept = {own[key] for key in groups['not_decayed']}
    names = {key for key, p in model.named_parameters() if not p.stop_gradient}
    assert names - decayed_parameters(model, 'all_matrices') == kept
    assert decayed_parameters(model, 'all_matrices') - decayed_parameters(model) \
        == model.no_weight_decay()


# counted by upstream's own code
PUBLISHED = {
    'vitaev2_s': 19355688, 'vitaev2_48m': 48674632, 'vitaev2_b': 89693352,
    'vitaev2_vsa_s': 19773300, 'vitaev2_vsa_widepcm_s': 20342442, 'vitaev2_vsa_48m': 51089119,
    'vitaev2_vsa_b': 93711532, 'vitaev2_vsa_b_ws12': 93833932,
    'swin_tiny': 28288354, 'swin_small': 49606258,
}


@pytest.mark.smoke
@pytest.mark.parametrize('name', PUBLISHED)
def test_parameter_counts(name):
    with paddle.LazyGuard():
        model = build_model(model_config(name))
    assert count_parameters(model) == PUBLISHED[name]
