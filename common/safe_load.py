"""Reads a .pdparams file (a pickle) without running code from it. The only place that unpickles.

A pickle may name any Python function and have it called; `paddle.load` lets it. Here only what
Paddle itself writes is allowed: dictionaries, tuples, numbers, strings and numpy arrays. There is
no fallback for a file that asks for more.
"""
import codecs
import collections
import os
import pickle

import numpy as np

from common.errors import InputError


def reconstruct(kind, shape, typecode):
    """numpy's array constructor as numpy writes it: an empty array that a state then fills.

    With other arguments it would allocate whatever size the file asks for.
    """
    if kind is not np.ndarray or shape != (0,) or typecode not in (b'b', 'b'):
        raise pickle.UnpicklingError(f'array constructor with arguments {shape}, {typecode}')
    return np.ndarray.__new__(np.ndarray, (0,), 'b')


def encode(text, encoding):
    """The bytes of an array in pickle protocol 2."""
    if encoding != 'latin1' or not isinstance(text, str):
        raise pickle.UnpicklingError(f'text encoding {encoding!r}')
    return codecs.latin_1_encode(text)[0]


ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('builtins', 'tuple'): tuple,
    ('__builtin__', 'tuple'): tuple,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('numpy.core.multiarray', '_reconstruct'): reconstruct,
    ('numpy._core.multiarray', '_reconstruct'): reconstruct,
    ('_codecs', 'encode'): encode,
}


class RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f'the file asks for {module}.{name}, which is not data')
        return ALLOWED[module, name]

    def persistent_load(self, pid):
        raise pickle.UnpicklingError('the file refers to an object outside of it')


def load_pickle(file):
    """The content of a .pdparams file: nested dicts, lists, numbers, strings and numpy arrays.

    Raises:
        InputError: the file is missing, not such a pickle, damaged, or asks for more than data.
    """
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such weight file')
    try:
        with open(file, 'rb') as stream:
            content = RestrictedUnpickler(stream).load()
            rest = stream.read(1)
    except pickle.UnpicklingError as error:
        raise InputError(f'{file}: refused: {one_line(error)}') from None
    except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError,
            OverflowError, ImportError, RecursionError, SyntaxError) as error:
        raise InputError(f'{file}: not a .pdparams file, or a damaged one ({one_line(error)})'
                         ) from None
    if rest:
        raise InputError(f'{file}: damaged: there are bytes after the end of the data')
    return plain(content, file)


def plain(value, file, key=''):
    """Paddle's (name, array) pairs become arrays; arrays of objects are refused."""
    if isinstance(value, dict):
        return {name: plain(item, file, f'{key}{name}.') for name, item in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        value = value[1]
    if isinstance(value, np.ndarray) and value.dtype.kind not in 'biufc':
        raise InputError(f'{file}: {key[:-1]}: got an array of {value.dtype}, expected numbers')
    if isinstance(value, (list, tuple)):
        return [plain(item, file, key) for item in value]
    return value


def one_line(error):
    return ' '.join(str(error).split()) or type(error).__name__
