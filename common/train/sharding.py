"""Optimiser states that are split over the ranks: stage 1 of ZeRO, TRAIN.SHARDING 1; 2 and 3 split
gradients and weights too, see train/split_model.py.

Each rank keeps the states of its share of the parameters and updates these; then it gets the new
values of the others from the ranks whose they are. Gradients are those of plain data parallelism
on every rank, so that clipping, accumulation, skipped steps and the loss scaler need no change, and
the weights are plain data parallelism's to the bit.

Source: ZeRO, arXiv 1910.02054, section 5.1; the shares are those of DygraphShardingOptimizer in
Paddle's fleet. Differences from it: fleet reduces each gradient to its owner only, and clips by its
own norm; it takes no groups of parameters, which SGD's weight decay needs; and it cannot be started
with Paddle 2.6.2 beside protobuf 4 or newer. docs/scale.md has what was measured.
"""
import contextlib
import itertools
import json
import math
import threading

import numpy as np
import paddle

from common.core import dist
from common.core.errors import InputError
from common.core.signals import held_back
from common.weights.load import dtype_name

# What rank 0 tells another one, instead of the number of a tensor that it wants.
DONE, WAIT, INDEX = -1, -2, -3
DTYPES = ('float32', 'float64', 'float16')  # of states
PERIOD = 5.0  # seconds between two times that it tells them to wait


def check_stage(train):
    """Raises InputError for what a TRAIN node has beside TRAIN.SHARDING, and cannot be with it."""
    if train.SHARDING > 1 and train.TO_STATIC:
        raise InputError(f'TRAIN.SHARDING: got {train.SHARDING} with TRAIN.TO_STATIC, expected 0 '
                         f'or 1, or no graph: in a graph no gradient is there before the last')


def is_split(stage):
    """Whether a run with this TRAIN.SHARDING has its optimiser's states split."""
    return stage > 0 and dist.world_size() > 1


def owners_of(parameters, ranks):
    """Says whose each parameter is: from the largest on, each goes to the rank that has least.

    Args:
        parameters: list, in the same order on all ranks.
        ranks: their number.

    Returns:
        list of ranks.

    Raises:
        InputError: there are fewer parameters than ranks.
    """
    if len(parameters) < ranks:
        raise InputError(f'TRAIN.SHARDING: got {ranks} processes for {len(parameters)} trained '
                         f'parameters, expected no more than these')
    sizes, owners = [0] * ranks, [0] * len(parameters)
    numels = [math.prod(parameter.shape) for parameter in parameters]
    for index in sorted(range(len(parameters)), key=lambda index: -numels[index]):
        owners[index] = sizes.index(min(sizes))
        sizes[owners[index]] += numels[index]
    return owners


def own_share(parameters):
    """Those of (name, parameter) pairs whose states this rank keeps."""
    owners = owners_of([parameter for _, parameter in parameters], dist.world_size())
    return [pair for pair, owner in zip(parameters, owners, strict=True) if owner == dist.rank()]


class ShardedOptimizer:
    """A rank's optimiser of its own share, which is used as one of all parameters.

    Args:
        optimizer: of the parameters that `own_share` gives.
        parameters: all trainable ones.

    Attributes:
        pairs: (parameter, rank whose it is) of all.
    """

    def __init__(self, optimizer, parameters):
        self.inner = optimizer
        # By these names Paddle's GradScaler finds the gradients: those of all ranks' shares, so
        # that all of them leave out the same steps.
        self._parameter_list = self._param_groups = list(parameters)
        self.pairs = list(zip(parameters, owners_of(parameters, dist.world_size()), strict=True))
        self.own_names = {parameter.name for parameter, owner in self.pairs
                          if owner == dist.rank()}
        # weights of each rank's share
        self.sizes = [sum(math.prod(parameter.shape) for parameter, owner in self.pairs
                          if owner == rank) for rank in range(dist.world_size())]
        self.sent = self.pairs  # after a step
        self.states = States()

    def __getattr__(self, name):  # set_lr, state_dict, set_state_dict and what GradScaler calls
        return getattr(self.inner, name)

    @paddle.no_grad()
    def step(self):
        self.inner.step()
        dist.broadcast_all(*zip(*self.sent, strict=True))

    def keep_apart(self, parameters):
        """Leaves parameters on their ranks after a step: those that are fetched when needed."""
        names = {parameter.name for parameter in parameters}
        self.sent = [pair for pair in self.sent if pair[0].name not in names]

    def clear_grad(self, set_to_zero=True):
        for parameter in self._parameter_list:
            parameter.clear_gradient(set_to_zero)


def unsharded(optimizer):
    """The optimiser within a ShardedOptimizer; any other as it is."""
    return optimizer.inner if isinstance(optimizer, ShardedOptimizer) else optimizer


