"""Reads weight files of every format into numpy arrays; the format is found in the file's bytes.

| file         | kind                                 | what                   | first bytes |
|--------------|--------------------------------------|------------------------|-------------|
| .pdparams    | paddle                               | a pickle               | 0x80        |
| .pth         | torch                                | a zip with a pickle    | PK          |
| .pth, older  | torch                                | a row of pickles       | 0x80 ...    |
| .npz         | flax                                 | a zip of .npy files    | PK          |
| .safetensors | as its metadata's `format`, or torch | json, then the numbers | a length, { |

Neither torch nor flax is needed. bfloat16 values become float32, which holds them exactly. What
reading may cost is bounded by the file's size, see bounds.py; so a zip may be compressed, but not
so that it unpacks to more than 3 x its size + 32 MB.
"""
import io
import json
import os
import re
import struct
import zipfile

import numpy as np

from common.core.bounds import MAX_NAME, Budget, Refused, check_key, check_shape, reading
from common.core.errors import printable, shown
from common.weights.unpickle import DataUnpickler, plain, read_pickle
from common.weights.unpickle_names import NAMES, Name, items_of

TORCH_NUMBER = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # the first pickle of an older .pth
BLOCK = 1 << 20
MAX_DIRECTORY = 2 << 20  # bytes of a zip's table of contents, some 20,000 members
MAX_HEADER = 4 << 20  # bytes of a .safetensors file's JSON, some 30,000 arrays

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
        nested dict of numpy arrays (views of what was read), numbers, strings and lists.

    Raises:
        InputError: the file is missing, of no known format, damaged, or asks for more than data.
    """
    with reading(file) as stream:
        size = os.path.getsize(file)
        head = stream.read(len(TORCH_NUMBER))
        stream.seek(0)
        if head.startswith(b'PK\x03\x04'):
            return read_zip(stream, size)
        if head == TORCH_NUMBER:
            return 'torch', read_torch_legacy(stream, size)
        if len(head) > 8 and head[8:9] == b'{':
            return read_safetensors(stream, size)
        return 'paddle', read_pickle(stream, size, file)


def to_array(data, dtype, shape, budget):
    """Bytes as an array of a named type; their number must be what the shape needs."""
    stored = np.dtype('uint16' if dtype == 'bfloat16' else dtype).newbyteorder('<')
    if check_shape(shape, stored.itemsize) * stored.itemsize != len(data):
        raise Refused(f'an array {list(shape)} of {dtype} with {len(data)} bytes')
    array = np.frombuffer(data, stored).reshape(shape)
    if dtype != 'bfloat16':
        return array
    budget.spend(2 * len(data))
    return from_bfloat16(array)


def from_bfloat16(bits):
    """uint16 bit patterns of bfloat16 -> float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


# torch: tensors are views of storages, which lie beside the pickle.

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


def read_zip(stream, size):
    """(kind, content) of a .pth or .npz."""
    end = zipfile._EndRecData(stream)
    if end and end[zipfile._ECD_SIZE] > MAX_DIRECTORY:
        raise Refused(f'a zip with a table of contents of {end[zipfile._ECD_SIZE]} bytes')
    budget = Budget(size)
    with zipfile.ZipFile(stream) as archive:
        check_members(archive, size, budget)
        names = archive.namelist()
        pickles = [name for name in names if name.split('/', 1)[-1] == 'data.pkl']
        if len(pickles) == 1:
            return 'torch', read_torch_zip(archive, pickles[0], budget)
        if names and all(name.endswith('.npy') for name in names):
            return 'flax', {name[:-len('.npy')]: read_npy(member(archive, name), name, budget)
                            for name in names}
    raise Refused('a zip, but neither a .pth nor a .npz')


def check_members(archive, size, budget):
    """Pays for what the members of a zip unpack to, before one is read."""
    seen, unpacked = set(), 0
    for entry in archive.infolist():
        check_key(entry.filename)
        if entry.filename in seen:
            raise Refused(f'a zip with two members of the name {shown(entry.filename)}')
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED,
                                                              zipfile.ZIP_DEFLATED):
            raise Refused(f'{printable(entry.filename)} is encrypted, or packed in a way that '
                          f'neither PyTorch nor numpy uses')
        seen.add(entry.filename)
        unpacked += entry.file_size
    if unpacked > budget.left:
        raise Refused(f'a zip of {size} bytes that unpacks to {unpacked}, which is more than '
                      f'{budget.limit}; save it without compression')
    budget.spend(unpacked)


