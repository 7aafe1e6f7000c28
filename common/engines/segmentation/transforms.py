"""The changes of an image and its mask that upstream's recipe makes, as PaddleSeg's transforms.

Each takes and gives PaddleSeg's dict: `img` float32 [H, W, 3], RGB; `label` uint8 [H, W] in
training; `gt_fields`, the names of what changes with the image; `trans_info`, the sizes that an
evaluation goes back to. Random numbers are of numpy's global generator, as in PaddleSeg; the data
set seeds it for each image.

Written after MMSegmentation 0.x, datasets/pipelines/transforms.py. PaddleSeg 2.8.0 has no
photometric distortion in these units, its RandomPaddingCrop puts the mask in the place of the image
where `category_max_ratio` is below 1, and scales are of the image's own size there.
"""
import cv2
import numpy as np

from common.core.errors import InputError

TRIALS = 10  # crops that are tried for one that no class fills


def resized_within(height, width, long_side, short_side):
    """The size (height, width) of an image that is resized to fit both sides, as mmcv rounds it."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


class ResizeWithin:
    """Resizes to fit a long and a short side; the ratio of the sides stays.

    Args:
        long_side, short_side: pixels.
        ratios: two numbers, between which a factor of both sides is drawn; None for none.
    """

    def __init__(self, long_side, short_side, ratios=None):
        self.sides, self.ratios = (long_side, short_side), ratios

    def __call__(self, data):
        ratio = 1.0
        if self.ratios is not None:
            low, high = self.ratios
            ratio = np.random.random_sample() * (high - low) + low
        before = data['img'].shape[:2]
        height, width = resized_within(*before, *(int(side * ratio) for side in self.sides))
        data['trans_info'].append(('resize', before))
        data['img'] = cv2.resize(data['img'], (width, height), interpolation=cv2.INTER_LINEAR)
        for key in data.get('gt_fields', []):
            data[key] = cv2.resize(data[key], (width, height), interpolation=cv2.INTER_NEAREST)
        return data


class CropOfClasses:
    """Crops at random; a crop that one class fills is drawn again, ten times at most.

    Args:
        crop_size: (width, height), PaddleSeg's order. A smaller side stays, see PadTo.
        most_of_one: the largest share that one class may have of the pixels with a label.
        ignore_index: the label of pixels without one.
    """

    def __init__(self, crop_size, most_of_one=0.75, ignore_index=255):
        self.width, self.height = crop_size
        self.most_of_one, self.ignore_index = most_of_one, ignore_index

    def __call__(self, data):
        top, left = self.draw(data['img'])
        for _ in range(TRIALS):
            if self.is_mixed(self.crop(data['label'], top, left)):
                break
            top, left = self.draw(data['img'])
        for key in ['img', *data.get('gt_fields', [])]:
            data[key] = self.crop(data[key], top, left)
        return data

    def draw(self, image):
        """The upper left corner of a crop."""
        height, width = image.shape[:2]
        return (np.random.randint(0, max(height - self.height, 0) + 1),
                np.random.randint(0, max(width - self.width, 0) + 1))

    def crop(self, pixels, top, left):
        return pixels[top:top + self.height, left:left + self.width]

    def is_mixed(self, label):
        """Whether there are two classes, and none has too much."""
        counts = np.bincount(label[label != self.ignore_index])
        return (counts > 0).sum() > 1 and counts.max() / counts.sum() < self.most_of_one


class PhotoMetricDistortion:
    """Brightness, contrast, saturation and hue, each with probability 1/2; contrast comes before
    the colours or after them.

    Args:
        brightness: the most that is added or taken away, of 255.
        contrast, saturation: two factors, between which one is drawn.
        hue: the most that is added or taken away, of 180.
    """

    def __init__(self, brightness=32, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=18):
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.hue = saturation, hue

    def __call__(self, data):
        image = data['img'].round().astype(np.uint8)
        if np.random.randint(2):
            image = linear(image, add=np.random.uniform(-self.brightness, self.brightness))
        contrast_first = np.random.randint(2)
        if contrast_first:
            image = self.change_contrast(image)
        image = self.change_colours(image)
        if not contrast_first:
            image = self.change_contrast(image)
        data['img'] = image.astype(np.float32)
        return data

    def change_contrast(self, image):
        return linear(image, np.random.uniform(*self.contrast)) if np.random.randint(2) else image

    def change_colours(self, image):
        """Saturation, then hue."""
        by, shift = np.random.randint(2), np.random.randint(2)
        if not (by or shift):
            return image
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)                   # hue of 180
        if by:
            hsv[..., 1] = linear(hsv[..., 1], np.random.uniform(*self.saturation))
        if shift:
            hue = hsv[..., 0].astype(int) + np.random.randint(-self.hue, self.hue)
            hsv[..., 0] = hue % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def linear(pixels, times=1.0, add=0.0):
    """uint8 pixels, times a factor, plus a number, within 0..255; fractions are cut off."""
    return np.clip(pixels.astype(np.float32) * times + add, 0, 255).astype(np.uint8)


class PadTo:
    """Fills up to a size at the bottom and right: the image with 0, which after Normalize is the
    mean colour, the mask with the label of pixels without one.

    Args:
        size: (width, height), PaddleSeg's order.
        ignore_index: that label.
    """

    def __init__(self, size, ignore_index=255):
        self.width, self.height, self.ignore_index = *size, ignore_index

    def __call__(self, data):
        height, width = data['img'].shape[:2]
        down, right = self.height - height, self.width - width
        if min(down, right) < 0:
            raise InputError(f'PadTo: got {width}x{height} pixels, expected at most '
                             f'{self.width}x{self.height}; the crop comes before it')
        data['trans_info'].append(('padding', (height, width)))
        data['img'] = np.pad(data['img'], ((0, down), (0, right), (0, 0)))
        for key in data.get('gt_fields', []):
            data[key] = np.pad(data[key], ((0, down), (0, right)),
                               constant_values=self.ignore_index)
        return data
