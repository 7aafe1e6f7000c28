"""Which images a process reads, and in which order."""
import numpy as np

from common.core.errors import InputError
from common.core.randomness import ORDER, generator


class TrainSampler:
    """Batches of (epoch, index) for one rank: shuffled anew each epoch, the tail dropped.

    Args:
        num_samples: size of the data set.
        batch_size: samples in one micro-batch on one rank.
        accum_iter: micro-batches in one optimiser step.
        seed: seeds the order.
        rank, world_size: this process, and how many there are.
        repeats: how often in a row each sample comes (repeated augmentation, arXiv 1901.09335);
            an epoch has as many steps as without, and so fewer different samples.
        picker: common.data.balance.BalancedPicker, which chooses the samples of an epoch, some of
            them several times and others not; None takes each once.

    When a sample comes again within an epoch, for the r-th time from 0, its index is its own +
    r * num_samples, and so its augmentation is another one.

    A run reads all of its epochs in one pass (`set_epoch`): so the workers are started once, and
    load the next epoch's first batches during the evaluation.

    A training step's samples depend on the global batch only, not on how it is split: step s of an
    epoch takes the s-th run of the epoch's order, and each rank and micro-batch a slice of
    that run.

    Raises:
        InputError: the data set is smaller than one global batch.
    """

    def __init__(self, num_samples, batch_size, accum_iter=1, seed=0, rank=0, world_size=1,
                 repeats=1, picker=None):
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.accum_iter = accum_iter
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.repeats = repeats
        self.picker = picker
        self.epoch = self.last_epoch = 1
        self.first_step = 0
        self.global_batch = batch_size * accum_iter * world_size
        self.steps_per_epoch = num_samples // self.global_batch
        if self.steps_per_epoch == 0:
            raise InputError(
                f'training set: got {num_samples} images, expected at least one global batch of '
                f'{self.global_batch} (batch {batch_size} x {accum_iter} accumulated x '
                f'{world_size} processes); a smaller -batch_size makes one')

    def set_epoch(self, epoch, first_step=0, last_epoch=None):
        """Chooses what the next pass gives.

        Args:
            epoch: the first epoch, from 1.
            first_step: the step of the first epoch to begin with, from 0.
            last_epoch: the last epoch; None is the first one.
        """
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
        """Yields the batches of one epoch from a step on."""
        order = self.order_of(epoch)
        for step in range(first_step, self.steps_per_epoch):
            run = order[step * self.global_batch:(step + 1) * self.global_batch]
            slices = run.reshape(self.accum_iter, self.world_size, self.batch_size)
            for indices in slices[:, self.rank]:
                yield [(epoch, int(index)) for index in indices]

    def order_of(self, epoch):
        """The indices of an epoch in their order, int64 [num_samples]."""
        random = generator(ORDER, self.seed, epoch)
        if self.picker:
            order = random.permutation(self.picker.pick(self.num_samples, self.repeats, random))
        else:
            order = random.permutation(self.num_samples)
        if self.repeats > 1:
            again = np.arange(self.repeats) * self.num_samples
            order = (order[:, None] + again).reshape(-1)[:self.num_samples]
        return order


class EvalSampler:
    """Batches of (0, index) for one rank: over all ranks, every sample comes once.

    Args:
        num_samples: size of the data set.
        batch_size: samples in a batch; the last one may have fewer.
        rank, world_size: this process, and how many there are.
    """

    def __init__(self, num_samples, batch_size, rank=0, world_size=1):
        self.indices = range(rank, num_samples, world_size)
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[start:start + self.batch_size]]
