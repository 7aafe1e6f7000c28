"""The images of an index: each is one read of its archive."""
import os
from collections import OrderedDict

import numpy as np

from common.core.errors import InputError, printable
from common.core.label_sets import LabelSets
from common.data.images import MAX_BYTES, decode_for_crop, load_for_crop, open_regular, whole
from common.data.sources import ImageSource
from common.data.split import hash_of

MAX_OPEN = 256  # archives that a process has open at a time


class ArchiveImages(ImageSource):
    """Images in archives, and files beside them.

    The arrays are those of the index: they lie in memory that all processes share, and nothing here
    is kept for each image.

    Args:
        index: common.data.archives.index.Index.
        root: the folder that its paths are relative to.

    Attributes:
        file: the list, or the folder or archive of the data, for messages.
        labels: int64 [n], or LabelSets.
        classes: list of names, or None.
        split_off: whether they are one part of images that lie together.
        note: what has been done with them before, or ''.
        backend: the decoder of common.data.images.load_image.
    """

    backend = 'pillow'

    def __init__(self, index, root):
        header, self.arrays = index.header, index.arrays
        self.root = root
        self.file = os.path.normpath(os.path.join(root, header['anchor']))
        self.classes, self.split_off = header['classes'], header['split_off']
        self.note = header['note']
        self.files = header['files']  # list of [prefix of the names, path]
        self.facts = {path: facts for path, *facts in header['sources']}
        self.open_files = OrderedDict()  # {number: open file}, the one used last at the end
        self.labels = self.arrays['label']
        if len(self.arrays['label_ends']):
            self.labels = LabelSets(self.labels, self.arrays['label_ends'])

    def __len__(self):
        return len(self.arrays['end'])

    def name(self, index):
        """'ARCHIVE/path' of an image, or as its list has it."""
        arrays = self.arrays
        number, folder = int(arrays['file'][index]), int(arrays['folder'][index])
        prefix = self.files[number][0] if number >= 0 else ''
        text = piece(arrays['folders'], arrays['folder_ends'], folder) \
            + piece(arrays['tails'], arrays['end'], index)
        return prefix + text.decode('utf-8', 'surrogateescape')

    def path(self, index):
        """The name of an image, with the root."""
        return os.path.join(self.root, self.name(index))

    def where(self, index):
        """'FILE:LINE' of an image in a list, or its path."""
        lines = self.arrays['line']
        return f'{self.file}:{lines[index]}' if len(lines) else self.path(index)

    def load(self, index):
        """The image as RGB; raises what common.data.images.load_image raises."""
        return whole(self.load_for_crop(index))

    def load_for_crop(self, index):
        """The image as common.data.images.load_for_crop gives it."""
        if self.arrays['file'][index] < 0:
            return load_for_crop(self.file_of(index), self.backend, self.upright)
        return decode_for_crop(self.content(index), self.backend, self.upright)

    def identity(self, index):
        """Two numbers of an image's file, or of its archive and its place there, which no other
        image has."""
        number = int(self.arrays['file'][index])
        if number < 0:
            found = os.stat(self.file_of(index))
            return found.st_dev, found.st_ino
        found = os.fstat(self.opened(number).fileno())
        return found.st_dev, hash_of(f'{found.st_ino}/{self.place(index)[0]}')

    def content(self, index):
        """The bytes of an image's file.

        Raises:
            OSError, ValueError: they cannot be read, or are not all there.
        """
        number = int(self.arrays['file'][index])
        if number < 0:
            with open(self.file_of(index), 'rb', opener=open_regular) as stream:
                return stream.read(MAX_BYTES)
        offset, size = self.place(index)
        if size > MAX_BYTES:
            raise ValueError(f'got {size} bytes, expected at most {MAX_BYTES}')
        content = os.pread(self.opened(number).fileno(), size, offset)
        if len(content) != size:
            raise ValueError(f'got {len(content)} of {size} bytes: the archive is cut')
        return content

    def file_of(self, index):
        """The path of an image that is a file of its own; an index may come with the data."""
        name = self.name(index)
        if name.startswith('/') or '..' in name.split('/'):
            raise ValueError(f'got {printable(name, 200)} in the index, expected a path inside')
        return os.path.join(self.root, name)

    def place(self, index):
        """(offset, size) of an image in its archive."""
        offset, size = int(self.arrays['offset'][index]), int(self.arrays['size'][index])
        if offset < 0:
            path = self.files[int(self.arrays['file'][index])][1]
            raise FileNotFoundError(2, f'{printable(path)} has no such member')
        return offset, size

    def opened(self, number):
        """An archive, open; it is the one that the index was made of."""
        if number in self.open_files:
            self.open_files.move_to_end(number)
            return self.open_files[number]
        path = self.files[number][1]
        file = open(os.path.join(self.root, path), 'rb', buffering=0,  # noqa: SIM115 - kept
                    opener=open_regular)
        found = os.fstat(file.fileno())
        if [found.st_size, found.st_mtime_ns] != self.facts[path]:
            file.close()
            raise InputError(f'{os.path.join(self.root, path)}: the archive has changed since the '
                             f'start')
        self.open_files[number] = file
        if len(self.open_files) > MAX_OPEN:
            self.open_files.popitem(last=False)[1].close()
        return file

    @property
    def names(self):
        """All texts of which names are made, as bytes in an array, to look for a character."""
        return np.concatenate([self.arrays['folders'], self.arrays['tails']])


def piece(texts, ends, index):
    """The bytes of one of many texts that are joined."""
    return texts[ends[index - 1] if index else 0:ends[index]].tobytes()
