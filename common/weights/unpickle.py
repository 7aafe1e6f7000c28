"""Reads a pickle (.pdparams, .pth) as data, without running code from it. The only place that
unpickles.

A pickle is a program: it may name any Python function and have it called, and `paddle.load` lets
it. Here
- the pure Python unpickler is used, cut down to the opcodes that Paddle, numpy and PyTorch write;
- the few names that a file may mention stand for what unpickle_names.py makes, never for
  numpy's or PyTorch's own; all others are refused;
- arrays are made at the end, from bytes whose number is compared with the shape;
- time and memory are bounded by the file's size, see bounds.py.
There is no fallback for a file that asks for more.
"""
import os
import pickle
import struct
import sys

import numpy as np

from common.core.bounds import MAX_NAME, Budget, Refused, reading
from common.core.errors import InputError, printable
from common.core.files import check_checksum
from common.weights.plain_values import plain
from common.weights.unpickle_names import (
    INERT_NAMES,
    INERT_PACKAGES,
    NAMES,
    ArrayRecord,
    DtypeRecord,
    Inert,
    Name,
    set_items,
)

MAX_TEXT = 1 << 20  # longer texts are the arrays of protocol 2, which have no letters but Latin-1

# The opcodes that may come, by the bytes that each costs at most (its object, its place on the
# stack or in the memo); what depends on a length is paid by the functions below.
COSTS = {
    16: 'PROTO FRAME STOP NONE NEWTRUE NEWFALSE GET BINGET LONG_BINGET EMPTY_TUPLE BUILD APPENDS '
        'GLOBAL STACK_GLOBAL',
    40: 'INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT APPEND',
    64: 'STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES '
        'SHORT_BINBYTES BINBYTES8',
    96: 'EMPTY_LIST EMPTY_DICT LIST TUPLE TUPLE1 TUPLE2 TUPLE3 MARK',
    144: 'PUT BINPUT LONG_BINPUT MEMOIZE SETITEM SETITEMS DICT',
    256: 'REDUCE NEWOBJ BINPERSID',
}


def paid(load):
    """An operation of pickle's own that pushes a text, with that text paid for."""
    def operation(self):
        load(self)
        self.budget.spend(sys.getsizeof(self.stack[-1]))
    return operation


