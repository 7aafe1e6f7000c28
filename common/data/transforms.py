"""From an image to the uint8 crop that the model sees.

Training: random resized crop, left-right flip, and an augmentation. Evaluation: resize of the
short side and centre crop, as timm does (Pillow's antialiased filters). Both end in uint8
[H, W, 3]; the rest (float, mean, std, erasing) happens on the whole batch, see batches.py.
"""
import math

import cv2
import numpy as np
from PIL import Image

from common.core.sizes import to_pair
from common.data.jpeg import JpegFile
from common.data.resizing import resize_by_cv2

FILTERS = {'bicubic': Image.BICUBIC, 'bilinear': Image.BILINEAR}
# How far a filter reaches, in pixels of the coarser of the two images.
REACH = {'bicubic': 2, 'bilinear': 1}
CROP_TRIES = 10  # draws of a crop, as in torchvision and timm
# A larger whole than this is not made to cut the centre out of it: 64 MiB in Pillow's RGB.
MAX_RESIZED = 1 << 24


class TrainTransform:
    """Random resized crop, flip, and an augmentation of the result.

    Args:
        size: int or (height, width) of the result in pixels.
        scale: range of the crop's area as a fraction of the image's.
        ratio: range of the crop's width / height; drawn evenly in its logarithm.
        interpolation: bicubic | bilinear | random.
        hflip: probability of a left-right flip.
        augment: (Pillow RGB image, numpy Generator) -> Pillow RGB image of the same size, or None.
        backend: 'pillow' resizes as timm does; 'cv2' and 'cv2_reduced' are faster, see
            `resize_by_cv2`; then `interpolation` has no effect. How far a JpegFile is reduced, it
            says itself.
    """

    def __init__(self, size, scale, ratio, interpolation='bicubic', hflip=0.5, augment=None,
                 backend='pillow'):
        self.size = to_pair(size)
        self.scale = scale
        self.ratio = ratio
        self.interpolation = interpolation
        self.hflip = hflip
        self.augment = augment
        self.backend = backend

    def __call__(self, image, random):
        """A Pillow RGB image, and a numpy Generator -> uint8 [H, W, 3].

        With OpenCV the image may be uint8 [h, w, 3], or a JpegFile.
        """
        image = self.crop_by_pillow(image, random) if self.backend == 'pillow' \
            else self.crop_by_cv2(image, random)
        if self.augment:
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            image = self.augment(image, random)
        return np.asarray(image)

    def crop_by_pillow(self, image, random):
        """The crop and flip of a Pillow image, as a Pillow image."""
        left, top, width, height = random_crop_box(*image.size, self.scale, self.ratio, random)
        name = self.interpolation
        if name == 'random':
            name = ('bilinear', 'bicubic')[int(random.integers(2))]
        image = image.crop((left, top, left + width, top + height))
        image = image.resize(self.size[::-1], FILTERS[name])
        if random.random() < self.hflip:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        return image

    def crop_by_cv2(self, image, random):
        """The crop and flip by OpenCV, as uint8 [H, W, 3]."""
        if not isinstance(image, JpegFile):
            image = np.asarray(image)
            size = image.shape[1::-1]
        else:
            size = image.size
        box = left, top, width, height = random_crop_box(*size, self.scale, self.ratio, random)
        pixels = image.crop(box, self.size) if isinstance(image, JpegFile) \
            else resize_by_cv2(image[top:top + height, left:left + width], self.size)
        return cv2.flip(pixels, 1) if random.random() < self.hflip else pixels


def random_crop_box(image_width, image_height, scale, ratio, random):
    """(left, top, width, height) of a random resized crop, as torchvision and timm draw it.

    It is drawn with area ~ U(scale) and log(aspect) ~ U(log ratio); a box that does not fit is
    drawn again. After CROP_TRIES it is the centre, with the aspect ratio clamped into the range.
    """
    area = image_width * image_height
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(CROP_TRIES):
        target = random.uniform(*scale) * area
        aspect = math.exp(random.uniform(*log_ratio))
        width = round(math.sqrt(target * aspect))
        height = round(math.sqrt(target / aspect))
        if 0 < width <= image_width and 0 < height <= image_height:
            top = int(random.integers(image_height - height + 1))
            left = int(random.integers(image_width - width + 1))
            return left, top, width, height
    width, height = image_width, image_height
    if image_width / image_height < ratio[0]:
        height = max(round(image_width / ratio[0]), 1)
    elif image_width / image_height > ratio[1]:
        width = max(round(image_height * ratio[1]), 1)
    return (image_width - width) // 2, (image_height - height) // 2, width, height


class EvalTransform:
    """Resize of the short side to floor(size / crop_pct), then the centre.

    For a size that is not square, the resize keeps the aspect ratio and covers
    (floor(height / crop_pct), floor(width / crop_pct)).

    Args:
        size: int or (height, width) of the result in pixels.
        crop_pct: fraction of the resized image's side that the crop has, in (0, 1].
        interpolation: bicubic | bilinear.
    """

    def __init__(self, size, crop_pct, interpolation='bicubic'):
        self.size = to_pair(size)
        self.cover = tuple(math.floor(side / crop_pct) for side in self.size)
        self.interpolation = interpolation

    def __call__(self, image, random=None):
        """A Pillow RGB image -> uint8 [H, W, 3]."""
        width, height = image.size
        cover_height, cover_width = self.cover
        if width * cover_height <= height * cover_width:   # the width decides
            resized = cover_width, int(cover_width * height / width)
        else:
            resized = int(cover_height * width / height), cover_height
        # Python's round (half to even), as timm's centre crop.
        left = round((resized[0] - self.size[1]) / 2)
        top = round((resized[1] - self.size[0]) / 2)
        box = left, top, left + self.size[1], top + self.size[0]
        if resized[0] * resized[1] > MAX_RESIZED:
            return np.asarray(resize_part(image, resized, box, self.interpolation))
        if resized != image.size:
            image = image.resize(resized, FILTERS[self.interpolation])
        return np.asarray(image.crop(box))


def resize_part(image, resized, box, interpolation):
    """image.resize(resized).crop(box), made of the pixels that are in it and no others.

    The picture of 40,000 x 1 pixels has 256 x 10 million when it is resized. The result is the
    same but for the rounding of the filter's weights.

    Args:
        image: Pillow image.
        resized: (width, height) that the whole image would have.
        box: (left, top, right, bottom) in it.
    """
    parts = []
    for axis in (0, 1):
        scale = image.size[axis] / resized[axis]
        start, stop = box[axis] * scale, box[axis + 2] * scale
        reach = REACH[interpolation] * max(scale, 1) + 1
        first = max(math.floor(start - reach), 0)
        last = min(math.ceil(stop + reach), image.size[axis])
        # Pillow takes a box in float32, so it is told from the corner of a small image.
        parts.append((first, last, start - first, min(stop, last) - first))
    (left, right, x0, x1), (top, bottom, y0, y1) = parts
    part = image.crop((left, top, right, bottom))
    return part.resize((box[2] - box[0], box[3] - box[1]), FILTERS[interpolation],
                       (x0, y0, x1, y1))
