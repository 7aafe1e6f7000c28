"""Writes the list files of a data set from its class folders."""
import os

from common.core.errors import InputError, printable, say
from common.core.files import replace_atomically
from common.core.flags import check_output
from common.data.folders import read_flat_val, read_folder
from common.data.lists import SPLITS


def write_lists(path: str, val_labels: str | None = None, ids: str | None = None,
                force: bool = False):
    """Writes PATH/train_list.txt and PATH/val_list.txt from class folders.

    Args:
        path: folder of the data set.
        val_labels, ids: files of labels for images that lie in PATH/val/ itself; see
            common.data.folders.read_flat_val.
        force: whether lists that are there are replaced, too; else they are kept.

    Raises:
        InputError: both lists are there and are to be kept, a folder is not as common.data.folders
            expects it, or a file name has a line break.
    """
    files = {split: os.path.join(path, f'{split}_list.txt') for split in SPLITS}
    kept = [file for file in files.values() if os.path.lexists(file) and not force]
    if len(kept) == len(files):
        raise InputError(f'{path}: got -write, but both lists exist; -force replaces them')
    if os.path.isdir(path):  # else what is said below of its missing folders is clearer
        for file in files.values():
            if file not in kept:
                check_output('write', file)
    images = {file: read_flat_val(path, val_labels, ids)[0] if val_labels and split == 'val'
              else read_folder(path, split == 'train')[0]
              for split, file in files.items() if file not in kept}
    for file in kept:
        say(f'{printable(file)}: kept; -force replaces it')
    for file, source in images.items():
        if b'\n' in source.names.tobytes():
            raise InputError(f'{source.file}: got a file name with a line break, which no list '
                             f'can hold')
        with replace_atomically(file) as temporary, \
                open(temporary, 'w', encoding='utf-8') as stream:
            for index, label in enumerate(source.labels.tolist()):
                stream.write(f'{source.name(index)} {label}\n')
        say(f'{printable(file)}: written')
