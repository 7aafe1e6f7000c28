"""The ImageNet list layout: `relative/path label` a line, kept in compact arrays.

1.28 million entries take some 60 MB, and worker processes share them: there is no Python object
for each entry whose reference count a worker would touch (and so copy).
"""
import contextlib
import os
import re
import stat
from array import array

import numpy as np

from common.core.errors import InputError, opened
from common.core.label_sets import LabelSets
from common.data.images import load_for_crop, load_image
from common.data.sources import ImageSource

SPLITS = ('train', 'val')  # a folder and a list file, train_list.txt, of each
BOM = b'\xef\xbb\xbf'
UTF_16 = '; iconv -f UTF-16 -t UTF-8 converts a file in UTF-16'
# What a path has that leaves the folder, or that comes from another layout of lists.
STRANGE = re.compile(rb'^[/#]|\.\.|[\0\r\\]|,$').search
# Labels of other layouts, and what to do about them.
LABELS = [(re.compile(pattern, re.S), text) for pattern, text in (
    (rb'-\d+', 'labels count from 0: leave out images that have none'),
    (rb'\d+\.\d*', 'write it without a point'),
    (rb'\d+(,\d+)+', 'several labels for an image: train and evaluate with '
                      '-o DATA.MULTI_LABEL=true'),
    (rb'-', 'images without a label: train and evaluate with '
           '-o DATA.MULTI_LABEL=true'),
    (rb'.*[,;]\d+', 'put a space or a tab before the label: '
                     r"sed -E 's/[,;] *([0-9]+)[[:space:]]*$/ \1/'; or call it FILE.csv"),
)]

# Labels of a multi-label list: none, or whole numbers.
LABEL_SET = re.compile(rb'-|\d{1,9}(,\d{1,9})*')


class ImageList(ImageSource):
    """Paths and labels of a list file.

    Attributes:
        file: the list file, for messages.
        root: the folder that the paths are relative to.
        labels: int64 [n], or LabelSets.
        backend: the decoder of common.data.images.load_image.
    """

    backend = 'pillow'

    def __init__(self, file, root, names, ends, labels, lines):
        self.file = file
        self.root = root
        self.names = names            # uint8, all relative paths joined
        self.ends = ends              # int64 [n], where each path ends in `names`
        self.labels = labels          # int64 [n], or LabelSets
        self.lines = lines            # int32 [n], line numbers from 1

    def name(self, index):
        """The path of an entry, relative to the root."""
        start = self.ends[index - 1] if index else 0
        return self.names[start:self.ends[index]].tobytes().decode('utf-8')

    def load(self, index):
        """The image as RGB; raises what common.data.images.load_image raises."""
        return load_image(self.path(index), self.backend, self.upright)

    def load_for_crop(self, index):
        """The image as common.data.images.load_for_crop gives it."""
        return load_for_crop(self.path(index), self.backend, self.upright)

    def path(self, index):
        """The path of an entry, with the root."""
        return os.path.join(self.root, self.name(index))

    def identity(self, index):
        """Device and number of an entry's file, which no other file has."""
        found = os.stat(self.path(index))
        if not stat.S_ISREG(found.st_mode):
            raise ValueError('not a file')
        return found.st_dev, found.st_ino

    def content(self, index):
        """The bytes of an entry's file."""
        with open(self.path(index), 'rb') as stream:
            return stream.read()

    def where(self, index):
        """'FILE:LINE' of an entry."""
        return f'{self.file}:{self.lines[index]}'


def read_list(file: str, root: str | None = None, multi_label: bool = False) -> ImageList:
    """Reads a list file.

    The label is the last field, so a path may hold spaces. A byte order mark, CRLF, tabs, blank
    lines, an entry that is there twice and numbers that no entry has are fine.

    Args:
        file: path of the list.
        root: folder that the paths are relative to; None is the list's own folder.
        multi_label: whether the last field is all labels of an image, '0,3,7', or '-' for none.

    Raises:
        InputError: 'FILE:LINE: ...' for a line without a label, a label that is not a plain
            whole number or is there twice, a path that is absolute or leaves the root, a comment,
            or bytes that are not UTF-8; and for a file that is missing or has no entry. It says
            what to change.
    """
    root = os.path.dirname(file) if root is None else root
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such list file')
    names, ends, lines = bytearray(), array('q'), array('i')
    labels, label_ends = array('q'), array('q')
    with opened(file) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1 and line.startswith(BOM):
                line = line[len(BOM):]
            fields = line.strip().rsplit(None, 1)
            if not fields:
                continue
            if multi_label:
                labels.extend(label_set(fields, line, f'{file}:{number}'))
                label_ends.append(len(labels))
            elif len(fields) == 2 and fields[1].isdigit() and len(fields[1]) <= 9:
                labels.append(int(fields[1]))
            else:
                raise InputError(f'{file}:{number}: got {shown(line)}, expected "relative/path '
                                 f'label" with a whole number from 0 as the label'
                                 f'{advice(fields)}')
            name = fields[0]
            # The quick test is rare to hit; the exact ones follow only then.
            if STRANGE(name):
                check_name(name, root, file, number)
            if not name.isascii():
                check_utf8(name, file, number)
            names += name
            ends.append(len(names))
            lines.append(number)
    if not lines:
        raise InputError(f'{file}: got no entry, expected "relative/path label" lines')
    labels = np.array(labels, np.int64)
    if multi_label:
        labels = LabelSets(labels, np.array(label_ends, np.int64))
    return ImageList(file, root, np.frombuffer(names, np.uint8), np.array(ends, np.int64), labels,
                     np.array(lines, np.int32))


