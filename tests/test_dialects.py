"""Files of other codes under their own names: to the logits of a plain computation, or refused with
a line that says what they are. The formats as such are in test_formats.py."""
import re

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from common.core.class_names import imagenet_21k_classes, imagenet_22k_classes
from common.weights.dialects import Dialect, apply
from common.weights.identify import fits, with_values
from common.weights.load import Weights, load_pretrained
from common.zoo import build_model, create_model, model_config
from tests import swin_reference as swin
from tests.conftest import refusal
from tests.reference import Case
from tests.torch_files import write_pth

pytestmark = pytest.mark.smoke


def write(path, content):
    """A file as its code writes it; the name says how."""
    if path.suffix == '.safetensors':
        save_file({name: np.ascontiguousarray(value) for name, value in content.items()}, path,
                  metadata={'format': 'pt'})
    elif path.suffix == '.pdparams':
        paddle.save({name: paddle.to_tensor(value) for name, value in content.items()}, str(path))
    elif path.suffix == '.npz':
        np.savez(path, **content)
    else:
        write_pth(path, content, legacy=path.stem == 'legacy')
    return str(path)


# Swin

def swin_files():
    """Yields (what, file's name, its content, whose names the log says there are)."""
    state, buffers = swin.weights(), swin.buffers()
    yield 'microsoft', 'a.pth', {'model': {**state, **buffers}, 'max_accuracy': 81.2}, None
    yield 'timm 0.6', 'legacy.pth', {**state, **buffers}, None
    yield 'timm 0.9', 'a.safetensors', swin.timm(state), 'timm'
    masks = swin.renamed(swin.buffers('attn.w_msa'), [('^layers', 'backbone.stages'),
                                                      (r'\.attn_mask', '.attn.attn_mask')])
    yield ('mmpretrain', 'a.pth', {'meta': {}, 'state_dict': {**swin.mmpretrain(state), **masks}},
           'MMClassification')
    yield 'first mmcls', 'legacy.pth', swin.mmpretrain(state, 'norm'), 'MMClassification'
    yield ('mmcls without prefix', 'a.pth',
           swin.renamed(swin.mmpretrain(state), [(r'^backbone\.', '')]), 'MMClassification')
    faces = swin.hugging_face(state)
    yield 'hugging face', 'a.safetensors', faces, 'Hugging Face'
    indices = swin.renamed(swin.buffers('attention.self'), [('^layers', 'swin.encoder.layers')])
    yield 'hugging face, .bin', 'a.bin', {
        **faces, **{name: value for name, value in indices.items() if 'mask' not in name}
    }, 'Hugging Face'
    yield 'paddleclas', 'a.pdparams', {**swin.paddle_layout(state), **buffers}, None
    evaluated = {name.replace('_index', '_bias'): np.ones((1, 2, 9, 9), np.float32)
                 for name in buffers if name.endswith('_index')}  # kept by an evaluation
    yield 'paddleclas, evaluated', 'a.pdparams', {**swin.paddle_layout(state), **buffers,
                                                  **evaluated}, None
    yield 'paddlevit', 'a.pdparams', {
        **swin.paddlevit(state), **swin.renamed(buffers, [('^layers', 'stages')])}, 'PaddleViT'


@pytest.fixture(scope='module')
def images():
    return np.random.RandomState(1).standard_normal((2, 3, swin.IMAGE, swin.IMAGE))


@pytest.fixture(scope='module')
def expected(images):
    return swin.logits(swin.weights(), images)


@pytest.mark.parametrize('what', [what for what, *_ in swin_files()])
def test_swin_gives_the_logits_of_a_plain_computation_W8(what, images, expected, tmp_path):
    name, content, note = next(rest for found, *rest in swin_files() if found == what)
    file = write(tmp_path / name, content)
    paddle.set_default_dtype('float64')
    try:
        model = create_model('swin_tiny', file, num_classes=swin.CLASSES, **swin.SMALL)
    finally:
        paddle.set_default_dtype('float32')
    model.eval()
    with paddle.no_grad():
        logits = model(paddle.to_tensor(images)).numpy()
    assert np.abs(logits - expected).max() <= 1e-8
    assert (f'names of {note}' in model.notes) == (note is not None)
    assert not any('head: new' in text for text in model.notes)


def test_half_of_q_k_v_is_refused_in_hugging_face_s_swin(tmp_path):
    state = swin.hugging_face(swin.weights())
    key = next(name for name in state if name.endswith('key.weight'))
    del state[key]
    file = write(tmp_path / 'a.safetensors', state)
    text = refusal(create_model, 'swin_tiny', file, num_classes=swin.CLASSES, **swin.SMALL)
    assert '1 missing (layers.0.blocks.0.attn.qkv.weight); 2 unexpected' in text


