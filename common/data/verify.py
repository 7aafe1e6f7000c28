"""Checks the list files of a data set, or its folders, table or archives, and the images that they
name."""
import contextlib
import hashlib
import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from tqdm import tqdm

from common.config import base_config
from common.core.errors import InputError, one_line, printable
from common.core.label_sets import all_labels, image_of
from common.data.archives.lists import read_image_list
from common.data.folders import folder_labels
from common.data.layouts import find_layout, read_layout
from common.data.lists import SPLITS, gbk_hint
from common.data.subset import Subset

SHOWN = 5   # findings of each kind
CHUNK = 64  # images that a process takes at a time

# What `check_chunk` checks, a source and whether it is decoded. It is global so that
# processes that are forked have it: 1.28 million entries are not sent to each of them.
CHECKED = None


class Findings(dict):
    """What was found: {kind: (how often, the texts of the first SHOWN)}.

    A kind that starts with 'note' need not be wrong.
    """

    def add(self, kind, text):
        """Counts a finding, and keeps its text if it is one of the first of its kind."""
        count, texts = self.get(kind, (0, []))
        self[kind] = count + 1, [*texts, printable(text)] if count < SHOWN else texts

    def report(self):
        """Prints what was found; returns whether all is well."""
        for kind, (count, texts) in self.items():
            print(f'{kind}: {count}', *texts, *['...'] * (count > SHOWN), sep='\n  ')
        well = all(kind.startswith('note') for kind in self)
        print('all is well' if well else 'not all is well')
        return well


def verify(path: str, decode: bool = False, workers: int | None = None,
           num_classes: int | None = None, multi_label: bool = False) -> Findings:
    """Checks PATH/train_list.txt and PATH/val_list.txt, and prints a line about each list.

    Where there is none of the two, the images are those that a training finds there.

    Args:
        path: folder of the data set, a csv file or an archive.
        decode: whether to decode each image, and to compare training and validation by content.
        workers: number of processes that decode; None is one for each core.
        num_classes: number of classes; None is one more than the largest training label.
        multi_label: whether the lists have several labels for an image, or none (DATA.MULTI_LABEL).

    Returns:
        Findings.

    Raises:
        InputError: there are no data of a known layout, or a process that decodes has died.
    """
    data = base_config().DATA
    data.DATA_PATH, data.MULTI_LABEL = path, multi_label
    data.DATASET = find_layout(path)
    findings, lists, keys = Findings(), {}, {}
    for split in SPLITS:
        try:
            images = lists[split] = read_split(data, split)
        except InputError as error:
            findings.add('list that cannot be read', error)
            continue
        if split == 'train' and num_classes is None:
            num_classes = int(all_labels(images.labels).max(initial=0)) + 1
        check_labels(images, split, num_classes, findings)
        keys[split] = check_files(images, split, decode, workers, findings)
        check_duplicates(images, split, keys[split], findings)
    if len(lists) == len(SPLITS):
        check_overlap(lists, keys, findings)
        if not multi_label:
            check_folder_labels(lists, findings)
    return findings


def read_split(data, split):
    """The images of a config's DATA node; each has a path and bytes, as lists, folders, tables and
    archives have."""
    if data.DATASET == 'list':
        return read_image_list(os.path.join(data.DATA_PATH, f'{split}_list.txt'), data.MULTI_LABEL)
    return read_layout(data, split == 'train')[0]


def check_overlap(lists, keys, findings):
    """Validation images that are training images, too."""
    train, val = lists['train'], lists['val']
    first = first_equal(np.concatenate([keys['train'], keys['val']])[:, -2:])[len(train):]
    for index in np.flatnonzero(first < len(train)):
        findings.add('validation images that are training images', f'{val.where(index)}: '
                     f'{val.name(index)} is {train.where(first[index])}')


def check_folder_labels(lists, findings):
    """Folders of one name whose images have different labels in training and in validation."""
    train_labels, val_labels = folder_labels(lists['train']), folder_labels(lists['val'])
    for folder in sorted(train_labels.keys() & val_labels.keys()):
        in_train, in_val = train_labels[folder], val_labels[folder]
        if in_train is not None and in_val is not None and in_train != in_val:
            findings.add('folders with one label in training, another in validation',
                         f'{folder}: {in_train}, {in_val}')


