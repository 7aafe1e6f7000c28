"""The layouts of a data set: which one a folder has, and how each is read."""
import os

import numpy as np

from common.core.class_names import class_names
from common.core.errors import InputError
from common.data.archives.folders import read_archived_folders, read_archived_split
from common.data.archives.lists import read_image_list, read_image_table
from common.data.archives.recognise import find_archived_split, has_archived_classes
from common.data.archives.webdataset import read_webdataset
from common.data.cifar_source import read_cifar
from common.data.csv_source import find_csv
from common.data.digits_source import read_digits
from common.data.folders import (
    entries,
    has_folders,
    image_names,
    read_class_folders,
    read_folder,
)
from common.data.image_names import PassedOver
from common.data.lists import SPLITS
from common.data.split import validation_part
from common.data.subset import Subset

CLASS_NAMES = 'class_names.txt'  # beside lists: the name of each class, one a line
# What each DATA.DATASET is, in words.
WORDS = {'imagenet2012': 'lists of images', 'list': 'lists of images',
         'imagefolder': 'train/ and val/ with a folder for each class',
         'class_folders': 'a folder for each class', 'csv': 'a table of images',
         'webdataset': 'WebDataset shards',
         'cifar10': 'CIFAR-10', 'cifar100': 'CIFAR-100', 'digits': "scikit-learn's digits"}


def find_layout(data_path: str, is_train: bool = True, lists: bool = True) -> str:
    """The DATA.DATASET of a folder, by what is in it; the first of these that fits.

    | layout        | what is there                                        |
    |---------------|------------------------------------------------------|
    | list          | train_list.txt or val_list.txt                       |
    | imagefolder   | train/ or val/ with folders in it                    |
    | csv           | one csv file, or the path is one                     |
    | webdataset    | .tar with images and labels                          |
    | class_folders | folders with images in them                          |

    A folder may be an archive, and the data path one; see common/data/archives/places.py.

    Args:
        data_path: folder of the data set, a csv file or an archive.
        is_train: whether training images are needed; to evaluate, val/ is enough.
        lists: whether lists count; without, it is the layout that they are written from.

    Raises:
        InputError: there is none of them.
    """
    list_files = [os.path.join(data_path, f'{split}_list.txt') for split in SPLITS]
    if lists and any(map(os.path.isfile, list_files)):
        return 'list'
    splits = [split for split in SPLITS if has_folders(os.path.join(data_path, split))]
    if 'train' in splits or splits and not is_train:
        return 'imagefolder'
    archived = find_archived_split(data_path, is_train)
    if archived:
        return archived
    if find_csv(data_path):
        return 'csv'
    if os.path.isdir(data_path) and any(True for name, is_folder in entries(data_path) if is_folder
                                        for _ in image_names(data_path, name, PassedOver())):
        return 'class_folders'
    if has_archived_classes(data_path):
        return 'class_folders'
    what = 'no such folder or table' if not os.path.exists(data_path) else \
        'found no images of a known layout'
    raise InputError(f'-data_path: {data_path}: {what}, expected train_list.txt and val_list.txt; '
                     f'or train/ and val/ with a folder for each class; or a folder for each '
                     f'class; or a csv file with the columns file and label; or archives of these, '
                     f'or WebDataset shards')


def read_source(config, is_train):
    """The images of a data set that a config names, and the names of its classes.

    Args:
        config: of a run.
        is_train: the training or the validation images.

    Returns:
        (ImageSource, list of names or None).

    Raises:
        InputError: the data are not as the layout has them.
    """
    data = config.DATA
    images, names = read_layout(data, is_train)
    inner = images.images if isinstance(images, Subset) else images
    inner.backend = config.AUG.BACKEND if is_train else 'pillow'
    inner.upright = bool(data.EXIF_ORIENTATION)
    return images, names


def read_layout(data, is_train):
    """(ImageSource, names or None) of a config's DATA node."""
    if data.DATASET == 'digits':
        return read_digits(is_train)
    if data.DATASET in ('cifar10', 'cifar100'):
        return read_cifar(data.DATA_PATH, data.DATASET, is_train)
    if data.DATASET == 'imagefolder':
        return read_archived_split(data.DATA_PATH, is_train) \
            or read_folder(data.DATA_PATH, is_train)
    if data.DATASET == 'webdataset':
        images, names = read_webdataset(data, is_train)
        return images, names or names_beside(data.DATA_PATH)
    if data.DATASET == 'class_folders':
        images, names = read_archived_folders(data, is_train)
        if images:
            return images, names
        images, names = read_class_folders(data.DATA_PATH)
        return split_off(images, None, data, is_train), names
    if data.DATASET == 'csv':
        file = find_csv(data.DATA_PATH)
        if not file:
            raise InputError(f'{data.DATA_PATH}: expected a csv file, or a folder with one')
        images, table = read_image_table(file, data, is_train)
        if images:
            return images, table
        images, names, for_training = table
        return split_off(images, for_training, data, is_train), names
    name = 'train_list.txt' if is_train else 'val_list.txt'
    images = read_image_list(os.path.join(data.DATA_PATH, name), data.MULTI_LABEL)
    return images, names_beside(data.DATA_PATH)


def names_beside(data_path):
    """The names of the classes in a data set's CLASS_NAMES, or None without it."""
    file = os.path.join(data_path, CLASS_NAMES)
    return class_names(file) if os.path.isfile(file) else None


def split_off(images, for_training, data, is_train):
    """The Subset of one split of images that lie together.

    Args:
        images: ImageSource.
        for_training: bool [n], or None: then DATA.VAL_FRACTION of each class is for validation.
        data: a config's DATA node.
        is_train: which of the two.
    """
    if for_training is None:
        for_training = ~validation_part(images, data.VAL_FRACTION, data.VAL_SEED)
    chosen = np.flatnonzero(for_training if is_train else ~for_training)
    if not len(chosen):
        split = 'training' if is_train else 'validation'
        raise InputError(f'{data.DATA_PATH}: got {len(images)} images, none of them for {split}')
    return Subset(images, chosen)
