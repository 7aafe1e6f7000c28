"""Labels of images that have several classes each, or none (multi-label data).

Where an image has one class, labels are int64 [n]. The functions here take either.
"""
import numpy as np


class LabelSets:
    """The classes of n images, kept in two arrays.

    Args:
        values: int64 [m], the classes of all images, one image after the other.
        ends: int64 [n], where each image's classes end in `values`.

    Attributes:
        num_classes: K, the length of a row; one more than the largest class until it is set.
    """

    def __init__(self, values, ends, num_classes=None):
        self.values, self.ends = values, ends
        self.num_classes = num_classes or int(values.max(initial=-1)) + 1

    def __len__(self):
        return len(self.ends)

    def __getitem__(self, key):
        """uint8 [K] of one image, 1 at its classes; or the LabelSets of the images in an array."""
        if isinstance(key, (int, np.integer)):
            row = np.zeros(self.num_classes, np.uint8)
            row[self.classes(key)] = 1
            return row
        parts = [self.classes(index) for index in key]
        values = np.concatenate([np.zeros(0, np.int64), *parts])
        return LabelSets(values, np.cumsum([len(part) for part in parts], dtype=np.int64),
                         self.num_classes)

    def classes(self, index):
        """The classes of one image, in the order of its line."""
        return self.values[self.ends[index - 1] if index else 0:self.ends[index]]

    def table(self):
        """bool [n, K], True at the classes of each image."""
        result = np.zeros((len(self), self.num_classes), bool)
        result[np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0)), self.values] = True
        return result

    def renumbered(self, numbers):
        """The same images, with class numbers[k] for class k."""
        return LabelSets(numbers[self.values], self.ends, self.num_classes)


def all_labels(labels):
    """int64 [m]: each class as often as it is a label of an image."""
    return labels.values if isinstance(labels, LabelSets) else labels


def classes_of(labels, index):
    """The classes of one image: a list of int."""
    return labels.classes(index).tolist() if isinstance(labels, LabelSets) else [int(labels[index])]


def image_of(labels, position):
    """Which image an entry of `all_labels` is of."""
    if isinstance(labels, LabelSets):
        return int(np.searchsorted(labels.ends, position, side='right'))
    return int(position)


def class_counts(labels, num_classes):
    """int64 [K]: how often each class is a label."""
    return np.bincount(all_labels(labels), minlength=num_classes)


def renumbered(labels, numbers):
    """The labels with class numbers[k] for class k."""
    return labels.renumbered(numbers) if isinstance(labels, LabelSets) else numbers[labels]


def label_bytes(labels):
    """All of the labels as bytes, for a checksum."""
    arrays = [labels.values, labels.ends] if isinstance(labels, LabelSets) else [labels]
    return b''.join(np.ascontiguousarray(array, np.int64).tobytes() for array in arrays)


def label_text(labels, index):
    """The label of an image as it stands in a list."""
    if isinstance(labels, LabelSets):
        return ','.join(map(str, labels.classes(index).tolist())) or '-'
    return str(labels[index])
