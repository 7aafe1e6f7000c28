"""Mixed precision: what was asked for, what this device really does."""
import contextlib

import paddle


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
        self.enabled = amp and device == 'gpu'
        self.level = level
        self.dtype = dtype
        if self.enabled and dtype == 'auto':
            # Ampere and later; float16 needs a scaler, bfloat16 does not.
            major, _ = paddle.device.cuda.get_device_capability()
            self.dtype = 'bfloat16' if major >= 8 else 'float16'
        self.scaler = None
        if self.enabled and self.dtype == 'float16':
            self.scaler = paddle.amp.GradScaler(init_loss_scaling=2.0 ** 16)

    def decorate(self, model, optimizer=None):
        """At O2 casts the model and gives the optimiser float32 master weights."""
        if not (self.enabled and self.level == 'O2'):
            return model, optimizer
        if optimizer is None:
            return paddle.amp.decorate(models=model, level='O2', dtype=self.dtype), None
        return paddle.amp.decorate(models=model, optimizers=optimizer, level='O2',
                                   dtype=self.dtype, master_weight=True)

    def autocast(self):
        if not self.enabled:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype)

    def __str__(self):
        if self.enabled:
            return f'{self.dtype} {self.level}'
        return 'float32 (on a CPU -amp has no effect)' if self.asked else 'float32'
