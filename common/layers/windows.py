"""Attention within windows of a token map, and what window attentions share.

Letters: B batch, H W map in tokens, C channels, s window side, nh nw windows along H and W,
nW = nh * nw, n heads, d = C / n. Maps are channels-last here, [B, H, W, C]. No transpose has more
than six axes: Paddle's of seven take fifty times as long on a CPU.
"""
import functools

import numpy as np
import paddle
from paddle.nn.initializer import Normal

from common.core.compat import pad_map
from common.layers.attention import Attention, attend, heads_of, merge_heads, split_heads
from common.layers.fast.attention import attention
from common.layers.fast.kernels import has_kernels

APART = -100.0  # added to a score so that its weight becomes 0, as in Swin


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


def split_windows(x, B):
    """[B * nW, ...] -> [B, nW, ...]"""
    return x.reshape([B, -1, *x.shape[1:]])


@functools.lru_cache(maxsize=64)
def window_order(h, w, size, shift=0):
    """int32 [nW, s * s]: the token of a map [h, w] that is at each place of the windows, of the map
    rolled by -shift along both axes; a tensor for the kernel of attention."""
    tokens = np.roll(np.arange(h * w, dtype=np.int32).reshape(h, w), (-shift, -shift), (0, 1))
    tokens = tokens.reshape(h // size, size, w // size, size).transpose(0, 2, 1, 3)
    return paddle.to_tensor(tokens.reshape(-1, size * size))


def padding_to_multiple(side, size):
    """How many tokens must be added to `side` to make it a multiple of `size`."""
    return -side % size


def window_padding(h, w, size, split):
    """The tokens (top, bottom, left, right) that make a map of h x w one of whole windows.

    split: halves on both sides, the smaller one at the top and left; otherwise all of them stand at
        the bottom and right.
    """
    down, right = padding_to_multiple(h, size), padding_to_multiple(w, size)
    top, left = (down // 2, right // 2) if split else (0, 0)
    return top, down - top, left, right - left


@functools.cache
def relative_position_index(size):
    """int64 [s^4]: for each pair (query, key) of a window's tokens the row of the bias table.

    Row (dy + s - 1) * (2 s - 1) + (dx + s - 1), with d = query - key, as in Swin.
    """
    y, x = np.divmod(np.arange(size * size), size)
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return ((dy + size - 1) * (2 * size - 1) + dx + size - 1).reshape(-1)


def add_relative_position_bias(layer):
    """Gives a layer (with `window_size` and `num_heads`) the table of its relative position bias
    [(2 s - 1)^2, n], which starts normal with std .02, and the index into it."""
    size = layer.window_size
    layer.relative_position_bias_table = layer.create_parameter(
        [(2 * size - 1) ** 2, layer.num_heads], default_initializer=Normal(std=0.02))
    # compat: static-buffer
    index = paddle.to_tensor(relative_position_index(size)) if paddle.in_dynamic_mode() else None
    layer.register_buffer('relative_position_index', index, persistable=False)


def relative_position_bias(layer):
    """The bias of a layer's scores in each window: its table [(2 s - 1)^2, n] as
    [n, s * s, s * s]."""
    size, index = layer.window_size, layer.relative_position_index
    if index is None or index.dtype != paddle.int64:  # compat: index-type
        index = paddle.to_tensor(relative_position_index(size))
    bias = paddle.gather(layer.relative_position_bias_table, index)        # [s^4, n]
    return bias.transpose([1, 0]).reshape([-1, size * size, size * size])


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

    def __init__(self, dim: int, num_heads: int, window_size: int, out_dim: int | None = None,
                 relative_position: bool = False, dropout: float = 0.0,
                 attention_dropout: float = 0.0):
        super().__init__(dim, num_heads, True, dropout, attention_dropout, out_dim=out_dim)
        self.window_size = window_size
        self.relative_position_bias_table = None
        if relative_position:
            add_relative_position_bias(self)

    def bias(self, regions=None):
        """What is added to the scores: [n, M, M], [nW, n, M, M] with regions, or None."""
        bias = None
        if self.relative_position_bias_table is not None:
            bias = relative_position_bias(self)
        if regions is not None:
            nW, M = regions.shape
            apart = regions.reshape([nW, 1, M, 1]) != regions.reshape([nW, 1, 1, M])
            apart = apart.astype(self.qkv.weight.dtype) * APART            # [nW, 1, M, M]
            bias = apart.expand([nW, self.num_heads, M, M]) if bias is None else bias + apart
        return bias

    def with_weights(self, windows, regions=None):
        """The output and the attention weights of each window.

        Args:
            windows: [B * nW, s * s, dim].
            regions: int [nW, s * s] or None; tokens of different numbers do not see each other.

        Returns:
            [B * nW, s * s, out_dim] and [B * nW, n, s * s, s * s].
        """
        q, k, v = split_heads(self.qkv(windows), self.num_heads)
        # asked for the weights, attend keeps to the plain form, the one measured for small windows
        x, weights = attend(q, k, v, self.head_dim ** -0.5, self.attn_dropout, self.bias(regions),
                            return_weights=True)
        return self.project(merge_heads(x)), weights

    def forward(self, windows, regions=None):
        """[B * nW, s * s, dim] -> [B * nW, s * s, out_dim]"""
        return self.with_weights(windows, regions)[0]

    def in_map(self, x, shift=0, regions=None):
        """The same for the windows of a map of whole ones, by a kernel that copies none of them;
        for maps of which kernels.has_kernels.

        Args:
            x: [B, H, W, dim].
            shift, regions: see window_order and with_weights.

        Returns:
            [B, H, W, out_dim]
        """
        B, H, W, _ = x.shape
        order = window_order(H, W, self.window_size, shift)
        shape = [B, order.shape[0], self.num_heads, *[order.shape[1]] * 2]
        heads = heads_of(self.num_heads, self.head_dim ** -0.5, self.attn_dropout, shape,
                         order=order, regions=regions)
        qkv = self.qkv(x.flatten(1, 2))                                    # [B, H * W, 3 * n * d]
        x = self.project(attention(qkv, heads, self.bias()))               # [B, H * W, out_dim]
        return x.reshape([B, H, W, -1])


class TokenWindowAttention(WindowAttention):
    """Window attention on tokens: the map is padded evenly on both sides, before q, k and v, and
    the zeros take part with their bias as key and value (upstream's way)."""

    def pad(self, x, h, w):
        """[B, h * w, C] -> a map of whole windows [B, H, W, C], and the padding (top, left)."""
        padding = window_padding(h, w, self.window_size, split=True)
        return pad_map(x.reshape([-1, h, w, x.shape[-1]]), *padding), padding[0], padding[2]

    def partition(self, x, h, w):
        """[B, h * w, C] -> windows [B * nW, s * s, C]"""
        return window_partition(self.pad(x, h, w)[0], self.window_size)

    def forward(self, x, h, w, return_weights=False):
        """[B, h * w, C] -> [B, h * w, out_dim]; with return_weights also the attention weights
        [B, nW, n, s * s, s * s]."""
        s, B = self.window_size, x.shape[0]
        x, top, left = self.pad(x, h, w)
        if not return_weights and has_kernels(x):
            x = self.in_map(x)
        else:
            x, weights = self.with_weights(window_partition(x, s))
            x = window_reverse(x, s, h + padding_to_multiple(h, s), w + padding_to_multiple(w, s))
        if x.shape[1:3] != [h, w]:
            x = x[:, top:top + h, left:left + w]
        x = x.reshape([-1, h * w, x.shape[-1]])
        return (x, split_windows(weights, B)) if return_weights else x
