"""The exponential moving average of a model's weights.

Source: ModelEma of timm 0.4.12, which the published models were trained with: every entry of the
state dict is averaged, running statistics of BatchNorm too. Differences: the average is in float32
at least, and a batch below the base batch moves it (see `decay_of`).
"""
import contextlib

import numpy as np
import paddle
from paddle import nn

from common.config import ConfigNode
from common.core.errors import InputError
from common.weights.load import check_values, dtype_name


class Ema:
    """average = d * average + (1 - d) * weights, after each optimiser step.

    Args:
        model: a Layer, not its DataParallel. The average starts as its weights. (At AMP_LEVEL O2
            these are the rounded ones, not the optimiser's float32 copies.)
        decay: d, in [0, 1].
        warmup: whether d is at most (1 + t) / (10 + t) at update t, from 1.

    Attributes:
        average: {name: tensor}.
        updates: how many there were.
    """

    def __init__(self, model, decay, warmup=False):
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.weights = dict(model.state_dict())
        self.average = {name: at_least_float32(value).clone().detach()
                        for name, value in self.weights.items()}

    @property
    def is_untrained(self):
        """Whether more than half of the average is still the first weights. (WARMUP leaves 2 / 11
        of them after the first update.)"""
        return self.updates == 0 or not self.warmup and self.decay ** self.updates > 0.5

    @paddle.no_grad()
    def update(self):
        """Moves the average towards the present weights."""
        self.updates += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        for name, average in self.average.items():
            average.scale_(decay).add_(at_least_float32(self.weights[name]) * (1 - decay))

    @contextlib.contextmanager
    def in_place(self):
        """Gives the model the average's values within a block."""
        kept = {name: value.clone() for name, value in self.weights.items()}
        try:
            self.assign(self.average)
            yield
        finally:
            self.assign(kept)

    @paddle.no_grad()
    def assign(self, values):
        """Gives the model values, a dict as `average`."""
        for name, value in self.weights.items():
            value.set_value(values[name].astype(value.dtype))

    def state(self):
        """A dict of what a checkpoint keeps."""
        return {'average': self.average, 'updates': self.updates}

    def load(self, state, file):
        """Takes over what `state` gave, as numpy arrays.

        Raises:
            InputError: there is none, or it is of another model.
        """
        average = state.get('average') if isinstance(state, dict) else None
        if not isinstance(average, dict) or type(state.get('updates')) is not int \
                or state['updates'] < 0:
            raise InputError(f'{file}: got no moving average, expected one, since '
                             f'TRAIN.EMA.DECAY is set; it was not when the run was started')
        values = {}
        for name, own in self.average.items():
            value = average.get(name)
            if not isinstance(value, np.ndarray) or list(value.shape) != list(own.shape):
                raise InputError(f'{file}: moving average of {name}: got '
                                 f'{list(np.shape(value)) if value is not None else None}, '
                                 f'expected {list(own.shape)}')
            values[name] = check_values(f'moving average of {name}', value, file, dtype_name(own))
        for name, own in self.average.items():
            own.set_value(paddle.to_tensor(values[name]))
        self.updates = state['updates']


def at_least_float32(value):
    return value if value.dtype in (paddle.float32, paddle.float64) else value.astype('float32')


def decay_of(ema, global_batch):
    """Computes the decay of one update, by a config's TRAIN.EMA node.

    DECAY is meant for BASE_BATCH samples: twice as many between two updates square it. Upstream
    takes whole multiples only (WHOLE_BATCHES), so that a batch below BASE_BATCH gives a decay of
    1, and an average that never moves.
    """
    if ema.BASE_BATCH is None:
        return ema.DECAY
    times = global_batch / ema.BASE_BATCH
    return ema.DECAY ** (times // 1 if ema.WHOLE_BATCHES else times)


def build_ema(config: ConfigNode, model: nn.Layer, global_batch: int) -> Ema | None:
    """Builds the moving average of a model's weights that a config asks for.

    Args:
        config: of a run; its TRAIN.EMA node counts.
        model: a Layer, not its DataParallel.
        global_batch: images in one optimiser step, on all ranks.

    Returns:
        The Ema, or None where TRAIN.EMA.DECAY is None.

    Source: ModelEma of timm 0.4.12, see above.

    Examples:
        >>> from common.train.ema import build_ema
        >>> from common.zoo import create_model
        >>> model = create_model('vit_digits')
        >>> build_ema(model.config, model, 64).decay
        0.99
    """
    ema = config.TRAIN.EMA
    return None if ema.DECAY is None else Ema(model, decay_of(ema, global_batch), ema.WARMUP)
