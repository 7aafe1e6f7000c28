"""What a run's data are, where the user has not said it: their layout and their number of classes.

A key counts as set by the user in a flag, by -o, in Python or in a yaml of their own; not in one of
the zoo's, whose 1,000 classes are ImageNet's.
"""
import os

from common.config import ConfigNode, origin_of
from common.core.class_names import class_names
from common.core.config_values import check_multi_label
from common.core.errors import InputError, first_few
from common.core.label_sets import all_labels
from common.data.folders import class_folders, has_folders
from common.data.layouts import CLASS_NAMES, WORDS, find_layout, names_beside, read_layout
from common.data.lists import SPLITS
from common.hub.references import is_reference
from common.weights.checkpoint_config import stated_values
from common.weights.load import read_weights
from common.zoo import is_of_the_zoo

LISTS = ('imagenet2012', 'list')
CLASSES_OF = {'cifar10': 10, 'cifar100': 100, 'digits': 10}
FILES = (*LISTS, 'imagefolder', 'class_folders', 'csv', 'webdataset')


def recognise(config: ConfigNode) -> ConfigNode:
    """The config of a run with the layout of its data and their number of classes.

    An evaluation has the classes of its weights instead.

    Args:
        config: frozen, with all that the user has set.

    Returns:
        The frozen config.

    Raises:
        InputError: there are no data of a known layout; or MODEL.NUM_CLASSES is set by the user and
            is not the number of the data.
    """
    config = config.clone()
    config.defrost()
    data = config.DATA
    if not is_set(config, 'DATA.DATASET') and data.DATASET in FILES:
        found = find_layout(data.DATA_PATH, not config.EVAL)
        if found != 'list' or data.DATASET not in LISTS:
            data.DATASET = found
    check_multi_label(data, '')
    if config.EVAL:
        if not is_set(config, 'MODEL.NUM_CLASSES'):
            config.MODEL.NUM_CLASSES = classes_of_weights(config)
    else:
        count = count_names(data)
        if not is_set(config, 'MODEL.NUM_CLASSES'):
            config.MODEL.NUM_CLASSES = count or count_labels(data)
        elif count:
            check_classes(config, count)
        else:
            check_labels(config, count_labels(data))
    config.freeze()
    return config


def is_set(config, key):
    """Whether the user has set a key."""
    origin = origin_of(config, key)
    return origin is not None and not is_of_the_zoo(origin.rpartition(':')[0])


def count_names(data):
    """How many names of classes a training's data have, or None for lists without names.

    Images are not read where the names are known without them.

    Args:
        data: a config's DATA node.
    """
    if data.CLASS_NAMES:
        return len(class_names(data.CLASS_NAMES))
    if data.DATASET in CLASSES_OF:
        return CLASSES_OF[data.DATASET]
    folder = os.path.join(data.DATA_PATH, SPLITS[0])
    if data.DATASET == 'imagefolder' and has_folders(folder):
        return len(class_folders(folder))
    if data.DATASET in LISTS:
        names = names_beside(data.DATA_PATH)
    else:
        names = read_layout(data, is_train=True)[1]
    return None if names is None else len(names)


def count_labels(data):
    """One more than the largest label in the lists, or the shards, of a DATA node."""
    largest = [all_labels(read_layout(data, is_train=True)[0].labels).max(initial=0)]
    if data.DATASET not in LISTS \
            or os.path.isfile(os.path.join(data.DATA_PATH, f'{SPLITS[1]}_list.txt')):
        largest.append(all_labels(read_layout(data, is_train=False)[0].labels).max(initial=0))
    return int(max(largest)) + 1


def check_classes(config, count):
    """Raises InputError for a MODEL.NUM_CLASSES by the user that is not the number of the data."""
    wanted = config.MODEL.NUM_CLASSES
    if wanted not in (0, count):
        raise InputError(
            f'MODEL.NUM_CLASSES: got {wanted} ({origin_of(config, "MODEL.NUM_CLASSES")}), but '
            f'{config.DATA.CLASS_NAMES or config.DATA.DATA_PATH} has {count} classes; expected '
            f'-o MODEL.NUM_CLASSES={count}, or none: it is the number of the data then')


def check_labels(config, count):
    """Raises InputError for a MODEL.NUM_CLASSES by the user beyond the labels of nameless lists.

    A label beyond it is an error of its line, which `get_dataset` raises.

    Args:
        config: of a training.
        count: of `count_labels`.
    """
    wanted, path = config.MODEL.NUM_CLASSES, config.DATA.DATA_PATH
    if wanted > count:
        raise InputError(
            f'MODEL.NUM_CLASSES: got {wanted} ({origin_of(config, "MODEL.NUM_CLASSES")}), but the '
            f'labels in {path} are 0 to {count - 1}; expected -o MODEL.NUM_CLASSES={count}, or '
            f'none: it is {count} then; if there are classes without an image, '
            f'{os.path.join(path, CLASS_NAMES)} with the names of all {wanted}, one a line')


def classes_of_weights(config):
    """The number of classes that the weights of an evaluation say they have, else the config's."""
    file = config.MODEL.PRETRAINED or config.MODEL.RESUME
    if is_reference(file):  # published weights are of the classes of their model
        return config.MODEL.NUM_CLASSES
    stated = stated_values(read_weights(file).metadata, config).get('MODEL.NUM_CLASSES')
    is_number = isinstance(stated, int) and stated > 0
    return stated if is_number else config.MODEL.NUM_CLASSES


def data_lines(config: ConfigNode, train_set, val_set) -> list[str]:
    """What was recognised: sentences for a run's log.

    Args:
        config: of `recognise`.
        train_set: ImageDataset, or None in an evaluation.
        val_set: ImageDataset.
    """
    data, names, note = config.DATA, val_set.class_names, val_set.images.note
    splits = {'training': train_set, 'validation': val_set}
    counts = ' and '.join(f'{len(images):,} {split}' for split, images in splits.items()
                          if images is not None)
    split = 'as the data have it'
    if val_set.images.split_off:
        split = (f'{data.VAL_FRACTION:.0%} of each class validate (-val_fraction), chosen by '
                 f'DATA.VAL_SEED {data.VAL_SEED}')
    shown = f': {first_few(names, quoted=True)}' if names else \
        f', without names; the largest label is {largest_label(train_set or val_set)}'
    return [f'data: {data.DATA_PATH}: {WORDS[data.DATASET]} ({data.DATASET})',
            f'images: {counts}; {split}{"; " + note if note else ""}',
            f'classes: {config.MODEL.NUM_CLASSES}{shown}']


def largest_label(dataset):
    """The largest label of an ImageDataset."""
    return all_labels(dataset.images.labels).max(initial=0)
