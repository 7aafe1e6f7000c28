"""What the reading of a weight file may cost, and what is said of a file that cannot be read.

The rule: whatever is in a file, reading it takes memory of at most 4 x the file + 64 MB, and a
time that is bounded in the same way (some seconds, beside those for the bytes themselves). It
holds because of how the readers in common/weights/ are made:
- Each byte of a file is read once; that is 1 x the file. All else that they make on its behalf is
  paid from one Budget of 3 x the file + 32 MB; each step is paid too.
- Arrays are views of the bytes that were read. One array under many names is one array; its bytes
  are counted once a name, so that no later step that copies them (a cast) can multiply them.
- What a dictionary key may be is bounded (`check_key`), and so are names, shapes and numbers of
  arguments: hashing, comparing or formatting one takes no time to speak of.
- Nothing of a file is formatted but by errors.shown and errors.printable, which are bounded too.
"""
import contextlib
import math
import os

from common.core.errors import InputError, one_line, shown

MAX_STEPS = 3_000_000  # operations and values; the largest model files have some 100,000
MAX_NAME = 1000        # characters of a name or key
MAX_DIMS = 32          # numpy 1.26 has no more
MAX_NUMBER_KEYS = 10_000  # that are not below SMALL
SMALL = 1 << 17

# What people have instead of weights: how it starts, and what is said.
OTHER_FILES = (
    ((b'<!doctype html', b'<html', b'<?xml', b'<head', b'<error'),
     'a web page, not weights: download the file by hand, and look what the server answers'),
    ((b'version https://git-lfs.',),
     'a Git LFS pointer, not weights: fetch the file itself (git lfs pull)'),
    ((b'\x1f\x8b\x08',), 'packed with gzip: unpack it first'),
    ((b'\x89hdf',), 'an HDF5 file; expected .pdparams, .pth, .npz or .safetensors'))


class Refused(Exception):
    """The file asks for more than data, or for more of it than its size allows."""


class Budget:
    """What may still be made for a file of `size` bytes.

    Attributes:
        left: bytes of objects.
        arrays: bytes of arrays, each counted once a name.
        steps: operations and values.
        number_keys: entries of dictionaries whose key is no text and no small number.
    """

    def __init__(self, size):
        self.limit = self.left = self.arrays = 3 * size + (32 << 20)
        self.steps = MAX_STEPS
        self.number_keys = MAX_NUMBER_KEYS

    def spend(self, count):
        """Takes `count` bytes of objects; called before they are made where they may be many."""
        self.left -= count
        if self.left < 0:
            raise Refused(f'it makes more than {self.limit >> 20} MB of objects, which is too much '
                          f'for a file of its size')

    def step(self):
        self.steps -= 1
        if self.steps < 0:
            raise Refused(f'it has more than {MAX_STEPS} operations and values')

    def name_array(self, count):
        """Counts an array of `count` bytes under one more name."""
        self.arrays -= count
        if self.arrays < 0:
            raise Refused(f'it names arrays of more than {self.limit >> 20} MB in all, which is '
                          f'too much for a file of its size')

    def count_key(self, key):
        """Large numbers can be chosen so that a dictionary looks for each of them in the places of
        all others: n of them take the time of n * n."""
        if type(key) in (str, bytes) or type(key) is int and 0 <= key < SMALL:
            return
        self.number_keys -= 1
        if self.number_keys < 0:
            raise Refused(f'it has more than {MAX_NUMBER_KEYS} dictionary keys that are large '
                          f'numbers')


def check_key(key):
    """Raises Refused for a dictionary key that is no short name or number; to hash or to compare
    a tuple, or a long text, again and again may take for ever."""
    kind = type(key)
    if not (kind in (str, bytes) and len(key) <= MAX_NAME or kind in (bool, float, type(None))
            or kind is int and key.bit_length() <= 64):
        raise Refused(f'a dictionary key that is {shown(key)}, expected a name of at most '
                      f'{MAX_NAME} characters or a number')


def check_shape(shape, itemsize):
    """The number of values of an array; raises Refused for what is no shape of one in memory."""
    if type(shape) is not tuple or len(shape) > MAX_DIMS:
        raise Refused(f'an array whose shape is {shown(shape)}, expected at most {MAX_DIMS} sizes')
    if not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise Refused(f'an array of the shape [{", ".join(map(shown, shape))}]')
    if math.prod(max(size, 1) for size in shape) * itemsize >= 1 << 63:
        raise Refused(f'an array of the shape {list(shape)}, which is too large')
    return math.prod(shape)


@contextlib.contextmanager
def reading(file):
    """A weight file, opened; whatever goes wrong while it is read becomes one line.

    Args:
        file: path.

    Raises:
        InputError: it is missing or no regular file (a folder, pipe or device), something else
            than weights, damaged, or refused.
    """
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such weight file')
    try:
        with open(file, 'rb') as stream:
            check_start(stream.read(64), file)
            stream.seek(0)
            yield stream
    except InputError:
        raise
    except Refused as error:
        raise InputError(f'{file}: refused: {one_line(error)}; expected weights, which are data'
                         ) from None
    except MemoryError:
        raise InputError(f'{file}: not enough memory to read it') from None
    except Exception as error:  # noqa: BLE001 - whatever a library runs into in a damaged file
        raise InputError(f'{file}: not a weight file, or a damaged one ({one_line(error)})'
                         ) from None


def check_start(head, file):
    """Raises InputError if a file's first bytes are those of something else."""
    if head[8:9] == b'{':  # .safetensors, which starts with any number
        return
    for starts, what in OTHER_FILES:
        if head.lower().lstrip().startswith(starts):
            raise InputError(f'{file}: {what}')
