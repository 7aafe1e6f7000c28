"""From the samples of a data set to the arrays of a batch."""
from typing import NamedTuple

import cv2
import numpy as np

from common.core.randomness import BATCH, generator


class Batch(NamedTuple):
    """A batch in numpy arrays, as it comes out of a loader.

    All fields are arrays, since that is what the workers' shared memory holds (workers.py).
    """

    images: np.ndarray   # uint8 [B, 3, H, W], mixed
    target: np.ndarray   # int64 [B], or float32 [B, K] if mixed or multi-label
    boxes: np.ndarray    # int64 [B, count, 4], what random erasing will fill
    epoch: np.ndarray    # int64 []
    first: np.ndarray    # int64 [], the first sample's number: it seeds what is drawn for the batch
    indices: np.ndarray  # int64 [B], which images these are
    errors: np.ndarray   # str [number of bad images], why they could not be read


class Collate:
    """Makes a Batch of the Samples of an ImageDataset, and mixes it.

    Args:
        mixup: common.data.mixup.Mixup or None.
        last_epoch: the last epoch whose batches are mixed; None is all.
        seed: seeds the mixing.
        smoothing: fraction of a multi-label target that is spread over all classes, before it is
            mixed. (Other targets are smoothed by the loss, or by Mixup.)
    """

    def __init__(self, mixup=None, last_epoch=None, seed=0, smoothing=0.0):
        self.mixup = mixup
        self.last_epoch = last_epoch
        self.seed = seed
        self.smoothing = smoothing

    def __call__(self, samples):
        height, width, channels = samples[0].image.shape
        images = np.empty((len(samples), channels, height, width), np.uint8)
        for image, sample in zip(images, samples, strict=True):
            cv2.split(sample.image, list(image))  # a fourth of the time of numpy's transpose
        target = self.target([sample.label for sample in samples])
        epoch, first = samples[0].epoch, samples[0].number
        if self.mixup and (self.last_epoch is None or epoch <= self.last_epoch):
            images, target = self.mixup(images, target, generator(BATCH, self.seed, epoch, first))
        return Batch(images, target,
                     boxes=np.stack([sample.boxes for sample in samples]),
                     epoch=np.array(epoch, np.int64),
                     first=np.array(first, np.int64),
                     indices=np.array([sample.index for sample in samples], np.int64),
                     errors=np.array([sample.error for sample in samples if sample.error], str))

    def target(self, labels):
        """A list of labels as int64 [B]; of rows of zeros and ones as float32 [B, K], smoothed."""
        if not np.ndim(labels[0]):
            return np.array(labels, np.int64)
        rows = np.array(labels, np.float32)                                    # [B, K]
        return rows * np.float32(1.0 - self.smoothing) + np.float32(self.smoothing / rows.shape[1])
