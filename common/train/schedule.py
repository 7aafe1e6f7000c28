"""The learning rate as a pure function of the optimiser step."""
import math

from common.core.errors import InputError


class Schedule:
    """Warm-up, decay, cooldown.

    In units u of steps (or of whole epochs, then the rate is constant within an epoch), with W
    warm-up units, T units of the schedule, base, start and end rates:

        u < W    start + (base - start) * u / W
        u < T    end + (base - end) * f((u - z) / (T - z)),  z = W, or 0 with decay_from 'zero'
        else     end (constant: base)

    with f(x) = (1 + cos(pi x)) / 2 (cosine), 1 - x (linear) or 1 (constant). 'zero' is timm's
    CosineLRScheduler: the warm-up replaces the first units of the decay, so base is never reached.

    Args:
        base_lr, warmup_start_lr, end_lr: rates; warm-up starts exactly at warmup_start_lr.
        epochs, cooldown_epochs: whole numbers.
        warmup_epochs: may be a part of an epoch; rounded to whole units.
        steps_per_epoch: optimiser steps.
        steps, warmup_steps, cooldown_steps: in optimiser steps, instead of the epochs; only with
            unit 'step'.
        name: cosine | linear | constant.
        unit: step | epoch.
        decay_from: warmup | zero.
    """

    def __init__(self, base_lr, epochs, steps_per_epoch, warmup_epochs=0, cooldown_epochs=0,
                 warmup_start_lr=0.0, end_lr=0.0, name='cosine', unit='step',
                 decay_from='warmup', steps=None, warmup_steps=None, cooldown_steps=None):
        if unit == 'epoch' and (steps, warmup_steps, cooldown_steps) != (None, None, None):
            raise InputError('TRAIN.LR_SCHEDULER.UNIT: got epoch, expected step, since '
                             'TRAIN.NUM_STEPS, WARMUP_STEPS or COOLDOWN_STEPS are set')
        scale = steps_per_epoch if unit == 'step' else 1
        self.base_lr = base_lr
        self.warmup_start_lr = warmup_start_lr
        self.end_lr = end_lr
        self.name = name
        self.steps_per_unit = 1 if unit == 'step' else steps_per_epoch
        self.warmup = round(warmup_epochs * scale) if warmup_steps is None else warmup_steps
        self.total = epochs * scale if steps is None else steps
        self.decay_start = self.warmup if decay_from == 'warmup' else 0
        self.steps_per_epoch = steps_per_epoch
        self.num_steps = self.total * self.steps_per_unit + (
            cooldown_epochs * steps_per_epoch if cooldown_steps is None else cooldown_steps)
        # the last epoch may be a part of one
        self.num_epochs = -(-self.num_steps // steps_per_epoch)
        if self.warmup > self.total:
            raise InputError(f'TRAIN: got a warm-up of {self.warmup} {unit}s, expected at most '
                             f'the {self.total} of the schedule')

    def steps_of(self, epoch):
        """How many optimiser steps the epoch (from 1) has; the last may have fewer."""
        return min(self.steps_per_epoch, self.num_steps - (epoch - 1) * self.steps_per_epoch)

    def __call__(self, step):
        """The rate of optimiser step `step`, counted from 0 over the whole run."""
        unit = step // self.steps_per_unit
        if unit < self.warmup:
            rise = self.base_lr - self.warmup_start_lr
            return self.warmup_start_lr + rise * unit / self.warmup
        if self.name == 'constant':
            return self.base_lr
        if unit >= self.total:
            return self.end_lr
        x = (unit - self.decay_start) / (self.total - self.decay_start)
        share = (1 + math.cos(math.pi * x)) / 2 if self.name == 'cosine' else 1 - x
        return self.end_lr + (self.base_lr - self.end_lr) * share


def build_schedule(train, steps_per_epoch, global_batch):
    """The Schedule of a config's TRAIN node; rates are scaled by the global batch on request."""
    scale = global_batch / train.LR_BASE_BATCH if train.LR_BASE_BATCH else 1.0
    if train.BASE_LR <= 0:
        raise InputError(f'TRAIN.BASE_LR: got {train.BASE_LR}, expected a number above 0')
    return Schedule(
        train.BASE_LR * scale, train.NUM_EPOCHS, steps_per_epoch, train.WARMUP_EPOCHS,
        train.COOLDOWN_EPOCHS, train.WARMUP_START_LR, train.END_LR, train.LR_SCHEDULER.NAME,
        train.LR_SCHEDULER.UNIT, train.LR_SCHEDULER.DECAY_FROM, train.NUM_STEPS,
        train.WARMUP_STEPS, train.COOLDOWN_STEPS)
