"""Reads weight files of every format into numpy arrays; the format is found in the file's bytes.

| file         | kind                                 | what                   | first bytes |
|--------------|--------------------------------------|------------------------|-------------|
| .pdparams    | paddle                               | a pickle               | 0x80        |
| .pth         | torch                                | a zip with a pickle    | PK          |
| .pth, older  | torch                                | a row of pickles       | 0x80 ...    |
| .npz         | flax                                 | a zip of .npy files    | PK          |
| .safetensors | as its metadata's `format`, or torch | json, then the numbers | a length, { |

Neither torch nor flax is needed. bfloat16 values become float32, which holds them exactly.
"""
import io
import json
import math
import os
import struct
import zipfile

import numpy as np
import safetensors

from common.errors import InputError, one_line
from common.safe_load import NAMES, Inert, Name, Refused, load_pickle, plain, refused, unpickle

TORCH_NUMBER = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # the first pickle of an older .pth
MAX_EXPANSION = 50  # a zip may not unpack to more than this many times its size
MAX_HEADER = 100_000_000

STORAGE_TYPES = {
    'Float': 'float32', 'Double': 'float64', 'Half': 'float16', 'BFloat16': 'bfloat16',
    'Long': 'int64', 'Int': 'int32', 'Short': 'int16', 'Char': 'int8', 'Byte': 'uint8',
    'Bool': 'bool'}
SAFETENSORS_TYPES = {
    'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'I64': 'int64',
    'I32': 'int32', 'I16': 'int16', 'I8': 'int8', 'U8': 'uint8', 'BOOL': 'bool'}


def read_file(file):
    """The kind and content of a weight file.

    Args:
        file: path.

    Returns:
        (kind, content): kind is paddle | torch | flax, by the layout of the arrays; content is a
        nested dict of numpy arrays, numbers, strings and lists.

    Raises:
        InputError: the file is missing, of no known format, damaged, or asks for more than data.
    """
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such weight file')
    with open(file, 'rb') as stream:
        head = stream.read(len(TORCH_NUMBER))
    try:
        if head.startswith(b'PK\x03\x04'):
            return read_zip(file)
        if head == TORCH_NUMBER:
            return 'torch', plain(read_torch_legacy(file), file)
        if len(head) > 8 and head[8:9] == b'{':
            return read_safetensors(file)
    except Refused as error:
        raise refused(file, error) from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, OSError,
            ValueError, KeyError, MemoryError, safetensors.SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{file}: not a weight file, or a damaged one ({one_line(error)})'
                         ) from None
    return 'paddle', load_pickle(file)


def to_array(data, dtype, shape):
    """Bytes as an array of a named type; their number must be what the shape needs."""
    stored = np.dtype('uint16' if dtype == 'bfloat16' else dtype).newbyteorder('<')
    if math.prod(shape) * stored.itemsize != len(data):
        raise Refused(f'an array {list(shape)} of {dtype} with {len(data)} bytes')
    array = np.frombuffer(data, stored).reshape(shape)
    return from_bfloat16(array) if dtype == 'bfloat16' else array


def from_bfloat16(bits):
    """uint16 bit patterns of bfloat16 -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


# torch: tensors are views of storages, which lie beside the pickle.

class Storage:
    """The numbers that tensors are views of; `load` gives the bytes."""

    def __init__(self, dtype, key, count, load):
        self.dtype, self.key, self.count, self.load = dtype, key, count, load


class TensorRecord:
    """A view of a storage."""

    __slots__ = ('storage', 'offset', 'shape', 'strides')

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset = storage, offset
        self.shape, self.strides = shape, strides

    def array(self):
        """The view as an array of its own; it must lie inside of its storage."""
        storage = self.storage
        if not isinstance(storage, Storage) or type(self.offset) is not int or self.offset < 0 \
                or not is_shape(self.shape) or not is_shape(self.strides) \
                or len(self.shape) != len(self.strides):
            raise Refused('a tensor that is not well-formed')
        count = math.prod(self.shape)
        last = self.offset + sum((n - 1) * stride for n, stride
                                 in zip(self.shape, self.strides, strict=True))
        if count > storage.count or (count and last >= storage.count):
            raise Refused(f'a tensor {list(self.shape)} outside of its {storage.count} numbers')
        values = to_array(storage.load(storage), storage.dtype, (storage.count,))
        strides = [stride * values.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset:], self.shape, strides)
        return np.array(view, order='C')  # a copy; ascontiguousarray would make a scalar 1-D


def is_shape(value):
    return isinstance(value, tuple) and all(type(n) is int and n >= 0 for n in value)


STORAGE_NAMES = {f'torch.{name}Storage': Name() for name in STORAGE_TYPES}
STORAGE_DTYPES = {id(STORAGE_NAMES[f'torch.{name}Storage']): dtype
                  for name, dtype in STORAGE_TYPES.items()}
TORCH_NAMES = {
    **NAMES,
    **STORAGE_NAMES,
    'torch._utils._rebuild_tensor': Name(TensorRecord),
    'torch._utils._rebuild_tensor_v2': Name(TensorRecord),
    'torch._utils._rebuild_parameter': Name(lambda tensor, *_: tensor),
    'torch.Size': Name(tuple),
    'argparse.Namespace': Name(Inert),  # the arguments of the training script; not read
}


def storage_maker(load):
    """The function for persistent ids: ('storage', type, key, location, count, ...) -> Storage."""
    def make(pid):
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage' \
                or id(pid[1]) not in STORAGE_DTYPES or type(pid[4]) is not int or pid[4] < 0 \
                or any(item is not None for item in pid[5:]):
            raise Refused('a reference to something that is no storage')
        return Storage(STORAGE_DTYPES[id(pid[1])], str(pid[2]), pid[4], load)
    return make


def read_zip(file):
    """A .pth or .npz."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        unpacked = sum(entry.file_size for entry in entries.values())
        if unpacked > MAX_EXPANSION * os.path.getsize(file) + (64 << 20):
            raise Refused(f'a zip of {os.path.getsize(file)} bytes that unpacks to {unpacked}')
        pickles = [name for name in entries if name.split('/', 1)[-1] == 'data.pkl']
        if len(pickles) == 1:
            return 'torch', read_torch_zip(archive, entries, pickles[0], file)
        if entries and all(name.endswith('.npy') for name in entries):
            arrays = {name[:-len('.npy')]: read_npy(archive.read(name), name) for name in entries}
            return 'flax', arrays
    raise InputError(f'{file}: a zip, but neither a .pth nor a .npz')


