"""Where a run computes: on GPUs or on the CPU."""
import contextlib
import os
import re

import paddle

from common.core.errors import InputError

# What NVIDIA's driver says about itself, in a container too (Linux).
DRIVER = '/proc/driver/nvidia/version'


def pick_device(config):
    """Picks 'gpu' or 'cpu', by DEVICE and by what this Paddle and machine have.

    Raises:
        InputError: DEVICE asks for a GPU, and there is none.
    """
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if config.DEVICE == 'gpu' and not has_gpu:
        raise InputError(f'DEVICE: got gpu, but this machine or this Paddle has none: '
                         f'{gpus_looked_for()}')
    return 'gpu' if has_gpu and config.DEVICE != 'cpu' else 'cpu'


def gpus_looked_for():
    """Says where Paddle has looked for GPUs, and what it has found."""
    driver = driver_version()
    found = f'NVIDIA driver {driver}' if driver else 'no NVIDIA driver'
    if not paddle.is_compiled_with_cuda():
        return f'Paddle {paddle.__version__} is built for CPUs; {found}'
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    return (f'Paddle {paddle.__version__} is built for CUDA {paddle.version.cuda()} and sees '
            f'{paddle.device.cuda.device_count()} GPUs; {found}; CUDA_VISIBLE_DEVICES '
            f'{"is not set" if visible is None else f"is {visible!r}"}')


def driver_version():
    """The version of NVIDIA's driver as text, '' where it is not known, or None without a driver
    (Linux)."""
    with contextlib.suppress(OSError), open(DRIVER, errors='replace') as stream:
        return ''.join(re.findall(r'\b\d+\.\d+(?:\.\d+)?\b', stream.readline())[:1])
    return None


def set_device(device: str) -> None:
    """Chooses where everything in this process is computed from now on.

    Args:
        device: 'cpu', 'gpu' (the first one) or 'gpu:N'.

    Raises:
        InputError: another text, or a GPU that this machine or this Paddle does not have.

    Source: `paddle.set_device`, with a check before it.

    Examples:
        >>> import paddle
        >>> from common.apis import set_device
        >>> set_device('cpu')
        >>> paddle.get_device()
        'cpu'
    """
    kind, colon, number = device.partition(':')
    if kind not in ('cpu', 'gpu') or (colon and not (kind == 'gpu' and number.isdigit())):
        raise InputError(f"device: got {device!r}, expected 'cpu', 'gpu' or 'gpu:N'")
    count = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if kind == 'gpu' and int(number or 0) >= count:
        raise InputError(f'device: got {device!r}, but this machine or this Paddle has {count} '
                         f'GPUs')
    paddle.set_device(device)
