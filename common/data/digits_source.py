"""The 1,797 handwritten digits of scikit-learn, split into training and validation images.

Every fifth image of each class is for validation. Needs the extra 'digits' (scikit-learn).
"""
import numpy as np
from PIL import Image

from common.core.errors import InputError
from common.data.lists import ImageList


def load_digits():
    """(uint8 [1797, 8, 8], labels int64 [1797], for validation? bool [1797])"""
    try:
        from sklearn import datasets
    except ImportError:
        raise InputError("the digits come with scikit-learn: pip install -e '.[digits]'") from None
    images, labels = datasets.load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    is_val = np.zeros(len(labels), bool)
    for label in range(10):
        is_val[np.flatnonzero(labels == label)[4::5]] = True
    return pixels, labels.astype(np.int64), is_val


class Digits:
    """One split, in memory; a source of images as an ImageList is."""

    def __init__(self, split, numbers, pixels, labels):
        self.split, self.numbers, self.pixels, self.labels = split, numbers, pixels, labels

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return f'{self.split}/{self.labels[index]}/{self.numbers[index]:04d}.png'

    def where(self, index):
        return f'scikit-learn digits: {self.name(index)}'

    def load(self, index):
        """A Pillow RGB image of 8 x 8 pixels."""
        return Image.fromarray(self.pixels[index]).convert('RGB')

    check_labels = ImageList.check_labels


def read_digits(is_train=True):
    """One split as (Digits, class names): the images and the split that `write_digits` writes."""
    pixels, labels, is_val = load_digits()
    numbers = np.flatnonzero(is_val != is_train)
    split = 'train' if is_train else 'val'
    return Digits(split, numbers, pixels[numbers], labels[numbers]), [str(n) for n in range(10)]
