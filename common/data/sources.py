"""What every source of images offers, wherever its images lie."""
import numpy as np

from common.core.errors import InputError
from common.core.label_sets import LabelSets, all_labels, image_of


class ImageSource:
    """Images with labels, by their index: the base of lists, folders, CIFAR and the digits.

    A subclass sets `labels` and says what an image is called and how it is loaded.

    Attributes:
        labels: int64 [n], or LabelSets where an image has several classes or none.
        upright: whether image files are turned as their EXIF says; where there are none it has no
            effect.
        split_off: whether they are one part of images that lie together.
        note: what has been done with them before, or ''.
    """

    labels: np.ndarray | LabelSets
    upright = False
    split_off = False
    note = ''

    def __len__(self):
        return len(self.labels)

    def name(self, index: int) -> str:
        """The image's name within the data set, e.g. 'train/3/0123.png'."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Where the image and its label come from, for messages."""
        raise NotImplementedError

    def load(self, index: int):
        """The image as a Pillow RGB image, or uint8 [H, W, 3]; raises what its reader raises."""
        raise NotImplementedError

    def load_for_crop(self, index: int):
        """What `load` gives, or a JpegFile (jpeg.py), which is decoded when the crop is known."""
        return self.load(index)

    def check_labels(self, num_classes: int):
        """Raises InputError at the first label that is not in [0, num_classes)."""
        labels = all_labels(self.labels)
        bad = np.flatnonzero(labels >= num_classes)
        if len(bad):
            least = labels.min()
            raise InputError(
                f'{self.where(image_of(self.labels, bad[0]))}: label: got {labels[bad[0]]}, '
                f'expected 0 to {num_classes - 1} (MODEL.NUM_CLASSES {num_classes}); {len(bad)} of '
                f'{len(labels)} entries are out of range'
                + (f'; labels count from 0, and the least here is {least}' if least else ''))
