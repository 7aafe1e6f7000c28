"""The training loop beside bare training steps: what `python -m common.benchmark model -engine`
measures."""
import itertools
import statistics

import paddle
import paddle.nn.functional as F

from common.benchmarks.steps import LEARNING_RATE, build_adamw, labels_for, measure, training_step
from common.core.sizes import to_pair
from common.train.engine import train_one_epoch
from common.train.precision import Precision
from common.train.state import Callbacks, EpochSteps, LoopOptions, TrainState
from common.zoo import create_model

STEPS = 50  # of an epoch


def bare_steps(model, images):
    """Makes a function that runs STEPS bare training steps one after another."""
    step = training_step(model, images)

    def run():
        for _ in range(STEPS):
            step()
    return run


def engine_steps(model, images):
    """Makes a function that runs the same steps through the training loop, with its reports."""
    state = TrainState(model, F.cross_entropy, build_adamw(model), lambda step: LEARNING_RATE,
                       Precision())
    labels = labels_for(model, images)

    def run():
        train_one_epoch(state, itertools.repeat((images, labels)), LoopOptions(),
                        EpochSteps(epoch=1, steps_per_epoch=STEPS), Callbacks())
    return run


def engine_table(names, image_size, batch_size, rounds):
    """Measures the loop's images a second beside those of bare steps.

    Args:
        names: of models.
        image_size: pixels, or None for each model's own.
        batch_size: images in a step.
        rounds: measurements of each.

    Returns:
        A markdown table.
    """
    lines = ['| Model | Batch | Bare img/s | Engine img/s | Ratio |', '|---' * 5 + '|']
    for name in names:
        model = create_model(name, image_size=image_size)
        model.train()
        images = paddle.randn([batch_size, 3, *to_pair(model.config.DATA.IMAGE_SIZE)])
        times = measure({'bare': bare_steps(model, images),
                         'engine': engine_steps(model, images)}, rounds)
        bare, engine = (batch_size * STEPS / statistics.median(times[key])
                        for key in ('bare', 'engine'))
        ratio = statistics.median(before / after for before, after in
                                  zip(times['bare'], times['engine'], strict=True))
        lines.append(f'| {name} | {batch_size} | {bare:.1f} | {engine:.1f} | {ratio:.3f} |')
    return '\n'.join(lines)
