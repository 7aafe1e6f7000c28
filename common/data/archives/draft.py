"""The index of a data set while it is made: entries in compact arrays, some 50 bytes each."""
from array import array

import numpy as np

from common.core.label_sets import LabelSets

BLOCK = 1 << 16  # entries whose names are copied at once


class Draft:
    """Entries of an index.

    An image's name is its file's prefix + its folder + its tail. Folders are kept once.

    Attributes:
        files: list of (prefix of the names, path relative to the root), an entry's `file` counts
            these from 0; -1 is a file of its own, whose path is its name.
        folders: {(sort key, text with '/' at the end): number}.
        columns: what an index holds for each entry, by the names of COLUMNS.
        classes: list of names, or None.
        note: what has been done with the images before, or ''.
        label_ends: int64 [n] of LabelSets, whose values are the column 'label' then; or None.
    """

    COLUMNS = {'end': 'q', 'folder': 'i', 'file': 'i', 'offset': 'q', 'size': 'I', 'label': 'q',
               'line': 'i'}

    def __init__(self):
        self.files, self.folders = [], {}
        self.tails = bytearray()
        self.columns = {name: array(kind) for name, kind in self.COLUMNS.items()}
        self.classes = self.label_ends = None
        self.note = ''

    def __len__(self):
        return len(self.columns['end'])

    def add_file(self, path, prefix=''):
        """The number of an archive."""
        self.files.append((prefix, path))
        return len(self.files) - 1

    def add(self, file, folder, tail, offset, size, label=0, line=0, key=()):
        """Adds an entry.

        Args:
            file: number of `add_file`, or -1.
            folder: str, '' or with '/' at its end.
            tail: str, the rest of the name.
            offset, size: where its bytes are in the file; an offset of -1 is a member that is not
                there.
            label: its class.
            line: of the list.
            key: what the folder is sorted by in `order`.
        """
        self.tails += tail.encode('utf-8', 'surrogateescape')
        columns = self.columns
        columns['end'].append(len(self.tails))
        columns['folder'].append(self.folders.setdefault((key, folder), len(self.folders)))
        columns['file'].append(file)
        columns['offset'].append(offset)
        columns['size'].append(size)
        columns['label'].append(label)
        columns['line'].append(line)

    def arrays(self):
        """{name: numpy array} of the columns."""
        return {name: np.array(column) for name, column in self.columns.items()}

    def tail(self, index):
        """The tail of an entry, as bytes."""
        ends = self.columns['end']
        return bytes(self.tails[ends[index - 1] if index else 0:ends[index]])

    def order(self):
        """The entries as files of folders come: by the folder's key, then by the tail.

        Of two members of one name the later one counts, as where an archive is unpacked.

        Returns:
            int64 [m].
        """
        keys = list(self.folders)
        rank = np.empty(len(keys), np.int64)
        rank[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
        ranks = rank[np.array(self.columns['folder'], np.int64)]
        together = np.argsort(ranks, kind='stable')
        _, starts = np.unique(ranks[together], return_index=True)
        order = array('q')
        for group in np.split(together, starts[1:]):
            tails = {self.tail(index): index for index in group.tolist()}
            order.extend(tails[tail] for tail in sorted(tails))
        return np.array(order, np.int64)

    def select(self, order):
        """The Draft of some entries in another order."""
        chosen = Draft()
        chosen.files, chosen.folders = self.files, self.folders
        chosen.classes, chosen.note = self.classes, self.note
        arrays = self.arrays()
        ends, labels = arrays.pop('end'), arrays.pop('label')
        lengths = np.diff(ends, prepend=0)
        tails = np.frombuffer(self.tails, np.uint8)
        for first in range(0, len(order), BLOCK):
            block = order[first:first + BLOCK]
            count = lengths[block]
            shift = ends[block] - np.cumsum(count)  # from a byte of the new tails to the old one
            chosen.tails += tails[np.arange(count.sum()) + np.repeat(shift, count)].tobytes()
        chosen.columns = {'end': np.cumsum(lengths[order], dtype=np.int64),
                          **{name: values[order] for name, values in arrays.items()}}
        if self.label_ends is None:
            chosen.columns['label'] = labels[order]
        else:
            sets = LabelSets(labels, self.label_ends)[order]
            chosen.columns['label'], chosen.label_ends = sets.values, sets.ends
        return chosen
