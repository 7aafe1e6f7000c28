"""An index as a file: where the bytes of each image of a data set are.

It is made once and mapped into memory, so that the processes of a machine share one copy. It lies
beside the data, or in the cache where nothing can be written there:

    MAGIC, the length of the header (8 bytes), the header, its sha256, then the arrays

The header is JSON; it says of which files with which sizes and times the index was made. An index
that does not fit to them, or is damaged, is made anew: it has nothing that the data have not.
"""
import contextlib
import hashlib
import json
import mmap
import os

import numpy as np

from common.core.caches import CACHE_VARIABLE, cache_folder
from common.core.errors import InputError, complain, complain_once, printable
from common.core.files import replace_atomically
from common.core.processes import wait_for_lock
from common.data.archives.members import is_archive
from common.data.image_names import is_hidden
from common.data.images import open_regular

MAGIC = b'paddle-vitae index 1\n'
MAX_HEADER = 1 << 30  # bytes: names of files and classes
ALIGNMENT = 64
# The arrays and their types; n is the number of images.
ARRAYS = {'end': '<i8', 'folder': '<i4', 'file': '<i4', 'offset': '<i8', 'size': '<u4',  # [n]
          'label': '<i8',                              # [n], or all labels, where there are several
          'line': '<i4',                               # [n], or [0] where no list has them
          'tails': '|u1', 'folders': '|u1', 'folder_ends': '<i8', 'label_ends': '<i8'}


class Damaged(Exception):
    """Why an index cannot be used."""


class Index:
    """An index in memory.

    Attributes:
        header: dict with 'files', 'sources', 'classes', 'split_off', 'note', 'anchor'.
        arrays: {name: read-only array}, see ARRAYS.
    """

    def __init__(self, header, arrays):
        self.header, self.arrays = header, arrays


# Where it lies

def index_files(anchor: str, kind: str) -> list[str]:
    """Where the index of some data may be: beside them, and in the cache.

    Args:
        anchor: the list, table, archive or folder that stands for the data.
        kind: which of their images, e.g. 'train'.
    """
    full = os.path.abspath(anchor)
    name = f'{os.path.basename(full)}.{kind}.index'
    folder = full if os.path.isdir(full) else os.path.dirname(full)
    digest = hashlib.sha256(os.fsencode(full)).hexdigest()[:16]
    beside = os.path.join(folder, f'.{kind}.index' if folder == full else f'.{name}')
    return [beside, os.path.join(cache_folder(), 'index', f'{digest}-{name}')]


def find_index(anchor: str, kind: str, root: str) -> Index | None:
    """The index of some data if there is one that fits to them, else None.

    Args:
        anchor, kind: see `index_files`.
        root: the folder that its paths are relative to.
    """
    for file in index_files(anchor, kind):
        if os.path.isfile(file):
            try:
                index = open_index(file)
                check_sources(index.header, root)
                return index
            except Damaged as reason:
                complain_once(f'{printable(file)}: not used: {reason}')
    return None


def keep_index(anchor: str, kind: str, header: dict, arrays: dict) -> Index:
    """Writes an index where it can be written first, and opens it.

    Raises:
        InputError: it can be written nowhere.
    """
    reasons = []
    for file in index_files(anchor, kind):
        try:
            if file.startswith(cache_folder()):
                os.makedirs(os.path.dirname(file), exist_ok=True)
            write_index(file, header, arrays)
            return open_index(file)
        except OSError as error:
            reasons.append(f'{file}: {error.strerror}')
    raise InputError(f'cannot write the index of {anchor} ({"; ".join(reasons)}); {CACHE_VARIABLE} '
                     f'names another folder for it')


@contextlib.contextmanager
def one_at_a_time(anchor):
    """Only one process at a time makes the indexes of some data; the others wait."""
    file = os.open(anchor, os.O_RDONLY)
    try:
        # without locks, as on file systems of clusters, it is made twice
        wait_for_lock(
            file, lambda: complain(f'{anchor}: waiting for another process, which makes its index'),
            lambda error: None)
        yield
    finally:
        os.close(file)


# What it was made of

