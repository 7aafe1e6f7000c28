"""The learning rate as a pure function of the optimiser step."""
import math
from dataclasses import dataclass

from common.config import ConfigNode
from common.core.errors import InputError


@dataclass
class Schedule:
    """The learning rate in warm-up, decay and cooldown.

    In units u of steps (or of whole epochs, then the rate is constant within an epoch), with W
    warm-up units, T units of the schedule, base, start and end rates:

        u < W    start + (base - start) * u / W
        u < T    end + (base - end) * f((u - z) / (T - z)),  z = W, or 0 with decay_from 'zero'
        else     end (constant: base)

    with f(x) = (1 + cos(pi x)) / 2 (cosine), 1 - x (linear) or 1 (constant). 'zero' is timm's
    CosineLRScheduler: the warm-up replaces the first units of the decay, so base is never reached.

    Attributes:
        base_lr, warmup_start_lr, end_lr: rates; warm-up starts exactly at warmup_start_lr.
        epochs, cooldown_epochs: whole numbers.
        warmup_epochs: may be a part of an epoch; rounded to whole units.
        steps_per_epoch: optimiser steps.
        steps, warmup_steps, cooldown_steps: in optimiser steps, instead of the epochs; only with
            unit 'step'.
        name: cosine | linear | constant.
        unit: step | epoch.
        decay_from: warmup | zero.
        warmup, total, decay_start: W, T and z in units.
        num_steps, num_epochs: of the whole run; the last epoch may be a part of one.

    Raises:
        InputError: the lengths do not fit each other.
    """
    base_lr: float
    epochs: int
    steps_per_epoch: int
    warmup_epochs: float = 0
    cooldown_epochs: int = 0
    warmup_start_lr: float = 0.0
    end_lr: float = 0.0
    name: str = 'cosine'
    unit: str = 'step'
    decay_from: str = 'warmup'
    steps: int | None = None
    warmup_steps: int | None = None
    cooldown_steps: int | None = None

    def __post_init__(self):
        if self.unit == 'epoch' and any(
                steps is not None
                for steps in (self.steps, self.warmup_steps, self.cooldown_steps)):
            raise InputError('TRAIN.LR_SCHEDULER.UNIT: got epoch, expected step, since '
                             'TRAIN.NUM_STEPS, WARMUP_STEPS or COOLDOWN_STEPS are set')
        units_per_epoch = self.steps_per_epoch if self.unit == 'step' else 1
        self.steps_per_unit = 1 if self.unit == 'step' else self.steps_per_epoch
        self.warmup, self.total = self.warmup_steps, self.steps
        if self.warmup is None:
            self.warmup = round(self.warmup_epochs * units_per_epoch)
        if self.total is None:
            self.total = self.epochs * units_per_epoch
        cooldown_steps = self.cooldown_steps
        if cooldown_steps is None:
            cooldown_steps = self.cooldown_epochs * self.steps_per_epoch
        self.decay_start = self.warmup if self.decay_from == 'warmup' else 0
        self.num_steps = self.total * self.steps_per_unit + cooldown_steps
        self.num_epochs = math.ceil(self.num_steps / self.steps_per_epoch)
        if self.warmup > self.total:
            raise InputError(f'TRAIN: got a warm-up of {self.warmup} {self.unit}s, expected at '
                             f'most the {self.total} of the schedule')

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
        factor = (1 + math.cos(math.pi * x)) / 2 if self.name == 'cosine' else 1 - x
        return self.end_lr + (self.base_lr - self.end_lr) * factor


def build_schedule(train: ConfigNode, steps_per_epoch: int, global_batch: int) -> Schedule:
    """Builds the Schedule of a config's TRAIN node.

    Args:
        train: the node; its LR_BASE_BATCH says whether the base rate is scaled by the batch.
        steps_per_epoch: optimiser steps.
        global_batch: images in one optimiser step, on all ranks.

    Returns:
        The Schedule, a function from the number of an optimiser step, from 0, to its rate.

    Raises:
        InputError: a rate that is not above 0, or a warm-up longer than the schedule.

    Source: the cosine of arXiv 1608.03983, and the linear scaling of arXiv 1706.02677.

    Examples:
        >>> from common.train.schedule import build_schedule
        >>> from common.zoo import model_config
        >>> schedule = build_schedule(model_config('vit_digits').TRAIN, 22, 64)
        >>> schedule.num_steps, schedule(0), schedule(66)
        (880, 1e-06, 0.003)
    """
    scale = global_batch / train.LR_BASE_BATCH if train.LR_BASE_BATCH else 1.0
    if train.BASE_LR <= 0:
        raise InputError(f'TRAIN.BASE_LR: got {train.BASE_LR}, expected a number above 0')
    shape = train.LR_SCHEDULER
    return Schedule(
        base_lr=train.BASE_LR * scale, warmup_start_lr=train.WARMUP_START_LR, end_lr=train.END_LR,
        steps_per_epoch=steps_per_epoch, epochs=train.NUM_EPOCHS,
        warmup_epochs=train.WARMUP_EPOCHS, cooldown_epochs=train.COOLDOWN_EPOCHS,
        steps=train.NUM_STEPS, warmup_steps=train.WARMUP_STEPS,
        cooldown_steps=train.COOLDOWN_STEPS,
        name=shape.NAME, unit=shape.UNIT, decay_from=shape.DECAY_FROM)
