"""What happens to an image, its boxes and polygons on the way into a detector.

A sample is a dict: image (uint8 [H, W, 3], RGB), boxes (float32 [n, 4]: x1, y1, x2, y2 in pixels),
labels (int [n]), polygons (for each object a list of float64 [m, 2]).

Source: the pipelines of mmdetection that upstream's and Swin's configs name (Resize, RandomFlip,
RandomCrop, Normalize, Pad), and RandomSelect of DETR. Different: polygons are not cut at the border
of a crop, since the loss looks at masks within a box only, and boxes are.
"""
import cv2
import numpy as np

STRIDE = 32  # height and width of a batch are multiples of it


def size_within(height, width, short_side, max_side):
    """(height, width) in the same ratio, rounded: the shorter side is short_side, unless the longer
    one would be longer than max_side."""
    scale = min(short_side / min(height, width), max_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(sample, short_side, max_side):
    """Resizes a sample by `size_within`, bilinearly."""
    height, width = sample['image'].shape[:2]
    new_height, new_width = size_within(height, width, short_side, max_side)
    factor = np.array([new_width / width, new_height / height])              # x, y
    image = cv2.resize(sample['image'], (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return {**sample, 'image': image,
            'boxes': (sample['boxes'] * np.tile(factor, 2)).astype(np.float32),
            'polygons': [[polygon * factor for polygon in polygons]
                         for polygons in sample['polygons']]}


def flip(sample):
    """Mirrors a sample, left and right."""
    width = sample['image'].shape[1]
    boxes = sample['boxes'].copy()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return {**sample, 'image': np.ascontiguousarray(sample['image'][:, ::-1]), 'boxes': boxes,
            'polygons': [[polygon * [-1, 1] + [width, 0] for polygon in polygons]
                         for polygons in sample['polygons']]}


def crop(sample, top, left, height, width):
    """A part of a sample; objects outside of it are left out, and boxes end at its border."""
    boxes = sample['boxes'] - np.array([left, top, left, top], np.float32)
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    kept = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    return {**sample, 'image': sample['image'][top:top + height, left:left + width],
            'boxes': boxes[kept], 'labels': sample['labels'][kept],
            'polygons': [[polygon - [left, top] for polygon in sample['polygons'][index]]
                         for index in kept]}


def augment(sample, data, random):
    """The training's resizing, cutting out and mirroring.

    Args:
        sample: see above.
        data: the DATA node of a config.
        random: numpy.random.Generator.
    """
    if data.CROP_SHORT_SIDES and random.random() < 0.5:
        sample = resize(sample, random.choice(data.CROP_SHORT_SIDES), data.MAX_SIDE)
        sides = []
        for side in sample['image'].shape[:2]:
            low, high = (min(side, bound) for bound in data.CROP_SIZE)
            sides.append(int(random.integers(low, high + 1)))
        top, left = (int(random.integers(0, whole - side + 1))
                     for whole, side in zip(sample['image'].shape[:2], sides, strict=True))
        sample = crop(sample, top, left, *sides)
    sample = resize(sample, random.choice(data.SHORT_SIDES), data.MAX_SIDE)
    return flip(sample) if random.random() < 0.5 else sample


def normalize(image, data):
    """uint8 [H, W, 3] -> float32 [3, H, W]."""
    mean, std = (np.asarray(values, np.float32) * 255 for values in (data.MEAN, data.STD))
    return ((image - mean) / std).transpose(2, 0, 1)


def pad_batch(images):
    """Images [3, H, W] of several sizes as one array [B, 3, H', W'], zeros at the bottom and the
    right; H' and W' are multiples of STRIDE."""
    height, width = (-(-max(image.shape[axis] for image in images) // STRIDE) * STRIDE
                     for axis in (1, 2))
    batch = np.zeros([len(images), 3, height, width], np.float32)
    for target, image in zip(batch, images, strict=True):
        target[:, :image.shape[1], :image.shape[2]] = image
    return batch
