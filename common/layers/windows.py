"""Attention within windows of a token map, and what window attentions share.

Letters: B batch, H W map in tokens, C channels, s window side, nh nw windows along H and W,
nW = nh * nw, n heads, d = C / n. Maps are channels-last here, [B, H, W, C]. No transpose has more
than six axes: Paddle's of seven take fifty times as long on a CPU.
"""
import functools

import numpy as np
import paddle
import paddle.nn.functional as F

from common.layers.attention import Attention
from common.layers.init import normal_


def window_partition(x, size):
    """[B, H, W, C] -> [B * nW, s * s, C]; H and W are multiples of s."""
    B, H, W, C = x.shape
    x = x.reshape([-1, size, W // size, size * C])           # [B * nh, s, nw, s * C]
    return x.transpose([0, 2, 1, 3]).reshape([-1, size * size, C])


def window_reverse(windows, size, H, W):
    """[B * nW, s * s, C] -> [B, H, W, C]"""
    C = windows.shape[-1]
    x = windows.reshape([-1, W // size, size, size * C])     # [B * nh, nw, s, s * C]
    return x.transpose([0, 2, 1, 3]).reshape([-1, H, W, C])


def pad_map(x, top, bottom, left, right):
    """Puts zeros around a map [B, H, W, C]; no operator when there is nothing to put."""
    if top + bottom + left + right == 0:
        return x
    # for all axes: the form for two axes of a channels-last map exports to ONNX as garbage
    return F.pad(x, [0, 0, top, bottom, left, right, 0, 0])


def missing(side, size):
    """By how much `side` falls short of a multiple of `size`."""
    return -side % size


@functools.cache
def relative_position_index(size):
    """int64 [s^4]: for each pair (query, key) of a window's places the row of the bias table.

    Row (dy + s - 1) * (2 s - 1) + (dx + s - 1), with d = query - key, as in Swin.
    """
    y, x = np.divmod(np.arange(size * size), size)
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return ((dy + size - 1) * (2 * size - 1) + dx + size - 1).reshape(-1)


def add_bias_table(layer):
    """Gives a layer (with `window_size` and `num_heads`) what its relative_position_bias needs."""
    size = layer.window_size
    layer.relative_position_bias_table = layer.create_parameter(
        [(2 * size - 1) ** 2, layer.num_heads])
    # in Paddle's static mode there are no buffers
    index = paddle.to_tensor(relative_position_index(size)) if paddle.in_dynamic_mode() else None
    layer.register_buffer('relative_position_index', index, persistable=False)


def relative_position_bias(layer):
    """The bias of a layer's attention in each window: its table [(2 s - 1)^2, n] as
    [n, s * s, s * s]."""
    size, index = layer.window_size, layer.relative_position_index
    # Layer.to(dtype=...) casts it, and half types lose its digits
    if index is None or index.dtype != paddle.int64:
        index = paddle.to_tensor(relative_position_index(size))
    bias = paddle.gather(layer.relative_position_bias_table, index)        # [s^4, n]
    return bias.transpose([1, 0]).reshape([-1, size * size, size * size])


def add_bias(scores, bias):
    """scores [..., n, M, M] + bias [n, M, M], as a sum over one trailing axis (ten times as fast
    on a CPU as a broadcast over a middle one)."""
    flat = scores.reshape([-1, bias.shape[0] * bias.shape[1] * bias.shape[2]])
    return (flat + bias.reshape([-1])).reshape(scores.shape)


class WindowAttention(Attention):
    """Multi-head self-attention within windows of s x s tokens.

    Args:
        dim: channels in.
        num_heads: n.
        window_size: s.
        out_dim: channels out, and of q, k and v; default dim. The scale is (out_dim / n)^-0.5.
        relative_position: whether there is a learned bias for each relative position.
        dropout, attention_dropout: in [0, 1).
    """

    def __init__(self, dim, num_heads, window_size, out_dim=None, relative_position=False,
                 dropout=0.0, attention_dropout=0.0):
        super().__init__(dim, num_heads, True, dropout, attention_dropout, out_dim=out_dim)
        self.window_size = window_size
        self.relative_position_bias_table = None
        if relative_position:
            add_bias_table(self)

    def init_weights(self):
        if self.relative_position_bias_table is not None:
            normal_(self.relative_position_bias_table, std=0.02)

    def weights_and_values(self, windows, regions=None):
        """[B * nW, s * s, dim] -> softmax [B * nW, n, s * s, s * s] and v [B * nW, n, s * s, d].

        regions: int [nW, s * s] or None; places of different numbers do not see each other.
        """
        scores, v = self.scores_and_values(self.qkv(windows))
        if self.relative_position_bias_table is not None:
            scores = add_bias(scores, relative_position_bias(self).astype(scores.dtype))
        if regions is not None:
            nW, M = regions.shape
            apart = regions.reshape([nW, 1, M, 1]) != regions.reshape([nW, 1, 1, M])
            scores = scores.reshape([-1, nW, self.num_heads, M, M])
            scores = scores + apart.astype(scores.dtype) * -100.0
            scores = scores.reshape([-1, self.num_heads, M, M])
        return F.softmax(scores, axis=-1), v

    def forward(self, windows, regions=None):
        """[B * nW, s * s, dim] -> [B * nW, s * s, out_dim]"""
        return self.mix(*self.weights_and_values(windows, regions))
