"""Files of other codes under their own names: to the logits of a plain computation, or refused with
a line that says what they are. The formats as such are in test_formats.py."""
import re

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from common.core.class_names import imagenet_21k_classes, imagenet_22k_classes
from common.weights.dialects import Dialect, apply
from common.zoo import create_model
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
