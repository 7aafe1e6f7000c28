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
from common.core.label_sets import all_labels, renumbered

MAX_NAMES_BYTES = 1 << 24
FOLDER = os.path.dirname(os.path.abspath(__file__))
IMAGENET_CLASSES = os.path.join(FOLDER, 'imagenet_classes.txt')
# As many outputs have the classifiers that are trained on ImageNet-21k, of 2011: Google count two
# classes without an image, and others do not.
IMAGENET_21K_CLASSES = (21843, 21841)
# Where Google count them.
WITHOUT_IMAGES = (9205, 15027)


def class_names(file: str, num_classes: int | None = None) -> list[str]:
    """The names in a file with one name a line, UTF-8; two classes may have the same one.

    Args:
        file: path of the file.
        num_classes: how many names there must be; None takes any number.

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


def normal_form(name):
    """A name in the form in which names are compared."""
    return unicodedata.normalize('NFC', name.strip())


def match_names(names, known):
    """Looks some names up in a list of names.

    Args:
        names: list of str, the names that are looked up.
        known: list of str.

    Returns:
        List with an entry for each of `names`: its index in `known`, or None if it is not there or
        stands twice in either list.
    """
    names, known = [normal_form(name) for name in names], [normal_form(name) for name in known]
    if names == known:
        return list(range(len(names)))
    counts = Counter(names), Counter(known)
    indices = {name: index for index, name in enumerate(known)}
    return [indices[name] if all(count[name] == 1 for count in counts) else None
            for name in names]


def check_class_names(names, classes, file):
    """Raises InputError for class_names of a file that are not one string for each class."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f'{file}: class_names: expected null or a list of strings')
    check_count(names, classes, file)
    empty = [index for index, name in enumerate(names) if not name.strip()]
    if empty:
        raise InputError(f'{file}: class_names: got an empty name for class {empty[0]}')


def class_names_of(config, names, file):
    """The names of a model's classes.

    Args:
        config: config of the model.
        names: the names in the checkpoint, or None.
        file: the file of the weights, for messages.

    Returns:
        The names of DATA.CLASS_NAMES, else the checkpoint's, else ImageNet's for a model of its
        1,000 classes, else None.

    Raises:
        InputError: there is not one name for each class.
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


def imagenet_classes() -> list[str]:
    """The 1,000 classes of ImageNet-1k, in WordNet's words."""
    return [line.partition(' ')[2] for line in class_names(IMAGENET_CLASSES, 1000)]


def imagenet_21k_classes() -> list[str]:
    """The 21,843 classes of ImageNet-21k as Google number them: WordNet's ids, sorted, each with
    its first word.

    Source: imagenet21k_wordnet_ids.txt beside the weights of google-research/big_transfer, as
    timm lists it.
    """
    return class_names(os.path.join(FOLDER, 'imagenet21k_classes.txt'), 21843)


def imagenet_22k_classes() -> list[str]:
    """The 21,841 classes of ImageNet-21k as Microsoft number them for Swin: Google's order, where
    the last two classes stand in the places of the two without an image, so it is not sorted.

    Source: data/imagenet22k_dataset.py and map22kto1k.txt of microsoft/Swin-Transformer.
    """
    *names, before_last, last = imagenet_21k_classes()
    for place, name in zip(WITHOUT_IMAGES, (before_last, last), strict=True):
        names[place] = name
    return names


def user_labels(images, dataset_names, config):
    """Gives a data set the class names of DATA.CLASS_NAMES; its labels then follow them.

    If there are as many names as the data set has classes, they are other words for its classes, in
    the same order. If there are more, the data set's classes are found among them by name.

    Args:
        images: ImageSource; its labels may change in place.
        dataset_names: the data set's own class names, or None for lists.
        config: config of the run.

    Returns:
        The user's list of names.

    Raises:
        InputError: the file is missing, has not MODEL.NUM_CLASSES names, or has the name of a class
            of the data set for another class.
    """
    file = config.DATA.CLASS_NAMES
    names = class_names(file, config.MODEL.NUM_CLASSES)
    if dataset_names is None:
        return names
    numbers = match_names(dataset_names, names)
    if len(dataset_names) == len(names):
        for index, number in enumerate(numbers):
            if number not in (None, index):
                raise InputError(f'{file}: got {names[number]!r} as the name of class {number}, '
                                 f'but in {config.DATA.DATA_PATH} it is class {index}; expected '
                                 f'the order of the data set, '
                                 f'{first_few(dataset_names, quoted=True)}')
        return names
    if None in numbers:
        check_count(dataset_names, len(names), config.DATA.DATA_PATH)
    images.labels = renumbered(images.labels, np.array(numbers))
    return names


def match_labels(dataset, known, file, config):
    """Gives the labels of an evaluation set the numbers that the weights have for their names.

    Args:
        dataset: ImageDataset; the labels of its images change in place.
        known: class names of the weights, or None.
        file: the file of the weights, for messages.
        config: config of the run.

    Returns:
        List of sentences for the log.

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
    present = np.unique(all_labels(images.labels)).tolist()
    numbers = match_names(names, known)
    unknown = [names[label] for label in present if numbers[label] is None]
    if unknown:
        raise InputError(
            f'{config.DATA.CLASS_NAMES or config.DATA.DATA_PATH}: got images of '
            f'{len(unknown)} classes that {file} does not know, or not once, first '
            f'{first_few(unknown[:1], quoted=True)}; its classes: '
            f'{first_few(known, quoted=True)}; -class_names FILE gives those of the data set other '
            f'names')
    notes = []
    if any(numbers[label] != label for label in present):
        if config.DATA.REAL_LABELS:
            raise InputError(f'-real_labels: got classes in another order than those of {file}, '
                             f"expected ImageNet's")
        notes.append(f'classes are in another order than in {file}; they are matched by name')
    numbers = np.array([-1 if number is None else number for number in numbers])
    images.labels = renumbered(images.labels, numbers)
    dataset.class_names = known
    unseen = sorted(set(range(classes)) - set(all_labels(images.labels).tolist()))
    if unseen:
        notes.append(f'{len(unseen)} of {classes} classes have no image here: '
                     f'{first_few([known[label] for label in unseen], quoted=True)}')
    return notes


def check_same(names, known, file):
    """Raises InputError unless a run that goes on has the classes that it had, in their order.

    Args:
        names: class names of the training set, or None if they are not known.
        known: class names in the checkpoint, or None.
        file: the checkpoint, for messages.
    """
    if names is None or known is None:
        return
    check_class_names(known, len(names), file)
    for index, (now, before) in enumerate(zip(names, known, strict=True)):
        if normal_form(now) != normal_form(before):
            before, now = first_few([before], quoted=True), first_few([now], quoted=True)
            raise InputError(f'-resume: {file}: class {index} was {before} and is {now} in the '
                             f'training set; expected the same classes')


def head_order(names, known):
    """How a classifier for the classes `known` can serve for the classes `names`.

    Args:
        names: class names of the model, or None if they are not known.
        known: class names of the weights, or None.

    Returns:
        ('same', None): as it is; ('moved', indices): class k is its class indices[k]; or
        ('other', None): not at all, since it means other classes.
    """
    if names is None or known is None:
        return 'same', None
    indices = match_names(names, known)
    if indices == list(range(len(known))):
        return 'same', None
    if len(indices) == len(known) and None not in indices:
        return 'moved', indices
    return 'other', None
