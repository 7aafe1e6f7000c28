"""A copy of all that a checkpoint holds, so that training can go on while it is written."""
import copy
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle

from common.core.memory import arrays_in, places, take_memory, touch

THREADS = min(4, os.cpu_count() or 1)  # more copy no faster
# What numpy lacks lies in an array of another type, as paddle.save has it.
STORED = {'bfloat16': 'uint16'}
# Types of tensors that numpy can look at where they lie.
SHARED = (paddle.float32, paddle.float64, paddle.float16, paddle.int32, paddle.int64)


class Snapshot:
    """Memory for copies, which is used again by the next one: a new gigabyte takes most of a second
    to come from the system, and a copy into what is there a tenth of one."""

    def __init__(self):
        self.memory = None

    def take(self, size):
        """Takes memory for a copy of so many bytes, if it has less. May be called in a thread.

        Raises:
            OSError: there is not so much.
        """
        if self.memory is not None and len(self.memory) >= size:
            return
        self.memory = None  # the old one goes first
        memory = take_memory(size)
        touch(memory)
        self.memory = memory

    def copy(self, content):
        """Copies a checkpoint's content.

        Returns:
            The same content, with a SavedTensor for each tensor. It holds until the next call.

        Raises:
            OSError: there is not enough memory.
        """
        tensors = tensors_of(content)
        kinds = list(map(kind_of, tensors))
        starts, end = places(kinds)
        self.take(end)
        saved = {}  # by ids, as copy.deepcopy has it
        with ThreadPoolExecutor(THREADS) as pool:
            copies = []
            for tensor, array in zip(tensors, arrays_in(self.memory, kinds, starts), strict=True):
                source = host_array(tensor)
                if tensor.place.is_cpu_place():
                    copies.append(pool.submit(np.copyto, array, source))
                else:  # one after the other, so that there is never a second copy of all
                    np.copyto(array, source)
                saved[id(tensor)] = SavedTensor(tensor.name, array)
            for done in copies:
                done.result()  # raises what the copy has raised
        for array in leaves_of(content, np.ndarray):
            saved[id(array)] = array  # of the file that the run goes on with; nobody changes it
        return copy.deepcopy(content, saved)


class SavedTensor:
    """A copy of a tensor, which a pickler writes as that tensor."""

    def __init__(self, name, array):
        self.name, self.array = name, array

    def __reduce__(self):
        return tuple, ((self.name, self.array),)


def size_of(content):
    """The bytes that a copy of a checkpoint's content takes."""
    return places(list(map(kind_of, tensors_of(content))))[1]


def tensors_of(content):
    """The tensors of a checkpoint's content, each once."""
    return list({id(tensor): tensor for tensor in leaves_of(content, paddle.Tensor)}.values())


def leaves_of(content, kind):
    """Yields what is of a type in dicts, lists and tuples of each other."""
    if isinstance(content, kind):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from leaves_of(value, kind)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from leaves_of(value, kind)


def kind_of(tensor):
    """(type, shape) of the array that holds a tensor."""
    name = str(tensor.dtype).removeprefix('paddle.')
    return np.dtype(STORED.get(name, name)), tuple(tensor.shape)


def host_array(tensor):
    """A tensor as a numpy array: where it lies, if numpy can read it there, else a copy."""
    if tensor.size and tensor.dtype in SHARED and tensor.place.is_cpu_place():
        return np.from_dlpack(Shared(tensor))
    return tensor.numpy()


class Shared:
    """A tensor in the form that np.from_dlpack takes; Paddle's own lacks it, or has it with a
    copy."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return paddle.utils.dlpack.to_dlpack(self.tensor)

    def __dlpack_device__(self):
        return 1, 0  # a CPU's memory
