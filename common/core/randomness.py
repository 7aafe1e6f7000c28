"""Randomness without state: every draw is a function of the seed and of where it is used.

A sample's augmentation depends on (seed, epoch, index), a step's dropout on (seed, epoch, step,
rank), an epoch's order on (seed, epoch). So neither the number of workers, nor how often is
evaluated, nor stopping and resuming changes a run, and no generator is kept in a checkpoint.
"""
import numpy as np
import paddle

# One number for each use, so that two uses with the same numbers never share a generator.
ORDER, SAMPLE, STEP, BATCH, SUBSET = 0, 1, 2, 3, 4


def generator(use: int, seed: int, epoch: int, index: int = 0) -> np.random.Generator:
    """A random generator (Philox) that no other use, seed, epoch or index has.

    Args:
        use: ORDER, SAMPLE, BATCH or SUBSET.
        seed, epoch: whole numbers in [0, 2^31).
        index: of the sample, or of the first one of a batch, in [0, 2^61).
    """
    key = np.array([seed << 32 | epoch, index << 3 | use], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def seed_step(seed, epoch, step, rank):
    """Seeds Paddle's generators (dropout, drop path) for one micro-batch on one rank."""
    seed_paddle(STEP, seed, epoch, step, rank)


def seed_batch(seed, epoch, first):
    """Seeds Paddle's generators for what is drawn over a batch; `first` is its first sample."""
    seed_paddle(BATCH, seed, epoch, first)


def seed_paddle(*numbers):
    """Seeds Paddle's generators by a hash of whole numbers."""
    paddle.seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
