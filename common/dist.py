"""Processes of one run: rank, world size, and the one collective that is needed (a sum)."""
import contextlib
import signal
import time

import paddle
import paddle.distributed as paddle_dist


def rank():
    return paddle_dist.get_rank()


def world_size():
    return paddle_dist.get_world_size()


def is_master():
    return rank() == 0


def all_reduce_sum(values):
    """The sum over all ranks of a float64 tensor of any shape, on every rank."""
    if world_size() > 1:
        paddle_dist.all_reduce(values)
    return values


class Agreement:
    """Whether something holds on any rank: the same answer on all of them.

    On several GPUs the answer is that of the call before: no step then waits for the device.
    """

    def __init__(self):
        self.delayed = world_size() > 1 and paddle.device.get_device().startswith('gpu')
        self.pending = None

    def __call__(self, *flags):
        """Numbers or scalar tensors, 0 for no -> as many booleans."""
        tensors = [flag if isinstance(flag, paddle.Tensor) else paddle.to_tensor(flag)
                   for flag in flags]
        values = paddle.stack([tensor.astype('float32') for tensor in tensors])
        values = all_reduce_sum(values)
        if self.delayed:
            values, self.pending = self.pending, values
        return [False] * len(flags) if values is None else [value > 0 for value in values.tolist()]


class Meeting:
    """A barrier for work that takes ranks different times, such as saving.

    gloo's collectives fail when a rank comes 30 s late; this one waits as long as the ranks live
    (whoever started them ends all of them when one dies).
    """

    def __init__(self):
        self.count = 0
        if world_size() > 1:
            from paddle.base import core
            self.store = core.create_or_get_global_tcp_store()

    def __call__(self):
        if world_size() == 1:
            return
        self.count += 1
        arrived = self.add(1)
        while arrived < world_size():
            time.sleep(0.01)
            arrived = self.add(0)

    def add(self, number):
        # a signal would interrupt the store's socket, which is an error for Paddle
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        try:
            return self.store.add(f'meeting/{self.count}', number)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def average(tensors):
    """Replaces float tensors by their mean over all ranks, in place."""
    size = world_size()
    if size == 1:
        return
    for tensor in tensors:
        mean = all_reduce_sum(tensor.astype('float64')) / size
        tensor.set_value(mean.astype(tensor.dtype))


def data_parallel(model):
    """The model whose backward pass averages gradients over the ranks; itself on one rank."""
    return paddle.DataParallel(model) if world_size() > 1 else model


def no_sync(model, when):
    """A context in which backward passes, if `when`, only add up on each rank."""
    if when and isinstance(model, paddle.DataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def unwrap(model):
    return model._layers if isinstance(model, paddle.DataParallel) else model
