"""Batches: which samples go where (samplers), and how they reach the device (loader).

B is the batch of one device. A training step's samples depend on the global batch only, not on
how it is split: step s of an epoch takes the s-th run of the epoch's permutation, and each rank
and micro-batch a slice of that run.
"""
import json
import logging
import sys
from collections import deque

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F

from common import dist
from common.errors import InputError
from common.mixup import build_mixup
from common.randomness import BATCH, ORDER, seed_batch, stream
from common.workers import Workers


class TrainSampler:
    """Batches of (epoch, index) for one rank: shuffled anew each epoch, the tail dropped.

    Args:
        num_samples: size of the data set.
        batch_size: of one micro-batch on one rank.
        accum_iter: micro-batches in one optimiser step.
        seed: of the order.
        repeats: how often in a row each sample comes (repeated augmentation, arXiv 1901.09335);
            an epoch has as many steps as without, and so fewer different samples.

    An index of repetition r is r * num_samples + the sample's.

    `set_epoch(epoch, first_step, last_epoch)` chooses the epochs, and where in the first one to
    start. A run reads all of its epochs in one go: Paddle's workers take half a second to start
    anew, and so they load the next epoch's first batches during the evaluation.
    """

    def __init__(self, num_samples, batch_size, accum_iter=1, seed=0, rank=0, world_size=1,
                 repeats=1):
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.accum_iter = accum_iter
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.repeats = repeats
        self.epoch = self.last_epoch = 1
        self.first_step = 0
        self.global_batch = batch_size * accum_iter * world_size
        self.steps_per_epoch = num_samples // self.global_batch
        if self.steps_per_epoch == 0:
            raise InputError(
                f'training set: got {num_samples} images, expected at least one global batch of '
                f'{self.global_batch} (batch {batch_size} x {accum_iter} accumulated x '
                f'{world_size} processes)')

    def set_epoch(self, epoch, first_step=0, last_epoch=None):
        self.epoch = epoch
        self.first_step = first_step
        self.last_epoch = last_epoch or epoch

    def __len__(self):
        steps = (self.last_epoch - self.epoch + 1) * self.steps_per_epoch - self.first_step
        return steps * self.accum_iter

    def __iter__(self):
        for epoch in range(self.epoch, self.last_epoch + 1):
            yield from self.batches_of(epoch, self.first_step if epoch == self.epoch else 0)

    def batches_of(self, epoch, first_step):
        order = stream(ORDER, self.seed, epoch).permutation(self.num_samples)
        if self.repeats > 1:
            again = np.arange(self.repeats) * self.num_samples
            order = (order[:, None] + again).reshape(-1)[:self.num_samples]
        for step in range(first_step, self.steps_per_epoch):
            run = order[step * self.global_batch:(step + 1) * self.global_batch]
            slices = run.reshape(self.accum_iter, self.world_size, self.batch_size)
            for indices in slices[:, self.rank]:
                yield [(epoch, int(index)) for index in indices]


class EvalSampler:
    """Batches of (0, index) for one rank: every sample once, over all ranks."""

    def __init__(self, num_samples, batch_size, rank=0, world_size=1):
        self.indices = range(rank, num_samples, world_size)
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[start:start + self.batch_size]]


class Collate:
    """Samples of ImageDataset -> the arrays of a batch, mixed on the way.

    Args:
        mixup: common.mixup.Mixup or None.
        last_epoch: the last one that is mixed; None is all.
        seed: of the mixing.

    Returns, when called, a tuple of numpy arrays:
        images uint8 [B, 3, H, W]; target int64 [B], or float32 [B, K] if mixed; boxes to erase
        int64 [B, count, 4]; place int64 [2 + B]: the epoch, the first sample's number in it, the
        samples' indices; and the error texts as uint8.
    """

    def __init__(self, mixup=None, last_epoch=None, seed=0):
        self.mixup = mixup
        self.last_epoch = last_epoch
        self.seed = seed

    def __call__(self, samples):
        height, width, channels = samples[0].image.shape
        images = np.empty((len(samples), channels, height, width), np.uint8)
        for image, sample in zip(images, samples, strict=True):
            cv2.split(sample.image, list(image))  # a fourth of the time of numpy's transpose
        target = np.array([s.label for s in samples], np.int64)
        boxes = np.stack([s.boxes for s in samples])
        epoch, first = samples[0].epoch, samples[0].number
        if self.mixup and (self.last_epoch is None or epoch <= self.last_epoch):
            images, target = self.mixup(images, target, stream(BATCH, self.seed, epoch, first))
        place = np.array([epoch, first, *(s.index for s in samples)], np.int64)
        errors = json.dumps([s.error for s in samples if s.error]).encode()
        return images, target, boxes, place, np.frombuffer(errors, np.uint8)


class Loader:
    """Iterable over the batches of a data set, in the order of a sampler.

    Args:
        dataset: ImageDataset, or what has items for the sampler's keys.
        batch_sampler: iterable of lists of keys, with a length.
        num_workers: processes that load ahead; 0 loads in this one. They live as long as an
            iterator, or with keep_workers as long as the loader.
        collate: list of items -> tuple of numpy arrays.
        timeout: seconds without a batch after which workers count as stuck.

    Yields what collate gives. The arrays may lie in memory that is used again: they hold until
    the next batch is taken.

    Raises, when iterated:
        RunError: a worker has died, is stuck, or has met an error.
    """

    def __init__(self, dataset, batch_sampler, num_workers=0, collate=None, keep_workers=False,
                 timeout=600.0):
        self.dataset = dataset
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        if num_workers and sys.platform != 'linux':
            logging.getLogger('loader').warning(
                'loader: %d workers need Linux; images are loaded by the training process',
                num_workers)
            self.num_workers = 0
        self.collate = collate or Collate()
        self.keep_workers = keep_workers
        self.timeout = timeout
        self.kept = None

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        if self.num_workers == 0:
            yield from map(self.load, self.batch_sampler)
            return
        workers, self.kept = self.kept, None
        workers = workers or Workers(self.load, self.num_workers, self.timeout)
        yield from workers.run(self.batch_sampler)
        if self.keep_workers:
            self.kept = workers
        else:
            workers.close()

    def load(self, keys):
        return self.collate([self.dataset[key] for key in keys])


def get_dataloader(config, dataset, is_train=True, use_dist_sampler=True):
    """The loader of a config for this rank; `use_dist_sampler=False` gives one rank everything."""
    rank, world_size = (dist.rank(), dist.world_size()) if use_dist_sampler else (0, 1)
    options = {'num_workers': config.DATA.NUM_WORKERS, 'timeout': config.DATA.WORKER_TIMEOUT}
    if is_train:
        sampler = TrainSampler(len(dataset), config.DATA.BATCH_SIZE, config.TRAIN.ACCUM_ITER,
                               config.SEED, rank, world_size, config.AUG.REPEATS)
        collate = Collate(build_mixup(config), config.AUG.MIXUP_LAST_EPOCH, config.SEED)
        return Loader(dataset, sampler, collate=collate, **options)
    batch_size = config.DATA.BATCH_SIZE_EVAL or config.DATA.BATCH_SIZE
    sampler = EvalSampler(len(dataset), batch_size, rank, world_size)
    return Loader(dataset, sampler, keep_workers=True, **options)


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
        erasing: common.erasing.RandomErasing or None.
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