def check_labels(images, split, num_classes, findings):
    """Counts of the classes, and labels that are out of range."""
    labels = all_labels(images.labels)
    classes, counts = np.unique(labels, return_counts=True)
    fewest, most = (counts.min(), counts.max()) if len(counts) else (0, 0)
    print(f'{printable(name_of(images, split))}: {len(images)} entries, {len(classes)} classes, '
          f'{fewest} to {most} images in each', flush=True)
    if num_classes is None:
        return
    for position in np.flatnonzero(labels >= num_classes):
        findings.add(f'{split}: labels out of range',
                     f'{images.where(image_of(images.labels, position))}: got '
                     f'{labels[position]}, expected 0 to {num_classes - 1}')
    present = set(classes[classes < num_classes].tolist())
    if len(present) < num_classes:
        first = next(number for number in range(num_classes) if number not in present)
        findings.add(f'{"note, " if split == "val" else ""}{split}: classes without an image',
                     f'{num_classes - len(present)} of {num_classes}, first class {first}')


def name_of(images, split):
    """What the images of a split come from: a list file, or a folder or table and the split."""
    whole = images.images if isinstance(images, Subset) else images
    return whole.file if whole.file.endswith(f'{split}_list.txt') else f'{whole.file}, {split}'


def check_files(images, split, decode, workers, findings):
    """Files that are not there or cannot be decoded.

    Args:
        images: ImageList or ArchiveImages.
        split: train | val, for the findings.
        decode: whether the images are decoded.
        workers: number of processes that decode.
        findings: Findings.

    Returns:
        uint64 [n, 2], or [n, 4] if they are decoded: the keys of `check_file`.
    """
    keys, starts = [], range(0, len(images), CHUNK)
    try:
        with checked_chunks(images, decode, workers, starts) as results:
            for chunk, problems in tqdm(results, split, len(starts), unit=f' x {CHUNK} files',
                                        leave=False, disable=not sys.stderr.isatty()):
                keys.append(chunk)
                for index, kind, reason in problems:
                    findings.add(f'{split}: {kind}',
                                 f'{images.where(index)}: {images.name(index)}: {reason}')
    except BrokenProcessPool:
        raise InputError(f'{name_of(images, split)}: a process that decodes images died; with '
                         f'less memory: -workers 1') from None
    return np.concatenate(keys)


def find_broken(images, workers=None):
    """{index: reason} of the images of a source that are missing or cannot be decoded."""
    with checked_chunks(images, True, workers, range(0, len(images), CHUNK)) as results:
        return {index: reason for _, problems in results for index, _, reason in problems}


@contextlib.contextmanager
def checked_chunks(images, decode, workers, starts):
    """The results of `check_chunk` for each start, in order; by processes if images are decoded."""
    global CHECKED
    CHECKED = images, decode
    if not decode:
        yield map(check_chunk, starts)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context('fork')) as pool:
        yield pool.map(check_chunk, starts)


def check_chunk(start):
    """Checks CHUNK images: (their keys, list of (index, kind of problem, reason))."""
    images, decode = CHECKED
    if decode:
        warnings.simplefilter('ignore')
    stop = min(start + CHUNK, len(images))
    keys = np.zeros((stop - start, 4 if decode else 2), np.uint64)
    problems = []
    for index, key in enumerate(keys, start):
        kind, reason = check_file(images, index, decode, key)
        if kind:
            problems.append((index, kind, reason))
    return keys, problems


def check_file(images, index, decode, key):
    """Checks one image, and fills in its key.

    Args:
        images, index: the image.
        decode: whether it is decoded.
        key: uint64 [2], or [4] to decode. It gets the two numbers of the image's `identity`, and
            to decode a hash of its bytes; for what is not there, a hash of its path.

    Returns:
        (kind of problem, reason), or (None, None).
    """
    key.reshape(-1, 2)[:] = hash_of(os.fsencode(images.path(index)))
    kind = 'missing files'
    try:
        key[:2] = [number % 2 ** 64 for number in images.identity(index)]
        if decode:
            kind = 'images that cannot be decoded'
            key[2:] = hash_of(images.content(index))
            images.load(index)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
        reason = one_line(getattr(error, 'strerror', None) or error)
        return kind, reason + gbk_hint(images, index, error)
    return None, None


def hash_of(data):
    """128 bits of a hash, as two numbers."""
    return np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint64)


def check_duplicates(images, split, keys, findings):
    """Entries of one file; links to it and other spellings of its path are the same file."""
    first = first_equal(keys[:, :2])
    for index in np.flatnonzero(first != np.arange(len(first))):
        same = np.array_equal(images.labels[index], images.labels[first[index]])
        kind = f'{split}: entries of one file with {"the same label" if same else "two labels"}'
        findings.add(kind, f'{images.where(index)}: {images.name(index)} is '
                           f'{images.where(first[index])}')


def first_equal(keys):
    """For each row of [n, 2] the number of the first row that is equal to it."""
    order = np.lexsort(keys.T)  # a stable sort: of equal rows the first one stays the first
    is_new = np.ones(len(keys), bool)
    is_new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    result = np.empty(len(keys), np.int64)
    result[order] = order[np.flatnonzero(is_new)][np.cumsum(is_new) - 1]
    return result
