"""How the index of a data set is made: once, by reading the headers of its archives."""
import os
import sys

import numpy as np
from tqdm import tqdm

from common.core.errors import InputError
from common.data.archives.index import find_index, keep_index, one_at_a_time, source_of
from common.data.archives.members import members_of, opened_archive
from common.data.archives.source import ArchiveImages
from common.data.lists import SPLITS
from common.data.split import validation_part


def indexed(anchor, kind, root, make):
    """The ArchiveImages of some data, by the index that is there or that is made now.

    Args:
        anchor: the list, table, archive or folder that stands for the data.
        kind: which of their images.
        root: the folder that all paths are relative to.
        make: function that gives {kind: (Draft, sources, whether it is split off)}.
    """
    index = find_index(anchor, kind, root)
    if index is None:
        with one_at_a_time(anchor):
            index = find_index(anchor, kind, root)
            if index is None:
                kept = {made: keep_draft(anchor, made, root, *parts)
                        for made, parts in make().items()}
                index = kept[kind]
    return ArchiveImages(index, root)


def keep_draft(anchor, kind, root, draft, sources, split_off):
    """Writes the index of a Draft."""
    folders = [text.encode('utf-8', 'surrogateescape') for _, text in draft.folders]
    arrays = draft.arrays()
    arrays['tails'] = np.frombuffer(draft.tails, np.uint8)
    arrays['folders'] = np.frombuffer(b''.join(folders), np.uint8)
    arrays['folder_ends'] = np.cumsum([len(text) for text in folders], dtype=np.int64)
    arrays['label_ends'] = [] if draft.label_ends is None else draft.label_ends
    if not arrays['line'].any():
        arrays['line'] = []
    header = {'anchor': os.path.relpath(anchor, root or '.'), 'files': draft.files,
              'sources': sources, 'classes': draft.classes, 'split_off': split_off,
              'note': draft.note}
    return keep_index(anchor, kind, header, arrays)


class Scan:
    """Reads the headers of archives, with a bar of progress, and gathers what the index is made of.

    Attributes:
        sources: what the archives are, before they are read: a later change is noticed.
    """

    def __init__(self, root, paths, others=()):
        self.root = root
        self.sources = [source_of(root, path) for path in dict.fromkeys((*others, *paths))]
        total = sum(os.path.getsize(os.path.join(root, path)) for path in paths)
        self.bar = tqdm(total=total, desc='index', unit='B', unit_scale=True, leave=False,
                        disable=not sys.stderr.isatty())

    def done(self):
        """Takes the bar away; returns the sources."""
        self.bar.close()
        return self.sources

    def members(self, path):
        """Yields (descriptor of the archive, Member)."""
        full = os.path.join(self.root, path)
        with opened_archive(full) as file:
            for member in members_of(full, file, self.bar.update):
                yield file, member


def split_folder(name):
    """('a/', 'b.jpg') of 'a/b.jpg'."""
    folder, slash, tail = name.rpartition('/')
    return folder + slash, tail


def split_kinds(data):
    """The kinds of the indexes of the two parts of images that lie together."""
    many = 'multi-' if data.MULTI_LABEL else ''
    return [f'{many}{split}-{data.VAL_FRACTION:g}-{data.VAL_SEED}' for split in SPLITS]


def parts_of(draft, sources, kinds, data, for_training=None, images=None):
    """What `indexed` makes of images that lie together: the two parts of them.

    Args:
        for_training: bool [n], or None: a part of each class is split off, see split.py.
        images: what has names and labels of the Draft's entries, for the split; None is PlainNames.
    """
    if for_training is None:
        for_training = ~validation_part(images or PlainNames(draft), data.VAL_FRACTION,
                                        data.VAL_SEED)
    made = {}
    for kind, chosen in zip(kinds, (for_training, ~for_training), strict=True):
        if not chosen.any():
            raise InputError(f'{data.DATA_PATH}: got {len(draft)} images, none of them for '
                             f'{"training" if kind == kinds[0] else "validation"}')
        made[kind] = draft.select(np.flatnonzero(chosen)), sources, True
    return made


class PlainNames:
    """The names that a Draft's images have as files: the split is the same as there."""

    def __init__(self, draft):
        self.draft = draft
        self.labels = np.array(draft.columns['label'])
        self.folders = [key for key, _ in draft.folders]

    def __len__(self):
        return len(self.draft)

    def name(self, index):
        folder = self.folders[self.draft.columns['folder'][index]]
        return '/'.join((*folder, self.draft.tail(index).decode('utf-8', 'surrogateescape')))
