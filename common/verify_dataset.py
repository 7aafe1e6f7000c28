"""Checks train_list.txt and val_list.txt of a data set, and writes them from class folders.

python -m common.verify_dataset PATH             checks the lists, and that the files exist
python -m common.verify_dataset PATH -decode     decodes the images, too, and compares contents
python -m common.verify_dataset PATH -write      first writes the lists that are missing, from
                                                 PATH/train/CLASS/ and PATH/val/CLASS/
    -val_labels FILE                             ... or from images in PATH/val/ itself
    -ids map_clsloc.txt                          ... with the numbers of ImageNet's
                                                 ILSVRC2012_validation_ground_truth.txt

FILE holds lines 'name,label' (also ImageNet's LOC_val_solution.csv), or one label a line for the
sorted names. A label is the name of a class folder, or its number in their sorted order, from 0.
The exit code is 0 if all is well, else 1.
"""
import argparse
import contextlib
import hashlib
import multiprocessing
import os
import stat
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import numpy as np
from tqdm import tqdm

from common.core.errors import InputError, errors_of_a_tool, one_line, printable, say
from common.core.files import replace_atomically
from common.core.flags import add_flag, check_least, check_output
from common.data.folders import folder_labels, read_flat_val, read_folder
from common.data.images import load_image
from common.data.lists import read_list

SPLITS = ('train', 'val')
SHOWN = 5   # findings of each kind
CHUNK = 64  # images that a process takes at a time


class Findings(dict):
    """{kind: [how often, the first few]}. A kind that starts with 'note' need not be wrong."""

    def add(self, kind, text):
        count, texts = self.get(kind, (0, []))
        self[kind] = count + 1, [*texts, printable(text)] if count < SHOWN else texts

    def report(self):
        """Prints what was found; returns whether all is well."""
        for kind, (count, texts) in self.items():
            print(f'{kind}: {count}', *texts, *['...'] * (count > SHOWN), sep='\n  ')
        well = all(kind.startswith('note') for kind in self)
        print('all is well' if well else 'not all is well')
        return well


def verify(path, decode=False, workers=None, num_classes=None):
    """Checks PATH/train_list.txt and PATH/val_list.txt: Findings; prints a line about each list.

    Args:
        decode: whether to decode each image, and to compare training and validation by content.
        workers: processes that decode; None is one for each core.
        num_classes: None is one more than the largest training label.
    """
    load = load_image if decode else None
    findings, lists, keys = Findings(), {}, {}
    for split in SPLITS:
        try:
            images = lists[split] = read_list(os.path.join(path, f'{split}_list.txt'))
        except InputError as error:
            findings.add('list that cannot be read', error)
            continue
        if split == 'train' and num_classes is None:
            num_classes = int(images.labels.max()) + 1
        check_labels(images, split, num_classes, findings)
        keys[split] = check_files(images, split, load, workers, findings)
        check_duplicates(images, split, keys[split], findings)
    if len(lists) == len(SPLITS):
        train, val = lists['train'], lists['val']
        first = first_equal(np.concatenate([keys['train'], keys['val']])[:, -2:])[len(train):]
        for index in np.flatnonzero(first < len(train)):
            findings.add('validation images that are training images', f'{val.where(index)}: '
                         f'{val.name(index)} is {train.where(first[index])}')
        labels, others = folder_labels(train), folder_labels(val)
        for folder in sorted(labels.keys() & others.keys()):
            if len({labels[folder], others[folder], None}) == 3:
                findings.add('folders with one label in training, another in validation',
                             f'{folder}: {labels[folder]}, {others[folder]}')
    return findings


def check_labels(images, split, num_classes, findings):
    """Counts of the classes, and labels that are out of range."""
    classes, counts = np.unique(images.labels, return_counts=True)
    print(f'{printable(images.file)}: {len(images)} entries, {len(classes)} classes, '
          f'{counts.min()} to {counts.max()} images in each', flush=True)
    if num_classes is None:
        return
    for index in np.flatnonzero(images.labels >= num_classes):
        findings.add(f'{split}: labels out of range', f'{images.where(index)}: got '
                     f'{images.labels[index]}, expected 0 to {num_classes - 1}')
    present = set(classes[classes < num_classes].tolist())
    if len(present) < num_classes:
        first = next(number for number in range(num_classes) if number not in present)
        findings.add(f'{"note, " if split == "val" else ""}{split}: classes without an image',
                     f'{num_classes - len(present)} of {num_classes}, first class {first}')