def test_look_alikes_of_swin_are_named_L16(tmp_path):
    for end, state in (('blocks.0.attn.w_msa.logit_scale', swin.mmpretrain(swin.weights())),
                       ('blocks.0.attention.self.logit_scale', swin.hugging_face(swin.weights()))):
        first = next(name for name in state if '.blocks.0.' in name).partition('.blocks.')[0]
        state[f'{first}.{end}'] = np.ones((2, 1, 1), np.float32)
        file = write(tmp_path / 'a.safetensors', state)
        assert refusal(create_model, 'swin_tiny', file, num_classes=swin.CLASSES,
                       **swin.SMALL).endswith('; the file is of a Swin V2, another model')
    state = {**swin.hugging_face(swin.weights()),
             'swin.embeddings.position_embeddings': np.zeros((1, 145, 12), np.float32)}
    file = write(tmp_path / 'a.safetensors', state)
    assert 'a Swin with an absolute position' in refusal(
        create_model, 'swin_tiny', file, num_classes=swin.CLASSES, **swin.SMALL)


def test_file_of_another_code_with_other_sizes_is_named_L4(tmp_path):
    """The names are understood before the sizes are compared."""
    for state in (swin.mmpretrain(swin.weights()), swin.hugging_face(swin.weights()),
                  swin.timm(swin.weights())):
        file = write(tmp_path / 'a.safetensors', state)
        text = refusal(create_model, 'vit_digits', file)
        assert '; the file fits to swin_' in text and '-o MODEL.WINDOW_SIZE=3' in text


def test_strange_arrays_under_another_code_s_names_are_refused(tmp_path):
    state = swin.mmpretrain(swin.weights())
    for value in (np.array(1, np.float32), np.zeros(0, np.float32), np.zeros(47, np.float32),
                  np.zeros((48, 0), np.float32)):
        for part in ('norm', 'reduction'):
            file = write(tmp_path / 'a.pth',
                         {**state, f'backbone.stages.0.downsample.{part}.weight': value})
            assert '1 of another shape (layers.0.downsample.' in refusal(
                create_model, 'swin_tiny', file, num_classes=swin.CLASSES, **swin.SMALL)
        file = write(tmp_path / 'a.pth', {**state, 'head.fc.weight': value})
        model = create_model('swin_tiny', file, num_classes=swin.CLASSES, **swin.SMALL)
        assert model.notes[-1].startswith('head: new, [24, 5]; the file has [')


def test_two_names_that_become_one_are_refused():
    """A detector's norm of each stage, where a classifier has the last one's."""
    dialect = Dialect('x', '^a0$', names=((r'^a\d$', 'a'),))
    state = {'a0': np.zeros(1), 'a1': np.ones(1), 'b': np.ones(1)}
    renamed = apply(dialect, state, 'torch', [])
    assert list(renamed) == ['a', 'a1 (the second a)', 'b'] and renamed['a'] is state['a0']


# ViT

def test_vit_of_paddleclas_gives_the_logits_of_its_reference_W8(tmp_path):
    """timm's names, Paddle's layout; the square matrices show a layout that is mistaken."""
    case = Case('fidelity', 'timm_vit_tiny_patch16_384')
    file = write(tmp_path / 'a.pdparams', swin.paddle_layout(case.weights()))
    paddle.set_default_dtype('float64')
    try:
        model = create_model('vit_tiny_patch16_384', file)
    finally:
        paddle.set_default_dtype('float32')
    model.eval()
    with paddle.no_grad():
        logits = model(paddle.to_tensor(case.images().astype('float64'))).numpy()
    assert np.abs(logits - case.arrays['logits_f64']).max() <= 1e-8


def timm_vit(width=96, depth=1, classes=10, tokens=17, patch=8, hidden=2, qkv_bias=True):
    """{timm's name: random array} of a ViT, PyTorch's layout."""
    random, state = np.random.RandomState(0), {}
    shapes = {'cls_token': (1, 1, width), 'pos_embed': (1, tokens, width),
              'patch_embed.proj.weight': (width, 3, patch, patch),
              'patch_embed.proj.bias': (width,)}
    for block in range(depth):
        sizes = {'attn.qkv': (3 * width, width), 'attn.proj': (width, width),
                 'mlp.fc1': (hidden * width, width), 'mlp.fc2': (width, hidden * width)}
        for name, shape in sizes.items():
            shapes[f'blocks.{block}.{name}.weight'] = shape
            if qkv_bias or name != 'attn.qkv':
                shapes[f'blocks.{block}.{name}.bias'] = shape[:1]
        for name in ('norm1', 'norm2'):
            shapes[f'blocks.{block}.{name}.weight'] = shapes[f'blocks.{block}.{name}.bias'] = (
                width,)
    shapes['norm.weight'] = shapes['norm.bias'] = (width,)
    shapes['head.weight'], shapes['head.bias'] = (classes, width), (classes,)
    for name, shape in shapes.items():
        state[name] = 0.1 * random.standard_normal(shape).astype(np.float32)
    return state


