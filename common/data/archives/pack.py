"""Writes a data set as WebDataset shards: some large files instead of millions of small ones.

    OUT/train-000000.tar, val-000000.tar   KEY.jpg and KEY.cls of each image, in the data's order
    OUT/class_names.txt                    if the data have names
    OUT/pack.json                          what is packed, how, and the shards that are done

The bytes of the shards follow from the images, their order and the flags alone: no time, owner or
number of processes is in them. A shard gets its name when it is whole and has been read again, and
pack.json after it, so that a start after any end goes on with the next shard.
"""
import contextlib
import fcntl
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from common.config import base_config
from common.core.errors import InputError, complain, one_line, printable, say
from common.core.files import replace_atomically, sha256
from common.core.label_sets import LabelSets
from common.data.archives.lists import read_image_list
from common.data.archives.members import without_ending
from common.data.archives.webdataset import PACK_FACTS, is_image_ending, packed_note
from common.data.images import ORIENTATION, as_rgb, orientation_of
from common.data.layouts import CLASS_NAMES, find_layout, names_beside, read_layout
from common.data.lists import SPLITS

WINDOW = 256  # images that each process has in hand
SHOWN = 5     # names of images that cannot be decoded
SHARD = re.compile(r'(train|val)-\d{6}\.tar')

# What `make_sample` packs: a source, the shorter side or None, the quality. It is global so that
# processes that are forked have it.
PACKED = None


class Sample(NamedTuple):
    """What is packed of an image."""
    ending: str
    content: bytes
    error: str   # why it could not be resized, or ''


def pack(source: str, out: str, shard_size: int = 1 << 30, resize: int | None = None,
         quality: int = 95, val_fraction: float | None = None, workers: int = 1) -> None:
    """Packs a data set.

    Args:
        source: what -data_path may be, or one list file.
        out: folder, new or that of the same call before.
        shard_size: most bytes of a shard; one of a single image may have more.
        resize: pixels of the shorter side of images that are larger, by Pillow's bicubic filter;
            None leaves all bytes as they are. What is not larger, or cannot be decoded, stays.
        quality: of the JPEG files that are then written, 1 to 95.
        val_fraction: where the data have no split; None is DATA.VAL_FRACTION's default.
        workers: processes that read and resize.

    Raises:
        InputError: the data cannot be read, have several labels for an image, or OUT has something
            else in it.
    """
    sources, names = read_sources(source, val_fraction)
    facts = {'format': 1, 'shard_size': shard_size, 'resize': resize,
             'quality': quality if resize else None, 'pillow': PIL.__version__ if resize else None,
             'images': {split: fingerprint(images) for split, images in sources.items()}}
    os.makedirs(out, exist_ok=True)
    with only_one(out):
        done = begin(out, facts)
        if names:
            with replace_atomically(os.path.join(out, CLASS_NAMES)) as temporary, \
                    open(temporary, 'w', encoding='utf-8') as stream:
                stream.writelines(f'{name}\n' for name in names)
        for split, images in sources.items():
            pack_split(out, split, images, facts, done, workers)
    check(out, sources, done)  # the lock of the index is the same one


def read_sources(source, val_fraction):
    """({'train' or 'val': ImageSource}, names of the classes or None) of what is to be packed."""
    if os.path.isfile(source) and source.endswith('.txt'):
        split = SPLITS[1] if os.path.basename(source).startswith('val') else SPLITS[0]
        found = {split: read_image_list(source)}
        names = names_beside(os.path.dirname(source))
    else:
        data = base_config().DATA
        data.DATA_PATH, data.DATASET = source, find_layout(source, is_train=False)
        data.VAL_FRACTION = val_fraction or data.VAL_FRACTION
        splits = [split for split in SPLITS if data.DATASET != 'list'
                  or os.path.exists(os.path.join(source, f'{split}_list.txt'))]
        found, names = {}, None
        for split in splits:
            found[split], names = read_layout(data, split == SPLITS[0])
    for images in found.values():
        if isinstance(images.labels, LabelSets):
            raise InputError(f'{source}: got several labels for an image; a shard has one')
    return found, names


def fingerprint(images):
    """[number of images, sha256 of their names and labels]."""
    digest = hashlib.sha256(np.ascontiguousarray(images.labels, np.int64).tobytes())
    for index in range(len(images)):
        digest.update(images.name(index).encode('utf-8', 'surrogateescape') + b'\n')
    return [len(images), digest.hexdigest()]


