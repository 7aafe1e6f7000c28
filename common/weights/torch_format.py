"""Reads PyTorch's files: a zip with a pickle, or, before PyTorch 1.6, a row of pickles.

The pickle names tensors, which are views of storages; the numbers of the storages lie beside it.
"""
import io
import struct

import numpy as np

from common.core.bounds import MAX_NAME, Budget, Refused, check_shape
from common.core.errors import shown
from common.weights.arrays import to_array
from common.weights.plain_values import plain
from common.weights.unpickle import DataUnpickler
from common.weights.unpickle_names import NAMES, Name, items_of
from common.weights.zip_members import BLOCK, member

TORCH_NUMBER = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # the first pickle of an older .pth

STORAGE_TYPES = {
    'Float': 'float32', 'Double': 'float64', 'Half': 'float16', 'BFloat16': 'bfloat16',
    'Long': 'int64', 'Int': 'int32', 'Short': 'int16', 'Char': 'int8', 'Byte': 'uint8',
    'Bool': 'bool'}


class Storage:
    """The numbers that tensors are views of.

    Attributes:
        dtype, key, count: of the numbers; the name of the storage; how many numbers.
        load: Storage -> its bytes.
    """

    def __init__(self, dtype, key, count, load, budget):
        self.dtype, self.key, self.count = dtype, key, count
        self.load, self.budget = load, budget
        self.numbers = None

    def values(self):
        """[count], read once however many tensors are views of it."""
        if self.numbers is None:
            self.numbers = to_array(self.load(self), self.dtype, (self.count,), self.budget)
        return self.numbers


class TensorRecord:
    """A view of a storage."""

    __slots__ = ('storage', 'offset', 'shape', 'strides')

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset = storage, offset
        self.shape, self.strides = shape, strides

    def array(self):
        """The view, which must lie inside of its storage and not be larger."""
        storage, shape = self.storage, self.shape
        if type(storage) is not Storage or type(self.offset) is not int or self.offset < 0:
            raise Refused('a tensor that is not well-formed')
        count = check_shape(shape, 16)
        check_shape(self.strides, 1)
        if len(shape) != len(self.strides):
            raise Refused('a tensor that is not well-formed')
        strides = [stride if size > 1 else 0
                   for size, stride in zip(shape, self.strides, strict=True)]
        last = self.offset + sum((size - 1) * stride
                                 for size, stride in zip(shape, strides, strict=True))
        if count > storage.count or (count and last >= storage.count):
            raise Refused(f'a tensor {list(shape)} outside of its {storage.count} numbers')
        values = storage.values()
        if count == 0:
            return np.zeros(shape, values.dtype)
        width = values.itemsize
        return np.ndarray(shape, values.dtype, values, self.offset * width,
                          [stride * width for stride in strides])


STORAGE_NAMES = {f'torch.{name}Storage': Name() for name in STORAGE_TYPES}
STORAGE_DTYPES = {id(STORAGE_NAMES[f'torch.{name}Storage']): dtype
                  for name, dtype in STORAGE_TYPES.items()}
TORCH_NAMES = {
    **NAMES,
    **STORAGE_NAMES,
    **{f'torch._utils._rebuild_{name}': Name(
        lambda budget, storage, offset, shape, strides, *_: TensorRecord(
            storage, offset, shape, strides)) for name in ('tensor', 'tensor_v2')},
    **{f'torch._utils._rebuild_{name}': Name(lambda budget, tensor, *_: tensor)
       for name in ('parameter', 'parameter_with_state')},
    'torch.Size': Name(lambda budget, sizes=(): tuple(items_of(budget, sizes))),
}


class Storages:
    """The storages that a pickle refers to, by key: {key: Storage} in `found`.

    A call with a persistent id, ('storage', type, key, location, count, ...), gives its Storage.
    """

    def __init__(self, load, budget):
        self.load, self.budget, self.found = load, budget, {}

    def __call__(self, pid):
        if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != 'storage' \
                or id(pid[1]) not in STORAGE_DTYPES or pid[5:] not in ((), (None,)) \
                or type(pid[2]) is not str or len(pid[2]) > MAX_NAME \
                or type(pid[4]) is not int or not 0 <= pid[4] < 1 << 63:
            raise Refused('a reference to something that is no storage')
        dtype, key, count = STORAGE_DTYPES[id(pid[1])], pid[2], pid[4]
        if key not in self.found:
            self.budget.spend(512)
            self.found[key] = Storage(dtype, key, count, self.load, self.budget)
        storage = self.found[key]
        if (storage.dtype, storage.count) != (dtype, count):
            raise Refused(f'a storage of two types or sizes, {shown(key)}')
        return storage


def read_torch_zip(archive, pickle_name, budget):
    """The content of a .pth file that is a zip.

    Args:
        archive: the opened ZipFile.
        pickle_name: the member with the pickle; the storages lie in data/ beside it.
        budget: see bounds.py.
    """
    folder = pickle_name[:-len('data.pkl')]
    order = f'{folder}byteorder'
    if order in archive.NameToInfo and member(archive, order) != b'little':
        raise Refused('numbers of another byte order')
    storages = Storages(lambda storage: member(archive, f'{folder}data/{storage.key}'), budget)
    size = archive.getinfo(pickle_name).file_size
    with archive.open(pickle_name) as packed, io.BufferedReader(packed, BLOCK) as stream:
        content = DataUnpickler(stream, size, budget, TORCH_NAMES, storages).load_operations()
        if stream.read(1):  # at the end, zipfile compares the checksum
            raise Refused('bytes after the end of its pickle')
    return plain(content, budget)


def read_torch_legacy(stream, size):
    """The content of an older .pth file: a number, the version, the system, the content, the keys
    of the storages, then their numbers one after the other."""
    budget, data = Budget(size), {}
    storages = Storages(lambda storage: data[storage.key], budget)

    def part(persistent=None):
        return DataUnpickler(stream, size, budget, TORCH_NAMES, persistent).load_operations()

    part(), part()
    system = part()
    if type(system) is not dict or system.get('little_endian') is not True:
        raise Refused('numbers of another byte order')
    content = part(storages)
    keys = part()
    if type(keys) is not list or len(keys) != len(storages.found) \
            or not all(type(key) is str and key in storages.found for key in keys):
        raise Refused('storages that do not fit to the tensors')
    for key in keys:
        storage = storages.found[key]
        width = 2 if storage.dtype == 'bfloat16' else np.dtype(storage.dtype).itemsize
        count, = struct.unpack('<q', stream.read(8))
        if count != storage.count or count * width > size - stream.tell():
            raise Refused('a storage that is shorter than its tensors')
        data[key] = stream.read(count * width)
    return plain(content, budget)
