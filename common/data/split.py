"""The validation images of a data set that has none of its own: a fixed part of each class."""
import hashlib

import numpy as np

from common.core.label_sets import LabelSets, class_counts, classes_of


def validation_part(images, fraction: float, seed: int = 0) -> np.ndarray:
    """Which images of a source are for validation.

    Of a class with n images these are round(fraction * n) (half rounds up), at least one and never
    all of them; a class of one image trains. The choice goes by a hash of the seed and of each
    image's name within the data set: it is the same on every machine, and the images that are
    added later move few of the others. Of several labels of an image the rarest one counts, and
    images without any are a class of their own.

    Args:
        images: ImageSource.
        fraction: how much of each class validates, in (0, 1]; 1 is all images.
        seed: another one makes another choice.

    Returns:
        bool [n].
    """
    chosen = np.ones(len(images), bool)
    if fraction == 1.0:
        return chosen
    chosen[:] = False
    hashes = np.array([hash_of(f'{seed}/{images.name(index)}') for index in range(len(images))])
    labels = rarest_labels(images.labels)
    order = np.lexsort([hashes, labels])  # class after class, each by its hashes
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        wanted = max(1, int(fraction * count + 0.5))
        chosen[order[start:start + min(wanted, count - 1)]] = True
    return chosen


def rarest_labels(labels):
    """int64 [n]: of each image the class that the fewest images have; -1 without one."""
    if not isinstance(labels, LabelSets):
        return labels
    counts = class_counts(labels, labels.num_classes)
    return np.array([min(classes_of(labels, index), key=lambda k: (counts[k], k), default=-1)
                     for index in range(len(labels))], np.int64)


def hash_of(text):
    """64 bits of a hash, as a number."""
    digest = hashlib.blake2b(text.encode('utf-8', 'surrogateescape'), digest_size=8).digest()
    return int.from_bytes(digest, 'little')