@contextlib.contextmanager
def only_one(out):
    """Only one process packs into a folder."""
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f'{out}: another process packs into it') from None
        except OSError:  # file systems of clusters may have no locks
            complain(f'WARNING: {out} cannot be locked: two processes must not pack into it')
        yield
    finally:
        os.close(folder)


def begin(out, facts):
    """{split: list of [file, images, bytes, sha256]} of the shards that are done; they are read
    again.

    Raises:
        InputError: the folder has another pack, or something else, in it.
    """
    file = os.path.join(out, PACK_FACTS)
    kept = {}
    if os.path.isfile(file):
        try:
            with open(file, encoding='utf-8') as stream:
                kept = json.load(stream)
            shards = kept.pop('shards')
            done = {split: [as_shard(*shard) for shard in shards[split]]
                    for split in facts['images'] if split in shards}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f'{file}: damaged; expected what an earlier start has written, or '
                             f'another folder') from None
        other = [key for key in facts if kept.get(key) != facts[key]]
        if other:
            raise InputError(f'{out}: got another pack in it ({", ".join(other)} differ), expected '
                             f'an empty folder, or the same data and flags')
    else:
        found = [name for name in sorted(os.listdir(out)) if not name.startswith('.')]
        if found:
            raise InputError(f'{out}: got {printable(found[0])} in it, expected an empty folder, '
                             f'or one of an earlier start')
        done = {split: [] for split in facts['images']}
        keep(out, facts, done)
    known = {name for shards in done.values() for name, *_ in shards}
    for name in os.listdir(out):
        shard, _, rest = name.partition('.tar.tmp')
        if rest.isdigit() and SHARD.fullmatch(f'{shard}.tar') \
                or SHARD.fullmatch(name) and name not in known:
            os.remove(os.path.join(out, name))  # of a start that has died
    for split, shards in done.items():
        done[split] = list(itertools.takewhile(lambda shard: is_whole(out, *shard), shards))
        if len(done[split]) < len(shards):
            complain(f'{os.path.join(out, shards[len(done[split])][0])}: not as it was written; it '
                     f'is packed again, and all that follow it')
    return done


def as_shard(name, images, size, digest):
    """A shard's line of pack.json; raises ValueError for what is none."""
    if not SHARD.fullmatch(name) or type(images) is not int or type(size) is not int:
        raise ValueError(name)
    return [name, images, size, digest]


def is_whole(out, name, images, size, digest):
    """Whether a shard is as it was written."""
    try:
        with open(os.path.join(out, name), 'rb') as stream:
            return os.fstat(stream.fileno()).st_size == size \
                and sha256(stream, size).hex() == digest
    except OSError:
        return False


def keep(out, facts, done):
    """Writes pack.json."""
    file = os.path.join(out, PACK_FACTS)
    with replace_atomically(file) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
        json.dump({**facts, 'shards': done}, stream, indent=1)


def pack_split(out, split, images, facts, done, workers):
    """Writes the shards of a split that are not done."""
    shards, broken = done[split], []
    first = sum(count for _, count, *_ in shards)
    with tqdm(total=len(images), initial=first, desc=split, unit=' images', leave=False,
              disable=not sys.stderr.isatty()) as bar:
        samples = made(images, first, facts['resize'], facts['quality'], workers)
        pending = zip(range(first, len(images)), samples, strict=True)
        waiting = next(pending, None)
        while waiting:
            name = f'{split}-{len(shards):06d}.tar'
            path = os.path.join(out, name)
            with replace_atomically(path) as temporary:
                count = 0
                with tarfile.open(temporary, 'w', format=tarfile.GNU_FORMAT) as archive:
                    key = None
                    while waiting:
                        index, sample = waiting
                        if sample.error:
                            broken.append(f'{images.where(index)}: {sample.error}')
                        key = add_sample(archive, images, index, sample, key, count,
                                         facts['shard_size'])
                        if key is None:
                            break
                        count += 1
                        bar.update()
                        waiting = next(pending, None)
                size, digest = read_again(temporary, count)
            shards.append([name, count, size, digest])
            keep(out, facts, done)
    for text in broken[:SHOWN]:
        complain(f'packed as it is: {text}')
    if len(broken) > SHOWN:
        complain(f'packed as they are: {len(broken)} images that cannot be decoded')


