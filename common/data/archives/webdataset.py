"""WebDataset shards: .tar files of images with their labels beside them.

https://github.com/webdataset/webdataset: the members of one sample follow each other and are called
KEY.EXTENSION, where the key ends at the first point of the file's name. Read here are KEY.jpg (or
another image) and its label: KEY.cls, or KEY.json with one of LABEL_KEYS, a number or the name of a
class. Different: a sample without a label or with two images is an error, and the order is this
project's shuffling of single images, not of shards.
"""
import itertools
import json
import os
import re

import numpy as np

from common.core.errors import InputError, complain_once, first_few, one_line, printable
from common.data.archives.draft import Draft
from common.data.archives.making import Scan, indexed, parts_of, split_folder, split_kinds
from common.data.archives.members import is_archive, members_of, opened_archive
from common.data.archives.places import archives_in
from common.data.image_names import EXPECTED, EXTENSIONS, is_hidden
from common.data.lists import SPLITS

LABEL_KEYS = ('label', 'cls', 'class_id', 'class', 'target')
LABEL_ENDINGS = ('cls', 'json')
PACK_FACTS = 'pack.json'  # beside shards of pack.py
MAX_LABEL = 1 << 16  # bytes of a .cls or .json
# In the names of shards: imagenet1k-train-0000.tar, train_000.tar, validation-3.tar
SPLIT_IN_NAME = re.compile(r'(?:^|[^a-z])(train|val)')
PEEKED = 64  # members by which the layout of an archive is told


def key_and_ending(name):
    """('a/b', 'seg.png') of 'a/b.seg.png'; the ending in lower case."""
    folder, tail = split_folder(name)
    stem, _, ending = tail.partition('.')
    return folder + stem, ending.lower()


def is_image_ending(ending):
    return f'.{ending}'.endswith(EXTENSIONS)


def first_names(path):
    """The names of an archive's first members that are not hidden."""
    with opened_archive(path) as file:
        found = (member.name for member in members_of(path, file)
                 if not any(map(is_hidden, member.name.split('/'))))
        return list(itertools.islice(found, PEEKED))


def is_shard(names):
    """Whether the names of members are those of samples with labels."""
    endings = {}
    for name in names:
        key, ending = key_and_ending(name)
        endings.setdefault(key, []).append(ending)
    return any(set(LABEL_ENDINGS) & set(found) and any(map(is_image_ending, found))
               for found in endings.values())


def shards_of(data_path):
    """(root, {'train' and 'val', or '' where the names tell no split: sorted paths of shards}).

    Shards lie in train/ and val/, or their names say train or val.
    """
    if os.path.isfile(data_path):
        root, name = os.path.split(data_path)
        return root, {'': [name]} if is_archive(name) else {}
    found = {split: [f'{split}/{name}' for name in archives_in(os.path.join(data_path, split))]
             for split in SPLITS}
    if not any(found.values()):
        others = archives_in(data_path) if os.path.isdir(data_path) else []
        for name in others:
            match = SPLIT_IN_NAME.search(name.lower())
            found.setdefault(match[1] if match else '', []).append(name)
        if any(found[split] for split in SPLITS) and found.pop('', None):
            complain_once(f'{data_path}: passed over shards whose names say neither train nor val')
    return data_path, {split: paths for split, paths in found.items() if paths}


def read_webdataset(data, is_train):
    """The images of shards, and the names of their classes if the labels are names.

    Without shards for validation a part of each class is split off (DATA.VAL_FRACTION).

    Args:
        data: a config's DATA node.
        is_train: the training or the validation images.

    Returns:
        (ArchiveImages, list of names or None).

    Raises:
        InputError: there are no shards, a sample has no label, or an archive is damaged.
    """
    root, shards = shards_of(data.DATA_PATH)
    split = SPLITS[0 if is_train else 1]
    if not shards:
        raise InputError(f'{data.DATA_PATH}: got no .tar, expected WebDataset shards')
    if len(shards) == 1 and SPLITS[1] not in shards:
        [paths], kinds = shards.values(), split_kinds(data)
        images = indexed(data.DATA_PATH, kinds[0 if is_train else 1], root,
                         lambda: parts_of(*draft_of_shards(root, paths), kinds, data))
    elif split not in shards:
        raise InputError(f'{data.DATA_PATH}: got no shard for {split}; found '
                         f'{first_few(sum(shards.values(), []))}')
    else:
        images = indexed(data.DATA_PATH, split, root, lambda: {
            split: (*draft_of_shards(root, shards[split]), False)})
    return images, images.classes


