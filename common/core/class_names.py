"""The names of classes, wherever two sources of them meet.

Sources: a checkpoint (`class_names`), a data set (class folders, CIFAR, digits) and the user's file
(DATA.CLASS_NAMES). The user's word wins. Numbers of classes are compared by name wherever both
sides have names, never by position: folders that were added or renamed move all numbers behind
them. Two names are the same if they are equal in Unicode's normal form NFC, since macOS writes
folder names in another one; upper and lower case are different. A name that stands twice in a list
matches nothing, unless both lists are equal as a whole.
"""
import os
import unicodedata
from collections import Counter

import numpy as np

from common.core.errors import InputError, first_few, opened

MAX_NAMES_BYTES = 1 << 24
IMAGENET_CLASSES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'imagenet_classes.txt')


def class_names(file, num_classes=None):
    """The names in a file with one name a line, UTF-8; two classes may have the same one.

    Args:
        file: path.
        num_classes: how many there must be; None takes any number.

    Returns:
        List of str; entry k is the name of class k.

    Raises:
        InputError: 'FILE:LINE: ...' for a line that is empty or not UTF-8; or the file is missing
            or has another number of names.
    """
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such file of class names')
    if os.path.getsize(file) > MAX_NAMES_BYTES:
        raise InputError(f'{file}: got {os.path.getsize(file)} bytes, expected a file of class '
                         f'names')
    with opened(file) as stream:
        lines = stream.read().removeprefix(b'\xef\xbb\xbf').rstrip().split(b'\n')
    names = []
    for number, line in enumerate(lines, 1):
        try:
            names.append(line.decode('utf-8').strip())
        except UnicodeDecodeError:
            raise InputError(f'{file}:{number}: got {line[:120]!r}, expected UTF-8') from None
        if not names[-1]:
            raise InputError(f'{file}:{number}: got an empty line, expected the name of class '
                             f'{number - 1}')
    if num_classes is not None:
        check_count(names, num_classes, file)
    return names


def check_count(names, num_classes, where):
    """Raises InputError if there is not one name for each class."""
    if len(names) != num_classes:
        raise InputError(f'{where}: got {len(names)} class names, expected {num_classes} '
                         f'(MODEL.NUM_CLASSES)')


def normal(name):
    return unicodedata.normalize('NFC', name.strip())


def places(names, known):
    """Where each of some names stands in another list.

    Args:
        names, known: lists of str.

    Returns:
        list with an entry for each of `names`: its index in `known`, or None if it is not there or
        stands twice in either list.
    """
    names, known = [normal(name) for name in names], [normal(name) for name in known]
    if names == known:
        return list(range(len(names)))
    once = Counter(names), Counter(known)
    table = {name: index for index, name in enumerate(known)}
    return [table[name] if all(count[name] == 1 for count in once) else None for name in names]


def check_class_names(names, classes, file):
    """Raises InputError for class_names of a file that are not one string for each class."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f'{file}: class_names: expected null or a list of strings')
    check_count(names, classes, file)
    empty = [index for index, name in enumerate(names) if not name.strip()]
    if empty:
        raise InputError(f'{file}: class_names: got an empty name for class {empty[0]}')


def class_names_of(config, names, file):
    """The names of a model's classes: those of DATA.CLASS_NAMES, the checkpoint's, ImageNet's, or
    None.

    Args:
        config: of the model.
        names: of the checkpoint, or None.
        file: of the weights, for messages.
    """
    classes = config.MODEL.NUM_CLASSES
    if not classes:
        return None
    if config.DATA.CLASS_NAMES:
        return class_names(config.DATA.CLASS_NAMES, classes)
    if names is not None:
        check_class_names(names, classes, file)
        return names
    return imagenet_classes() if config.DATA.DATASET == 'imagenet2012' and classes == 1000 else None


def imagenet_classes():
    """The 1,000 classes of ImageNet-1k, in WordNet's words."""
    return [line.partition(' ')[2] for line in class_names(IMAGENET_CLASSES, 1000)]


