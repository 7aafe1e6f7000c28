"""The 1,797 handwritten digits of scikit-learn, split into training and validation images.

Every fifth image of each class is for validation. Needs the extra 'digits' (scikit-learn).
"""
import os

import numpy as np
from PIL import Image

from common.core.errors import InputError
from common.data.sources import ImageSource


def load_digits():
    """Reads the digits that come with scikit-learn.

    Returns:
        Pixels uint8 [1797, 8, 8], labels int64 [1797], and bool [1797]: which are for validation.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise InputError("the digits come with scikit-learn: pip install "
                         "'paddle-vitae[digits]'") from None
    images, labels = datasets.load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    is_val = np.zeros(len(labels), bool)
    for label in range(10):
        is_val[np.flatnonzero(labels == label)[4::5]] = True
    return pixels, labels.astype(np.int64), is_val


class Digits(ImageSource):
    """The digits of one split, in memory.

    Args:
        split: train | val.
        numbers: int64 [n], the digits' numbers among all 1,797.
        pixels, labels: uint8 [n, 8, 8], int64 [n].
    """

    def __init__(self, split, numbers, pixels, labels):
        self.split, self.numbers, self.pixels, self.labels = split, numbers, pixels, labels

    def name(self, index):
        """The name of the file that `write_digits` writes, e.g. 'train/3/0123.png'."""
        return f'{self.split}/{self.labels[index]}/{self.numbers[index]:04d}.png'

    def where(self, index):
        """The same with the name of the data set."""
        return f'scikit-learn digits: {self.name(index)}'

    def load(self, index):
        """A Pillow RGB image of 8 x 8 pixels."""
        return Image.fromarray(self.pixels[index]).convert('RGB')


def read_digits(is_train: bool = True):
    """One split as (Digits, class names): the images and the split that `write_digits` writes."""
    pixels, labels, is_val = load_digits()
    numbers = np.flatnonzero(is_val != is_train)
    split = 'train' if is_train else 'val'
    return Digits(split, numbers, pixels[numbers], labels[numbers]), [str(n) for n in range(10)]


def write_digits(folder: str) -> tuple[int, int]:
    """Writes the digits as an image data set with lists.

    Returns:
        The number of training and of validation images.
    """
    lists = {'train': [], 'val': []}
    for index, (image, label, is_val) in enumerate(zip(*load_digits(), strict=True)):
        split = 'val' if is_val else 'train'
        name = f'{split}/{label}/{index:04d}.png'
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(image).save(path)
        lists[split].append(f'{name} {label}\n')
    for split, lines in lists.items():
        with open(os.path.join(folder, f'{split}_list.txt'), 'w') as stream:
            stream.writelines(lines)
    return len(lists['train']), len(lists['val'])
