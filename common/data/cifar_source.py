"""CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html), the python version.

The batches are in Python's object format, which may hold code: the reader of weights/unpickle.py
takes data only. The archive is read in place.
"""
import gzip
import io
import os
import tarfile
from collections import namedtuple

import numpy as np
from PIL import Image

from common.core.bounds import Budget, Refused
from common.core.errors import InputError, one_line
from common.data.sources import ImageSource
from common.weights.unpickle import DataUnpickler

# Limits of an archive, unpacked; the real ones have 186 MB and 9 members.
MAX_UNPACKED, MAX_MEMBERS = 1 << 28, 100
# What the files of one data set are called, and the keys in them.
Layout = namedtuple('Layout', 'archive md5 folder train test meta labels names num_classes')
LAYOUTS = {
    'cifar10': Layout(
        'cifar-10-python.tar.gz', 'c58f30108f718f92721af3b95e74349a', 'cifar-10-batches-py',
        [f'data_batch_{n}' for n in range(1, 6)], ['test_batch'],
        'batches.meta', 'labels', 'label_names', 10),
    'cifar100': Layout(
        'cifar-100-python.tar.gz', 'eb9058c3a382ffc7106e4002c42a8d85', 'cifar-100-python',
        ['train'], ['test'], 'meta', 'fine_labels', 'fine_label_names', 100),
}


class BoundedStream:
    """The first `size` bytes of a stream; a read beyond them raises EOFError."""

    def __init__(self, stream, size):
        self.stream = stream
        self.left = size

    def read(self, size):
        """The next bytes, `size` of them at most."""
        if size > self.left:
            raise EOFError('the file ends too early')
        self.left -= size
        return self.stream.read(size)

    def skip(self, size):
        """Reads `size` bytes and drops them."""
        while size > 0:
            block = self.read(min(size, 1 << 16))
            if not block:
                raise EOFError('the file ends too early')
            size -= len(block)


class CifarImages(ImageSource):
    """Images of one split, in memory.

    Attributes:
        path: path of the folder or archive that they come from.
        split: train | test.
        pixels, labels: uint8 [n, 32, 32, 3], int64 [n].
    """

    def __init__(self, path, split, pixels, labels):
        self.path, self.split, self.pixels, self.labels = path, split, pixels, labels

    def name(self, index):
        """'train/00017': the batches in their order, counted from 0."""
        return f'{self.split}/{index:05d}'

    def where(self, index):
        return f'{self.path}: {self.split} image {index}'

    def load(self, index):
        """A Pillow RGB image of 32 x 32 pixels."""
        return Image.fromarray(self.pixels[index])


def read_cifar(data_path, name, is_train=True):
    """One split of CIFAR-10 or CIFAR-100.

    Args:
        data_path: the unpacked folder (e.g. cifar-10-batches-py), the archive (e.g.
            cifar-10-python.tar.gz), or a folder with one of them; an unpacked one goes first.
        name: cifar10 | cifar100 (with the 100 fine classes).
        is_train: the training or the test images; all batches of the split, in their order.

    Returns:
        (CifarImages, list of class names).

    Raises:
        InputError: a file is missing, damaged, not of this layout, or asks for more than data.
    """
    layout = layout_of(name)
    path = find(data_path, layout)
    files = layout.train if is_train else layout.test
    batches, class_names = {}, None
    for file, where, stream, size in open_files(path, layout, [*files, layout.meta]):
        content = read_content(stream, size, where)
        if file == layout.meta:
            class_names = names_of(content, layout, where)
        else:
            batches[file] = batch_of(content, layout, where)
    pixels, labels = zip(*(batches[file] for file in files), strict=True)
    split = 'train' if is_train else 'test'
    return CifarImages(path, split, np.concatenate(pixels), np.concatenate(labels)), class_names


def layout_of(name):
    """The Layout of a data set's name; raises InputError for an unknown one."""
    if name not in LAYOUTS:
        raise InputError(f'CIFAR: got {name}, expected one of {", ".join(LAYOUTS)}')
    return LAYOUTS[name]


def find(data_path, layout):
    """The unpacked folder or the archive that a data path means."""
    archive = os.path.join(data_path, layout.archive)
    for path in (data_path, os.path.join(data_path, layout.folder), archive):
        if os.path.isfile(path) or os.path.isfile(os.path.join(path, layout.meta)):
            return path
    found = some(os.listdir(data_path)) if os.path.isdir(data_path) else 'no such folder'
    raise InputError(f'{data_path}: expected {layout.folder}/ with {layout.meta} in it, or '
                     f'{layout.archive}; found {found}')


