"""Mixed precision: what was asked for, what this device really does."""
import contextlib

import paddle

from common.core.errors import InputError

FIRST_LOSS_SCALE = 2.0 ** 16  # PyTorch's


class LossScaler(paddle.amp.GradScaler):
    """Paddle's GradScaler, which lives on after an overflow beside numpy 2.4."""

    def _update(self):  # compat: scaler-message
        scale = self._scale
        if scale is not None:
            self._scale = scale.reshape([])
        super()._update()
        if scale is not None:
            self._scale = self._scale.reshape(scale.shape)


class Precision:
    """The precision of a run.

    Args:
        amp: whether mixed precision is asked for.
        dtype: auto | float16 | bfloat16.
        level: O1 | O2.
        device: 'cpu' or 'gpu'. On a CPU Paddle computes in float32 whatever is asked for, so
            `enabled` is False there.

    Attributes:
        enabled: whether autocast has an effect.
        scaler: the GradScaler of float16 training; None otherwise.
    """

    def __init__(self, amp=False, dtype='auto', level='O1', device='cpu'):
        self.asked = amp
        self.where = 'a CPU' if device == 'cpu' else 'this GPU'
        self.enabled = amp and device == 'gpu'
        self.level = level
        self.dtype = dtype
        if self.enabled:
            self.dtype = self.pick_dtype(dtype)
            self.enabled = self.dtype is not None
        self.scaler = None
        if self.enabled and self.dtype == 'float16':
            self.scaler = LossScaler(init_loss_scaling=FIRST_LOSS_SCALE)

    @staticmethod
    def pick_dtype(dtype):
        """Picks what this GPU computes in: bfloat16 if it can, which needs no scaler; or None."""
        supported = {'bfloat16': paddle.amp.is_bfloat16_supported(),
                     'float16': paddle.amp.is_float16_supported()}
        if dtype == 'auto':
            return next((name for name, can in supported.items() if can), None)
        if not supported[dtype]:
            raise InputError(f'AMP_DTYPE: got {dtype}, which this GPU does not support')
        return dtype

    def decorate(self, model, optimizer=None):
        """Casts the model, at O2, and gives the optimiser float32 master weights.

        Returns:
            The model and the optimiser.
        """
        if not (self.enabled and self.level == 'O2'):
            return model, optimizer
        if optimizer is None:
            return paddle.amp.decorate(models=model, level='O2', dtype=self.dtype), None
        return paddle.amp.decorate(models=model, optimizers=optimizer, level='O2',
                                   dtype=self.dtype, master_weight=True)

    def autocast(self):
        """A context in which forward passes compute in this precision."""
        if not self.enabled:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype)

    def __str__(self):
        if self.enabled:
            return f'{self.dtype} {self.level}'
        return f'float32 (on {self.where} -amp has no effect)' if self.asked else 'float32'
