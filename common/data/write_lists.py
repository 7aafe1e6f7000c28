"""Writes the list files of a data set, and the names of its classes, from its folders or table."""
import os

import numpy as np

from common.config import base_config
from common.core.errors import InputError, complain, printable, say
from common.core.files import replace_atomically
from common.core.flags import check_output
from common.core.label_sets import all_labels, image_of, label_text
from common.data.archives.folders import read_archived_flat
from common.data.archives.members import is_archive
from common.data.folders import read_flat_val
from common.data.layouts import CLASS_NAMES, find_layout, read_layout
from common.data.lists import SPLITS
from common.data.subset import Subset
from common.data.verify import SHOWN, find_broken


def write_lists(path: str, val_labels: str | None = None, ids: str | None = None,
                force: bool = False, val_fraction: float | None = None, leave_out: bool = False,
                multi_label: bool = False):
    """Writes PATH/train_list.txt and PATH/val_list.txt, and the names of the classes beside them.

    The layouts are those of common.data.layouts.find_layout. Where the data have no split, a
    part of each class is for validation, as in a training on them.

    Args:
        path: folder of the data set, or an archive.
        val_labels, ids: files of labels for images that lie in PATH/val/ itself; see
            common.data.folders.read_flat_val.
        force: whether files that are there are replaced, too; else they are kept.
        val_fraction: fraction of each class for validation; None is DATA.VAL_FRACTION's default.
        leave_out: whether images that cannot be decoded are left out, and said to be; their class
            keeps its number.
        multi_label: whether images of a table may have several labels, or none.

    Raises:
        InputError: both lists are there and are to be kept, the data are of no layout, or a file
            name has a line break.
    """
    # of an archive beside it: its names begin with the archive's own
    folder = os.path.dirname(path) if is_archive(path) and os.path.isfile(path) else path
    files = {split: os.path.join(folder, f'{split}_list.txt') for split in SPLITS}
    kept = [file for file in files.values() if os.path.lexists(file) and not force]
    if len(kept) == len(files):
        raise InputError(f'{path}: got -write, but both lists exist; -force replaces them')
    if os.path.isdir(folder or '.'):  # else what is said below of its missing folders is clearer
        for file in files.values():
            if file not in kept:
                check_output('write', file)
    images, names = read_splits(path, val_labels, ids, val_fraction, multi_label)
    images = {file: images[split] for split, file in files.items() if file not in kept}
    for source in images.values():
        check_names(source)
    for file in kept:
        say(f'{printable(file)}: kept; -force replaces it')
    for file, source in images.items():
        broken = report_broken(source) if leave_out else set()
        write_lines(file, [f'{source.name(index)} {label_text(source.labels, index)}'
                           for index in range(len(source)) if index not in broken])
    file = os.path.join(folder, CLASS_NAMES)
    if names is None:
        return
    if os.path.lexists(file) and not force:
        say(f'{printable(file)}: kept; -force replaces it')
    else:
        write_lines(file, names)


def read_splits(path, val_labels, ids, val_fraction, multi_label):
    """({'train' and 'val': ImageSource}, list of class names) of the data in a folder."""
    data = base_config().DATA
    data.DATA_PATH, data.MULTI_LABEL = path, multi_label
    data.VAL_FRACTION = val_fraction or data.VAL_FRACTION
    if val_labels:
        data.DATASET = 'imagefolder'
        val, names = read_archived_flat(path, val_labels, ids) \
            or read_flat_val(path, val_labels, ids)
        return {'train': read_layout(data, True)[0], 'val': val}, names
    data.DATASET = find_layout(path, lists=False)
    sources = {split: read_layout(data, split == 'train') for split in SPLITS}
    return {split: images for split, (images, _) in sources.items()}, sources['train'][1]


def check_names(source):
    """Raises InputError for a name of a file that no list can hold."""
    whole = source.images if isinstance(source, Subset) else source
    if b'\n' in whole.names.tobytes():
        raise InputError(f'{whole.file}: got a file name with a line break, which no list can hold')


def report_broken(source):
    """The indices of the images that cannot be decoded, each said with its reason."""
    broken = find_broken(source)
    for index, reason in list(broken.items())[:SHOWN]:
        complain(f'left out: {source.path(index)}: {reason}')
    if len(broken) > SHOWN:
        complain(f'left out: {len(broken)} images in all')
    labels = source.labels
    left = labels[np.delete(np.arange(len(labels)), list(broken))]
    lost = np.setdiff1d(all_labels(labels), all_labels(left))
    if len(lost):
        first = image_of(labels, np.flatnonzero(all_labels(labels) == lost[0])[0])
        raise InputError(f'{source.where(first)}: no image of its class can be decoded, expected '
                         f'at least one')
    return broken.keys()


def write_lines(file, lines):
    """Writes a text file, whole or not at all."""
    with replace_atomically(file) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
        stream.writelines(f'{line}\n' for line in lines)
    say(f'{printable(file)}: written')