def member(archive, name):
    """The bytes of a zip's member, a memoryview: as many as its directory says, and no more are
    unpacked."""
    entry = archive.getinfo(name)
    # Numpy's memory comes in large pages: 1.4 times as fast as one read of a large member.
    data = memoryview(np.empty(entry.file_size, np.uint8))
    with archive.open(entry) as stream:
        for start in range(0, len(data), BLOCK):
            block = data[start:start + BLOCK]
            if stream.readinto(block) != len(block):
                raise EOFError(f'{shown(name)} ends too early')
    return data


def read_torch_zip(archive, pickle_name, budget):
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
    """The older .pth: number, version, system, content, keys, then the storages one by one."""
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


# numpy writes a Python dictionary before the numbers; this is how the three entries look.
NPY_HEADER = re.compile(
    r"\{\s*'descr': *'([<>|=]?[A-Za-z]\d{0,4})', *'fortran_order': *(True|False), *"
    r"'shape': *\(([0-9L, ]{0,1000})\),? *\}\s*")


def read_npy(data, name, budget):
    """The array of a .npy file's bytes, a memoryview."""
    version, start = data[6:8], 10 if data[6:8] == b'\x01\x00' else 12
    if data[:6] != b'\x93NUMPY' or version not in (b'\x01\x00', b'\x02\x00'):
        raise Refused(f'{printable(name)}: no .npy file of version 1 or 2')
    length, = struct.unpack('<H' if start == 10 else '<I', data[8:start])
    header = str(data[start:start + min(length, 10_000)], 'latin1')
    match = NPY_HEADER.fullmatch(header)
    if not match or len(header) != length:
        raise Refused(f'{printable(name)}: a header that numpy does not write for numbers')
    dtype, fortran_order = np.dtype(match[1]), match[2] == 'True'
    shape = tuple(int(number.rstrip('L')) for number in match[3].replace(' ', '').split(',')
                  if number)
    kind = 'bfloat16' if dtype.str == '|V2' else dtype.str
    if dtype.kind not in 'biuf' and kind != 'bfloat16':
        raise Refused(f'{printable(name)}: an array of {dtype}, expected numbers')
    if kind != 'bfloat16' and dtype.byteorder == '>':
        raise Refused(f'{printable(name)}: numbers of another byte order')
    budget.spend(512)
    array = to_array(data[start + length:], kind,
                     shape[::-1] if fortran_order else shape, budget)
    return array.T if fortran_order else array


def read_safetensors(stream, size):
    """(kind, content) of a .safetensors file."""
    budget = Budget(size)
    length, = struct.unpack('<Q', stream.read(8))
    if length > min(MAX_HEADER, size - 8):
        raise Refused(f'a header of {length} bytes')
    header = read_json(stream.read(length), budget)
    metadata = header.pop('__metadata__', None)
    data, end, content = memoryview(stream.read(size - 8 - length)), 0, {}
    for name, entry in sorted(header.items(), key=lambda item: offsets_of(*item)):
        begin, last = offsets_of(name, entry)
        shape = entry.get('shape')
        if begin != end or last > len(data) or entry.get('dtype') not in SAFETENSORS_TYPES \
                or type(shape) is not list:
            raise Refused(f'{printable(name)}: an array of {shown(entry.get("dtype"))} whose bytes '
                          f'do not follow the ones before, or are outside of the file')
        budget.spend(512)
        content[name] = to_array(data[begin:last], SAFETENSORS_TYPES[entry['dtype']],
                                 tuple(shape), budget)
        end = last
    if end != len(data):
        raise Refused(f'{len(data) - end} bytes of no array')
    paddle = type(metadata) is dict and metadata.get('format') == 'paddle'
    return 'paddle' if paddle else 'torch', {name: content[name] for name in header}


def offsets_of(name, entry):
    """The (first, last + 1) of an array's bytes, as a safetensors header has them."""
    offsets = entry.get('data_offsets') if type(entry) is dict else None
    if type(offsets) is not list or len(offsets) != 2 or not all(
            type(offset) is int and offset >= 0 for offset in offsets) or offsets[0] > offsets[1]:
        raise Refused(f'{printable(name)}: no array: {shown(entry)}')
    return tuple(offsets)


def read_json(text, budget):
    """The dictionary of a JSON text, each key of it there once."""
    # An upper bound of what each value and key costs: they have one of these letters before them.
    budget.spend(150 * sum(map(text.count, (b',', b'[', b'{', b':'))))

    def unique(pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Refused('a header with two entries of one name')
        for key in found:
            check_key(key)
        return found

    def number(digits):
        if len(digits) > 20:
            raise Refused(f'a number of {len(digits)} digits')
        return int(digits)

    header = json.loads(text, object_pairs_hook=unique, parse_int=number)
    if type(header) is not dict:
        raise Refused('a header that is no dictionary')
    return header