def source_of(root, path):
    """[path, size, time] of a file, or [path, number of names, their hash] of a folder."""
    full = os.path.join(root, path)
    if os.path.isdir(full):
        names = sorted(name for name in os.listdir(full) if not is_hidden(name))
        text = '/'.join(names).encode('utf-8', 'surrogateescape')
        return [path, len(names), hashlib.sha256(text).hexdigest()]
    found = os.stat(full)
    return [path, found.st_size, found.st_mtime_ns]


def check_sources(header, root):
    """Raises Damaged for an index of other data, or of data that have changed."""
    sources = {path for path, *_ in header['sources']}
    for path in [*sources, header['anchor'], *(path for _, path in header['files'])]:
        if path.startswith('/') or '..' in path.split('/'):
            raise Damaged(f'it names {printable(path, 200)}, outside of the data')
    for _, path in header['files']:
        if path not in sources or not is_archive(path):
            raise Damaged(f'it names {printable(path, 200)}, no archive of the data')
    for path, *facts in header['sources']:
        try:
            _, *now = source_of(root, path)
        except (OSError, InputError):
            raise Damaged(f'{printable(path, 200)} is not there') from None
        if now != facts:
            raise Damaged(f'{printable(path, 200)} is another one: size and time or names are '
                          f'{now}, in the index {facts}')


# The file

def write_index(file, header, arrays):
    """Writes an index, whole or not at all."""
    arrays = {name: np.ascontiguousarray(arrays[name], dtype) for name, dtype in ARRAYS.items()}
    header = {**header, 'arrays': {name: len(array) for name, array in arrays.items()}}
    text = json.dumps(header).encode()
    with replace_atomically(file) as temporary, open(temporary, 'wb') as stream:
        stream.write(MAGIC + len(text).to_bytes(8, 'little') + text + hashlib.sha256(text).digest())
        for array in arrays.values():
            stream.write(bytes(-stream.tell() % ALIGNMENT))
            stream.write(array.data if len(array) else b'')


def open_index(file: str) -> Index:
    """Maps an index into memory.

    Raises:
        Damaged: it is none, or not whole.
    """
    try:
        with open(file, 'rb', opener=open_regular) as stream:
            size = os.fstat(stream.fileno()).st_size
            start = len(MAGIC) + 8
            begin = stream.read(start)
            length = int.from_bytes(begin[len(MAGIC):], 'little')
            if not begin.startswith(MAGIC) or start + length > min(size, MAX_HEADER):
                raise Damaged('it is no index of this version')
            text, digest = stream.read(length), stream.read(hashlib.sha256().digest_size)
            if hashlib.sha256(text).digest() != digest:
                raise Damaged('it is damaged')
            header = json.loads(text)
            check_header(header)
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            return Index(header, map_arrays(header, memory, start + length + len(digest)))
    except Damaged:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged('it is damaged') from None


def check_header(header):
    """Raises Damaged for a header of another form: an index may come with the data."""
    classes = [] if header['classes'] is None else header['classes']
    texts = [header['anchor'], header['note'], *classes, *(path for path, *_ in header['sources']),
             *(text for prefix, path in header['files'] for text in (prefix, path))]
    if not all(type(text) is str and '\0' not in text for text in texts) \
            or type(header['split_off']) is not bool or type(classes) is not list:
        raise Damaged('it is damaged')


def map_arrays(header, memory, position):
    """{name: array} that lie in the memory from a position on."""
    arrays = {}
    for name, dtype in ARRAYS.items():
        count = header['arrays'][name]
        position += -position % ALIGNMENT
        if type(count) is not int or count < 0 \
                or position + count * np.dtype(dtype).itemsize > len(memory):
            raise Damaged('it is cut')
        arrays[name] = np.frombuffer(memory, dtype, count, position)
        position += count * np.dtype(dtype).itemsize
    images = len(arrays['end'])
    per_image = ['folder', 'file', 'offset', 'size']
    per_image += ['line'] if len(arrays['line']) else []
    per_image += ['label_ends'] if len(arrays['label_ends']) else ['label']
    if position != len(memory) or not images \
            or any(len(arrays[name]) != images for name in per_image) \
            or arrays['label'].min(initial=0) < 0 \
            or not is_within(arrays['file'], -1, len(header['files'])) \
            or not is_within(arrays['folder'], 0, len(arrays['folder_ends'])):
        raise Damaged('it is damaged')
    return arrays


def is_within(numbers, low, end):
    """Whether all numbers of an array are in [low, end)."""
    return numbers.min() >= low and numbers.max() < end
