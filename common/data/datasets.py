"""Data sets of images with labels, and which one a config asks for."""
import os
from typing import NamedTuple

import numpy as np
from paddle.io import Dataset

from common.core.class_names import check_count, user_labels
from common.core.errors import InputError, printable
from common.core.randomness import SAMPLE, generator
from common.core.sizes import to_pair
from common.data.augment import ColorJitter, build_auto_augment
from common.data.cifar_source import read_cifar
from common.data.digits_source import read_digits
from common.data.erasing import build_erasing
from common.data.folders import read_folder
from common.data.lists import read_list
from common.data.subset import Subset, take_fraction
from common.data.transforms import EvalTransform, TrainTransform


class Sample(NamedTuple):
    """One item of an ImageDataset."""

    image: np.ndarray   # uint8 [H, W, 3]
    label: int
    boxes: np.ndarray   # int64 [count, 4], to erase
    epoch: int
    number: int         # what the sampler asked for: index + repetition * len(data set)
    index: int
    error: str          # '' or why the image could not be read


class ImageDataset(Dataset):
    """Images of a source (an ImageList, or what offers the same).

    An item is asked for by (epoch, number), and is a pure function of them and of the seed.
    A bad image raises nothing: it gives another one, or a black one, with the error's text, so that
    Batches (loader.py) can count them, or end the run with the name.

    Args:
        images: source with len, `labels`, `load`, `name` and `where`.
        transform: callable (RGB image, numpy Generator) -> uint8 [H, W, 3].
        image_size: int or (H, W), of the transform's result.
        seed: of the augmentation.
        erasing: common.data.erasing.RandomErasing or None.
        class_names: list of names, or None if they are not known.
        replace_bad: whether a bad image is replaced by the first good one of the ten after it.
    """

    def __init__(self, images, transform, image_size, seed=0, erasing=None, class_names=None,
                 replace_bad=False):
        super().__init__()
        self.images = images
        self.transform = transform
        self.shape = (*to_pair(image_size), 3)
        self.seed = seed
        self.erasing = erasing
        self.class_names = class_names
        self.replace_bad = replace_bad
        self.nothing = np.zeros((1, 4), np.int64)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        """(epoch, number) -> Sample; number is index + repetition * len(self)."""
        epoch, number = key
        sample = self.read(epoch, number)
        for further in range(1, 11 if sample.error and self.replace_bad else 1):
            other = self.read(epoch, number - number % len(self) + (number + further) % len(self))
            if not other.error:
                return other._replace(number=number, error=sample.error)
        return sample

    def read(self, epoch, number):
        """The Sample, black if the image is bad."""
        index = number % len(self)
        label = int(self.images.labels[index])
        try:
            random = generator(SAMPLE, self.seed, epoch, number)
            image = self.transform(self.images.load(index), random)
            boxes = self.erasing.boxes(*self.shape[:2], random) if self.erasing else self.nothing
            return Sample(image, label, boxes, epoch, number, index, '')
        except Exception as error:  # noqa: BLE001 - anything: see the class
            reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
            text = printable(f'{self.images.where(index)}: cannot read {self.images.name(index)}: '
                             f'{" ".join(reason.split())}')
            boxes = np.zeros((self.erasing.count, 4), np.int64) if self.erasing else self.nothing
            return Sample(np.zeros(self.shape, np.uint8), label, boxes, epoch, number, index, text)


def get_dataset(config, is_train=True):
    """The training or evaluation set that a config asks for, its labels checked.

    With EVAL, where the data set has class names, the weights decide which labels are right; see
    common.core.class_names.match_labels.

    Raises:
        InputError: naming the file and line.
    """
    data, classes = config.DATA, config.MODEL.NUM_CLASSES
    if not classes:
        raise InputError('MODEL.NUM_CLASSES: got 0, a model without a classifier, expected at '
                         'least 1 to train or evaluate')
    backend = config.AUG.BACKEND if is_train else 'pillow'
    images, names = read_source(data.DATASET, data.DATA_PATH, is_train, backend)
    if names is None or not config.EVAL:
        images.check_labels(classes)
    if data.CLASS_NAMES:
        names = user_labels(images, names, config)
    elif names is not None and not config.EVAL:
        check_count(names, classes, data.DATA_PATH)
    if is_train and data.TRAIN_FRACTION < 1.0:
        images = Subset(images, take_fraction(images.labels, data.TRAIN_FRACTION, config.SEED))
    transform = train_transform(config) if is_train else eval_transform(config)
    erasing = build_erasing(config) if is_train else None
    return ImageDataset(images, transform, data.IMAGE_SIZE, config.SEED, erasing, names,
                        replace_bad=is_train and data.MAX_BAD_IMAGES > 0)


def read_source(dataset, data_path, is_train, backend):
    """The source of a data set's images, and its class names or None."""
    if dataset == 'digits':
        return read_digits(is_train)
    if dataset in ('cifar10', 'cifar100'):
        return read_cifar(data_path, dataset, is_train)
    if dataset == 'imagefolder':
        images, names = read_folder(data_path, is_train)
    else:
        name = 'train_list.txt' if is_train else 'val_list.txt'
        images, names = read_list(os.path.join(data_path, name)), None
    images.backend = backend
    return images, names


def train_transform(config):
    """The augmentation of a config's AUG node, but for erasing and mixing."""
    aug, size = config.AUG, to_pair(config.DATA.IMAGE_SIZE)
    augment = build_auto_augment(aug.AUTO_AUGMENT, size, config.DATA.IMAGENET_MEAN,
                                 aug.INTERPOLATION)
    if augment is None and aug.COLOR_JITTER:
        augment = ColorJitter(aug.COLOR_JITTER)
    return TrainTransform(size, aug.SCALE, aug.RATIO, aug.INTERPOLATION, aug.HFLIP, augment,
                          aug.BACKEND)


def eval_transform(config):
    data = config.DATA
    return EvalTransform(data.IMAGE_SIZE, data.CROP_PCT, data.INTERPOLATION)