DISTILLED = ('; the file is of a distilled DeiT, whose logits are the mean of two classifiers on '
             'two tokens, and this model has one of each; take the file of the same DeiT without '
             '"distilled" in its name')


@pytest.mark.parametrize('code', ['deit', 'timm', 'paddleclas', 'mmpretrain', 'hugging face'])
@pytest.mark.parametrize('classes', [None, 10, 7])
def test_distilled_deit_is_refused_with_the_reason_L16(code, classes, tmp_path):
    """As each code writes it; with its own number of classes, and with a new classifier."""
    state = {**timm_vit(tokens=18), 'dist_token': np.zeros((1, 1, 96), np.float32),
             'head_dist.weight': np.zeros((10, 96), np.float32),
             'head_dist.bias': np.zeros(10, np.float32)}
    if code == 'deit':
        file = write(tmp_path / 'a.pth', {'model': state})
    elif code == 'timm':
        file = write(tmp_path / 'a.safetensors', state)
    elif code == 'paddleclas':
        file = write(tmp_path / 'a.pdparams', swin.paddle_layout(state))
    elif code == 'mmpretrain':
        file = write(tmp_path / 'a.pth', {'state_dict': swin.renamed(state, [
            ('^blocks', 'layers'), (r'\.norm(\d)', r'.ln\1'), ('^norm', 'ln1'),
            (r'mlp\.fc1', 'ffn.layers.0.0'), (r'mlp\.fc2', 'ffn.layers.1'),
            (r'patch_embed\.proj', 'patch_embed.projection'), ('^(?!head)', 'backbone.'),
            ('^(head|head_dist)(?=\\.)', r'head.layers.\1')])})
    else:
        faces = {}
        for name, value in state.items():
            if '.qkv.' in name:
                for part, third in zip(('query', 'key', 'value'), np.split(value, 3), strict=True):
                    faces[name.replace('attn.qkv', f'attention.attention.{part}')] = third
            else:
                faces[name] = value
        file = write(tmp_path / 'a.safetensors', swin.renamed(faces, [
            (r'attn\.proj', 'attention.output.dense'), ('^cls_token', 'embeddings.cls_token'),
            ('^dist_token', 'embeddings.distillation_token'),
            ('^pos_embed', 'embeddings.position_embeddings'),
            (r'^patch_embed\.proj', 'embeddings.patch_embeddings.projection'),
            ('norm1', 'layernorm_before'), ('norm2', 'layernorm_after'),
            (r'mlp\.fc1', 'intermediate.dense'), (r'mlp\.fc2', 'output.dense'),
            ('^norm', 'layernorm'), ('^blocks', 'encoder.layer'), ('^(?!head)', 'deit.'),
            ('^head_dist', 'distillation_classifier'), (r'^head\.', 'cls_classifier.')]))
    text = refusal(create_model, 'vit_digits', file, num_classes=classes, depth=1)
    assert text.endswith(DISTILLED)


def test_first_vit_small_is_refused_with_the_reason_L16():
    """Its sizes can be asked for; its scores and norms would be others. Nothing is allocated."""
    sizes = {'DEPTH': 8, 'NUM_HEADS': 8, 'MLP_RATIO': 3.0, 'QKV_BIAS': False}
    small = {name: value.shape for name, value in
             timm_vit(8, 8, classes=1000, tokens=197, patch=16, hidden=3, qkv_bias=False).items()}
    state = {name: np.broadcast_to(np.float32(0), [{8: 768, 24: 2304}.get(side, side)
                                                   for side in shape])
             for name, shape in small.items()}
    state['patch_embed.proj.weight'] = np.broadcast_to(np.float32(0), (768, 3, 16, 16))
    for values, prefix in ((sizes, 'model.'), ({}, '')):
        model = with_values(model_config('vit_base_patch16_224'), values, build_model)
        weights = Weights('torch', {f'{prefix}{name}': value for name, value in state.items()}, [],
                          {})
        text = refusal(load_pretrained, model, 'a.pth', weights=weights)
        assert 'the file is of the first ViT-S of timm (before 0.4) and PaddleClas' in text
        assert 'the file fits to' not in text
    # with a bias it is no published model, but one of timm's class
    for block in range(8):
        state[f'blocks.{block}.attn.qkv.bias'] = np.broadcast_to(np.float32(0), 2304)
    model = with_values(model_config('vit_base_patch16_224'), {**sizes, 'QKV_BIAS': True},
                        build_model)
    assert fits(model, state, 'torch')


# ImageNet-21k

