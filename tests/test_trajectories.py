"""20 optimiser steps in float64 through the project's own loop, against timm 0.4.12 on PyTorch."""
import re

import numpy as np
import paddle
import pytest

from common.config import base_config
from common.engine import train_one_epoch
from common.losses import LabelSmoothingCrossEntropy
from common.optim import build_optimizer, decayed_parameters
from common.precision import Precision
from common.schedule import Schedule
from tests.reference import Case, relative_error, set_weights

from vit.vit import VisionTransformer

SMALL = {'image_size': 32, 'patch_size': 8, 'embed_dim': 64, 'depth': 2, 'num_heads': 4}
MODELS = {'vit_small': SMALL, 'vit_small_full': SMALL,
          'vit_tiny_patch16_64': {'image_size': 64, 'embed_dim': 192, 'num_heads': 3}}
NAMES = [('pos_embed', 'position_embedding'),
         ('patch_embed.proj', 'patch_embedding.patch_embedding'),
         ('blocks.', 'encoder.layers.'), ('norm1', 'attn_norm'), ('norm2', 'mlp_norm'),
         ('attn.proj', 'attn.out'), ('head.', 'classifier.')]


def own_name(name):
    for theirs, ours in NAMES:
        name = name.replace(theirs, ours)
    return re.sub(r'^norm\.', 'encoder.encoder_norm.', name)


def own_weights(case, model):
    """timm's weights with this project's names; Linear weights are [in, out] here."""
    linear = {f'{name}.weight' for name, layer in model.named_sublayers()
              if isinstance(layer, paddle.nn.Linear)}
    weights = {own_name(name): value for name, value in case.weights().items()}
    return {name: value.T if name in linear else value for name, value in weights.items()}


@pytest.mark.smoke
@pytest.mark.parametrize('name', MODELS)
def test_trajectory(float64, name):
    case = Case('recipe', f'traj_{name}')
    meta, steps = case.meta, case.meta['steps']
    model = VisionTransformer(num_classes=10, **MODELS[name])
    set_weights(model, own_weights(case, model))
    initial = {key: p.numpy().copy() for key, p in model.named_parameters()}
    assert decayed_parameters(model) == {own_name(key) for key in meta['decayed']}

    target = paddle.to_tensor(case.arrays['target'].astype('float64'))
    every_step = 'every step' in meta['input'] and 'input_<t>' not in meta['input']

    def batches():
        for step in range(steps):
            images = case.images('input' if every_step else f'input_{step}')
            yield paddle.to_tensor(images.astype('float64')), target

    reports = []
    train_one_epoch(model, batches(), LabelSmoothingCrossEntropy(), optimizer_of(meta, model),
                    schedule_of(name, meta), Precision(), epoch=1, steps_per_epoch=steps,
                    grad_clip=meta['clip_grad_norm'], report_freq=1, on_report=reports.append)
    losses = np.array([report['loss'] for report in reports])
    assert np.abs(losses - case.arrays['loss']).max() <= 1e-9

    parameters = dict(model.named_parameters())
    final = [parameters[own_name(key)].numpy() for key in meta['names']]
    moved = [value - initial[own_name(key)]
             for key, value in zip(meta['names'], final, strict=True)]
    assert relative_error([np.linalg.norm(value) for value in final],
                          case.arrays['final_l2']) <= 1e-9
    assert relative_error([np.linalg.norm(value) for value in moved],
                          case.arrays['final_delta_l2']) <= 1e-8
    model.eval()
    logits = model(paddle.to_tensor(case.images().astype('float64')))
    assert np.abs(logits.numpy() - case.arrays['logits_final_eval']).max() <= 1e-8


def optimizer_of(meta, model):
    train = base_config().TRAIN
    train.WEIGHT_DECAY = meta['optimizer']['weight_decay']
    train.OPTIMIZER.EPS = meta['optimizer']['eps']
    train.OPTIMIZER.BETAS = meta['optimizer']['betas']
    return build_optimizer(train, model)


def schedule_of(name, meta):
    """The project's schedule, held against the case's rates."""
    if name == 'vit_small_full':
        schedule = Schedule(2e-3, epochs=20, steps_per_epoch=1, warmup_epochs=4,
                            warmup_start_lr=1e-6, end_lr=1e-5, decay_from='zero')
    else:
        schedule = Schedule(1e-3, epochs=20, steps_per_epoch=1, name='constant')
    rates = [schedule(step) for step in range(meta['steps'])]
    np.testing.assert_allclose(rates, meta['lr_by_step'], rtol=1e-14)
    return schedule
