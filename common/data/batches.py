"""Batches as tensors on the device."""
from collections import deque

import paddle
import paddle.nn.functional as F
from paddle.profiler import RecordEvent

from common.core.errors import InputError
from common.core.randomness import seed_batch

MEND = '; paddle-vitae verify FOLDER -decode names all such images, -write -leave_out writes ' \
       'lists without them'


class Normalize:
    """uint8 [B, 3, H, W] in 0..255 -> float32, (x / 255 - mean) / std, on the batch's device.

    BatchNorm's operator does it, with mean and std as its statistics: on a CPU Paddle takes ten
    times as long to subtract and divide by [1, 3, 1, 1]. The operator adds its epsilon to the
    variance, which is (0.2 * 255)^2 = 2,600 or more for the usual std. So it changes the result
    by 2e-9 of it at most, which float32 (6e-8) cannot hold.

    Args:
        mean, std: three numbers each, in units of 0..1.
    """

    EPSILON = 1e-5

    def __init__(self, mean, std):
        self.mean = paddle.to_tensor(mean, dtype='float32') * 255.0
        self.variance = (paddle.to_tensor(std, dtype='float32') * 255.0) ** 2

    def __call__(self, images):
        return F.batch_norm(images.astype('float32'), self.mean, self.variance,
                            epsilon=self.EPSILON)


class Batches:
    """What the loops read: (images float32 [B, 3, H, W], target [B] or [B, K]) on the device.

    Args:
        loader: Loader that gives a Batch (collate.py) at a time.
        normalize: Normalize.
        erasing: the RandomErasing that has drawn the data set's boxes, or None.
        seed: seeds the noise in the erased boxes.
        max_bad: how many bad images (replaced by the data set) there may be in an epoch.
        remembered: how many of the last batches `recent_indices` tells the images of.

    Raises, when iterated:
        InputError: there is one bad image more than `max_bad`.

    Attributes:
        indices: list of B, which images the batch has that was given last.
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
        self.bad, last_epoch = [], None
        for batch in self.loader:
            epoch, self.indices = int(batch.epoch), batch.indices.tolist()
            self.recent.append(self.indices)
            if epoch != last_epoch:
                self.bad, last_epoch = [], epoch
            self.count_bad(batch.errors.tolist())
            with RecordEvent('normalising'):
                images = self.normalize(on_device(batch.images))  # [B, 3, H, W]
                if self.erasing:
                    seed_batch(self.seed, epoch, int(batch.first))
                    images = self.erasing.erase(images, batch.boxes)
                target = on_device(batch.target)
            yield images, target

    def count_bad(self, errors):
        """Counts the bad images of a batch by their error texts; raises InputError at too many."""
        self.bad += errors
        if len(self.bad) <= self.max_bad:
            return
        more = f' (and {len(errors) - 1} more in this batch)' if len(errors) > 1 else ''
        if self.max_bad:
            more += f'; more than DATA.MAX_BAD_IMAGES {self.max_bad}'
        raise InputError(errors[0] + more + MEND)

    def recent_indices(self):
        """The indices of the last `remembered` batches, in one list."""
        return [index for indices in self.recent for index in indices]

    def name(self, index):
        """The name of an image by its index, for messages."""
        return self.loader.dataset.images.name(index)


def train_batches(config, loader):
    """The Batches of a config's training: normalised, erased and with its limit of bad images."""
    return Batches(loader, build_normalize(config), loader.dataset.erasing, config.SEED,
                   config.DATA.MAX_BAD_IMAGES, remembered=config.TRAIN.ACCUM_ITER)


def build_normalize(config):
    """The Normalize of a config's images."""
    return Normalize(config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD)


def on_device(array):
    """An array as a tensor of its own on the device that is computed on."""
    tensor = paddle.to_tensor(array, place=paddle.CPUPlace())
    if paddle.device.get_device().startswith('gpu'):
        return tensor.cuda(blocking=False)
    return tensor
