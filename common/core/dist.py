"""Processes of one run: rank, world size, the one collective that is needed (a sum), and a store
where they meet and agree."""
import contextlib
import json
import time

import paddle
import paddle.distributed as paddle_dist

from common.core.signals import held_back


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


class Store:
    """What several ranks know in common: numbers that are added to, and texts that are set; without
    the time limit of gloo's collectives (30 s)."""

    def __init__(self):
        from paddle.base import core
        self.store = core.create_or_get_global_tcp_store()

    # A signal would interrupt the store's socket, which is an error for Paddle.

    def add(self, key, number):
        with held_back():
            return self.store.add(key, number)

    def set(self, key, text):
        with held_back():
            self.store.set(key, text.encode())

    def get(self, key):
        """Waits until it is set."""
        with held_back():
            return self.store.get(key).decode()


def from_master(name, text):
    """Rank 0's text (or None), on every rank."""
    if world_size() == 1:
        return text
    if is_master():
        Store().set(name, json.dumps(text))
        return text
    return json.loads(Store().get(name))


class Meeting:
    """A barrier at which the ranks also agree, for work that takes them different times, such as
    saving and evaluating: they wait for each other as long as they live (whoever started them ends
    all of them when one dies).

    Args:
        name: the same on all ranks, and no other Meeting's.
    """

    def __init__(self, name):
        self.name = name
        self.count = 0
        self.seen = {}  # how often flags have been true, by their key
        self.store = Store() if world_size() > 1 else None

    def __call__(self, *flags):
        """Booleans -> for each, whether it is true on any rank: the same answer on all of them."""
        if self.store is None:
            return list(flags)
        self.count += 1
        # Keys are used again: the store forgets none. Another rank may be at the next meeting while
        # this one still reads the flags of this one, but not at the one after it.
        keys = [f'{self.name}/{self.count % 2}/{index}' for index in range(len(flags))]
        for key, flag in zip(keys, flags, strict=True):
            if flag:
                self.store.add(key, 1)
        self.store.add(f'{self.name}/arrived', 1)
        self.wait_for_all('arrived')
        times = {key: self.store.add(key, 0) for key in keys}
        answers = [times[key] > self.seen.get(key, 0) for key in keys]
        self.seen.update(times)
        self.store.add(f'{self.name}/left', 1)
        if is_master():  # the store is in its process, which may end now
            self.wait_for_all('left')
        return answers

    def wait_for_all(self, gate):
        while self.store.add(f'{self.name}/{gate}', 0) < self.count * world_size():
            time.sleep(0.01)

    def is_called(self, call):
        """Whether a rank calls for a meeting before its time; `call`: whether this one does."""
        if self.store is None:
            return call
        return self.store.add(f'{self.name}/called', int(call)) > 0


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