class DataUnpickler(pickle._Unpickler):  # the pure Python one: its memo is a dict, not an array
    """Unpickles records.

    Args:
        stream: binary file, at the start of the pickle; it is left at the end of it.
        size: bytes in the file; no more is read at a time.
        budget: see bounds.py.
        names: {'module.name': Name} that the pickle may mention.
        persistent: persistent id -> object, or None if there may be none.
    """

    def __init__(self, stream, size, budget, names=NAMES, persistent=None):
        super().__init__(stream, fix_imports=False, encoding='latin1')
        self.stream, self.size, self.budget = stream, size, budget
        self.names, self.persistent = names, persistent
        self.inert = {}

    def read(self, size):
        """Exactly `size` bytes; no memory is asked for beyond the file's size."""
        data = self.stream.read(size) if size <= self.size else b''
        if len(data) < size:
            raise EOFError('the file ends too early')
        return data

    def readline(self):
        line = self.stream.readline(MAX_NAME)
        if not line.endswith(b'\n'):
            raise EOFError('a line without an end')
        return line

    def find_class(self, module, name):
        if len(module) + len(name) > MAX_NAME:
            raise Refused(f'it asks for a name of {len(module) + len(name)} characters')
        full = f'{module}.{name}'
        if full in self.names:
            return self.names[full]
        if full not in INERT_NAMES and not full.startswith(INERT_PACKAGES):
            raise Refused(f'it asks for {printable(full)}, which is not data')
        if full not in self.inert:
            self.budget.spend(sys.getsizeof(full) + 256)
            self.inert[full] = Inert(full)
        return self.inert[full]

    def persistent_load(self, pid):
        if self.persistent is None:
            raise Refused('it refers to an object outside of it')
        return self.persistent(pid)

    def load_frame(self):
        """FRAME: only says how much could be read ahead."""
        if struct.unpack('<Q', self.read(8))[0] > self.size:
            raise EOFError('the file ends too early')

    def load_text(self, size):
        data = self.read(size)
        # One letter beyond Latin-1 (from the byte 0xC4 on) makes four bytes of each other one.
        if size > MAX_TEXT and np.frombuffer(data, np.uint8).max() > 0xC3:
            raise Refused(f'a text of {size} bytes')
        text = str(data, 'utf-8', 'surrogatepass')
        self.budget.spend(sys.getsizeof(text))
        self.append(text)

    def load_binunicode(self):
        self.load_text(struct.unpack('<I', self.read(4))[0])

    def load_binunicode8(self):
        self.load_text(struct.unpack('<Q', self.read(8))[0])

    def memoize(self, index):
        """Picklers count their entries, from 0 or 1; other numbers are counted, as keys are."""
        if not 0 <= index <= len(self.memo) + 1:
            self.budget.count_key(index)
        self.memo[index] = self.stack[-1]

    def load_put(self):
        self.memoize(int(self.readline()))

    def load_binput(self):
        self.memoize(self.read(1)[0])

    def load_long_binput(self):
        self.memoize(struct.unpack('<I', self.read(4))[0])

    def load_append(self):
        self.extend([self.stack.pop()])

    def load_appends(self):
        self.extend(self.pop_mark())

    def extend(self, items):
        target = self.stack[-1]
        if type(target) is list:
            self.budget.spend(8 * len(items))
            target.extend(items)
        elif type(target) is not Inert:
            raise Refused('items for what is no list')

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def load_setitems(self):
        self.set_items(self.pop_mark())

    def set_items(self, items):
        target = self.stack[-1]
        if type(target) is dict:
            set_items(self.budget, target, items)
        elif type(target) is not Inert:
            raise Refused('items for what is no dictionary')

    def load_dict(self):
        items = self.pop_mark()
        self.append({})
        self.set_items(items)

    def load_build(self):
        """BUILD: sets the state of a record, and of nothing else."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) in (ArrayRecord, DtypeRecord):
            target.state = state
        elif type(target) not in (dict, Inert):  # an OrderedDict's attributes do not matter
            raise Refused('a state for what has none')

    def load_reduce(self):
        """REDUCE, and NEWOBJ, which makes an object of a class: call a Name, and nothing else."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(arguments) is not tuple or type(function) not in (Name, Inert):
            raise Refused('a call of what is no function')
        if type(function) is Name:
            self.stack[-1] = function(self.budget, arguments)

    def load_operations(self):
        """The value that the pickle makes: pickle's own loop, with the budget."""
        self.metastack, self.stack, self.proto = [], [], 0
        self.append = self.stack.append
        budget, next_byte = self.budget, self.stream.read
        try:
            while True:
                key = next_byte(1)
                if key not in OPERATIONS:
                    raise Refused(f'the operation {key!r}') if key else EOFError(
                        'the file ends too early')
                operation, cost = OPERATIONS[key]
                budget.steps -= 1
                budget.left -= cost
                if budget.left < 0 or budget.steps < 0:
                    budget.spend(0)
                    budget.step()
                operation(self)
        except pickle._Stop as stop:
            return stop.value


def operations():
    """{opcode: (function, cost)}: pickle's own function, but where one is written above."""
    overridden = {name: function for name, function in vars(DataUnpickler).items()
                  if name.startswith('load_')}
    overridden['load_newobj'] = overridden['load_reduce']
    table = {}
    for cost, names in COSTS.items():
        for name in names.split():
            code = getattr(pickle, name)
            function = pickle._Unpickler.dispatch[code[0]]
            if function.__name__ in overridden:
                function = overridden[function.__name__]
            elif name in ('STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE', 'SHORT_BINUNICODE'):
                function = paid(function)
            table[code] = (function, cost)
    return table


OPERATIONS = operations()


def load_pickle(file):
    """Reads a .pdparams file as data.

    Args:
        file: path.

    Returns:
        Nested dicts, lists, numbers, strings and numpy arrays.

    Raises:
        InputError: the file is missing, not such a pickle, damaged, or asks for more than data.
    """
    with reading(file) as stream:
        return read_pickle(stream, os.path.getsize(file), file)


def read_pickle(stream, whole, file):
    """Reads an opened .pdparams file; see `load_pickle`.

    Args:
        stream: the file.
        whole: its bytes, with a checksum at the end if it has one.
        file: its path, for messages.
    """
    size, budget = check_checksum(stream, whole, file), Budget(whole)
    content = DataUnpickler(stream, size, budget).load_operations()
    if stream.tell() != size:
        raise InputError(f'{file}: damaged: there are bytes after the end of the data')
    return plain(content, budget)
