"""Reads a pickle (.pdparams, .pth) as data, without running code from it. The only place that
unpickles.

A pickle is a program: it may name any Python function and have it called, and `paddle.load` lets
it. Here
- the pure Python unpickler is used, cut down to the opcodes that Paddle, numpy and PyTorch write;
- the few names that a file may mention stand for inert objects of this file, never for numpy's or
  PyTorch's own: a forged array state would otherwise reach memory that is not its own;
- sizes are bounded: what is read, how many operations, how many values;
- arrays are made at the end, from bytes whose number is compared with the shape.
There is no fallback for a file that asks for more.
"""
import hashlib
import io
import math
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.errors import InputError, one_line

MAX_OPERATIONS = 2_000_000
MAX_DEPTH = 64
# What this project's own files have behind the pickle, before their sha256.
CHECKSUM_MARK = b'\nsha256:'
OPCODES = {getattr(pickle, name) for name in (
    'PROTO', 'FRAME', 'STOP', 'MARK', 'NONE', 'NEWTRUE', 'NEWFALSE', 'INT', 'BININT', 'BININT1',
    'BININT2', 'LONG', 'LONG1', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING',
    'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES',
    'BINBYTES8', 'EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'EMPTY_LIST', 'LIST',
    'APPEND', 'APPENDS', 'EMPTY_DICT', 'DICT', 'SETITEM', 'SETITEMS', 'PUT', 'BINPUT',
    'LONG_BINPUT', 'MEMOIZE', 'GET', 'BINGET', 'LONG_BINGET', 'GLOBAL', 'STACK_GLOBAL',
    'REDUCE', 'BUILD', 'NEWOBJ', 'BINPERSID')}


class Refused(pickle.UnpicklingError):
    """The file asks for more than data."""


class Name:
    """A function or class that a file may name; calling it makes data."""

    __slots__ = ('make',)

    def __init__(self, make=None):
        self.make = make

    def __call__(self, *arguments):
        if self.make is None:
            raise Refused('a call of what is a value')
        return self.make(*arguments)


class ArrayRecord:
    """What a numpy array was pickled as; `array` makes it."""

    __slots__ = ('state',)

    def __init__(self):
        self.state = None

    def array(self):
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise Refused('an array without data')
        _, shape, dtype, fortran_order, data = self.state
        if not isinstance(dtype, DtypeRecord) or not isinstance(data, bytes):
            raise Refused('an array of objects, not of numbers')
        return make_array(data, dtype.dtype(), shape, 'F' if fortran_order else 'C')


class DtypeRecord:
    """What a numpy dtype was pickled as."""

    __slots__ = ('code', 'state')

    def __init__(self, code):
        self.code = code
        self.state = None

    def dtype(self):
        if not isinstance(self.code, str) or not re.fullmatch('[biufc][0-9]{1,2}', self.code):
            raise Refused(f'an array of type {self.code!r}, expected numbers')
        if self.state is None:
            return np.dtype(self.code)
        # (version, byte order, and what only types of several fields or of objects have)
        if type(self.state) is not tuple or self.state[2:] != (None, None, None, -1, -1, 0) \
                or self.state[:2] not in ((3, '<'), (3, '>'), (3, '|'), (3, '=')):
            raise Refused('an array of a type that numpy does not write for numbers')
        return np.dtype(self.state[1] + self.code)


class Inert:
    """An object of a class whose content does not matter here, e.g. argparse.Namespace."""

    __slots__ = ('state',)


def make_array(data, dtype, shape, order='C'):
    """A numpy array from bytes; their number must be what the shape needs."""
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused(f'an array of shape {shape!r}')
    if math.prod(shape) * dtype.itemsize != len(data):
        raise Refused(f'an array of shape {shape} with {len(data)} bytes of {dtype}')
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def reconstruct(kind, shape, typecode):
    """numpy's array constructor, with the arguments that numpy writes."""
    if kind is not ND_ARRAY or shape != (0,) or typecode not in (b'b', 'b'):
        raise Refused(f'an array constructor with arguments {shape}, {typecode}')
    return ArrayRecord()