def label_set(fields, line, where):
    """The labels of a line of a multi-label list.

    Args:
        fields: the last field of the line, and what is before it if there is something.
        line: all of it, for messages.
        where: 'FILE:LINE'.

    Raises:
        InputError: they are no such labels, or one of them is there twice.
    """
    if len(fields) != 2 or not LABEL_SET.fullmatch(fields[1]) or fields[0].endswith(b','):
        raise InputError(f'{where}: got {shown(line)}, expected "relative/path labels" with whole '
                         f'numbers from 0, joined by commas without spaces, or "-" for no label'
                         f'{"" if len(fields) != 2 else advice(fields, multi_label=True)}')
    numbers = [] if fields[1] == b'-' else [int(number) for number in fields[1].split(b',')]
    if len(set(numbers)) < len(numbers):
        raise InputError(f'{where}: got {shown(line)}, expected each label once')
    return numbers


def check_name(name, root, file, number):
    """Raises InputError for a path that is outside of the root, or comes from another layout."""
    where = f'{file}:{number}: path: got {shown(name)}, expected'
    if b'\0' in name:
        raise InputError(f'{where} UTF-8{UTF_16}')
    if name.startswith(b'/') or b'..' in name.split(b'/'):
        inside = os.path.relpath(os.fsdecode(name), os.path.abspath(root))
        here = name.startswith(b'/') and not inside.startswith('..')
        raise InputError(f"{where} a path inside the data folder, relative to it and without '..'"
                         + (f"; here it is {inside!r} (sed 's#^{os.path.abspath(root)}/##' makes "
                            f"them so)" if here else ''))
    for is_strange, expected in (
            (b'\r' in name, "one entry a line (tr '\\r' '\\n' puts in line ends for CR)"),
            (b'\\' in name, "'/' between folders (tr '\\\\' / makes them so)"),
            (name.startswith(b'#'), 'no comment'),
            (name.endswith(b','), "no comma before the label (sed 's/, */ /' takes it out)")):
        if is_strange and not os.path.exists(os.path.join(os.fsencode(root), name)):
            raise InputError(f'{where} {expected}; there is no such file')


def advice(fields, multi_label=False):
    """What to do about a line whose label is no number; '' where that is not known.

    Args:
        fields: the label, and what is before it if there is something.
        multi_label: whether there may be several labels.
    """
    first, label = fields[0], fields[-1]
    if first.startswith(b'#'):
        return '; a list has no comments'
    if b'\0' in label:
        return UTF_16
    for pattern, text in () if multi_label else LABELS:
        if pattern.fullmatch(label):
            return f'; {text}'
    if first.split(None, 1)[0].isdigit():
        return '; the path comes first'
    return '; for names of classes take a csv file' if label[:1].isalpha() else ''


def check_utf8(name, file, number):
    """Raises InputError for a path that is not UTF-8."""
    try:
        name.decode('utf-8')
    except UnicodeDecodeError:
        raise InputError(f'{file}:{number}: path: got {shown(name)}, expected UTF-8; iconv -f GBK '
                         f'-t UTF-8 converts a file in GBK') from None


def shown(raw):
    """The first 120 bytes of a line, quoted, for a message."""
    text = raw.strip()[:120].decode('utf-8', 'backslashreplace')
    return repr(text)


def gbk_hint(images, index, error):
    """What to do where an image is not there because its list is in GBK, else ''.

    Most names in GBK are no UTF-8, which check_utf8 says. The bytes of some are, by chance.

    Args:
        images, index: the image.
        error: what reading it has raised.
    """
    if not isinstance(error, FileNotFoundError):
        return ''
    path, name = images.path(index), images.name(index)
    with contextlib.suppress(UnicodeError):
        meant = os.fsencode(name).decode('gbk')
        if path.endswith(name) and os.path.exists(path.removesuffix(name) + meant):
            return f', but {meant} is there: the list is in GBK; iconv -f GBK -t UTF-8 converts it'
    return ''
