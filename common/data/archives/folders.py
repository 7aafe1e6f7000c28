"""Class folders that lie in archives, or that are archives.

Images come in the order, and with the labels and the split, that they would have as files. A folder
of a class counts if there is an image in it.
"""
import os

import numpy as np

from common.core.errors import InputError, first_few
from common.data.archives.draft import Draft
from common.data.archives.index import find_index
from common.data.archives.making import Scan, indexed, parts_of, split_folder, split_kinds
from common.data.archives.members import (
    is_archive,
    members_of,
    opened_archive,
    refuse_packed,
    without_ending,
)
from common.data.archives.places import (
    Place,
    archives_in,
    classes_place,
    is_image_member,
    split_place,
    without_tar,
    wrapping,
)
from common.data.archives.source import ArchiveImages
from common.data.folders import class_folders, flat_labels, has_folders, read_folder
from common.data.image_names import EXPECTED, PassedOver, is_hidden
from common.data.lists import SPLITS
from common.data.split import hash_of
from common.data.tables import read_table

# Files that give the labels of a val/ without class folders, and of the numbers in them.
LABEL_FILES = (('LOC_val_solution.csv', None),
               ('ILSVRC2012_validation_ground_truth.txt', 'map_clsloc.txt'))


def place_of_data(data_path):
    """(root, Place) of class folders that lie in archives: the data path is an archive, the only
    one in it, or a folder with one for each class. (root, None) where it is none of these."""
    refuse_packed(data_path)
    if os.path.isfile(data_path):
        root, name = os.path.split(data_path)
        return root, Place(name) if is_archive(name) else None
    place = classes_place(data_path, '') if os.path.isdir(data_path) else None
    names = archives_in(data_path) if place else []
    return data_path, Place(names[0]) if len(names) == 1 else place


def draft_of_folders(root, place, others=()):
    """(Draft, sources) of the images of class folders, in the order of files, with their classes.

    Raises:
        InputError: there is no class folder with an image in it.
    """
    in_archive = is_archive(place.path)
    names = [''] if in_archive else archives_in(os.path.join(root, place.path))
    paths = [os.path.join(place.path, name).rstrip('/') for name in names]
    scan = Scan(root, paths, [*others, *([] if in_archive else [place.path or '.'])])
    draft, passed_over, tops = Draft(), PassedOver(), set()
    for name, path in zip(names, paths, strict=True):
        number = draft.add_file(path, f'{path}/')
        for _, member in scan.members(path):
            if not is_image_member(member.name):
                if not any(map(is_hidden, member.name.split('/'))):
                    passed_over.add(f'{path}/{member.name}')
                continue
            folder, tail = split_folder(member.name)
            parts = tuple(map(without_tar, folder.split('/')[:-1]))
            tops.add((*parts, None, None)[:2])
            key = parts if in_archive else (without_ending(name), *parts)
            draft.add(number, folder, tail, member.offset, member.size, key=key)
    passed_over.say()
    if in_archive:
        draft = below(draft, inner_of(place, tops))
    draft = draft.select(draft.order())
    classes = [key[0] if key else None for key, _ in draft.folders]
    used = np.unique(np.array(draft.columns['folder']))
    draft.classes = sorted({classes[folder] for folder in used.tolist()})
    if not draft.classes:
        raise InputError(f'{os.path.join(root, place.path, *place.inner)}: got no image in a '
                         f'folder for its class, {EXPECTED}')
    numbers = {name: number for number, name in enumerate(draft.classes)}
    labels = np.array([numbers.get(name, -1) for name in classes], np.int64)
    draft.columns['label'] = labels[draft.columns['folder']]
    return draft, scan.done()


def inner_of(place, tops):
    """The folders in an archive under which its classes are: a folder around all of it does not
    count, nor its name again ('train/' in train.tar)."""
    wrapper = wrapping(tops)
    if place.inner:
        return place.inner if place.inner[:1] in {top[:1] for top in tops} else \
            (*wrapper, *place.inner)
    return wrapper


def below(draft, inner):
    """The entries of a Draft whose folder is below some other, which their keys lack then."""
    keys = list(draft.folders)
    is_below = np.array([key[:len(inner)] == inner and len(key) > len(inner) for key, _ in keys],
                        bool)
    rows = np.flatnonzero(is_below[np.array(draft.columns['folder'], np.int64)]) if keys else []
    draft.folders = {(key[len(inner):], text): number
                     for (key, text), number in draft.folders.items()}
    return draft.select(np.array(rows, np.int64))


def read_archived_folders(data, is_train):
    """(ArchiveImages, list of names) of class folders without a split; (None, None) for files."""
    root, place = place_of_data(data.DATA_PATH)
    if place is None:
        return None, None
    kinds = split_kinds(data)
    images = indexed(data.DATA_PATH, kinds[0 if is_train else 1], root,
                     lambda: parts_of(*draft_of_folders(root, place), kinds, data))
    return images, images.classes


