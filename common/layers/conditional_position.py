"""Conditional position embedding: tokens plus a large depthwise convolution of their map.

Letters: B batch, C channels, h w map in tokens, k side of the kernel, t u height and width of a
tile of the result, p q of the patch of the map that the tile needs, n m tiles along h and w.
"""
import functools
import math

import numpy as np
import paddle
from paddle import nn
from paddle.autograd import PyLayer

from common.layers.basic import to_map, to_tokens
from common.layers.fast import Fast, is_fast

TILE = 8       # a tile's side at most; one of 8 x 8 needs a patch of 14 x 14 for a kernel of 7 x 7
LARGE, CHANNELS = 1 << 20, 64  # of a map of so many numbers, only so many channels at a time


class ConditionalPosition(Fast, nn.Conv2D):
    """x plus a k x k convolution of each of its channels, k odd (arXiv 2102.10882).

    Paddle runs this convolution on a CPU at 3 GFLOP/s, as a copy of each place's k * k neighbours
    and a product with one row. Here each tile of the result is a product of its patch of the map,
    which a gather of tokens makes, with a matrix that holds the kernel once for each place of the
    tile. For 7 x 7 these are four times as many operations, in a quarter of the time.
    """

    def __init__(self, channels, kernel):
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x, h, w):
        """[B, h * w, C] -> [B, h * w, C]"""
        if not is_fast(self):
            # not super().forward: to_static of Paddle 2.6 does not know super()
            return x + to_tokens(nn.Conv2D.forward(self, to_map(x, h, w)))
        dtype = 'float64' if x.dtype == paddle.float64 else 'float32'
        tiling = Tiling.of(h, w, self.weight.shape[-1], dtype)
        # a kernel whose middle is 1 gives x
        factors = tiling.middle + paddle.concat([self.weight.flatten(1), self.bias.unsqueeze(1)], 1)
        if paddle.is_grad_enabled():
            return PositionFunction.apply(x, factors, tiling)
        return convolve(x, factors, tiling)


class PositionFunction(PyLayer):
    """See ConditionalPosition."""

    @staticmethod
    def forward(ctx, x, factors, tiling):
        ctx.save_for_backward(x, factors)
        ctx.tiling = tiling
        ctx.needs = [not tensor.stop_gradient for tensor in (x, factors)]
        return convolve(x, factors, tiling)

    @staticmethod
    def backward(ctx, gradient):
        x, factors = ctx.saved_tensor()
        of_x = of_factors = None
        if ctx.needs[0]:  # the convolution with the kernel turned round, without bias
            turned = paddle.concat([factors[:, :-1].flip([1]), paddle.zeros_like(factors[:, -1:])],
                                   axis=1)
            of_x = convolve(gradient, turned, ctx.tiling)
        if ctx.needs[1]:
            of_factors = paddle.concat([
                ctx.tiling.factors_of(x[:, :, part], gradient[:, :, part]) for part in parts_of(x)])
        return of_x, of_factors


def parts_of(x):
    """The channels of x [B, h * w, C] in slices, which caches hold."""
    step = CHANNELS if math.prod(x.shape) > LARGE else x.shape[-1]
    return [slice(first, first + step) for first in range(0, x.shape[-1], step)]


def convolve(x, factors, tiling):
    """x [B, h * w, C] with, for each channel, its kernel and bias [C, k * k + 1] ->
    [B, h * w, C]"""
    parts = [tiling.convolve(x[:, :, part], factors[part]) for part in parts_of(x)]
    return parts[0] if len(parts) == 1 else paddle.concat(parts, axis=-1)


