"""Randomness without state: every draw is a function of the seed and of where it is used.

A sample's augmentation depends on (seed, epoch, index), a step's dropout on (seed, epoch, step,
rank), an epoch's order on (seed, epoch). So neither the number of workers, nor how often is
evaluated, nor stopping and resuming changes a run, and no generator is kept in a checkpoint.
"""
import numpy as np
import paddle

# One number for each use, so that two uses with the same place never share a stream.
ORDER, SAMPLE, STEP = 0, 1, 2


def stream(use, seed, epoch, position=0):
    """A numpy Generator (Philox) of its own for one use at one place.

    Args:
        use: ORDER or SAMPLE.
        seed, epoch: whole numbers in [0, 2^31).
        position: index of the sample, in [0, 2^62).
    """
    key = np.array([seed << 32 | epoch, position << 2 | use], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def seed_step(seed, epoch, step, rank):
    """Seeds Paddle's generators (dropout, drop path) for one micro-batch on one rank."""
    words = np.random.SeedSequence([STEP, seed, epoch, step, rank]).generate_state(1)
    paddle.seed(int(words[0]))