def split_of_data(data_path, split):
    """(root, Place) of train/ or val/ in archives, or (root, None) where they are files."""
    if os.path.isfile(data_path):
        root, place = place_of_data(data_path)
        return root, place and Place(place.path, (split,))
    place = split_place(data_path, split)
    if place is None and not any(os.path.isdir(os.path.join(data_path, name)) for name in SPLITS):
        _, inside = place_of_data(data_path)
        if inside and is_archive(inside.path):
            place = Place(inside.path, (split,))
    return data_path, place


def read_archived_split(data_path, is_train):
    """(images, list of names) of train/ or val/ of which at least one is in archives; None for
    files."""
    root, place = split_of_data(data_path, SPLITS[0 if is_train else 1])
    if place is None:
        if is_train or split_of_data(data_path, SPLITS[0])[1] is None:
            return None
        return read_folder(data_path, False, classes_of_training(data_path)[0])
    if is_train:
        images = indexed(data_path, SPLITS[0], root,
                         lambda: {SPLITS[0]: (*draft_of_folders(root, place), False)})
        return images, images.classes
    index = find_index(data_path, SPLITS[1], root)
    if index:
        images = ArchiveImages(index, root)
    else:
        classes, sources = classes_of_training(data_path)
        images = indexed(data_path, SPLITS[1], root, lambda: {
            SPLITS[1]: (*draft_of_validation(root, place, classes, sources), False)})
    return images, images.classes


def classes_of_training(data_path):
    """(list of the classes of train/, or None where there is none; what they are known from)."""
    root, place = split_of_data(data_path, SPLITS[0])
    if place:
        try:
            images, names = read_archived_split(data_path, True)
        except InputError:
            if not place.inner:
                raise
            return None, ()  # an archive with val/ alone
        return names, list(images.facts)
    folder = os.path.join(root, SPLITS[0])
    return (class_folders(folder), [SPLITS[0]]) if has_folders(folder) else (None, ())


def draft_of_validation(root, place, classes, sources):
    """(Draft, sources) of val/, with the numbers that train/ gives to the classes.

    Args:
        classes: list of names, or None: those of val/.
        sources: paths of what they are known from.
    """
    labels = next(((file, ids) for file, ids in LABEL_FILES
                   if os.path.isfile(os.path.join(root, file))
                   and (ids is None or os.path.isfile(os.path.join(root, ids)))), None)
    if classes and labels and is_flat(root, place):
        files = [os.path.join(root, name) if name else None for name in labels]
        return draft_of_flat(root, place, classes, *files,
                             others=[*sources, *filter(None, labels)])
    draft, sources = draft_of_folders(root, place, sources)
    if classes is None:
        return draft, sources
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in draft.classes if name not in numbers]
    if unknown:
        raise InputError(f'{os.path.join(root, place.path)}: got {len(unknown)} of '
                         f'{len(draft.classes)} classes that are not in train, first '
                         f'{first_few(unknown[:1])}')
    renumbered = np.array([numbers[name] for name in draft.classes], np.int64)
    draft.columns['label'] = renumbered[draft.columns['label']]
    draft.classes = classes
    return draft, sources


def is_flat(root, place):
    """Whether the first image of an archive lies in no folder."""
    if not is_archive(place.path) or place.inner:
        return False
    full = os.path.join(root, place.path)
    with opened_archive(full) as file:
        names = (member.name for member in members_of(full, file) if is_image_member(member.name))
        return len(next(names, 'a/b').split('/')) == 1


def draft_of_flat(root, place, classes, labels_file, ids_file=None, others=()):
    """(Draft, sources) of an archive of images without folders, sorted, with the labels of a file;
    the arguments are those of common.data.folders.read_flat_val."""
    scan = Scan(root, [place.path], others)
    draft = Draft()
    number = draft.add_file(place.path, f'{place.path}/')
    for _, member in scan.members(place.path):
        folder, tail = split_folder(member.name)
        if is_image_member(member.name) and folder.count('/') <= 1:
            draft.add(number, folder, tail, member.offset, member.size)
    draft = draft.select(draft.order())
    names = [draft.tail(index) for index in range(len(draft))]
    if not names:
        raise InputError(f'{os.path.join(root, place.path)}: got no image, {EXPECTED}')
    draft.columns['label'] = np.array(flat_labels(labels_file, ids_file, names, classes), np.int64)
    draft.classes = classes
    return draft, scan.done()


def read_archived_flat(data_path, labels_file, ids_file=None):
    """(ArchiveImages, list of class names) of an archive of validation images with a file of
    labels, or None where they are files. The arguments are those of `read_flat_val`."""
    root, place = split_of_data(data_path, SPLITS[1])
    if place is None:
        return None
    classes, sources = classes_of_training(data_path)
    if classes is None:
        raise InputError(f'{data_path}: got -val_labels without train/, whose classes the labels '
                         f'are')
    rows = [read_table(file) for file in (labels_file, ids_file) if file]
    kind = f'labelled-{hash_of(repr(rows)):016x}'
    images = indexed(data_path, kind, root, lambda: {kind: (
        *draft_of_flat(root, place, classes, labels_file, ids_file, sources), False)})
    return images, classes