def draft_of_shards(root, paths):
    """(Draft, sources) of the samples of shards, in their order."""
    folders = {os.path.dirname(path) or '.' for path in paths if os.path.isdir(root or '.')}
    note = packed_note(root)
    others = sorted(folders) if len(paths) > 1 else []
    scan = Scan(root, paths, [*others, *[PACK_FACTS] * (note is not None)])
    draft, names = Draft(), {}
    draft.note = note or ''
    for path in paths:
        number = draft.add_file(path, f'{path}/')
        for member, label in samples_of(os.path.join(root, path), scan.members(path)):
            label = names.setdefault(label, len(names)) if isinstance(label, str) else label
            folder, tail = split_folder(member.name)
            draft.add(number, folder, tail, member.offset, member.size, label,
                      key=tuple(folder.split('/')[:-1]))
            if names and len(names) <= label:
                raise InputError(f'{os.path.join(root, path)}: got labels that are numbers and '
                                 f'others that are names')
    if not len(draft):
        raise InputError(f'{os.path.join(root, paths[0])}: got no image, {EXPECTED}')
    if names:
        draft.classes = sorted(names)
        numbers = {name: number for number, name in enumerate(draft.classes)}
        draft.columns['label'] = np.array([numbers[name] for name in names])[
            np.array(draft.columns['label'])]
    return draft, scan.done()


def packed_note(folder):
    """What `paddle-vitae pack` has done with the images of a folder, '' for nothing but packing;
    None if they are not of it."""
    try:
        with open(os.path.join(folder, PACK_FACTS), encoding='utf-8') as stream:
            facts = json.load(stream)
        resize, quality = facts['resize'], facts['quality']
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(resize) is not int or type(quality) is not int:
        return ''
    return f'packed with a shorter side of {resize} at most, JPEG quality {quality}'


def samples_of(where, members):
    """Yields (Member of the image, label) of each sample of a shard.

    Args:
        where: the shard, for messages.
        members: (descriptor, Member) pairs in their order.
    """
    for key, group in itertools.groupby(parts_of_samples(members), lambda part: part[0]):
        found = list(group)
        images = [member for _, ending, member, _ in found if is_image_ending(ending)]
        labels = {ending: (member, content) for _, ending, member, content in found
                  if ending in LABEL_ENDINGS}
        if not images:
            continue
        if len(images) > 1 or not labels:
            raise InputError(f'{where}: {printable(key)}: got {len(images)} images and '
                             f'{len(labels)} labels, expected an image and a .cls or .json')
        ending = next(ending for ending in LABEL_ENDINGS if ending in labels)
        yield images[0], label_of(*labels[ending], ending, where)


def parts_of_samples(members):
    """Yields (key, ending, Member, content of a label or None) of what is not hidden in a shard."""
    for file, member in members:
        if not any(map(is_hidden, member.name.split('/'))):
            key, ending = key_and_ending(member.name)
            content = os.pread(file, min(member.size, MAX_LABEL), member.offset) \
                if ending in LABEL_ENDINGS else None
            yield key, ending, member, content


def label_of(member, content, ending, where):
    """The label that a .cls or .json has: int, or str for the name of a class."""
    try:
        label = content.decode('utf-8').strip()
        if ending == 'json':
            values = json.loads(label)
            label = next(values[key] for key in LABEL_KEYS if key in values)
        elif label.isascii() and label.isdigit():
            label = int(label[:20])  # that many digits are too large, and not slow to read
    except (ValueError, TypeError, StopIteration, RecursionError) as error:
        raise InputError(f'{where}: {printable(member.name)}: got no label '
                         f'({one_line(error)}), expected one of the keys '
                         f'{", ".join(LABEL_KEYS)}') from None
    if type(label) not in (int, str) or type(label) is int and not 0 <= label < 2 ** 31 \
            or label == '':
        raise InputError(f'{where}: {printable(member.name)}: label: got '
                         f'{printable(repr(label), 100)}, expected a whole number from 0 or a name')
    return label