class Tiling:
    """How a map [h, w] is cut for a kernel of k x k.

    The places of a patch are those of the map and one more, whose value is 1, for the bias.

    Attributes:
        patch, tile: p q + 1 and t u.
        inputs: int [n m (p q + 1)], the token of each place of each patch; h * w stands for the
            0 outside the map, h * w + 1 for the 1.
        outputs: int [n m t u], the same of the tiles.
        places: int [h w], where in `outputs` each token is.
        spread: [k k + 1, (p q + 1) t u], 1 where the factor, of kernel and bias, is the one between
            a place of the patch and one of the tile.
        middle: [k k + 1], 1 at the kernel's middle.
    """

    def __init__(self, h, w, k, dtype):
        rows, columns = axis_tiles(h, k), axis_tiles(w, k)
        token = np.full([h + 1, w + 1], h * w, dtype=np.int32)
        token[:h, :w] = np.arange(h * w).reshape(h, w)

        def tokens(row, column):
            tiles = token[row[:, None, :, None], column[None, :, None, :]]
            return tiles.reshape([-1, row.shape[1] * column.shape[1]])     # [n m, size]

        inputs, outputs = (tokens(*pair) for pair in zip(rows[:2], columns[:2], strict=True))
        inputs = np.pad(inputs, [(0, 0), (0, 1)], constant_values=h * w + 1)
        places = np.empty(h * w + 1, np.int32)
        places[outputs.reshape(-1)] = np.arange(outputs.size)
        spread = np.zeros([k * k + 1, inputs.shape[1], outputs.shape[1]], dtype)
        spread[:-1, :-1] = np.einsum('apt,bqu->abpqtu', rows[2], columns[2]).reshape(
            [k * k, inputs.shape[1] - 1, outputs.shape[1]])
        spread[-1, -1] = 1
        self.patch, self.tile = inputs.shape[1], outputs.shape[1]
        middle = (np.arange(k * k + 1) == k * k // 2).astype(dtype)
        self.inputs, self.outputs, self.places, self.spread, self.middle = map(paddle.to_tensor, (
            inputs.reshape(-1), outputs.reshape(-1), places[:-1],
            spread.reshape([k * k + 1, -1]), middle))

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def of(h, w, k, dtype):
        return Tiling(h, w, k, dtype)

    def convolve(self, x, factors):
        """[B, h * w, C], [C, k * k + 1] -> [B, h * w, C]"""
        C = x.shape[-1]
        matrices = paddle.matmul(factors, self.spread).reshape([C, self.patch, self.tile])
        tiles = paddle.matmul(self.cut(x, self.inputs, self.patch), matrices)  # [C, B n m, t u]
        tiles = tiles.reshape([C, -1]).transpose([1, 0])                   # [B n m t u, C]
        return paddle.gather(tiles.reshape([-1, self.outputs.shape[0], C]), self.places, axis=1)

    def factors_of(self, x, gradient):
        """The gradient of the factors [C, k * k + 1], from x and the result's gradient."""
        patches = self.cut(x, self.inputs, self.patch)                     # [C, B n m, p q + 1]
        tiles = self.cut(gradient, self.outputs, self.tile)                # [C, B n m, t u]
        matrices = paddle.matmul(patches, tiles, transpose_x=True)         # [C, p q + 1, t u]
        return paddle.matmul(matrices.flatten(1), self.spread, transpose_y=True)

    def cut(self, x, index, size):
        """[B, h * w, C] -> [C, B n m, size]"""
        B, _, C = x.shape
        ends = paddle.concat([paddle.zeros([B, 1, C], x.dtype), paddle.ones([B, 1, C], x.dtype)], 1)
        x = paddle.gather(paddle.concat([x, ends], axis=1), index, axis=1)  # [B, n m size, C]
        return x.reshape([-1, C]).transpose([1, 0]).reshape([C, -1, size])


def axis_tiles(side, k):
    """Tiles of an axis of `side` places for a kernel of k.

    Returns:
        the indices of the patches [n, p] and of the tiles [n, t], `side` where there is none;
        and [k, p, t], 1 where the kernel's number is the factor between two places.
    """
    count = -(-side // TILE)
    tile = -(-side // count)
    # one tile needs no place outside the map
    before = k // 2 if count > 1 else 0
    first = np.arange(count)[:, None] * tile
    outputs = first + np.arange(tile)
    inputs = first - before + np.arange(tile + 2 * before)
    outside = (inputs < 0) | (inputs >= side)
    inputs, outputs = np.where(outside, side, inputs), np.minimum(outputs, side)
    step = np.arange(tile + 2 * before)[:, None] - before - np.arange(tile)[None]   # [p, t]
    factors = step == np.arange(k).reshape(k, 1, 1) - k // 2
    return inputs, outputs, factors.astype(np.float32)