def check_files(images, split, load, workers, findings):
    """Files that are not there or cannot be decoded; returns the keys of look_at, [n, 2 or 4]."""
    global CHECKED
    CHECKED = images, load  # for the processes, which are forked: nothing is copied
    keys, starts = [], range(0, len(images), CHUNK)
    pool = load and ProcessPoolExecutor(workers, multiprocessing.get_context('fork'))
    bar = tqdm(starts, split, unit=f' x {CHUNK} files', leave=False,
               disable=not sys.stderr.isatty())
    try:
        with pool or contextlib.nullcontext():
            results = (pool.map if pool else map)(look_at_chunk, starts)
            for start, (chunk, problems) in zip(bar, results, strict=True):
                keys.append(chunk)
                for place, kind, reason in problems:
                    findings.add(f'{split}: {kind}', f'{images.where(start + place)}: '
                                                     f'{images.name(start + place)}: {reason}')
    except BrokenProcessPool:
        raise InputError(f'{images.file}: a process that decodes images died; with less memory: '
                         f'-workers 1') from None
    return np.concatenate(keys)


def look_at_chunk(start):
    """look_at for some images: (keys, list of (place, kind of problem, reason))."""
    images, load = CHECKED
    if load:
        warnings.simplefilter('ignore')
    stop = min(start + CHUNK, len(images))
    keys = np.zeros((stop - start, 4 if load else 2), np.uint64)
    found = [(place, *look_at(images.path(start + place), load, key))
             for place, key in enumerate(keys)]
    return keys, [problem for problem in found if problem[1]]


def look_at(path, load, key):
    """(kind of problem, reason) of one file, or (None, None).

    `key` is filled with the device and number of the file, and with a hash of its bytes if there is
    a load; of what is not there, with a hash of its path.
    """
    key.reshape(-1, 2)[:] = hash_of(os.fsencode(path))
    kind = 'missing files'
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return kind, 'not a file'
        key[:2] = found.st_dev % 2 ** 64, found.st_ino % 2 ** 64
        if load:
            kind = 'images that cannot be decoded'
            with open(path, 'rb') as stream:
                key[2:] = hash_of(stream.read())
            load(path)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
        return kind, one_line(getattr(error, 'strerror', None) or error)
    return None, None


def hash_of(data):
    """128 bits of a hash, as two numbers."""
    return np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint64)


def check_duplicates(images, split, keys, findings):
    """Entries of one file; links to it and other spellings of its path are the same file."""
    first = first_equal(keys[:, :2])
    for index in np.flatnonzero(first != np.arange(len(first))):
        same = images.labels[index] == images.labels[first[index]]
        kind = f'{split}: entries of one file with {"the same label" if same else "two labels"}'
        findings.add(kind, f'{images.where(index)}: {images.name(index)} is '
                           f'{images.where(first[index])}')


def first_equal(keys):
    """For each row of [n, 2] the number of the first row that is equal to it."""
    order = np.lexsort(keys.T)  # stable: of equal rows the first one stays the first
    is_new = np.ones(len(keys), bool)
    is_new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    result = np.empty(len(keys), np.int64)
    result[order] = order[np.flatnonzero(is_new)][np.cumsum(is_new) - 1]
    return result


def write_lists(path, val_labels=None, ids=None, force=False):
    """Writes train_list.txt and val_list.txt; a list that is there is kept, unless forced.

    Raises InputError if both are there, and what common.data.folders raises. val_labels and ids are
    the files of its read_flat_val.
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


def main(argv=None):
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)

    add = partial(add_flag, parser)
    parser.add_argument('path', metavar='PATH', help='folder of the data set')
    add('decode', 'decode every image', action='store_true')
    add('workers', 'processes that decode; default: one for each core', type=int, metavar='N')
    add('num_classes', 'default: the largest training label + 1', type=int, metavar='N')
    add('write', 'write the lists that are missing', action='store_true')
    add('force', 'with -write: replace those that exist', action='store_true')
    add('val_labels', 'with -write: labels of the images in PATH/val/', metavar='FILE')
    add('ids', 'with -val_labels: classes of the numbers there', metavar='FILE')
    args = parser.parse_args(argv)
    with errors_of_a_tool():
        check_least(args, workers=1, num_classes=1)
        if args.write:
            write_lists(args.path, args.val_labels, args.ids, args.force)
        elif args.force or args.val_labels or args.ids:
            raise InputError('-force, -val_labels, -ids: got one of them without -write')
        well = verify(args.path, args.decode, args.workers, args.num_classes).report()
    sys.exit(0 if well else 1)


if __name__ == '__main__':
    main()
