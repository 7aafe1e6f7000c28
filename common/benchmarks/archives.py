"""Measures images in archives: what a large index costs, and reading beside files.

The index of `scale_table` is synthetic: as many entries, with names as ImageNet-21k's, beside an
archive without content. Images of `reading_table` are those of a list, read as files and from one
.tar of the same bytes; the ways take turns, a figure is the best of the rounds. A slow disk is one
on which each open takes some time, as on the file servers of clusters: a wait at each open stands
for it.
"""
import os
import sys
import tarfile
import tempfile
import time
from types import SimpleNamespace

import numpy as np

from common.core.errors import InputError
from common.data.archives.index import find_index, keep_index, source_of
from common.data.archives.lists import read_image_list
from common.data.archives.source import ArchiveImages
from common.data.samplers import TrainSampler
from common.train.same_run import data_fingerprints

CLASSES = 21_841
NAME = len('n00000000_00000000.JPEG')
BATCH = 1024


# A large index

def write_synthetic(folder, count):
    """Writes the index of an archive with `count` images, of which there are no bytes."""
    archive = os.path.join(folder, 'train.tar')
    with open(archive, 'wb'):
        pass
    labels = np.arange(count, dtype=np.int64) % CLASSES
    labels.sort()
    names = np.tile(np.frombuffer(b'n00000000_00000000.JPEG', np.uint8), (count, 1))  # [n, NAME]
    for first, last, numbers in ((1, 9, labels), (10, 18, np.arange(count))):
        for place in range(last - 1, first - 1, -1):
            names[:, place] = 48 + numbers % 10
            numbers = numbers // 10
    folders = [f'n{label:08d}.tar/'.encode() for label in range(CLASSES)]
    arrays = {
        'end': np.arange(1, count + 1) * NAME, 'tails': names.reshape(-1), 'folder': labels,
        'file': np.zeros(count), 'offset': np.arange(count) * 110_592 + 512,
        'size': np.full(count, 110_000), 'label': labels, 'line': [], 'label_ends': [],
        'folders': np.frombuffer(b''.join(folders), np.uint8),
        'folder_ends': np.cumsum([len(name) for name in folders])}
    header = {'anchor': '.', 'files': [['train.tar/', 'train.tar']], 'classes': None, 'note': '',
              'sources': [source_of(folder, 'train.tar')], 'split_off': False}
    keep_index(folder, 'train', header, arrays)


def own_memory():
    """Bytes of this process that no other one shares: its own, not those of mapped files."""
    with open('/proc/self/smaps_rollup') as stream:
        return 1024 * sum(int(line.split()[1]) for line in stream if line.startswith('Anonymous:'))


def scale_row(count):
    """{what: figure} of a data set with `count` images."""
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(folder, count)
        size = os.path.getsize(os.path.join(folder, '.train.index'))
        before, start = own_memory(), time.perf_counter()
        images = ArchiveImages(find_index(folder, 'train', folder), folder)
        images.check_labels(CLASSES)
        sampler = TrainSampler(len(images), BATCH)
        data_fingerprints(*[SimpleNamespace(images=images)] * 2)  # as a run keeps them
        started = time.perf_counter() - start
        own = own_memory() - before
        start = time.perf_counter()
        order = sampler.order_of(1)
        shuffled = time.perf_counter() - start
        start = time.perf_counter()
        for index in order[:BATCH].tolist():
            images.name(index), images.place(index), int(images.labels[index])
        looked_up = (time.perf_counter() - start) / BATCH
    return {'images': count, 'index, bytes an image': size / count, 'start, s': started,
            'own memory after it, bytes an image': max(own, 0) / count, 'shuffling, s': shuffled,
            'one image, us': 1e6 * looked_up}


