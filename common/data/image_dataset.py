"""A data set of images with labels: its items for the training loop, and for everyone else."""
from typing import NamedTuple

import numpy as np
from paddle.io import Dataset

from common.core.errors import InputError, printable
from common.core.randomness import SAMPLE, generator
from common.core.sizes import to_pair
from common.data.lists import gbk_hint

REPLACEMENTS_TRIED = 10  # images after a bad one


class Sample(NamedTuple):
    """One image as the training loop's loader takes it."""

    image: np.ndarray   # uint8 [H, W, 3]
    label: int | np.ndarray  # or uint8 [K], 1 at the classes of the image (multi-label)
    boxes: np.ndarray   # int64 [count, 4], (top, left, bottom, right) of what will be erased
    epoch: int
    number: int         # what the sampler asked for: index + repetition * len(data set)
    index: int          # the image that is here; a bad one is replaced by another
    error: str          # why the image could not be read, or ''


class ImageDataset(Dataset):
    """Images of a source, transformed.

    It has two kinds of items. By a pair (epoch, number) it gives a Sample, from which the loader
    makes batches: the pixels are uint8, and the rest (mixing, normalisation, erasing) happens on
    the batch, which is faster. By an int it gives what PaddleViT's data sets give: (image float32
    [3, H, W], label), normalised and erased; see `item`. Both are pure functions of the key, the
    epoch and the seed.

    Args:
        images: ImageSource.
        transform: callable (what `images.load_for_crop` gives, numpy Generator) -> uint8
            [H, W, 3].
        image_size: int or (H, W) of the transform's result.
        seed: seeds the augmentation.
        erasing: common.data.erasing.RandomErasing or None.
        class_names: list of names, or None if they are not known.
        replace_bad: whether a bad image is replaced by the first good one of the
            REPLACEMENTS_TRIED after it; else the Sample is black.
        mean, std: three numbers each, in units of 0..1, which normalise the items by an int.

    Attributes:
        epoch: the epoch of the items by an int, 1 until `set_epoch` is called.
    """

    def __init__(self, images, transform, image_size, seed=0, erasing=None, class_names=None,
                 replace_bad=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)):
        super().__init__()
        self.images = images
        self.transform = transform
        self.shape = (*to_pair(image_size), 3)
        self.seed = seed
        self.erasing = erasing
        self.class_names = class_names
        self.replace_bad = replace_bad
        self.mean, self.std = np.float32(mean), np.float32(std)
        self.epoch = 1
        self.no_boxes = np.zeros((erasing.count if erasing else 1, 4), np.int64)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        """A Sample by (epoch, number), or (image float32 [3, H, W], label) by an int.

        Raises:
            IndexError: the int is out of range, so that a `for` loop over the data set ends.
            InputError: the image by an int cannot be read.
        """
        if isinstance(key, tuple):
            return self.sample(*key)
        return self.item(self.epoch, range(len(self))[key])

    def set_epoch(self, epoch: int):
        """Chooses the epoch whose augmentation the items by an int have."""
        self.epoch = epoch

    def sample(self, epoch, number):
        """The Sample of a number, which is index + repetition * len(self).

        A bad image raises nothing: it gives another one, or a black one, with the error's text, so
        that Batches (batches.py) can count them, or end the run with the name.
        """
        sample = self.read(epoch, number, self.generator(epoch, number))
        if not sample.error or not self.replace_bad:
            return sample
        start = number - number % len(self)  # of the repetition
        for further in range(1, REPLACEMENTS_TRIED + 1):
            other = start + (number + further) % len(self)
            other = self.read(epoch, other, self.generator(epoch, other))
            if not other.error:
                return other._replace(number=number, error=sample.error)
        return sample

    def generator(self, epoch, number):
        """The random generator of one image in one epoch."""
        return generator(SAMPLE, self.seed, epoch, number)

    def read(self, epoch, number, random):
        """The Sample of an image, drawn with a numpy Generator; it is black if the image is bad."""
        index = number % len(self)
        label = self.images.labels[index]
        label = label if isinstance(label, np.ndarray) else int(label)
        try:
            image = self.transform(self.images.load_for_crop(index), random)
            boxes = self.erasing.boxes(*self.shape[:2], random) if self.erasing else self.no_boxes
            return Sample(image, label, boxes, epoch, number, index, '')
        except Exception as error:  # noqa: BLE001 - anything: see `sample`
            reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
            text = printable(f'{self.images.where(index)}: cannot read {self.images.name(index)}: '
                             f'{" ".join(reason.split())}{gbk_hint(self.images, index, error)}')
            black = np.zeros(self.shape, np.uint8)
            return Sample(black, label, self.no_boxes, epoch, number, index, text)

    def item(self, epoch, number):
        """An image as a model takes it, in the form of PaddleViT's data sets.

        The pixels are the Sample's. Only the noise in erased boxes is another one than in
        training, which draws it for a whole batch on the device.

        Returns:
            float32 [3, H, W], (pixels / 255 - mean) / std, and the label as an int, or as float32
            [K] of zeros and ones for multi-label data.

        Raises:
            InputError: the image cannot be read. None is replaced here.
        """
        random = self.generator(epoch, number)
        sample = self.read(epoch, number, random)
        if sample.error:
            raise InputError(sample.error)
        pixels = (sample.image.astype(np.float32) / 255 - self.mean) / self.std   # [H, W, 3]
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))                  # [3, H, W]
        if self.erasing:
            self.erasing.erase_image(pixels, sample.boxes, random)
        label = sample.label
        return pixels, label.astype(np.float32) if isinstance(label, np.ndarray) else label
