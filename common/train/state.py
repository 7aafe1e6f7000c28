"""What the training loop is given: model and optimiser, options, the steps to do, callbacks."""
import time
from collections.abc import Callable
from dataclasses import dataclass

import paddle
from paddle import nn
from paddle.profiler import RecordEvent

from common.train.ema import Ema
from common.train.precision import Precision
from common.train.split_model import SplitModel


@dataclass
class TrainState:
    """What training steps change, and by what.

    Attributes:
        model: a Layer or its DataParallel.
        criterion: (logits, target) -> mean loss.
        optimizer: made by common.train.optim.build_optimizer.
        schedule: optimiser step of the whole run, from 0 -> learning rate.
        precision: the precision of the forward pass, with the loss scaling.
        ema: the moving average that follows each optimiser step, or None.
        multi_label: whether a target [B, K] says of each class whether the image has it; else it is
            a distribution over the classes.
        split: SplitModel of a model whose gradients are split over the ranks, or None.
    """
    model: nn.Layer
    criterion: Callable
    optimizer: paddle.optimizer.Optimizer
    schedule: Callable
    precision: Precision
    ema: Ema | None = None
    multi_label: bool = False
    split: SplitModel | None = None

    def __post_init__(self):
        self.parameters = [p for p in self.model.parameters() if not p.stop_gradient]


@dataclass
class LoopOptions:
    """The keys of a config that the training loop reads.

    Attributes:
        accum_iter: micro-batches in one optimiser step.
        grad_clip: largest global gradient norm, or None.
        max_skipped: how many steps in a row may be left out because a gradient is not finite.
        report_freq: optimiser steps between two reports.
        seed: seeds dropout and drop path.
        recompute: whether blocks run again in the backward pass.
    """
    accum_iter: int = 1
    grad_clip: float | None = None
    max_skipped: int = 0
    report_freq: int = 20
    seed: int = 0
    recompute: bool = False

    @classmethod
    def from_config(cls, config):
        train = config.TRAIN
        return cls(train.ACCUM_ITER, train.GRAD_CLIP, train.MAX_SKIPPED, config.REPORT_FREQ,
                   config.SEED, train.RECOMPUTE)


@dataclass
class EpochSteps:
    """The optimiser steps of one epoch that are to be done, counted from 0 within the epoch.

    Attributes:
        epoch: counted from 1.
        steps_per_epoch: of a whole epoch.
        first: how many steps of this epoch are already done.
        end: how many are done afterwards; None is the whole epoch.
    """
    epoch: int
    steps_per_epoch: int
    first: int = 0
    end: int | None = None

    def __post_init__(self):
        if self.end is None:
            self.end = self.steps_per_epoch

    def step_of_run(self, step):
        """The step counted from 0 over the whole run."""
        return (self.epoch - 1) * self.steps_per_epoch + step


class Callbacks:
    """What is called within an epoch; these do nothing. Steps are counted from 1 in the epoch."""

    def after_update(self, step, sums):
        """Follows each optimiser step, before a report; it may raise.

        Args:
            step: how many steps of the epoch are done.
            sums: tensor [loss, correct, seen] of this rank since the last report.
        """

    def report(self, figures):
        """Takes a dict of the figures since the last report, which are equal on all ranks."""

    def after_step(self, step, sums):
        """Follows `after_update` and the report, if there was one, which has set the sums to 0."""


class Meter:
    """Counts what happens between two reports.

    Args:
        sums: [loss, correct, seen] that are counted already, or None.

    Attributes:
        sums: the same as a float64 tensor [3] of this rank.
        data_time: seconds in which the loop has waited for batches.
        start: when the last report was, by time.perf_counter.
    """

    def __init__(self, sums=None):
        self.reset()
        if sums is not None:
            self.sums = paddle.to_tensor(sums, 'float64')

    def reset(self):
        self.sums = paddle.zeros([3], 'float64')
        self.data_time, self.start = 0.0, time.perf_counter()

    def next(self, batches):
        """The next batch."""
        start = time.perf_counter()
        with RecordEvent('loader'):
            batch = next(batches)
        self.data_time += time.perf_counter() - start
        return batch
