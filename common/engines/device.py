"""The device of a process of detection or segmentation, and its group."""
import warnings

import paddle

from common.core import dist, processes
from common.core.devices import pick_device


def set_up(config):
    """Chooses this process's device, joins its group and seeds it. Returns 'cpu' or 'gpu'."""
    device = pick_device(config)
    paddle.set_device(device)
    if device == 'cpu':
        dist.use_gloo()
        processes.set_up_cpu()
    dist.join_group()
    paddle.seed(config.SEED)
    warnings.filterwarnings('ignore', 'When training, we now always track')  # of each BatchNorm
    return device
