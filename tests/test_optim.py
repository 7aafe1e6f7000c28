"""Optimiser, clipping, losses and schedules against recorded values of timm and PyTorch."""
import json

import numpy as np
import paddle
import pytest

from common.config import base_config
from common.engine import clip_by_global_norm
from common.losses import LabelSmoothingCrossEntropy, soft_target_cross_entropy
from common.optim import build_optimizer, decayed_parameters
from common.schedule import Schedule
from tests.reference import FIXTURES, Case

from vit.vit import VisionTransformer

pytestmark = pytest.mark.smoke


class Parameters(paddle.nn.Layer):
    """Bare parameters, to drive the optimiser with given gradients."""

    def __init__(self, values):
        super().__init__()
        for name, value in values.items():
            parameter = self.create_parameter(list(value.shape))
            parameter.set_value(paddle.to_tensor(value))
            self.add_parameter(name, parameter)

    def set_gradients(self, gradients):
        """Makes `gradients` the gradients, by a backward pass."""
        self.clear_gradients()
        parts = [(self._parameters[name] * paddle.to_tensor(value)).sum()
                 for name, value in gradients.items()]
        sum(parts[1:], parts[0]).backward()


def test_adamw_step_by_step(float64):
    case = Case('recipe', 'optim')
    arrays, meta = case.arrays, case.meta['adamw']
    names = ('w', 'v', 'z')
    layer = Parameters({name: arrays[f'adamw_init_{name}'] for name in names})
    train = base_config().TRAIN
    train.WEIGHT_DECAY = meta['params']['weight_decay']
    assert decayed_parameters(layer) == set(meta['decayed'])
    optimizer = build_optimizer(train, layer)
    for step, lr in enumerate(meta['lr_by_step']):
        optimizer.set_lr(lr)
        layer.set_gradients({name: arrays[f'adamw_grad_{name}'][step] for name in names})
        optimizer.step()
        for name in names:
            np.testing.assert_allclose(layer._parameters[name].numpy(),
                                       arrays[f'adamw_after_{name}'][step], rtol=0, atol=1e-10)


def test_sgd_against_its_formula(float64):
    random = np.random.RandomState(0)
    values = {'w': random.randn(3, 4), 'v': random.randn(4)}
    layer = Parameters(values)
    train = base_config().TRAIN
    train.OPTIMIZER.NAME, train.WEIGHT_DECAY, train.OPTIMIZER.MOMENTUM = 'SGD', 0.1, 0.9
    optimizer = build_optimizer(train, layer)
    velocity = dict.fromkeys(values, 0.0)
    for step in range(4):
        lr = 0.1 / (step + 1)
        gradients = {name: random.randn(*value.shape) for name, value in values.items()}
        optimizer.set_lr(lr)
        layer.set_gradients(gradients)
        optimizer.step()
        for name in values:
            decay = 0.1 if name == 'w' else 0.0
            velocity[name] = 0.9 * velocity[name] + gradients[name] + decay * values[name]
            values[name] = values[name] - lr * velocity[name]
            np.testing.assert_allclose(layer._parameters[name].numpy(), values[name], atol=1e-8)


@pytest.mark.parametrize('key', ['clip0', 'clip1', 'clip2'])
def test_clip_by_global_norm(float64, key):
    case = Case('recipe', 'optim')
    meta = next(entry for entry in case.meta['clip_grad_norm'] if entry['key'] == key)
    gradient = case.arrays[f'{key}_in']
    layer = Parameters({'a': np.zeros(10), 'b': np.zeros(len(gradient) - 10)})
    layer.set_gradients({'a': gradient[:10], 'b': gradient[10:]})
    clip_by_global_norm(layer.parameters(), meta['max_norm'])
    clipped = np.concatenate([p.grad.numpy() for p in layer.parameters()])
    np.testing.assert_allclose(clipped, case.arrays[f'{key}_out'], rtol=1e-13)


def test_losses_and_their_gradients(float64):
    case = Case('recipe', 'losses')
    arrays, values = case.arrays, case.meta['values']
    labels = paddle.to_tensor(arrays['labels'])
    soft = paddle.to_tensor(arrays['soft_target'].astype('float64'))
    smoothing = LabelSmoothingCrossEntropy(case.meta['smoothing'])
    for name, criterion, target in [('soft_target_ce', soft_target_cross_entropy, soft),
                                    ('soft_target_ce', smoothing, soft),
                                    ('label_smoothing_ce', smoothing, labels),
                                    ('cross_entropy', LabelSmoothingCrossEntropy(), labels)]:
        logits = paddle.to_tensor(arrays['logits'].astype('float64'), stop_gradient=False)
        loss = criterion(logits, target)
        loss.backward()
        assert abs(loss.item() - values[name]) <= 1e-12 * values[name]
        np.testing.assert_allclose(logits.grad.numpy(), arrays[f'grad_{name}'], atol=1e-12)


def schedules(group):
    return json.loads((FIXTURES / 'recipe' / 'schedules.json').read_text())[group]


@pytest.mark.parametrize('entry', schedules('timm_cosine'), ids=lambda entry: entry['name'])
def test_timm_cosine_by_epoch(entry):
    params = entry['params']
    schedule = Schedule(params['lr'], params['epochs'], 7, params['warmup'], params['cooldown'],
                        params['warmup_lr'], params['min_lr'], unit='epoch', decay_from='zero')
    assert schedule.num_epochs == entry['num_epochs']
    rates = [[schedule(epoch * 7 + step) for step in (0, 6)]
             for epoch in range(schedule.num_epochs)]
    np.testing.assert_allclose([first for first, _ in rates], entry['lr_by_epoch'], rtol=1e-12)
    assert all(first == last for first, last in rates)


def test_paddlevit_rates_are_met_at_the_epochs_they_were_set_for():
    """PaddleViT's epoch e has the rate that the per-step schedule has when e epochs are done."""
    for entry in schedules('paddlevit')['schedules']:
        schedule = Schedule(entry['base_lr'], entry['epochs'], 10, entry['warmup_epochs'],
                            warmup_start_lr=entry['warmup_start_lr'], end_lr=entry['end_lr'])
        rates = [schedule(epoch * 10) for epoch in range(1, entry['epochs'] + 1)]
        np.testing.assert_allclose(rates, entry['lr_by_epoch_1_to_epochs'], rtol=1e-9, atol=1e-15)


def test_schedule_is_continuous_and_ends_where_it_should():
    schedule = Schedule(1.0, epochs=10, steps_per_epoch=5, warmup_epochs=0.6, cooldown_epochs=2,
                        warmup_start_lr=0.1, end_lr=0.01, name='linear')
    assert schedule(0) == 0.1
    assert schedule(3) == 1.0            # 0.6 epochs of 5 steps
    assert schedule(49) > schedule(50) == schedule(59) == 0.01
    assert schedule.num_steps == 60
    falls = np.diff([schedule(step) for step in range(3, 51)])
    np.testing.assert_allclose(falls, falls[0], rtol=1e-9)


def test_decay_leaves_out_vectors_and_embeddings():
    model = VisionTransformer(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    decayed = decayed_parameters(model)
    assert decayed == {'patch_embedding.patch_embedding.weight', 'classifier.weight',
                       *(f'encoder.layers.0.{name}.weight'
                         for name in ('attn.qkv', 'attn.out', 'mlp.fc1', 'mlp.fc2'))}
    assert decayed_parameters(model, 'all') == {name for name, _ in model.named_parameters()}
