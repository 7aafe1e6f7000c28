"""A depthwise convolution of tokens for a CPU, by products of matrices.

Letters: B batch, C channels, h w map in tokens, k side of the kernel, t u height and width of a
tile of the result, p q of the patch of the map that the tile needs, n m tiles along h and w.
"""
import functools
import math

import numpy as np
import paddle
from paddle.autograd import PyLayer

TILE = 8       # a tile's side at most; one of 8 x 8 needs a patch of 14 x 14 for a kernel of 7 x 7
LARGE, CHANNELS = 1 << 20, 64  # of a map of so many numbers, only so many channels at a time


def add_depthwise_convolution(x, h, w, weight, bias):
    """x plus a k x k convolution of each of its channels, k odd, with zeros around the map.

    Paddle runs this convolution on a CPU at 3 GFLOP/s, as a copy of each token's k * k neighbours
    and a product with one row. Here each tile of the result is a product of its patch of the map,
    which a gather of tokens makes, with a matrix that holds the kernel once for each token of the
    tile. For 7 x 7 these are four times as many operations, in a quarter of the time.

    Args:
        x: [B, h * w, C].
        weight, bias: [C, 1, k, k] and [C], as in Conv2D.

    Returns:
        [B, h * w, C]
    """
    dtype = 'float64' if x.dtype == paddle.float64 else 'float32'
    tiling = Tiling.of(h, w, weight.shape[-1], dtype)
    # a kernel whose middle is 1 gives x
    factors = tiling.middle + paddle.concat([weight.flatten(1), bias.unsqueeze(1)], 1)
    if paddle.is_grad_enabled():
        return TiledConvolution.apply(x, factors, tiling)
    return convolve_in_parts(x, factors, tiling)


class TiledConvolution(PyLayer):
    """See add_depthwise_convolution."""

    @staticmethod
    def forward(ctx, x, factors, tiling):
        ctx.save_for_backward(x, factors)
        ctx.tiling = tiling
        ctx.needs = [not tensor.stop_gradient for tensor in (x, factors)]
        return convolve_in_parts(x, factors, tiling)

    @staticmethod
    def backward(ctx, gradient):
        x, factors = ctx.saved_tensor()
        gradient_x = gradient_factors = None
        if ctx.needs[0]:  # the convolution with the kernel turned round, without bias
            turned = paddle.concat([factors[:, :-1].flip([1]), paddle.zeros_like(factors[:, -1:])],
                                   axis=1)
            gradient_x = convolve_in_parts(gradient, turned, ctx.tiling)
        if ctx.needs[1]:
            gradient_factors = paddle.concat([
                ctx.tiling.gradient_of_factors(x[:, :, part], gradient[:, :, part])
                for part in parts_of(x)])
        return gradient_x, gradient_factors


def parts_of(x):
    """The channels of x [B, h * w, C] in slices, which caches hold."""
    step = CHANNELS if math.prod(x.shape) > LARGE else x.shape[-1]
    return [slice(first, first + step) for first in range(0, x.shape[-1], step)]


def convolve_in_parts(x, factors, tiling):
    """x [B, h * w, C] with, for each channel, its kernel and bias [C, k * k + 1] ->
    [B, h * w, C]"""
    parts = [tiling.convolve(x[:, :, part], factors[part]) for part in parts_of(x)]
    return parts[0] if len(parts) == 1 else paddle.concat(parts, axis=-1)


class Tiling:
    """How a map [h, w] is cut for a kernel of k x k.

    A patch holds tokens of the map and one more, whose value is 1, for the bias.

    Attributes:
        patch, tile: p q + 1 and t u.
        inputs: int [n m (p q + 1)], which token each element of each patch is; h * w stands for
            the 0 outside the map, h * w + 1 for the 1.
        outputs: int [n m t u], the same of the tiles.
        position: int [h w], where in `outputs` each token is.
        spread: [k k + 1, (p q + 1) t u], 1 where the factor, of kernel and bias, is the one between
            an element of the patch and one of the tile.
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
        position = np.empty(h * w + 1, np.int32)
        position[outputs.reshape(-1)] = np.arange(outputs.size)
        spread = np.zeros([k * k + 1, inputs.shape[1], outputs.shape[1]], dtype)
        spread[:-1, :-1] = np.einsum('apt,bqu->abpqtu', rows[2], columns[2]).reshape(
            [k * k, inputs.shape[1] - 1, outputs.shape[1]])
        spread[-1, -1] = 1
        self.patch, self.tile = inputs.shape[1], outputs.shape[1]
        middle = (np.arange(k * k + 1) == k * k // 2).astype(dtype)
        self.inputs = paddle.to_tensor(inputs.reshape(-1))
        self.outputs = paddle.to_tensor(outputs.reshape(-1))
        self.position = paddle.to_tensor(position[:-1])
        self.spread = paddle.to_tensor(spread.reshape([k * k + 1, -1]))
        self.middle = paddle.to_tensor(middle)

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def of(h, w, k, dtype):
        """The Tiling of these sizes, made once."""
        return Tiling(h, w, k, dtype)

    def convolve(self, x, factors):
        """[B, h * w, C], [C, k * k + 1] -> [B, h * w, C]"""
        C = x.shape[-1]
        matrices = paddle.matmul(factors, self.spread).reshape([C, self.patch, self.tile])
        tiles = paddle.matmul(self.cut(x, self.inputs, self.patch), matrices)  # [C, B n m, t u]
        tiles = tiles.reshape([C, -1]).transpose([1, 0])                   # [B n m t u, C]
        return paddle.gather(tiles.reshape([-1, self.outputs.shape[0], C]), self.position, axis=1)

    def gradient_of_factors(self, x, gradient):
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
    """Tiles of an axis of `side` tokens for a kernel of k.

    Returns:
        the indices of the patches [n, p] and of the tiles [n, t], `side` where there is none;
        and [k, p, t], 1 where that number of the kernel is the factor between two tokens.
    """
    count = -(-side // TILE)
    tile = -(-side // count)
    # one tile needs nothing outside the map
    before = k // 2 if count > 1 else 0
    first = np.arange(count)[:, None] * tile
    outputs = first + np.arange(tile)
    inputs = first - before + np.arange(tile + 2 * before)
    outside = (inputs < 0) | (inputs >= side)
    inputs, outputs = np.where(outside, side, inputs), np.minimum(outputs, side)
    step = np.arange(tile + 2 * before)[:, None] - before - np.arange(tile)[None]   # [p, t]
    factors = step == np.arange(k).reshape(k, 1, 1) - k // 2
    return inputs, outputs, factors.astype(np.float32)
