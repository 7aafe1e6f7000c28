"""Optimiser, clipping, losses and schedules against recorded values of timm and PyTorch."""
import json

import numpy as np
import paddle
import pytest
from paddle import nn

from common.config import base_config
from common.layers.classifier import ImageClassifier
from common.train.engine import clip_by_global_norm
from common.train.losses import (
    BinaryCrossEntropy,
    LabelSmoothingCrossEntropy,
    soft_target_cross_entropy,
)
from common.train.optim import build_optimizer, decayed_parameters, freeze, layer_indices
from common.train.schedule import Schedule
from common.weights.load import load_pretrained
from common.zoo import create_model
from tests.conftest import refusal
from tests.reference import FIXTURES, Case

from vit.vit import VisionTransformer

pytestmark = pytest.mark.smoke


class Parameters(ImageClassifier):
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


@pytest.mark.parametrize('use', [
    lambda model: build_optimizer(base_config().TRAIN, model),
    lambda model: load_pretrained(model, 'no.pdparams'),
])
def test_layer_that_is_no_classifier_is_refused(use):
    assert refusal(use, nn.Linear(2, 3)) == ('model: got a Linear, expected an ImageClassifier '
                                             '(common/layers/classifier.py)')


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


@pytest.mark.parametrize('key, options, soft', [
    ('bce_soft_target', {}, True), ('bce_hard_smoothed', {'smoothing': 0.1}, False),
    ('bce_soft_threshold_0_2', {'threshold': 0.2}, True),
    ('bce_soft_sum_classes', {'sum_classes': True}, True)])
def test_binary_cross_entropy_is_timm_s(float64, key, options, soft):
    case = Case('recipe', 'losses')
    logits = paddle.to_tensor(case.arrays['logits'].astype('float64'), stop_gradient=False)
    target = paddle.to_tensor(case.arrays['soft_target' if soft else 'labels'])
    loss = BinaryCrossEntropy(**options)(logits, target)
    assert loss.item() == pytest.approx(case.meta['values'][key], rel=1e-7)
    loss.backward()
    np.testing.assert_allclose(logits.grad.numpy(), case.arrays[f'grad_{key}'], rtol=0, atol=1e-7)


def test_layer_decay_by_place_and_by_value(float64):
    model = VisionTransformer(image_size=16, patch_size=8, embed_dim=8, depth=3, num_heads=2,
                              num_classes=4)
    indices, last = layer_indices(model)
    assert last == 4
    assert {name.split('.')[0]: index for name, index in indices.items()
            if not name.startswith('encoder')} == {
        'position_embedding': 0, 'cls_token': 0, 'patch_embedding': 0, 'classifier': 4}
    assert indices['encoder.layers.0.attn.qkv.weight'] == 1
    assert indices['encoder.layers.2.mlp.fc2.bias'] == 3
    assert indices['encoder.encoder_norm.weight'] == 4
    train = base_config().TRAIN
    train.LAYER_DECAY, train.WEIGHT_DECAY = 0.5, 0.3
    for name in ('AdamW', 'SGD'):
        train.OPTIMIZER.NAME = name
        before = {key: p.numpy().copy() for key, p in model.named_parameters()}
        optimizer = build_optimizer(train, model)
        optimizer.set_lr(0.01)
        sum((p * 2.0).sum() for p in model.parameters()).backward()
        optimizer.step()
        optimizer.clear_grad()
        for key in ('classifier.weight', 'encoder.layers.0.mlp.fc1.weight'):
            lr = 0.01 * 0.5 ** (last - indices[key])
            p = before[key]
            expected = p * (1 - lr * 0.3) - lr if name == 'AdamW' else p - lr * (2 + 0.3 * p)
            np.testing.assert_allclose(dict(model.named_parameters())[key].numpy(), expected,
                                       rtol=0, atol=1e-9, err_msg=f'{name} {key}')


def test_layer_indices_of_stages():
    model = create_model('vitaev2_vsa_digits')  # stages of 1 and 2 cells
    indices, last = layer_indices(model)
    assert last == 4
    assert indices['layers.0.RC.attn.qkv.weight'] == 0
    assert indices['layers.0.NC.0.attn.qkv.weight'] == 1
    assert indices['layers.1.RC.PRM.convs.0.0.weight'] == 2
    assert indices['layers.1.NC.1.mlp.fc1.weight'] == 3
    assert indices['head.weight'] == 4


def test_freezing():
    model = VisionTransformer(image_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2)
    freeze(model, ['patch_embedding', 'encoder.layers.0'])
    trained = {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert 'encoder.layers.1.attn.qkv.weight' in trained and 'cls_token' in trained
    assert not any(name.startswith(('patch_emb', 'encoder.layers.0')) for name in trained)
    with pytest.raises(ValueError, match="TRAIN.FREEZE: got 'blocks'"):
        freeze(model, ['blocks'])
    with pytest.raises(ValueError, match='TRAIN.FREEZE: .* leaves nothing to train'):
        freeze(model, {name.split('.')[0] for name, _ in model.named_parameters()})


def test_schedule_in_steps():
    schedule = Schedule(1.0, epochs=300, steps_per_epoch=7, warmup_epochs=5, steps=20,
                        warmup_steps=4, cooldown_steps=3, end_lr=0.1)
    assert (schedule.num_steps, schedule.num_epochs) == (23, 4)
    assert [schedule.steps_of(epoch) for epoch in (1, 2, 3, 4)] == [7, 7, 7, 2]
    rates = [schedule(step) for step in range(23)]
    assert rates[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert rates[12] == pytest.approx(0.1 + 0.9 * (1 + np.cos(np.pi * 8 / 16)) / 2)
    assert rates[20:] == [0.1, 0.1, 0.1]
    with pytest.raises(ValueError, match='warm-up of 30 steps, expected at most the 20'):
        Schedule(1.0, epochs=1, steps_per_epoch=7, steps=20, warmup_steps=30)
    with pytest.raises(ValueError, match='UNIT: got epoch, expected step'):
        Schedule(1.0, epochs=1, steps_per_epoch=7, steps=20, unit='epoch')