def add_sample(archive, images, index, sample, before, count, shard_size):
    """Adds an image and its label to a shard.

    Args:
        archive: TarFile.
        before: the key of the sample before it, or None.
        count: how many the shard has.

    Returns:
        The sample's key without a number; None if it does not fit in any more.
    """
    base = key = key_of(images.name(index))
    if key == before:  # a.jpg and a.png
        key += f'~{count}'
    label = str(int(images.labels[index])).encode()
    needed = sum(tarfile.BLOCKSIZE + len(content) + -len(content) % tarfile.BLOCKSIZE
                 for content in (sample.content, label))
    end = archive.offset + needed + 2 * tarfile.BLOCKSIZE
    if count and end + -end % tarfile.RECORDSIZE > shard_size:
        return None
    for ending, content in ((sample.ending, sample.content), ('cls', label)):
        member = tarfile.TarInfo(f'{key}.{ending}')  # its time is 0, its owner nobody
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return base


def key_of(name):
    """The key of an image: its name without its ending; archives in it are folders."""
    *folders, tail = name.split('/')
    stem = os.path.splitext(tail)[0] or tail
    return '/'.join([*map(without_ending, folders), stem.replace('.', '_')])


def read_again(path, count):
    """(size, sha256 as text) of a shard; raises InputError unless its members are all there."""
    with tarfile.open(path) as archive:
        members = sum(1 for _ in archive)
    if members != 2 * count:
        raise InputError(f'{path}: got {members} members on reading it again, expected {2 * count}')
    with open(path, 'rb') as stream:
        size = os.fstat(stream.fileno()).st_size
        return size, sha256(stream, size).hex()


def made(images, first, resize, quality, workers) -> Iterator[Sample]:
    """The Samples of the images from one on, in order, made by some processes."""
    global PACKED
    PACKED = images, resize, quality
    if workers == 1:
        yield from map(make_sample, range(first, len(images)))
        return
    with multiprocessing.get_context('fork').Pool(workers) as pool:
        window = WINDOW * workers
        for start in range(first, len(images), window):
            stop = min(start + window, len(images))
            yield from pool.imap(make_sample, range(start, stop), chunksize=16)


def make_sample(index):
    """The Sample of an image."""
    images, resize, quality = PACKED
    try:
        content = images.content(index)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
        raise InputError(f'{images.where(index)}: cannot read {images.name(index)}: '
                         f'{one_line(getattr(error, "strerror", None) or error)}; paddle-vitae '
                         f'verify finds all of these') from None
    ending = os.path.splitext(images.name(index))[1].lower().lstrip('.')
    ending = ending if is_image_ending(ending) else 'jpg'  # a reader looks at the bytes
    if not resize:
        return Sample(ending, content, '')
    try:
        smaller = resized(content, images, index, resize, quality)
    except Exception as error:  # noqa: BLE001 - whatever a damaged image runs into
        return Sample(ending, content, one_line(error))
    return Sample('jpg', smaller, '') if smaller else Sample(ending, content, '')


def resized(content, images, index, resize, quality):
    """The bytes of a JPEG of an image whose shorter side is `resize`; None if it is not larger.

    EXIF's orientation is kept, and nothing else of the file's notes.
    """
    with Image.open(io.BytesIO(content)) as header:
        size, orientation = header.size, orientation_of(header)
        orientation = 1 if header.format == 'TIFF' else orientation  # Pillow turns these
    if min(size) <= resize:
        return None
    image = images.load(index)
    image = as_rgb(image if isinstance(image, Image.Image) else Image.fromarray(image))
    scale = resize / min(image.size)
    image = image.resize([max(resize, round(side * scale)) for side in image.size],
                         Image.Resampling.BICUBIC)
    exif = Image.Exif()
    if orientation != 1:
        exif[ORIENTATION] = orientation
    written = io.BytesIO()
    image.save(written, 'JPEG', quality=quality, exif=exif)
    return written.getvalue()


def check(out, sources, done):
    """Reads the shards as a training will, which makes their index, and says what there is."""
    data = base_config().DATA
    data.DATA_PATH, data.DATASET = out, 'webdataset'
    for split, images in sources.items():
        packed = read_layout(data, split == SPLITS[0])[0] if len(sources) == len(SPLITS) else None
        if packed is not None and (len(packed) != len(images)
                                   or not np.array_equal(packed.labels, images.labels)):
            raise InputError(f'{out}: {split}: got {len(packed)} images on reading it again, '
                             f'expected the {len(images)} of the data, with their labels')
        size = sum(shard[2] for shard in done[split])
        note = packed_note(out)
        say(f'{printable(out)}: {split}: {len(images)} images in {len(done[split])} shards, '
            f'{size / 1e9:.3f} GB{", " + note if note else ""}')
