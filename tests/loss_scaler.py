"""Paddle's own GradScaler on a CPU, where it would switch itself off; its operators are there."""
from types import SimpleNamespace
from unittest import mock

from paddle.amp.auto_cast import amp_global_state

from common.train.precision import LossScaler


def cpu_scaler(scale):
    """A LossScaler that takes this for a GPU, and the training for one in float16."""
    place = SimpleNamespace(is_gpu_place=lambda: True)
    with mock.patch('paddle.amp.grad_scaler._dygraph_tracer',
                    lambda: SimpleNamespace(_expected_place=place)):
        scaler = LossScaler(init_loss_scaling=scale)
    amp_global_state().amp_dtype = 'float16'  # as auto_cast leaves it; nothing else reads it
    return scaler
