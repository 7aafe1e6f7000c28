"""Batches as tensors on the device."""
import json
from collections import deque

import paddle
import paddle.nn.functional as F

from common.core.errors import InputError
from common.core.randomness import seed_batch


class Normalize:
    """uint8 [B, 3, H, W] in 0..255 -> float32, (x / 255 - mean) / std, on the batch's device.

    By the operator for BatchNorm: on a CPU Paddle takes ten times as long to subtract and divide
    by [1, 3, 1, 1]. Its smallest epsilon is 1e-9 of the variance, which float32 does not see.
    """

    def __init__(self, mean, std):
        self.mean = paddle.to_tensor(mean, dtype='float32') * 255.0
        self.variance = (paddle.to_tensor(std, dtype='float32') * 255.0) ** 2

    def __call__(self, images):
        return F.batch_norm(images.astype('float32'), self.mean, self.variance, epsilon=1e-5)


class Batches:
    """What the loops read: (images float [B, 3, H, W], target [B] or [B, K]) on the device.

    Args:
        loader: of get_dataloader.
        normalize: Normalize.
        erasing: common.data.erasing.RandomErasing or None.
        seed: of the erased boxes' noise.
        max_bad: how many bad images (replaced by the data set) there may be in an epoch.
        remembered: how many of the last batches `recent_indices` tells the images of.

    Iterating raises InputError at one bad image more.

    Attributes:
        indices: of the batch that was given last, list of B.
        bad: error texts of this epoch, on this rank.
    """

    def __init__(self, loader, normalize, erasing=None, seed=0, max_bad=0, remembered=1):
        self.loader = loader
        self.normalize = normalize
        self.erasing = erasing
        self.seed = seed
        self.max_bad = max_bad
        self.indices = None
        self.recent = deque(maxlen=remembered)  # bounded: a run evaluates hundreds of times
        self.bad = []

    def __iter__(self):
        self.bad, last = [], None
        for images, target, boxes, place, errors in self.loader:
            epoch, first, *self.indices = place.tolist()
            self.recent.append(self.indices)
            if epoch != last:
                self.bad, last = [], epoch
            errors = json.loads(errors.tobytes())
            self.bad += errors
            if len(self.bad) > self.max_bad:
                more = f' (and {len(errors) - 1} more in this batch)' if len(errors) > 1 else ''
                if self.max_bad:
                    more += f'; more than DATA.MAX_BAD_IMAGES {self.max_bad}'
                raise InputError(errors[0] + more)
            images = self.normalize(on_device(images))
            if self.erasing:
                seed_batch(self.seed, epoch, first)
                images = self.erasing.erase(images, boxes)
            yield images, on_device(target)

    def recent_indices(self):
        """The indices of the last `remembered` batches, in one list."""
        return [index for indices in self.recent for index in indices]

    def name(self, index):
        return self.loader.dataset.images.name(index)


def on_device(array):
    """An array as a tensor of its own on the device that is computed on."""
    tensor = paddle.to_tensor(array, place=paddle.CPUPlace())
    if paddle.device.get_device().startswith('gpu'):
        return tensor.cuda(blocking=False)
    return tensor