class Elsewhere:
    """A tensor that another rank has. It comes when `numpy` or a pickler asks for it, which is
    possible on rank 0 within `States.on_master`; nobody keeps it.

    Args:
        fetch: (rank, number of the tensor, shape, type) -> numpy array.
        owner: the rank that has it.
        number: counts its tensors.
        name, shape, dtype: the tensor's.
    """

    def __init__(self, fetch, owner, number, name, shape, dtype):
        self.fetch, self.owner, self.number = fetch, owner, number
        self.name, self.shape, self.dtype = name, shape, dtype

    def numpy(self):
        return self.fetch(self.owner, self.number, self.shape, self.dtype)

    def __reduce__(self):  # as Paddle pickles a tensor
        return tuple, ((self.name, self.numpy()),)


class States:
    """Brings the states of all ranks' shares to rank 0, one tensor after the other as it asks for
    them.

    The others wait for its questions in a gloo call, which ends the run after 30 s. A disk may be
    slower than that, so a thread of rank 0 tells them to wait on; and they begin at a Barrier.
    (Questions through the store, which has no such limit, would take 0.1 s for each tensor.) All
    ranks take part in each transfer: gloo counts a rank's calls, and more of them on two ranks than
    on a third would never meet again.
    """

    numbers = itertools.count()  # all ranks make these in the same order

    def __init__(self):
        self.barrier = dist.Barrier(f'states/{next(self.numbers)}')
        self.others = range(1, dist.world_size())
        self.lock = threading.Lock()  # one talks at a time
        self.elsewhere = {}  # path -> slot -> Elsewhere or a small tensor

    @contextlib.contextmanager
    def on_master(self, own):
        """A context, entered by all ranks, in which rank 0 can ask for the other ranks' states:
        `elsewhere` has them.

        Args:
            own: {path of a parameter: {slot: tensor}} of this rank.
        """
        self.barrier()
        if not dist.is_master():
            yield
            self.serve(own)
            return
        try:
            with self.waiting_others():
                self.elsewhere = self.find()
                yield
        finally:
            self.elsewhere = {}
            with contextlib.suppress(RuntimeError):  # one has died, as the next barrier tells
                self.tell_all(DONE)

    def serve(self, own):
        """Takes part in all that rank 0 asks any rank for, until it is done."""
        tensors = [tensor for slots in own.values() for tensor in slots.values()]
        question = paddle.zeros([4], 'int64')
        while True:
            dist.broadcast_all([question], [0])
            owner, number, size, dtype = question.tolist()
            is_mine = owner == dist.rank()
            if number == DONE:
                return
            if number == INDEX:
                text = np.frombuffer(json.dumps(index_of(own)).encode(), np.uint8)
                hear_text(owner, paddle.to_tensor(text) if is_mine else None)
            elif number != WAIT:
                tensor = tensors[number] if is_mine else paddle.empty([size], DTYPES[dtype])
                dist.broadcast_all([tensor], [owner])

    def tell_all(self, number):
        with self.lock:
            ask(0, number)

    @contextlib.contextmanager
    def waiting_others(self):
        """A context in which the others are told to wait on, again and again."""
        ended = threading.Event()

        def run():
            with contextlib.suppress(RuntimeError):
                while not ended.wait(PERIOD):
                    self.tell_all(WAIT)

        thread = threading.Thread(target=run)
        with held_back():  # the signals come to the training's thread
            thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def find(self):
        """What the other ranks have, as `elsewhere`."""
        found = {}
        for rank in self.others:
            with self.lock:
                ask(rank, INDEX)
                text = hear_text(rank)
            for number, (path, slot, name, shape, dtype, values) in enumerate(
                    json.loads(text.numpy().tobytes())):
                if values is None:
                    value = Elsewhere(self.fetch, rank, number, name, shape, dtype)
                else:
                    value = paddle.to_tensor(values, dtype).reshape(shape)
                    value.name = name
                found.setdefault(path, {})[slot] = value
        return found

    def fetch(self, owner, number, shape, dtype):
        """A tensor of another rank, as a numpy array."""
        tensor = paddle.empty(shape, dtype)
        with self.lock:
            ask(owner, number, math.prod(shape), DTYPES.index(dtype))
            dist.broadcast_all([tensor], [owner])
        return tensor.numpy()


def ask(owner, number, size=0, dtype=0):
    """Says on rank 0 what comes next: a tensor's owner, number, size and type, or what has no
    tensor."""
    dist.broadcast_all([paddle.to_tensor([owner, number, size, dtype], 'int64')], [0])


def hear_text(owner, text=None):
    """A rank's bytes, uint8 [n], on every rank; `text` is given on that rank."""
    length = paddle.to_tensor([0 if text is None else len(text)], 'int64')
    dist.broadcast_all([length], [owner])
    text = paddle.zeros([length.item()], 'uint8') if text is None else text
    dist.broadcast_all([text], [owner])
    return text


def index_of(state):
    """Lists a rank's states for rank 0: path, slot, name, shape, type, and the values of those that
    are one number, which Paddle keeps on the CPU also where there are GPUs; else None."""
    return [(path, slot, tensor.name, tensor.shape, dtype_name(tensor),
             tensor.numpy().tolist() if math.prod(tensor.shape) == 1 else None)
            for path, slots in state.items() for slot, tensor in slots.items()]
