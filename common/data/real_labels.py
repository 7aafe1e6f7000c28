"""ReaL: reassessed labels of ImageNet's validation images (Beyer et al., arXiv 2006.07159).

real.json of https://github.com/google-research/reassessed-imagenet lists for each image the classes
that are seen in it: none for 3,163 of the 50,000, and those do not count; one or more for the rest.
A prediction is right if it is one of them.
"""
import json
import os
import re

import numpy as np

from common.core.errors import InputError, one_line, opened

NUM_IMAGES = 50_000
NUM_CLASSES = 1000
MAX_BYTES = 1 << 24  # the published file has 388 KB
IMAGE_NAME = re.compile(r'ILSVRC2012_val_([0-9]{8})(?:\.[A-Za-z]+)?')


class RealLabels:
    """The classes that are right for each validation image, as `read_real_labels` gives them.

    Attributes:
        sets: list of 50,000 lists of class numbers, in the order of the images' numbers.
    """

    def __init__(self, sets):
        self.sets = sets

    def check(self, names, num_classes):
        """Raises the InputError that `mask` would raise for these arguments."""
        self.mask([], num_classes)
        for name in names:
            image_number(name)

    def mask(self, names, num_classes=NUM_CLASSES):
        """Which classes are right for some images.

        Args:
            names: file names such as 'val/n01751748/ILSVRC2012_val_00000001.JPEG'. The number in
                the name says which image it is, so they may be any of them in any order.
            num_classes: number of the model's classes; the labels are ImageNet-1k's, so it must be
                1000.

        Returns:
            bool [n, num_classes]; a row without True is an image that does not count.

        Raises:
            InputError: a name without such a number, or another number of classes.
        """
        if num_classes != NUM_CLASSES:
            raise InputError(f'ReaL labels: got a model of {num_classes} classes, expected '
                             f'{NUM_CLASSES}: they are labels of ImageNet-1k')
        result = np.zeros((len(names), num_classes), bool)
        for row, name in zip(result, names, strict=True):
            row[self.sets[image_number(name) - 1]] = True
        return result


def image_number(name):
    """The number in an image's name: 293 for '.../ILSVRC2012_val_00000293.JPEG'."""
    match = IMAGE_NAME.fullmatch(os.path.basename(name))
    number = int(match[1]) if match else 0
    if not 1 <= number <= NUM_IMAGES:
        raise InputError(f'{name}: got no number of an ImageNet validation image, expected '
                         f'ILSVRC2012_val_00000001 to ILSVRC2012_val_{NUM_IMAGES:08d} for the ReaL '
                         f'labels')
    return number


def read_real_labels(file: str) -> RealLabels:
    """Reads real.json.

    Args:
        file: path of a json list of 50,000 lists of numbers from 0 to 999; entry k belongs to the
            image of ILSVRC2012_val with the number k + 1.

    Returns:
        RealLabels.

    Raises:
        InputError: the file is missing, no json, or of another form.
    """
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such file of ReaL labels')
    if os.path.getsize(file) > MAX_BYTES:
        raise InputError(f'{file}: got {os.path.getsize(file)} bytes, expected real.json')
    try:
        with opened(file) as stream:
            sets = json.loads(stream.read())
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f'{file}: not json, or damaged ({one_line(error)})') from None
    if not isinstance(sets, list) or len(sets) != NUM_IMAGES:
        got = f'a list of {len(sets)}' if isinstance(sets, list) else f'a {type(sets).__name__}'
        raise InputError(f'{file}: got {got}, expected a list of {NUM_IMAGES} lists')
    for index, classes in enumerate(sets):
        if not isinstance(classes, list) \
                or not all(type(n) is int and 0 <= n < NUM_CLASSES for n in classes):
            raise InputError(f'{file}: entry {index}: got {json.dumps(classes)[:60]}, expected a '
                             f'list of numbers from 0 to {NUM_CLASSES - 1}')
    return RealLabels(sets)
