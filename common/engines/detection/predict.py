"""Predictions of a detector: its boxes, classes, scores and masks, in pixels of the images."""
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import paddle

from common.engines.detection.data import load_batches
from common.engines.detection.model import in_evaluation

THRESHOLD = 0.5  # of a mask's probability


class Prediction(NamedTuple):
    """What a detector finds on one image.

    Attributes:
        boxes: float32 [n, 4], x1, y1, x2, y2.
        labels: int [n].
        scores: float32 [n], falling.
        masks: float32 [n, 28, 28], probabilities within the box.
    """
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray

    def pasted(self, index: int, size: tuple) -> np.ndarray:
        """The mask of a detection in an image of size (H, W): bool [H, W]."""
        return paste_mask(self.masks[index], self.boxes[index], size)


def predict_batch(detector, batch) -> list[Prediction]:
    """The predictions of a batch (arrays or tensors of data.to_batch)."""
    keys = ('image', 'im_shape', 'scale_factor')
    with in_evaluation(detector):
        inputs = [value if isinstance(value, paddle.Tensor) else paddle.to_tensor(value)
                  for value in (batch[key] for key in keys)]
        return split_predictions(*(value.numpy() for value in detector(*inputs)))


def split_predictions(boxes, counts, masks) -> list[Prediction]:
    """What a Detector gives, as arrays, by image."""
    found, start = [], 0
    for count in counts.reshape(-1):
        rows = boxes[start:start + count]                           # class, score, box
        real = (rows[:, 0] >= 0) & (rows[:, 1] > 0)
        part = masks[start:start + count] if len(masks) == len(boxes) and masks.shape[1] > 1 \
            else np.zeros([count, 1, 1], np.float32)
        order = np.argsort(-rows[real, 1], kind='stable')
        rows, part = rows[real][order], part[real][order]
        found.append(Prediction(rows[:, 2:], rows[:, 0].astype(int), rows[:, 1], part))
        start += count
    return found


def paste_mask(mask, box, size):
    """A mask [M, M] of a box in an image of size (H, W): bool [H, W].

    Bilinear, with zeros around the mask; a pixel's centre decides. Source: paste_masks_in_image of
    detectron2; only the part of the image within the box is computed.
    """
    H, W = size
    x1, y1, x2, y2 = (float(value) for value in box)
    left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
    right, bottom = min(int(np.ceil(x2)), W), min(int(np.ceil(y2)), H)
    pasted = np.zeros([H, W], bool)
    if right <= left or bottom <= top or x2 <= x1 or y2 <= y1:
        return pasted
    M = mask.shape[0]
    rows = weights_of((np.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * M - 0.5, M)     # [h, M]
    columns = weights_of((np.arange(left, right) + 0.5 - x1) / (x2 - x1) * M - 0.5, M)  # [w, M]
    pasted[top:bottom, left:right] = rows @ mask @ columns.T >= THRESHOLD               # [h, w]
    return pasted


def weights_of(places, M):
    """The weights [n, M] of linear interpolation at places between M values, zeros around them."""
    return np.clip(1 - np.abs(places[:, np.newaxis] - np.arange(M)), 0, None)


def predict_images(detector, images, keys, data, threads) -> Iterator[tuple[dict, Prediction]]:
    """Yields (entry of the annotations, Prediction) for images of a CocoImages, one at a time.

    Args:
        detector: Detector.
        images: CocoImages.
        keys: indices of the images.
        data: the DATA node of a config.
        threads: that load images ahead.
    """
    for index, batch in zip(keys, load_batches(images, [[(0, index)] for index in keys], data,
                                               threads), strict=True):
        prediction, = predict_batch(detector, batch)
        yield images.images[index], prediction
