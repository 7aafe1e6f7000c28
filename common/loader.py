"""Batches: which samples go where (samplers), and how they reach the device (loader).

B is the batch of one device. A training step's samples depend on the global batch only, not on
how it is split: step s of an epoch takes the s-th run of the epoch's permutation, and each rank
and micro-batch a slice of that run.
"""
import json

import numpy as np
import paddle
from paddle.io import DataLoader

from common import dist
from common.errors import InputError
from common.randomness import ORDER, stream


class TrainSampler:
    """Batches of (epoch, index) for one rank: shuffled anew each epoch, the tail dropped.

    Args:
        num_samples: size of the data set.
        batch_size: of one micro-batch on one rank.
        accum_iter: micro-batches in one optimiser step.
        seed: of the order.

    `set_epoch(epoch, first_step)` chooses the permutation, and where in it to start.
    """

    def __init__(self, num_samples, batch_size, accum_iter=1, seed=0, rank=0, world_size=1):
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.accum_iter = accum_iter
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 1
        self.first_step = 0
        self.global_batch = batch_size * accum_iter * world_size
        self.steps_per_epoch = num_samples // self.global_batch
        if self.steps_per_epoch == 0:
            raise InputError(
                f'training set: got {num_samples} images, expected at least one global batch of '
                f'{self.global_batch} (batch {batch_size} x {accum_iter} accumulated x '
                f'{world_size} processes)')

    def set_epoch(self, epoch, first_step=0):
        self.epoch = epoch
        self.first_step = first_step

    def __len__(self):
        return (self.steps_per_epoch - self.first_step) * self.accum_iter

    def __iter__(self):
        order = stream(ORDER, self.seed, self.epoch).permutation(self.num_samples)
        for step in range(self.first_step, self.steps_per_epoch):
            run = order[step * self.global_batch:(step + 1) * self.global_batch]
            slices = run.reshape(self.accum_iter, self.world_size, self.batch_size)
            for indices in slices[:, self.rank]:
                yield [(self.epoch, int(index)) for index in indices]


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


def collate(samples):
    """Samples of ImageDataset -> uint8 [B, 3, H, W], int64 [B], int64 [B], uint8 error texts."""
    images, labels, indices, errors = zip(*samples, strict=True)
    images = np.stack(images).transpose(0, 3, 1, 2)
    errors = json.dumps([text for text in errors if text]).encode()
    return (np.ascontiguousarray(images), np.array(labels, np.int64),
            np.array(indices, np.int64), np.frombuffer(errors, np.uint8))


def make_loader(dataset, sampler, num_workers):
    """A paddle DataLoader over an ImageDataset; its workers live as long as the loader."""
    return DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers,
                      collate_fn=collate, persistent_workers=num_workers > 0)


def get_dataloader(config, dataset, is_train=True, use_dist_sampler=True):
    """The loader of a config for this rank; `use_dist_sampler=False` gives one rank everything."""
    rank, world_size = (dist.rank(), dist.world_size()) if use_dist_sampler else (0, 1)
    if is_train:
        sampler = TrainSampler(len(dataset), config.DATA.BATCH_SIZE, config.TRAIN.ACCUM_ITER,
                               config.SEED, rank, world_size)
    else:
        batch_size = config.DATA.BATCH_SIZE_EVAL or config.DATA.BATCH_SIZE
        sampler = EvalSampler(len(dataset), batch_size, rank, world_size)
    return make_loader(dataset, sampler, config.DATA.NUM_WORKERS)


class Normalize:
    """uint8 [B, 3, H, W] in 0..255 -> float, (x / 255 - mean) / std, on the batch's device."""

    def __init__(self, mean, std):
        self.mean = paddle.to_tensor(mean, dtype='float32').reshape([1, 3, 1, 1]) * 255.0
        self.std = paddle.to_tensor(std, dtype='float32').reshape([1, 3, 1, 1]) * 255.0

    def __call__(self, images):
        return (images.astype('float32') - self.mean) / self.std


def device_batches(loader, normalize):
    """Yields (images float [B, 3, H, W], labels [B]); raises InputError for a bad image.

    On a GPU, Paddle's loader puts the error texts there too, and reading them waits for it.
    """
    for images, labels, _, errors in loader:
        errors = json.loads(errors.numpy().tobytes())
        if errors:
            more = f' (and {len(errors) - 1} more in this batch)' if len(errors) > 1 else ''
            raise InputError(errors[0] + more)
        yield normalize(images), labels
