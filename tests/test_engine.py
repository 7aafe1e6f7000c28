"""The two loops: accumulation, evaluation sums, reports, stopping on a loss that is not finite."""
import numpy as np
import paddle
import pytest

from common.config import base_config
from common.core.errors import InputError
from common.layers.recompute import recompute_cells
from common.train.engine import evaluate, train_one_epoch
from common.train.losses import LabelSmoothingCrossEntropy
from common.train.optim import build_optimizer
from common.train.precision import Precision
from common.train.state import Callbacks, EpochSteps, LoopOptions, TrainState
from common.zoo import create_model
from tests.loss_scaler import cpu_scaler

from vit.vit import VisionTransformer

pytestmark = pytest.mark.smoke


def build(seed=0, **options):
    paddle.seed(seed)
    return VisionTransformer(image_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2,
                             num_classes=4, **options)


def data(count, seed=0):
    random = np.random.RandomState(seed)
    return (random.randn(count, 3, 16, 16).astype(paddle.get_default_dtype()),
            random.randint(0, 4, count))


class Recorder(Callbacks):
    """Calls `on_report` and `on_step`, where they are given."""

    def __init__(self, on_report=None, on_step=None):
        self.report = on_report or super().report
        self.after_step = on_step or super().after_step


def train(model, images, labels, batch, steps=3, last_step=None, on_report=None, on_step=None,
          scaler=None, **options):
    """`steps` optimiser steps over the images in order; the weights afterwards."""
    batches = ((paddle.to_tensor(images[i:i + batch]), paddle.to_tensor(labels[i:i + batch]))
               for i in range(0, len(images), batch))
    config, precision = base_config().TRAIN, Precision()
    precision.scaler = scaler
    state = TrainState(model, LabelSmoothingCrossEntropy(0.1), build_optimizer(config, model),
                       lambda step: 1e-2, precision)
    train_one_epoch(state, batches, LoopOptions(grad_clip=1.0, **options),
                    EpochSteps(epoch=1, steps_per_epoch=steps, end=last_step),
                    Recorder(on_report, on_step))
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_two_batches_of_four_equal_one_of_eight(float64):
    images, labels = data(24)
    whole = train(build(), images, labels, batch=8)
    halves = train(build(), images, labels, batch=4, accum_iter=2)
    for name, value in whole.items():
        np.testing.assert_allclose(halves[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_same_seed_same_dropout_whatever_was_drawn_before():
    images, labels = data(24)
    one = train(build(dropout=0.2, drop_path=0.5), images, labels, batch=8, seed=3)
    model = build(dropout=0.2, drop_path=0.5)
    paddle.rand([100])
    two = train(model, images, labels, batch=8, seed=3)
    other = train(build(dropout=0.2, drop_path=0.5), images, labels, batch=8, seed=4)
    assert all((one[name] == two[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_report_is_the_mean_over_its_steps():
    images, labels = data(40)
    model = build()
    reports, steps = [], []
    train(model, images, labels, batch=8, steps=5, report_freq=2, on_report=reports.append,
          on_step=lambda step, sums: steps.append(step))
    assert [report['step'] for report in reports] == [2, 4, 5] and steps == [1, 2, 3, 4, 5]
    single = []
    train(build(), images, labels, batch=8, steps=5, report_freq=1, on_report=single.append)
    losses = [report['loss'] for report in single]
    np.testing.assert_allclose([report['loss'] for report in reports],
                               [np.mean(losses[:2]), np.mean(losses[2:4]), losses[4]], rtol=1e-6)


def test_loss_that_is_not_finite_stops_the_run():
    images, labels = data(24)
    images[9] = np.nan
    with pytest.raises(InputError, match='epoch 1, step 2: the training loss is nan'):
        train(build(), images, labels, batch=8, report_freq=1)


@pytest.mark.parametrize('classes', [4, 7])
def test_evaluation_against_numpy(classes):
    paddle.seed(0)
    model = VisionTransformer(image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2,
                              num_classes=classes)
    images, labels = data(29)
    batches = [(paddle.to_tensor(images[i:i + 8]), paddle.to_tensor(labels[i:i + 8]))
               for i in range(0, 29, 8)]  # the last one is smaller
    result = evaluate(model, iter(batches), Precision())
    logits = model(paddle.to_tensor(images)).numpy().astype('float64')
    order = np.argsort(-logits, axis=1)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert result['seen'] == 29
    assert result['acc1'] == np.mean(order[:, 0] == labels)
    assert result['acc5'] == np.mean((order[:, :5] == labels[:, None]).any(1))  # of min(5, K)
    assert result['loss'] == pytest.approx(-log_p[np.arange(29), labels].mean(), rel=1e-5)
    with pytest.raises(InputError, match='got no image'):
        evaluate(model, iter([]), Precision())


def test_precision_says_what_it_does_on_a_cpu_C7():
    precision = Precision(amp=True, dtype='bfloat16', device='cpu')
    assert not precision.enabled and precision.scaler is None
    assert str(precision) == 'float32 (on a CPU -amp has no effect)'
    model = build()
    assert precision.decorate(model) == (model, None)
    with precision.autocast():
        assert model(paddle.randn([1, 3, 16, 16])).dtype == paddle.float32


def test_overflow_leaves_a_step_out_and_halves_the_loss_scale():
    """Paddle's own scaler, with whatever numpy is here: all else is as without, to the bit."""
    images, labels = data(24)
    images[9] = np.inf  # in the second step
    scaler = cpu_scaler(1024.0)
    scaled = train(build(), images, labels, batch=8, max_skipped=1, scaler=scaler)
    skipped = train(build(), images, labels, batch=8, max_skipped=1)
    assert scaler.state_dict()['scale'].tolist() == [512.0]
    assert all((scaled[name] == skipped[name]).all() for name in skipped)


@pytest.mark.parametrize('name', ['vit_digits', 'vitae_digits', 'vitaev2_vsa_digits'])
def test_recomputing_gives_the_same_weights(name):
    """Also with drop path: the second pass draws the same numbers."""
    def run(recompute):
        paddle.seed(1)
        model = create_model(name, DROPPATH=0.3, DROPOUT=0.1, image_size=16)
        if recompute:
            recompute_cells(model)
        return train(model, *data(24), batch=8, seed=5)

    plain, again = run(False), run(True)
    for key, value in plain.items():
        np.testing.assert_allclose(again[key], value, rtol=1e-6, atol=1e-7, err_msg=key)


def test_recomputing_runs_twice_in_training_only():
    model = build()
    recompute_cells(model)
    calls = []
    attention = model.cells()[0].attn
    forward = attention.forward
    attention.forward = lambda x: calls.append(1) or forward(x)
    images = paddle.to_tensor(data(4)[0])
    model.eval()
    model(images)
    assert len(calls) == 1
    model.train()
    model(images).sum().backward()
    assert len(calls) == 3


def test_an_epoch_that_ends_early():
    images, labels = data(24)
    short = train(build(), images, labels, batch=8, last_step=2)
    other = train(build(), images[:16], labels[:16], batch=8, steps=2)
    assert all((short[name] == other[name]).all() for name in other)