def read_torch_zip(archive, entries, pickle_name, file):
    folder = pickle_name[:-len('data.pkl')]
    if f'{folder}byteorder' in entries and archive.read(f'{folder}byteorder') != b'little':
        raise Refused('numbers of another byte order')
    last = {}  # tensors of one storage mostly follow each other

    def load(storage):
        if storage.key not in last:
            last.clear()
            last[storage.key] = archive.read(f'{folder}data/{storage.key}')
        return last[storage.key]

    data = archive.read(pickle_name)
    content = unpickle(io.BytesIO(data), len(data), file, TORCH_NAMES, storage_maker(load))
    return plain(content, file)


def read_torch_legacy(file):
    """The older .pth: number, version, system, content, keys, then the storages one by one."""
    storages, data = {}, {}

    def make(pid):
        storage = storage_maker(lambda storage: data[storage.key])(pid)
        if storages.setdefault(storage.key, storage).count != storage.count:
            raise Refused('a storage of two sizes')
        return storage

    size = os.path.getsize(file)
    with open(file, 'rb') as stream:
        def part(persistent=None):
            return unpickle(stream, size - stream.tell(), file, TORCH_NAMES, persistent)

        part(), part()
        system = part()
        if not isinstance(system, dict) or system.get('little_endian') is not True:
            raise Refused('numbers of another byte order')
        content = part(make)
        keys = part()
        if not isinstance(keys, list) or set(keys) != set(storages):
            raise Refused('storages that do not fit to the tensors')
        for key in keys:
            storage = storages[key]
            width = 2 if storage.dtype == 'bfloat16' else np.dtype(storage.dtype).itemsize
            count, = struct.unpack('<q', stream.read(8))
            if count != storage.count or count * width > size - stream.tell():
                raise Refused('a storage that is shorter than its tensors')
            data[key] = stream.read(count * width)
    return content


def read_npy(data, name):
    """One .npy file's bytes."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise Refused(f'{name}: .npy version {version}')
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) \
        else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    kind = 'bfloat16' if dtype.str == '|V2' else dtype.str
    if dtype.kind not in 'biuf' and kind != 'bfloat16':
        raise Refused(f'{name}: an array of {dtype}, expected numbers')
    values = data[stream.tell():]
    if kind != 'bfloat16' and dtype.byteorder == '>':
        raise Refused(f'{name}: numbers of another byte order')
    array = to_array(values, kind, shape[::-1] if fortran_order else shape)
    return array.T if fortran_order else array


def read_safetensors(file):
    with open(file, 'rb') as stream:
        length, = struct.unpack('<Q', stream.read(8))
        if length > min(MAX_HEADER, os.path.getsize(file) - 8):
            raise Refused(f'a header of {length} bytes')
        header = json.loads(stream.read(length))
        stream.seek(0)
        tensors = safetensors.deserialize(stream.read())
    content = {}
    for name, tensor in tensors:
        if tensor['dtype'] not in SAFETENSORS_TYPES:
            raise Refused(f'{name}: an array of {tensor["dtype"]}')
        content[name] = to_array(bytes(tensor['data']), SAFETENSORS_TYPES[tensor['dtype']],
                                 tuple(tensor['shape']))
    metadata = header.get('__metadata__') or {}
    return ('paddle' if metadata.get('format') == 'paddle' else 'torch'), content
