"""From an image file to the uint8 crop that the model sees.

Training: random resized crop and left-right flip. Evaluation: resize of the short side and centre
crop, as timm does (Pillow's antialiased filters). Both end in uint8 [S, S, 3]; the rest
(float, mean, std) happens on the whole batch, see loader.py.
"""
import math

import numpy as np
from PIL import Image

from common.layers import to_pair

FILTERS = {'bicubic': Image.BICUBIC, 'bilinear': Image.BILINEAR}


def load_image(path):
    """An image file as an RGB Pillow image; raises what Pillow raises on a bad file."""
    with open(path, 'rb') as stream, Image.open(stream) as image:
        return image.convert('RGB')


class TrainTransform:
    """Random resized crop and flip.

    Args:
        size: int or (height, width) of the result in pixels.
        scale: range of the crop's area as a share of the image's.
        ratio: range of the crop's width / height; drawn evenly in its logarithm.
        interpolation: bicubic | bilinear | random.
        hflip: probability of a left-right flip.
    """

    def __init__(self, size, scale, ratio, interpolation='bicubic', hflip=0.5):
        self.size = to_pair(size)
        self.scale = scale
        self.ratio = ratio
        self.interpolation = interpolation
        self.hflip = hflip

    def __call__(self, image, random):
        """A Pillow RGB image and a numpy Generator -> uint8 [H, W, 3]."""
        left, top, width, height = random_crop_box(*image.size, self.scale, self.ratio, random)
        name = self.interpolation
        if name == 'random':
            name = ('bilinear', 'bicubic')[int(random.integers(2))]
        image = image.crop((left, top, left + width, top + height))
        image = image.resize(self.size[::-1], FILTERS[name])
        if random.random() < self.hflip:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        return np.asarray(image)


def random_crop_box(image_width, image_height, scale, ratio, random):
    """(left, top, width, height) of a random resized crop, as torchvision and timm draw it.

    Ten tries with area ~ U(scale) and log(aspect) ~ U(log ratio); a box that does not fit is
    drawn again. After that the centre, with the aspect ratio clamped into the range.
    """
    area = image_width * image_height
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
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
    """

    def __init__(self, size, crop_pct, interpolation='bicubic'):
        self.size = to_pair(size)
        self.cover = tuple(math.floor(side / crop_pct) for side in self.size)
        self.filter = FILTERS[interpolation]

    def __call__(self, image, random=None):
        """A Pillow RGB image -> uint8 [H, W, 3]."""
        width, height = image.size
        cover_height, cover_width = self.cover
        if width * cover_height <= height * cover_width:   # the width decides
            resized = cover_width, int(cover_width * height / width)
        else:
            resized = int(cover_height * width / height), cover_height
        if resized != image.size:
            image = image.resize(resized, self.filter)
        # Python's round (half to even), as timm's centre crop.
        left = round((resized[0] - self.size[1]) / 2)
        top = round((resized[1] - self.size[0]) / 2)
        return np.asarray(image.crop((left, top, left + self.size[1], top + self.size[0])))
