"""Batches: which samples go where (samplers), and how they reach the device (loader).

B is the batch of one device. A training step's samples depend on the global batch only, not on
how it is split: step s of an epoch takes the s-th run of the epoch's permutation, and each rank
and micro-batch a slice of that run.
"""
import json
import logging
import sys

import cv2
import numpy as np

from common.core import dist
from common.core.randomness import BATCH, generator
from common.data.mixup import build_mixup
from common.data.samplers import EvalSampler, TrainSampler
from common.data.workers import Workers


class Collate:
    """Samples of ImageDataset -> the arrays of a batch, mixed on the way.

    Args:
        mixup: common.data.mixup.Mixup or None.
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
            images, target = self.mixup(images, target, generator(BATCH, self.seed, epoch, first))
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
