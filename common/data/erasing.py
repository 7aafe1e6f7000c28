"""Random erasing of boxes of normalised images (arXiv 1708.04896), as timm 0.4.12.

It has two steps. The boxes of an image are drawn where the image is augmented (image_dataset.py),
with the generator of that image. They travel beside the pixels, which are uint8 up to then, and
are filled where the batch has been normalised on the device (batches.py): the noise has the
variance of normalised values, and a worker would need four times the memory for floats.
"""
import math

import numpy as np
import paddle

from common.core.errors import InputError

MODES = ('pixel', 'rand', 'const')
TRIES = 10  # draws of one box, as in timm


class RandomErasing:
    """Replaces boxes of an image by noise or by 0, which is the mean after normalisation.

    Args:
        probability: that an image is erased.
        mode: pixel: N(0, 1) for each value; rand: N(0, 1) for each channel of a box; const: 0.
        count: most boxes of an image; how many is drawn from 1..count.
        area: range of all boxes' area as a fraction of the image's; each has an equal part of it.
        aspect: range of height / width, drawn evenly in its logarithm.

    Raises:
        InputError: a wrong probability, mode or count.
    """

    def __init__(self, probability, mode='pixel', count=1, area=(0.02, 1 / 3),
                 aspect=(0.3, 1 / 0.3)):
        if not 0.0 <= probability <= 1.0:
            raise InputError(f'AUG.ERASING: got {probability}, expected a number in [0, 1]')
        if mode not in MODES:
            raise InputError(f'AUG.ERASING_MODE: got {mode!r}, expected one of {", ".join(MODES)}')
        if count < 1:
            raise InputError(f'AUG.ERASING_COUNT: got {count}, expected at least 1')
        self.probability = probability
        self.mode = mode
        self.count = count
        self.area = area
        self.log_aspect = math.log(aspect[0]), math.log(aspect[1])

    def boxes(self, height, width, random):
        """Draws the boxes of one image; its pixels do not matter.

        Returns:
            int64 [count, 4]: (top, left, bottom, right); zeros where nothing is erased. Boxes
            may overlap. One that does not fit is drawn again, TRIES times at most.
        """
        boxes = np.zeros((self.count, 4), np.int64)
        if random.random() >= self.probability:
            return boxes
        count = 1 if self.count == 1 else int(random.integers(1, self.count + 1))
        for index in range(count):
            for _ in range(TRIES):
                area = random.uniform(*self.area) * height * width / count
                aspect = math.exp(random.uniform(*self.log_aspect))
                h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if h < height and w < width:
                    top = int(random.integers(height - h + 1))
                    left = int(random.integers(width - w + 1))
                    boxes[index] = top, left, top + h, left + w
                    break
        return boxes

    def erase(self, images, boxes):
        """Fills the boxes in place, later ones over earlier ones, with Paddle's generator.

        Box by box: a quarter of the images has one, and on a CPU noise and a mask for the whole
        batch take forty times as long.

        Args:
            images: float32 or float64 [B, 3, H, W], normalised.
            boxes: integer array [B, count, 4]; see `boxes`.

        Returns:
            `images`.
        """
        for index, boxes_of_image in enumerate(np.asarray(boxes).tolist()):
            for top, left, bottom, right in boxes_of_image:
                if bottom > top:
                    shape = self.noise_shape(images.shape[1], bottom - top, right - left)
                    images[index, :, top:bottom, left:right] = 0.0 if self.mode == 'const' \
                        else paddle.randn(shape, dtype=images.dtype)
        return images

    def erase_image(self, pixels, boxes, random):
        """The same for one image as a numpy array, with a numpy Generator.

        Args:
            pixels: float32 [3, H, W], normalised; changed in place.
            boxes: int64 [count, 4]; see `boxes`.
            random: numpy Generator.
        """
        for top, left, bottom, right in boxes.tolist():
            if bottom > top:
                shape = self.noise_shape(len(pixels), bottom - top, right - left)
                pixels[:, top:bottom, left:right] = 0.0 if self.mode == 'const' \
                    else random.standard_normal(shape, pixels.dtype)

    def noise_shape(self, channels, height, width):
        """The shape of the noise for a box: one value for each pixel, or for each channel."""
        return [channels, 1, 1] if self.mode == 'rand' else [channels, height, width]


def build_erasing(config):
    """The RandomErasing of a config, or None where AUG.ERASING is 0."""
    aug = config.AUG
    return RandomErasing(aug.ERASING, aug.ERASING_MODE, aug.ERASING_COUNT) if aug.ERASING else None