def encode(text, encoding='utf-8'):
    """The bytes of an array in pickle protocol 2."""
    if encoding != 'latin1' or not isinstance(text, str):
        raise Refused(f'the text encoding {encoding!r}')
    return text.encode('latin1')


def scalar(dtype, data):
    """A numpy scalar."""
    if not isinstance(dtype, DtypeRecord) or not isinstance(data, bytes):
        raise Refused('a numpy scalar of objects')
    return make_array(data, dtype.dtype(), ()).item()


ND_ARRAY = Name()
NAMES = {
    'collections.OrderedDict': Name(lambda items=(): dict(items)),
    '__builtin__.bytes': Name(lambda: b''),  # an empty array in protocol 2
    'builtins.tuple': Name(tuple),
    '__builtin__.tuple': Name(tuple),
    'numpy.ndarray': ND_ARRAY,
    'numpy.dtype': Name(lambda code, *_: DtypeRecord(code)),
    '_codecs.encode': Name(encode),
    **{f'numpy.{core}.multiarray.{name}': Name(make) for core in ('core', '_core')
       for name, make in (('_reconstruct', reconstruct), ('scalar', scalar))},
}


class BoundedStream:
    """A stream of `size` bytes that allocates nothing for bytes that are not there."""

    def __init__(self, stream, size):
        self.stream = stream
        self.left = size

    def read(self, size):
        if size > self.left:
            raise EOFError('the file ends too early')
        self.left -= size
        return self.stream.read(size)

    def readline(self):
        line = self.stream.readline(min(self.left, 1 << 16))
        self.left -= len(line)
        return line


class DataUnpickler(pickle._Unpickler):  # the pure Python one: its memo is a dict, not an array
    """Unpickles records; `names` are the globals that a file may mention."""

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in OPCODES}

    def __init__(self, stream, names, persistent=None):
        super().__init__(stream, fix_imports=False, encoding='latin1')
        self.names = names
        self.persistent = persistent
        self.operations = 0

    def find_class(self, module, name):
        if f'{module}.{name}' not in self.names:
            raise Refused(f'it asks for {module}.{name}, which is not data')
        return self.names[f'{module}.{name}']

    def persistent_load(self, pid):
        if self.persistent is None:
            raise Refused('it refers to an object outside of it')
        return self.persistent(pid)

    def load_build(self):
        """BUILD: sets the state of a record, and of nothing else."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) in (ArrayRecord, DtypeRecord, Inert):
            target.state = state
        elif type(target) is not dict:  # an OrderedDict's attributes do not matter
            raise Refused('a state for what has none')

    dispatch[pickle.BUILD[0]] = load_build

    def load_reduce(self):
        """REDUCE: calls a Name, and nothing else."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not Name or type(arguments) is not tuple:
            raise Refused('a call of what is no function')
        self.stack[-1] = function(*arguments)

    # NEWOBJ: makes an object of a class; here the same as a call.
    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_reduce

    def load_operations(self):
        """pickle's own loop, with a bound on the number of operations."""
        self._unframer = pickle._Unframer(self._file_read, self._file_readline)
        self.read = self._unframer.read
        self.readinto = self._unframer.readinto
        self.readline = self._unframer.readline
        self.metastack, self.stack, self.proto = [], [], 0
        self.append = self.stack.append
        try:
            while True:
                key = self.read(1)
                if not key:
                    raise EOFError('the file ends too early')
                self.operations += 1
                if self.operations > MAX_OPERATIONS:
                    raise Refused(f'it has more than {MAX_OPERATIONS} operations')
                operation = self.dispatch.get(key[0])
                if operation is None:
                    raise Refused(f'the operation {key!r}')
                operation(self)
        except pickle._Stop as stop:
            return stop.value