def some(names):
    """The first of some names in their sorted order, for a message."""
    names = sorted(names)
    return one_line(', '.join(names[:5] + ['...'] * (len(names) > 5)) or 'nothing')


def open_files(folder, layout, files):
    """Yields (file, name for messages, stream, size) of some files, in any order.

    Args:
        folder: what `find` gives: the unpacked folder, or the archive.
    """
    if os.path.isfile(folder):
        yield from open_members(folder, layout, files)
        return
    for file in files:
        path = os.path.join(folder, file)
        if not os.path.isfile(path):
            raise InputError(f'{path}: no such file; found {some(os.listdir(folder))}')
        with open(path, 'rb') as stream:
            yield file, path, stream, os.path.getsize(path)


def open_members(archive, layout, files):
    """The same for an archive; gzip's checksum is compared at the end."""
    paths = {f'{layout.folder}/{file}': file for file in files}
    seen = []
    try:
        with gzip.open(archive) as unpacked:
            # What is read is bounded, headers too: a few bytes of gzip may stand for any number.
            bounded = BoundedStream(unpacked, MAX_UNPACKED)
            for member in headers(bounded):
                name = os.path.normpath(member.name)
                seen.append(name)
                if len(seen) > MAX_MEMBERS:
                    raise ValueError(f'it has more than {MAX_MEMBERS} members')
                if member.islnk() or member.issym() or member.isdir() or member.isdev():
                    continue  # without content
                size = max(member.size, 0)
                padding = -size % tarfile.BLOCKSIZE
                if name in paths and member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    content = io.BytesIO(bounded.read(size))
                    yield paths.pop(name), f'{archive}: {name}', content, size
                    size = 0
                bounded.skip(size + padding)
            while bounded.read(1 << 14):
                pass
    except Exception as error:  # noqa: BLE001 - whatever a damaged archive runs into
        raise InputError(f'{archive}: damaged, no .tar.gz, or one of more than '
                         f'{MAX_UNPACKED >> 20} MiB ({one_line(error)})') from None
    if paths:
        raise InputError(f'{archive}: got no {min(paths)}; found {some(seen)}')


def headers(stream):
    """The TarInfo of each header block, with the stream behind it.

    tarfile itself would follow the headers that GNU and pax put before a member: it takes the
    square of a long one's length, and fills up what they say is left out. The real archives have
    none that matters.
    """
    while block := stream.read(tarfile.BLOCKSIZE):
        if not any(block):
            return
        yield tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')


def read_content(stream, size, where):
    """The dict of one file, its keys as text: Python 2 wrote strings, later copies have bytes."""
    try:
        content = DataUnpickler(stream, size, Budget(size)).load_operations()
        return {text_of(key): value for key, value in content.items()}
    except Exception as error:  # noqa: BLE001 - whatever a damaged program of opcodes runs into
        what = 'refused' if isinstance(error, Refused) else 'not a CIFAR file, or a damaged one'
        raise InputError(f'{where}: {what}: {one_line(error)}') from None


def text_of(value):
    """A value as text if it is bytes, else as it is."""
    return value.decode('latin1') if isinstance(value, bytes) else value


def names_of(content, layout, where):
    """The class names of a meta file."""
    names = content.get(layout.names)
    names = [text_of(name) for name in names] if isinstance(names, list) else []
    if len(names) != layout.num_classes or not all(type(name) is str for name in names):
        raise InputError(f'{where}: {layout.names}: expected {layout.num_classes} names; the file '
                         f'has {some(map(str, content))}')
    return names


def batch_of(content, layout, where):
    """The pixels uint8 [n, 32, 32, 3] and labels int64 [n] of a batch."""
    labels = content.get(layout.labels)
    if not isinstance(labels, list) or not labels \
            or not all(type(n) is int and 0 <= n < layout.num_classes for n in labels):
        raise InputError(f'{where}: {layout.labels}: expected numbers from 0 to '
                         f'{layout.num_classes - 1}; the file has {some(map(str, content))}')
    data = content.get('data')
    try:
        # The bytes of the array are a string in what Python 2 wrote.
        if isinstance(data.state[-1], str):
            data.state = (*data.state[:-1], data.state[-1].encode('latin1'))
        data = data.array()
    except Exception as error:  # noqa: BLE001 - whatever stands there instead of an array
        raise InputError(f'{where}: data: got no array ({one_line(error)})') from None
    if data.dtype != np.uint8 or data.shape != (len(labels), 3072):
        raise InputError(f'{where}: data: got {data.dtype} {list(data.shape)}, expected uint8 '
                         f'[{len(labels)}, 3072]')
    pixels = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), np.array(labels, np.int64)