def user_labels(images, own, config):
    """A data set's class names where DATA.CLASS_NAMES gives some; the labels then follow them.

    As many names as the data set has are its classes in their order, under other words. Fewer
    classes in the data set than names are found among them by name.

    Args:
        images: source with `labels`.
        own: the data set's names, or None for lists.
        config: of the run.

    Returns:
        The user's list.

    Raises:
        InputError: the file is missing, has not MODEL.NUM_CLASSES names, or has the name of a class
            of the data set for another class.
    """
    file = config.DATA.CLASS_NAMES
    names = class_names(file, config.MODEL.NUM_CLASSES)
    if own is None:
        return names
    found = places(own, names)
    if len(own) == len(names):
        for index, place in enumerate(found):
            if place not in (None, index):
                raise InputError(f'{file}: got {names[place]!r} as the name of class {place}, but '
                                 f'in {config.DATA.DATA_PATH} it is class {index}; expected the '
                                 f'order of the data set, {first_few(own, quoted=True)}')
        return names
    if None in found:
        check_count(own, len(names), config.DATA.DATA_PATH)
    images.labels = np.array(found)[images.labels]
    return names


def match_labels(dataset, known, file, config):
    """Gives the labels of an evaluation set the numbers that the weights have for their names.

    Args:
        dataset: ImageDataset; the labels of its images change in place.
        known: class names of the weights, or None.
        file: of the weights, for messages.
        config: of the run.

    Returns:
        list of sentences for the log.

    Raises:
        InputError: images of a class that the weights do not know; or one side has no names, and
            the other has not MODEL.NUM_CLASSES of them.
    """
    images, names, classes = dataset.images, dataset.class_names, config.MODEL.NUM_CLASSES
    if known is not None:
        check_class_names(known, classes, file)
    if known is None or names is None:
        if names is not None:
            check_count(names, classes, config.DATA.DATA_PATH)
        images.check_labels(classes)
        return []
    images.check_labels(len(names))
    present = np.unique(images.labels).tolist()
    found = places(names, known)
    strangers = [names[label] for label in present if found[label] is None]
    if strangers:
        raise InputError(
            f'{config.DATA.CLASS_NAMES or config.DATA.DATA_PATH}: got images of '
            f'{len(strangers)} classes that {file} does not know, or not once, first '
            f'{first_few(strangers[:1], quoted=True)}; its classes: '
            f'{first_few(known, quoted=True)}; -class_names FILE gives those of the data set other '
            f'names')
    notes = []
    if any(found[label] != label for label in present):
        if config.DATA.REAL_LABELS:
            raise InputError(f'-real_labels: got classes in another order than those of {file}, '
                             f"expected ImageNet's")
        notes.append(f'classes are in another order than in {file}; they are matched by name')
    images.labels = np.array([-1 if place is None else place for place in found])[images.labels]
    dataset.class_names = known
    missing = sorted(set(range(classes)) - set(images.labels.tolist()))
    if missing:
        notes.append(f'{len(missing)} of {classes} classes have no image here: '
                     f'{first_few([known[label] for label in missing], quoted=True)}')
    return notes


def check_same(names, known, file):
    """Raises InputError unless a run that goes on has the classes that it had, in their order.

    names, known: of the training set and of the checkpoint; None is not known.
    """
    if names is None or known is None:
        return
    check_class_names(known, len(names), file)
    for index, (now, before) in enumerate(zip(names, known, strict=True)):
        if normal(now) != normal(before):
            before, now = first_few([before], quoted=True), first_few([now], quoted=True)
            raise InputError(f'-resume: {file}: class {index} was {before} and is {now} in the '
                             f'training set; expected the same classes')


def head_order(names, known):
    """What a classifier for the classes `known` is worth for the classes `names`.

    Returns:
        ('same', None); ('moved', indices): class k is known as class indices[k]; or
        ('other', None): it means other classes.
    """
    if names is None or known is None:
        return 'same', None
    found = places(names, known)
    if found == list(range(len(known))):
        return 'same', None
    if len(found) == len(known) and None not in found:
        return 'moved', found
    return 'other', None