def unpickle(stream, size, file, names=NAMES, persistent=None):
    """One pickle of a stream as nested dicts, lists, numbers, strings and records.

    Args:
        stream: binary, at the start of the pickle; left at its end.
        size: bytes that may be read.
        file: for messages.
        names: {'module.name': Name} that the pickle may mention.
        persistent: persistent id -> object, or None if there may be none.

    Raises:
        InputError: see load_pickle.
    """
    try:
        return DataUnpickler(BoundedStream(stream, size), names, persistent).load_operations()
    except Refused as error:
        raise refused(file, error) from None
    except Exception as error:  # noqa: BLE001 - whatever a damaged program of opcodes runs into
        raise InputError(f'{file}: not a weight file, or a damaged one ({one_line(error)})'
                         ) from None


def refused(file, error):
    return InputError(f'{file}: refused: {one_line(error)}; expected weights, which are data')


def load_pickle(file):
    """The content of a .pdparams file: nested dicts, lists, numbers, strings and numpy arrays.

    Raises:
        InputError: the file is missing, not such a pickle, damaged, or asks for more than data.
    """
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such weight file')
    with open(file, 'rb') as stream:
        size = check_checksum(stream, os.path.getsize(file), file)
        content = unpickle(stream, size, file)
        if stream.tell() != size:
            raise InputError(f'{file}: damaged: there are bytes after the end of the data')
    return plain(content, file)


class ChecksumFile(io.BytesIO):
    """A file that is written with the sha256 of its content behind it. (paddle.save takes no other
    objects than a BytesIO; nothing is kept in it.)

    The digest is computed in a second thread, while the block is written: of a checkpoint of 1 GB
    it would take as long as all the rest.
    """

    def __init__(self, path):
        super().__init__()
        self.file = open(path, 'wb')  # noqa: SIM115 - closed in __exit__
        self.digest = hashlib.sha256()
        self.pool = ThreadPoolExecutor(1)

    def write(self, data):
        if len(data) < 1 << 16:
            self.digest.update(data)
            return self.file.write(data)
        updated = self.pool.submit(self.digest.update, data)
        try:
            return self.file.write(data)
        finally:
            updated.result()

    def __exit__(self, kind, *error):
        self.pool.shutdown()
        with self.file:
            if kind is None:
                self.file.write(CHECKSUM_MARK + self.digest.digest())


def check_checksum(stream, size, file):
    """The size of the content before a checksum, which is compared; the stream is at its start."""
    trailer = len(CHECKSUM_MARK) + hashlib.sha256().digest_size
    stream.seek(max(size - trailer, 0))
    end = stream.read()
    stream.seek(0)
    if not end.startswith(CHECKSUM_MARK):
        return size
    if sha256(stream, size - trailer) != end[len(CHECKSUM_MARK):]:
        raise InputError(f'{file}: damaged: the content does not fit to its checksum')
    stream.seek(0)
    return size - trailer


def sha256(stream, size):
    """The digest of the next `size` bytes of a stream."""
    digest = hashlib.sha256()
    while size > 0:
        block = stream.read(min(size, 1 << 22))
        size -= len(block)
        digest.update(block)
    return digest.digest()


def plain(value, file):
    """Records become arrays, Paddle's (name, array) pairs their array, tuples lists."""
    try:
        return Plain().convert(value, '', 0)
    except Refused as error:
        raise refused(file, error) from None


class Plain:
    """One conversion, with a bound on the number of values: a file may refer to one many times."""

    def __init__(self):
        self.values = 0

    def convert(self, value, key, depth):
        self.values += 1
        if self.values > MAX_OPERATIONS or depth > MAX_DEPTH:
            raise Refused(f'{key}: too many or too deeply nested values')
        if isinstance(value, dict):
            return {name: self.convert(item, f'{key}.{name}'.lstrip('.')[:200], depth + 1)
                    for name, item in value.items()}
        if is_named_array(value):
            value = value[1]
        if isinstance(value, (list, tuple)):
            return [self.convert(item, key, depth + 1) for item in value]
        if isinstance(value, Inert):
            return None
        if hasattr(value, 'array'):
            try:
                return value.array()
            except Refused as error:
                raise Refused(f'{key}: {error}') from None
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        raise Refused(f'{key}: an object that is not data')


def is_named_array(value):
    return (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
            and isinstance(value[1], ArrayRecord))
