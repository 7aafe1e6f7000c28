"""5 to 20 optimiser steps in float64 through the project's loop, against timm 0.4.12 on PyTorch."""
import numpy as np
import paddle
import pytest

from common.config import base_config
from common.train.ema import Ema
from common.train.engine import train_one_epoch
from common.train.losses import LabelSmoothingCrossEntropy
from common.train.optim import build_optimizer, decayed_parameters
from common.train.precision import Precision
from common.train.schedule import Schedule
from common.train.state import Callbacks, EpochSteps, LoopOptions, TrainState
from common.weights.dialects import translate
from tests.reference import Case, own_names, relative_error, set_weights

from vit.vit import VisionTransformer
from vitae.vitae import ViTAE
from vitaev2_vsa.vitaev2_vsa import ViTAEv2

SMALL = {'image_size': 32, 'patch_size': 8, 'embed_dim': 64, 'depth': 2, 'num_heads': 4}
# case: (model, tolerance of the losses)
MODELS = {
    'vit_small': (lambda: VisionTransformer(num_classes=10, **SMALL), 1e-9),
    'vit_small_full': (lambda: VisionTransformer(num_classes=10, **SMALL), 1e-9),
    'vit_tiny_patch16_64': (lambda: VisionTransformer(
        image_size=64, embed_dim=192, num_heads=3, num_classes=10), 1e-9),
    'ViTAE_basic_Tiny_64': (lambda: ViTAE(
        image_size=64, num_classes=10, reduction_dropout=0.0), 1e-8),
    'VSA_small_64': (lambda: ViTAEv2(
        image_size=64, num_classes=10, attention=['vsa', 'vsa'], ratios=(4, 2),
        embed_dims=(16, 24), token_dims=(16, 32), depths=(1, 2), num_heads=(2, 4),
        reduction_heads=(2, 4), mlp_ratio=2.0, groups=(1, 8), reduction_groups=(1, 4)), 1e-8),
    'ViTAEv2_S_64': (lambda: ViTAEv2(image_size=64, num_classes=10), 1e-8),
    'ViTAEv2_VSA_S_224': (lambda: ViTAEv2(
        num_classes=10, attention=['vsa'] * 4, num_heads=(2, 4, 8, 16),
        reduction_heads=(2, 2, 4, 8)), 1e-8),
}
QUICK = ('vit_small', 'vit_small_full', 'vit_tiny_patch16_64', 'ViTAE_basic_Tiny_64',
         'VSA_small_64')


# Of the others `make test` sees the first losses, `make reliability` all steps.
LONG = {'ViTAEv2_S_64': 4, 'ViTAEv2_VSA_S_224': 2}


@pytest.mark.parametrize('name, last_step', [
    *(pytest.param(name, None, marks=pytest.mark.smoke) if name in QUICK else
      pytest.param(name, None, marks=pytest.mark.long) if name in LONG else (name, None)
      for name in MODELS), *LONG.items()])
def test_trajectory(float64, name, last_step):
    case = Case('recipe', f'traj_{name}')
    meta, steps = case.meta, case.meta['steps']
    build, tolerance = MODELS[name]
    model = build()
    weights, _ = translate(model, case.weights(), 'torch')
    set_weights(model, weights)
    names = own_names(model, case)
    initial = {key: p.numpy().copy() for key, p in model.named_parameters()}
    assert decayed_parameters(model) == {names[key] for key in meta['decayed']}

    target = paddle.to_tensor(case.arrays['target'].astype('float64'))
    every_step = 'every step' in meta['input'] and 'input_<t>' not in meta['input']

    def batches():
        for step in range(steps):
            images = case.images('input' if every_step else f'input_{step}')
            yield paddle.to_tensor(images.astype('float64')), target

    ema = Ema(model, meta['ema_decay']) if meta['ema_decay'] else None
    reports, callbacks = [], Callbacks()
    callbacks.report = reports.append
    state = TrainState(model, LabelSmoothingCrossEntropy(), optimizer_of(meta, model),
                       schedule_of(name, meta), Precision(), ema)
    train_one_epoch(state, batches(), LoopOptions(grad_clip=meta['clip_grad_norm'], report_freq=1),
                    EpochSteps(epoch=1, steps_per_epoch=steps, end=last_step), callbacks)
    losses = np.array([report['loss'] for report in reports])
    assert np.abs(losses - case.arrays['loss'][:len(losses)]).max() <= tolerance
    if last_step:
        assert len(losses) == last_step
        return

    parameters = dict(model.named_parameters())
    final = [parameters[names[key]].numpy() for key in meta['names']]
    moved = [value - initial[names[key]]
             for key, value in zip(meta['names'], final, strict=True)]
    assert relative_error([np.linalg.norm(value) for value in final],
                          case.arrays['final_l2']) <= tolerance
    # a bias before a BatchNorm has no gradient but rounding; where it goes is noise
    real = [index for index, key in enumerate(meta['names'])
            if key not in meta['gradient_mathematically_zero']]
    assert relative_error(np.array([np.linalg.norm(value) for value in moved])[real],
                          case.arrays['final_delta_l2'][real]) <= 10 * tolerance
    if ema:
        averages = [np.linalg.norm(ema.average[names[key]].numpy()) for key in meta['names']]
        assert relative_error(averages, case.arrays['ema_l2']) <= tolerance
        with ema.in_place():
            model.eval()
            logits = model(paddle.to_tensor(case.images().astype('float64')))
            assert np.abs(logits.numpy() - case.arrays['logits_ema_eval']).max() <= 10 * tolerance
        model.train()
    logits = model(paddle.to_tensor(case.images().astype('float64')))  # still in training mode
    assert np.abs(logits.numpy() - case.arrays['logits_final_train']).max() <= 10 * tolerance


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
        schedule = Schedule(meta['lr_by_step'][0], epochs=20, steps_per_epoch=1, name='constant')
    rates = [schedule(step) for step in range(meta['steps'])]
    np.testing.assert_allclose(rates, meta['lr_by_step'], rtol=1e-14)
    return schedule