def test_classes_of_imagenet_21k_are_in_the_codes_orders():
    """Places from map22kto1k.txt of microsoft/Swin-Transformer: a class before both classes without
    an image, one between them, and two behind them."""
    google, swins = imagenet_21k_classes(), imagenet_22k_classes()
    assert (len(google), len(swins)) == (21843, 21841)
    assert google == sorted(google) and len(set(google)) == 21843
    for place, name in ((359, 'n01440764 tench'), (368, 'n01443537 goldfish'),
                        (9212, 'n03933933 pier'), (16744, 'n10565667 scuba diver'),
                        (21817, 'n15075141 toilet tissue')):
        assert google[place] == swins[place] == name
    assert google[9205].startswith('n03931044') and google[15027].startswith('n09859684')
    assert [swins[9205], swins[15027]] == google[-2:] and set(google) - set(swins) == {
        google[9205], google[15027]}


def test_own_head_of_imagenet_21k_with_its_names(tmp_path):
    state = timm_vit(classes=21843)
    file = write(tmp_path / 'a.safetensors', state)
    model = create_model('vit_digits', file, num_classes=21843, depth=1)
    np.testing.assert_array_equal(model.classifier.weight.numpy(), state['head.weight'].T)
    assert 'classifier: the 21,843 classes of ImageNet-21k' in model.notes
    assert model.class_names[368] == 'n01443537 goldfish'
    # other numbers of classes: what the file has is said, and no names are made up
    text = refusal(create_model, 'vit_digits', file, depth=1)
    assert 'MODEL.NUM_CLASSES=21843 takes that of the file (the 21,843 classes of ImageNet-21k)' \
        in text
    model = create_model('vit_digits', file, num_classes=1000, depth=1)
    assert model.notes[-1] == ('classifier: new, [96, 1000]; the file has [96, 21843] (the 21,843 '
                               'classes of ImageNet-21k)')
    assert create_model('vit_digits', num_classes=21843, depth=1).class_names is None


def test_own_head_of_imagenet_21k_keeps_the_layer_before_it(tmp_path):
    """Google's first files have it; for another number of classes it goes with the classifier."""
    from tests.test_formats import google
    state = {**timm_vit(classes=21843),
             'pre_logits.fc.weight': np.ones((96, 96), np.float32),
             'pre_logits.fc.bias': np.ones(96, np.float32)}
    for file in (write(tmp_path / 'a.npz', google(state)), write(tmp_path / 'a.pth', state)):
        for options in ({'num_classes': 21843}, {'options': ['MODEL.NUM_CLASSES=21843']}):
            model = create_model('vit_digits', file, depth=1, **options)
            assert model.config.MODEL.REPRESENTATION_SIZE == 96
            np.testing.assert_array_equal(model.classifier.weight.numpy(), state['head.weight'].T)
            assert model.pre_logits[0].weight.numpy().all() and len(model.class_names) == 21843
        model = create_model('vit_digits', file, num_classes=10, depth=1)
        assert model.pre_logits is None and model.config.MODEL.REPRESENTATION_SIZE is None
        text = refusal(create_model, 'vit_digits', file, depth=1)
        assert '-o MODEL.REPRESENTATION_SIZE=96 -o MODEL.NUM_CLASSES=21843' in text
        model = create_model('vit_digits', file, num_classes=21843, depth=1,
                             representation_size=48)  # asked for, and so a new head
        assert 'pre_logits: new, [96, 48]; the file has [96, 96]' in model.notes
        assert model.class_names is None


def test_head_of_zeros_is_said(tmp_path):
    state = timm_vit(classes=21843)
    state['head.weight'][:] = 0
    model = create_model('vit_digits', write(tmp_path / 'a.safetensors', state), depth=1,
                         num_classes=21843)
    assert re.search('classifier: every weight is 0 in the file', model.notes[-1])


def test_swin_s_head_of_imagenet_22k_has_microsoft_s_order_and_vitae_s_none(tmp_path):
    state = swin.weights(21841)
    for name, content in (('a.pth', {'model': state}), ('a.safetensors', swin.timm(state)),
                          ('b.pth', {'state_dict': swin.mmpretrain(state)})):
        model = create_model('swin_tiny', write(tmp_path / name, content), num_classes=21841,
                             **swin.SMALL)
        assert 'head: the 21,841 classes of ImageNet-21k' in model.notes
        assert model.class_names == imagenet_22k_classes()
    source = create_model('vitae_digits', num_classes=21841)
    paddle.save(source.state_dict(), str(tmp_path / 'a.pdparams'))
    model = create_model('vitae_digits', str(tmp_path / 'a.pdparams'), num_classes=21841)
    assert model.class_names is None
    assert any('the 21,841 classes of ImageNet-21k' in note for note in model.notes)
