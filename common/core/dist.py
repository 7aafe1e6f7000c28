"""The processes of one run: rank, world size, a sum over the ranks, and a store through which they
wait for each other and agree."""
import contextlib
import json
import os
import secrets
import socket
import time

import numpy as np
import paddle
import paddle.distributed as paddle_dist
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

from common.core.environment import BACKEND, ENDPOINTS, MACHINES, TRAINER_ID, TRAINERS_NUM
from common.core.errors import RunError
from common.core.lifelines import TOKEN, Lifelines
from common.core.signals import held_back

POLL = 0.01  # seconds between two looks at whether the other ranks have arrived


def rank() -> int:
    return paddle_dist.get_rank()


def world_size() -> int:
    return paddle_dist.get_world_size()


def is_master() -> bool:
    return rank() == 0


# Before a process group exists

def is_launched():
    """Whether `paddle.distributed.launch` or a spawning process has started this one as a rank,
    perhaps the only one."""
    return TRAINER_ID in os.environ


def launched_rank():
    """The rank that the launcher has given to this process; 0 without a launcher."""
    return int(os.environ.get(TRAINER_ID, '0'))


def use_gloo():
    """Has the collectives of this process, and of those it starts, run on CPUs."""
    os.environ[BACKEND] = 'gloo'


def join_group():
    """Joins the process group, if this process is one of several ranks."""
    if int(os.environ.get(TRAINERS_NUM, '1')) > 1:
        with held_back():  # a signal would break its connections
            paddle_dist.init_parallel_env()
            if int(os.environ.get(MACHINES, '1')) > 1:
                open_lifelines()


LIFELINES = Lifelines()


def open_lifelines():
    """Connects all ranks with rank 0, which misses them when they are gone."""
    if not is_master():
        port, token = from_master('lifelines', None)
        host = os.environ[ENDPOINTS].split(',')[0].rpartition(':')[0]
        LIFELINES.connect(host, port, token, rank())
        return
    with socket.create_server(('', 0), backlog=world_size()) as server:
        token = secrets.token_hex(TOKEN // 2)
        from_master('lifelines', [server.getsockname()[1], token])
        LIFELINES.accept(server, token, world_size() - 1)


# In the process group

def all_reduce_sum(values):
    """Sums a float64 tensor of any shape over all ranks, on every rank."""
    if world_size() > 1:
        paddle_dist.all_reduce(values)
    return values


def broadcast_all(tensors, owners):
    """Gives each of some tensors, on every rank, its owner's values.

    Args:
        tensors: the same on all ranks, in the same order.
        owners: the rank that each is of.
    """
    tasks = [paddle_dist.broadcast(tensor, src=owner, sync_op=False)
             for tensor, owner in zip(tensors, owners, strict=True)]
    for task in tasks:
        task.wait()


def sum_to(tensor, owner):
    """Sums a tensor over all ranks, in place on its owner; the others' has any value then."""
    paddle_dist.reduce(tensor, dst=owner)


def gather_rows(rows):
    """The rows of all ranks, those of one rank after the other's, on every rank.

    Args:
        rows: numpy array [n, K] of float32 or bool; n may be another one on each rank.
    """
    if world_size() == 1:
        return rows
    counts = paddle.zeros([world_size()], 'float64')
    counts[rank()] = float(len(rows))
    counts = [int(count) for count in all_reduce_sum(counts).tolist()]
    padded = np.zeros([max(counts), rows.shape[1]], np.float32)
    padded[:len(rows)] = rows
    parts = []
    paddle_dist.all_gather(parts, paddle.to_tensor(padded))
    return np.concatenate([part.numpy()[:count] for part, count in zip(parts, counts, strict=True)]
                          ).astype(rows.dtype)


def gather_texts(text):
    """The texts of all ranks, in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = paddle.zeros([world_size()], 'float64')
    lengths[rank()] = float(len(content))
    lengths = [int(length) for length in all_reduce_sum(lengths).tolist()]
    padded = np.zeros([max(lengths)], np.uint8)
    padded[:len(content)] = content
    parts = []
    paddle_dist.all_gather(parts, paddle.to_tensor(padded))
    return [part.numpy()[:length].tobytes().decode()
            for part, length in zip(parts, lengths, strict=True)]


class AnyReduce:
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
        if values is None:  # the first call
            return [False] * len(flags)
        return [value > 0 for value in values.tolist()]


class Store:
    """A key-value store of all ranks: numbers that are added to, and texts that are set. It has not
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


def from_master(name, value):
    """Rank 0's value, which JSON can write, on every rank.

    Args:
        name: names the value in the store; each name can be used once in a run.
        value: the value; that of other ranks is ignored.
    """
    if world_size() == 1:
        return value
    if is_master():
        Store().set(name, json.dumps(value))
        return value
    return json.loads(Store().get(name))


class Barrier:
    """A barrier at which the ranks also agree, for work that takes them different times, such as
    saving and evaluating: they wait for each other as long as they live (whoever started them ends
    all of them when one dies).

    Args:
        name: the same on all ranks, and no other Barrier's.
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
        # Keys are used again: the store forgets none. Another rank may be at the next barrier while
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

    def wait_for_all(self, counter):
        """Waits until every rank has added to 'arrived' or 'left' as often as this one."""
        while self.store.add(f'{self.name}/{counter}', 0) < self.count * world_size():
            if (missed := LIFELINES.missed()) is not None:
                raise RunError(f'the connection to process {missed} has broken, which has ended, '
                               f'or whose machine does not answer; its own log says why, and '
                               f'-resume goes on from the last checkpoint')
            time.sleep(POLL)

    def is_requested(self, request):
        """Whether any rank asks the others to come to the barrier at once.

        Args:
            request: whether this rank asks for it.
        """
        if self.store is None:
            return request
        return self.store.add(f'{self.name}/called', int(request)) > 0


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


def average_gradients(parameters):
    """Makes the gradients of parameters their means over the ranks, where no DataParallel has."""
    if world_size() > 1:
        fused_allreduce_gradients(list(parameters), None)


def no_sync(model, enabled):
    """A context in which backward passes, if enabled, only add up on each rank."""
    if enabled and isinstance(model, paddle.DataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def unwrap(model):
    """The model within a DataParallel; any other as it is."""
    return model._layers if isinstance(model, paddle.DataParallel) else model