def scale_table(counts):
    """Measures how an index starts, of data sets of several sizes.

    Args:
        counts: numbers of images.

    Returns:
        A markdown table, and a line on the growth from the first to the last.
    """
    rows = [scale_row(count) for count in counts]
    keys = list(rows[0])
    lines = [f'| {" | ".join(keys)} |', '|---' * len(keys) + '|']
    for row in rows:
        lines.append(f'| {row["images"]:,} | ' + ' | '.join(
            f'{row[key]:.3g}' for key in keys[1:]) + ' |')
    first, last = rows[0], rows[-1]
    grown = ', '.join(f'{key.partition(",")[0]} x {last[key] / first[key]:.3g}'
                      for key in ('start, s', 'shuffling, s', 'one image, us'))
    return '\n'.join([*lines, '', f'From {first["images"]:,} to {last["images"]:,} images, '
                                  f'x {last["images"] / first["images"]:.3g}: {grown}'])


# Reading

class Opens:
    """Counts the files that this process opens, and waits at each."""

    def __init__(self):
        self.count, self.delay, self.on = 0, 0.0, False
        sys.addaudithook(self.heard)  # there is no way to take it away

    def heard(self, event, _):
        if self.on and event == 'open':
            self.count += 1
            time.sleep(self.delay)


def reads_of_this_process():
    """How often this process has asked the system to read."""
    with open('/proc/self/io') as stream:
        return int(next(line for line in stream if line.startswith('syscr:')).split()[1])


def pass_over(images, order, opens, delay, decode):
    """(images a second, opens an image, reads an image) of a pass over images in some order."""
    opens.count, opens.delay = 0, delay
    reads, start = reads_of_this_process(), time.perf_counter()
    opens.on = True
    for index in order:
        if decode:
            images.load(index)
        else:
            images.content(index)
    opens.on = False
    taken = time.perf_counter() - start
    # 1: the reading of the counter itself
    return len(order) / taken, opens.count / len(order), \
        (reads_of_this_process() - reads - 1) / len(order)


def reading_table(data_path, count, delay, rounds):
    """Measures reading images as files and from a .tar, in one process.

    Args:
        data_path: folder with train_list.txt; its first `count` images are read.
        count: number of images.
        delay: milliseconds that each open waits, for the last column.
        rounds: passes of each.

    Returns:
        A markdown table.
    """
    files = read_image_list(os.path.join(data_path, 'train_list.txt'))
    files.backend = 'cv2'
    count = min(count, len(files))
    if count < 2:
        raise InputError(f'{data_path}: got {count} images, expected at least 2')
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(os.path.join(folder, 'a.tar'), 'w') as archive:
            for index in range(count):
                archive.add(files.path(index), f'{index}.jpg', recursive=False)
        with open(os.path.join(folder, 'train_list.txt'), 'w') as stream:
            stream.writelines(f'a.tar/{index}.jpg 0\n' for index in range(count))
        archived = read_image_list(os.path.join(folder, 'train_list.txt'))
        archived.backend = 'cv2'
        order = np.random.default_rng(0).permutation(count).tolist()
        opens, best = Opens(), {}
        for _ in range(rounds):
            for name, images in (('files', files), ('tar', archived)):
                for key, wait, decode in (('read', 0, False), ('decode', 0, True),
                                          ('slow', delay / 1000, False)):
                    got = pass_over(images, order, opens, wait, decode)
                    best[name, key] = max(best.get((name, key), got), got)
    lines = [f'| {count} images | read, img/s | opens an image | reads an image | '
             f'read and decode, img/s | read, {delay:g} ms for each open, img/s |',
             '|---' * 6 + '|']
    for name in ('files', 'tar'):
        speed, opened, reads = best[name, 'read']
        lines.append(f'| {name} | {speed:.0f} | {opened:.2f} | {reads:.2f} | '
                     f'{best[name, "decode"][0]:.0f} | {best[name, "slow"][0]:.0f} |')
    lines.append('| tar to files | ' + ' | '.join(
        '' if key is None else f'{best["tar", key][0] / best["files", key][0]:.2f}'
        for key in ('read', None, None, 'decode', 'slow')) + ' |')
    return '\n'.join(lines)
