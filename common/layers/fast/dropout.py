"""Dropout whose mask costs one random byte for each number.

Paddle's takes 7 ns for each number, most of it for a float64 that it draws: a fifth of a training
step of a ViT. Here NumPy draws the mask, from a seed that Paddle's generator gives; so what seeds
that generator, or puts it back (recompute), decides all draws, as with Paddle's own.
"""
import math

import numpy as np
import paddle
from paddle.autograd import PyLayer

from common.layers.fast import kernels

DTYPES = (paddle.float32, paddle.float64)


def draw_mask(shape, p):
    """Which numbers stay: bool of a shape, each False with probability p, a float64 in [0, 1).

    A byte below 256 p is a number that is dropped. Where that is no whole number, a byte that is
    its integer part says nothing, and a float64 decides.
    """
    source = np.random.SFC64(paddle.randint(0, 2 ** 31 - 1, [4]).numpy())
    limit = int(256 * p)
    share = 256 * p - limit
    if kernels.has_kernels():
        return kernels.draw_mask(shape, limit, share, source)
    size = math.prod(shape)
    draws = source.random_raw(-(-size // 8)).view(np.uint8)[:size]
    keep = draws > limit
    ties = np.flatnonzero(draws == limit)
    keep[ties] = np.random.Generator(source).random(len(ties)) >= share
    return paddle.to_tensor(keep).reshape(shape)


def apply_mask(x, mask, p):
    """x / (1 - p) where the mask is True, else 0 (inverted dropout)."""
    return MaskFunction.apply(x, mask, p)


class MaskFunction(PyLayer):
    """See apply_mask; keeps a byte for each number."""

    @staticmethod
    def forward(ctx, x, mask, p):
        ctx.mask, ctx.p = mask, p
        return scale_kept(x, mask, p)

    @staticmethod
    def backward(ctx, gradient):
        return scale_kept(gradient, ctx.mask, ctx.p)


def scale_kept(x, mask, p):
    if kernels.has_kernels(x):
        return kernels.keep(x, mask, p)
    return mask.astype(x.dtype).scale_(1 / (1 - p)).multiply_(x)
