"""A fixed part of a training set, e.g. 1 % or 10 % of each class (few-shot learning)."""
import numpy as np

from common.core.errors import InputError
from common.core.randomness import SUBSET, generator
from common.data.sources import ImageSource


def take_fraction(labels: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """Which samples make a random part of each class.

    Class k with n samples gives max(1, round(fraction * n)) of them (half rounds up), chosen by
    a generator that depends on the seed, k and n only. So the choice is the same in every process
    and epoch; a smaller fraction is a part of a larger one with the same seed; and it does not
    matter how the classes are mixed in the list. What does matter is the order within a class, so
    the list has to stay the same, or the part be written to a list of its own.

    Args:
        labels: int64 [n].
        fraction: how much of each class is taken, in (0, 1].
        seed: seeds the choice; a whole number in [0, 2^31).

    Returns:
        int64 [m], sorted.

    Raises:
        InputError: the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise InputError(f'fraction of the training set: got {fraction}, expected more than 0 and '
                         f'at most 1')
    order = np.argsort(labels, kind='stable')  # class after class, each in the list's order
    classes, starts = np.unique(labels[order], return_index=True)
    taken = [np.zeros(0, np.int64)]
    ends = [*starts, len(order)][1:]
    for number, start, end in zip(classes.tolist(), starts, ends, strict=True):
        members = order[start:end]
        count = max(1, int(fraction * len(members) + 0.5))
        random = generator(SUBSET, seed, 0, number)
        taken.append(members[random.permutation(len(members))[:count]])
    return np.sort(np.concatenate(taken))


class Subset(ImageSource):
    """Some images of a source.

    Args:
        images: ImageSource.
        indices: int64 [m], which of its images, e.g. those of `take_fraction`.

    Attributes:
        labels: int64 [m].
    """

    split_off = True

    def __init__(self, images, indices):
        self.images = images
        self.indices = np.asarray(indices, np.int64)
        self.labels = images.labels[self.indices]

    def name(self, index):
        """The name in the whole source."""
        return self.images.name(int(self.indices[index]))

    def where(self, index):
        """Where the image comes from in the whole source."""
        return self.images.where(int(self.indices[index]))

    def path(self, index):
        """The path of the image's file, where the whole source has files."""
        return self.images.path(int(self.indices[index]))

    def identity(self, index):
        """What only this image has, where the whole source has files."""
        return self.images.identity(int(self.indices[index]))

    def content(self, index):
        """The bytes of the image's file, where the whole source has files."""
        return self.images.content(int(self.indices[index]))

    def load(self, index):
        """The image as the source loads it."""
        return self.images.load(int(self.indices[index]))

    def load_for_crop(self, index):
        """The image as the source gives it for a crop."""
        return self.images.load_for_crop(int(self.indices[index]))

    def check_labels(self, num_classes):
        """Raises InputError if a label of the whole source is not in [0, num_classes)."""
        self.images.check_labels(num_classes)
