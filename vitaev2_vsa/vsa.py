"""Varied-size window attention (VSA): attention whose windows are learned, one for each head.

Sources: "VSA: Learning Varied-Size Window Attention in Vision Transformers" (arXiv 2204.08446)
and github.com/ViTAE-Transformer/ViTAE-VSA (Image-Classification/vitaev2_vsa/vsa.py).
`VSAWindowAttention` can be used in any model.

Kept from upstream, since its checkpoints need it: the scale of the scores from the input's
channels; offsets divided by the number of whole windows of the map before it is padded; padding
at the bottom and right, after q, k and v; a relative position bias always.
Different from upstream, on purpose: coordinates are in pixels and for any size of the map (also
smaller than a window, where upstream divides by zero: one window then counts as one); dropout on
the attention weights is applied; no GPU is needed to build it.

Letters: B batch, H W map in tokens, C channels, s window side, nh nw windows along H and W,
nW = nh * nw, n heads, d = channels of a head. Maps are channels-last inside, [B, H, W, C].
"""
import contextlib
import math
from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.nn.initializer import Uniform

from common.core.errors import InputError
from common.layers.basic import Dropout
from common.layers.fast import Linear, mean_rows
from common.layers.init import normal_
from common.layers.windows import (
    add_bias,
    add_bias_table,
    missing,
    pad_map,
    relative_position_bias,
)

# How many numbers are gathered at a time: what fits a cache.
GATHERED = 1 << 20


class Windows(NamedTuple):
    """Learned windows in pixels of the map, (x, y) on the last axis; each [B, n, nh, nw, 2]."""

    centre: paddle.Tensor
    size: paddle.Tensor
    offset: paddle.Tensor  # of the centre from the default window's
    scale: paddle.Tensor   # of the side to the default window's, negative if mirrored


class Pointwise(Linear):
    """A 1x1 convolution on a channels-last map; starts as PyTorch's convolutions do."""

    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels)
        self.init_weights()

    def init_weights(self):
        bound = 1 / math.sqrt(self.weight.shape[0])
        Uniform(-bound, bound)(self.weight)
        Uniform(-bound, bound)(self.bias)

    def forward(self, x):
        """[..., in] -> [..., out], in the type of x: the regression stays in float32 at O2."""
        if self.weight.dtype == x.dtype:
            # not super().forward: to_static of Paddle 2.6 does not know super()
            return Linear.forward(self, x)
        return F.linear(x, self.weight.astype(x.dtype), self.bias.astype(x.dtype))


class VSAWindowAttention(nn.Layer):
    """Multi-head attention of the queries of each window to keys and values that are sampled
    evenly from a window which is moved and scaled, for each head, by what the window holds.

    A map of any height and width; an exported graph is for one (its batch may be open).

    Args:
        dim: channels in, C.
        num_heads: n.
        window_size: s, side of the default windows in tokens.
        out_dim: channels out, and of q, k and v; default dim.
        dropout: after the output projection, in [0, 1).
        attention_dropout: on the attention weights, in [0, 1).
        sampling: auto | gather | grid_sample. 'gather' is the fast form of a CPU, eager and
            exported; 'grid_sample' is Paddle's operator, for a GPU. Both give the same up to
            rounding. 'auto' looks at Paddle's device.
    """

    def __init__(self, dim, num_heads, window_size=7, out_dim=None, dropout=0.0,
                 attention_dropout=0.0, sampling='auto'):
        super().__init__()
        out_dim = out_dim or dim
        if dim % num_heads or out_dim % num_heads:
            raise InputError(f'MODEL.NUM_HEADS: got {num_heads}, expected a divisor of the '
                             f'channels, {dim} in and {out_dim} out')
        if sampling not in ('auto', 'gather', 'grid_sample'):
            raise InputError(f"VSA: sampling: got {sampling!r}, expected 'auto', 'gather' or "
                             f"'grid_sample'")
        self.num_heads = num_heads
        self.window_size = window_size
        self.out_dim = out_dim
        self.scale = (dim // num_heads) ** -0.5  # upstream's, also where out_dim is another
        self.sampling = sampling
        self.sampling_offsets = Pointwise(dim, 2 * num_heads)
        self.sampling_scales = Pointwise(dim, 2 * num_heads)
        self.qkv = Pointwise(dim, 3 * out_dim)
        self.proj = Pointwise(out_dim, out_dim)
        add_bias_table(self)
        self.init_weights()
        self.attn_dropout = Dropout(attention_dropout)
        self.proj_dropout = Dropout(dropout)

    def init_weights(self):
        """The bias table: normal, std .02; linear layers start by themselves."""
        normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x):
        """[B, C, H, W] -> [B, out_dim, H, W], for any H and W."""
        return self.attend(x.transpose([0, 2, 3, 1]))[0].transpose([0, 3, 1, 2])

    def attend(self, x):
        """[B, H, W, C] -> [B, H, W, out_dim] and the weights [B * nW, n, s * s, s * s]."""
        _, H, W, _ = x.shape
        if H < 0 or W < 0:
            raise InputError('VSA: export: got an open height or width, expected fixed ones (the '
                             'batch may be open)')
        s, n, d = self.window_size, self.num_heads, self.out_dim // self.num_heads
        nh, nw = -(-H // s), -(-W // s)
        weights, v = self.weights_and_values(x)
        x = paddle.matmul(self.attn_dropout(weights), v)                   # [B * nW, n, s * s, d]
        x = x.reshape([-1, nw, n, s, s, d]).transpose([0, 3, 1, 4, 2, 5])  # [B nh, s, nw, s, n, d]
        x = x.reshape([-1, nh * s, nw * s, self.out_dim])
        if (nh * s, nw * s) != (H, W):
            x = x[:, :H, :W]
        return self.proj_dropout(self.proj(x)), weights

    def weights_and_values(self, x):
        """[B, H, W, C] -> softmax [B * nW, n, s * s, s * s] and v [B * nW, n, s * s, d]."""
        _, H, W, _ = x.shape
        s, n, d = self.window_size, self.num_heads, self.out_dim // self.num_heads
        pad = missing(H, s), missing(W, s)
        qkv = self.qkv(x)                                                  # [B, H, W, 3 * n * d]
        q = pad_map(qkv[:, :, :, :self.out_dim], 0, pad[0], 0, pad[1])
        q = q.reshape([-1, s, (W + pad[1]) // s, s, n, d])                 # [B nh, s, nw, s, n, d]
        q = q.transpose([0, 2, 4, 1, 3, 5]).reshape([-1, n, s * s, d])
        columns, rows = self.coordinates(x)
        kv = self.sample(qkv[:, :, :, self.out_dim:], columns, rows)       # [B * nW, n, s * s, 2 d]
        k, v = kv[:, :, :, :d], kv[:, :, :, d:]
        scores = paddle.matmul(q * self.scale, k, transpose_y=True)
        bias = relative_position_bias(self).astype(scores.dtype)
        return F.softmax(add_bias(scores, bias), axis=-1), v

    def regress(self, x):
        """Offsets in pixels and scales of the windows: [B, H, W, C] -> two of [B, nh, nw, n, 2].

        They are predicted from the mean of the default window, padding included. Float32 at
        least, also in mixed precision: a pixel's position needs more than fp16's three digits.
        """
        _, H, W, C = x.shape
        s, n = self.window_size, self.num_heads
        x = pad_map(x if x.dtype == paddle.float64 else x.astype('float32'),
                    0, missing(H, s), 0, missing(W, s))
        _, padded_h, padded_w, _ = x.shape
        nh, nw = padded_h // s, padded_w // s
        x = mean_rows(x.reshape([-1, s, padded_w * C]))                    # [B * nh, nw * s * C]
        x = mean_rows(x.reshape([-1, s, C]))                               # [B * nW, C]
        # LeakyReLU in two parts: Paddle2ONNX writes a wrong slope for the operator
        x = F.relu(x) - 0.01 * F.relu(-x)
        with full_precision():
            offset = self.sampling_offsets(x).reshape([-1, nh, nw, n, 2])
            scale = self.sampling_scales(x).reshape([-1, nh, nw, n, 2])
        # Upstream's offsets are shares of the map, from -1 to 1, over the whole windows in it.
        unit_x = (padded_w - 1) / 2 / max(W // s, 1)
        unit_y = (padded_h - 1) / 2 / max(H // s, 1)
        offset = paddle.stack([offset[:, :, :, :, 0] * unit_x, offset[:, :, :, :, 1] * unit_y], -1)
        return offset, 1 + scale

    def coordinates(self, x):
        """Where keys and values are sampled: columns and rows in pixels, each [B, nh, nw, n, s].

        A window's samples are the grid of its columns and rows.
        """
        offset, scale = self.regress(x)
        s, (nh, nw) = self.window_size, offset.shape[1:3]
        steps = paddle.arange(s, dtype=x.dtype if x.dtype == paddle.float64 else 'float32')
        steps = steps - (s - 1) / 2                                        # [s], from the centre
        middle_x = paddle.arange(nw, dtype=steps.dtype).reshape([1, 1, nw, 1, 1]) * s + (s - 1) / 2
        middle_y = paddle.arange(nh, dtype=steps.dtype).reshape([1, nh, 1, 1, 1]) * s + (s - 1) / 2
        columns = middle_x + offset[:, :, :, :, :1] + scale[:, :, :, :, :1] * steps
        rows = middle_y + offset[:, :, :, :, 1:] + scale[:, :, :, :, 1:] * steps
        return columns, rows

    def windows(self, x):
        """The learned windows over a map [B, C, H, W], in its pixels; see Windows."""
        x = x.transpose([0, 2, 3, 1])
        offset, scale = (value.transpose([0, 3, 1, 2, 4]) for value in self.regress(x))
        s, (nh, nw) = self.window_size, offset.shape[2:4]
        middle = paddle.stack(paddle.meshgrid(paddle.arange(nh), paddle.arange(nw))[::-1], axis=-1)
        centre = middle.astype(offset.dtype) * s + (s - 1) / 2 + offset    # [B, n, nh, nw, 2]
        return Windows(centre, scale.abs() * s, offset, scale)

    def sample(self, kv, columns, rows):
        """Bilinear samples, zero outside the map.

        Args:
            kv: [B, H, W, 2 * n * d], k before v.
            columns, rows: [B, nh, nw, n, s], pixels.

        Returns:
            [B * nW, n, s * s, 2 * d], k before v in each head.
        """
        B, H, W, _ = kv.shape
        n, d = self.num_heads, self.out_dim // self.num_heads
        fast = paddle.get_device() == 'cpu' if self.sampling == 'auto' \
            else self.sampling == 'gather'
        kv = kv.reshape([-1, 2, n, d])                                     # [B * H * W, 2, n, d]
        if fast:
            kv = kv.transpose([0, 2, 1, 3]).reshape([-1, 2 * d])           # [B * H * W * n, 2 d]
            kv = gather_samples(kv, columns, rows, H, W)
        else:
            kv = kv.reshape([-1, H * W, 2, n, d]).transpose([0, 3, 2, 4, 1])
            kv = grid_samples(kv.reshape([-1, 2 * d, H, W]), columns, rows)
        return kv.reshape([-1, n, self.window_size ** 2, 2 * d])


def full_precision():
    """No autocast. (Paddle 2.6 has no such context, and no autocast, in a static graph.)"""
    return paddle.amp.auto_cast(enable=False) if paddle.in_dynamic_mode() \
        else contextlib.nullcontext()


def gather_samples(features, columns, rows, H, W):
    """Bilinear samples by one gather of four rows for each, and a product with their weights.

    On a CPU, forward and backward, a third of the time of Paddle's grid_sample.

    Args:
        features: [B * H * W * n, D], the head's index fastest.
        columns, rows: [B, nh, nw, n, s], pixels.

    Returns:
        [B * nW * n * s * s, D]
    """
    n, s = columns.shape[3:]
    head = paddle.arange(n, dtype='int32').reshape([n, 1, 1])
    image = paddle.arange(paddle.shape(columns)[0], dtype='int32').reshape([-1, 1, 1, 1, 1, 1])
    x, weight_x = neighbours(columns, W)                                   # [B, nh, nw, n, s, 2]
    y, weight_y = neighbours(rows, H)
    # no factor after a sum: oneDNN's pass of Paddle 3.3 applies it to one of the terms only
    y = (image * (H * W * n) + y * (W * n)).reshape([-1, 2 * s, 1])
    x = (x * n + head).reshape([-1, 1, 2 * s])
    weight = paddle.bmm(weight_y.reshape([-1, 2 * s, 1]), weight_x.reshape([-1, 1, 2 * s]))

    def corners(pairs):
        """[B nW n, 2 s, 2 s] -> [B nW n s s, 4], the neighbours of each sample together"""
        pairs = pairs.reshape([-1, s, 2, s, 2]).transpose([0, 1, 3, 2, 4])
        return pairs.reshape([-1, 4])

    index = corners(y + x).unsqueeze(2)                                    # [B nW n s s, 4, 1]
    weight = corners(weight).unsqueeze(1).astype(features.dtype)           # [B nW n s s, 1, 4]
    if not paddle.in_dynamic_mode():
        return paddle.bmm(weight, paddle.gather_nd(features, index))
    step = max(1, GATHERED // (4 * features.shape[1]))
    samples = [paddle.bmm(weight[i:i + step], paddle.gather_nd(features, index[i:i + step]))
               for i in range(0, len(weight), step)]
    return samples[0] if len(samples) == 1 else paddle.concat(samples)     # [B nW n s s, 1, D]


def neighbours(place, side):
    """The two pixels around each place on an axis, and their weights, on a new last axis.

    A pixel outside [0, side) has weight 0 and an index inside.
    """
    low = paddle.floor(place)  # not of place.detach(): to_static of Paddle 2.6 computes garbage
    share = place - low
    index = paddle.stack([low, low + 1], axis=-1)
    inside = paddle.logical_and(index >= 0, index <= side - 1)
    weight = paddle.stack([1 - share, share], axis=-1) * inside.astype(place.dtype)
    # not a clip: a place that is NaN must not become an index either
    return paddle.where(inside, index, paddle.zeros_like(index)).astype('int32'), weight


def grid_samples(features, columns, rows):
    """The same by grid_sample; the plain form, which exports to ONNX (opset 16 and later).

    Args:
        features: [B * n, D, H, W].
        columns, rows: [B, nh, nw, n, s], pixels.

    Returns:
        [B * nW, n, s * s, D]
    """
    _, D, H, W = features.shape
    _, nh, nw, n, s = columns.shape
    if H == 1 or W == 1:  # grid_sample would put every place on the only pixel
        features = F.pad(features, [0, int(W == 1), 0, int(H == 1)])
        H, W = max(H, 2), max(W, 2)
    # grid_sample's coordinates are -1 at the first pixel's centre and 1 at the last one's
    columns = columns * (2 / (W - 1)) - 1
    rows = rows * (2 / (H - 1)) - 1
    columns = columns.transpose([0, 3, 1, 2, 4]).reshape([-1, nh, 1, nw, s])
    rows = rows.transpose([0, 3, 1, 4, 2]).reshape([-1, nh, s, nw, 1])
    zeros = (columns + rows) * 0                       # [B n, nh, s, nw, s]; NaN where one is
    # far outside is outside; Paddle 2.6 crashes at a coordinate that is NaN, so the NaN goes round
    columns, rows = (paddle.where(paddle.logical_and(place > -9, place < 9), place,
                                  paddle.full_like(place, 9.0))
                     for place in (columns + zeros, rows + zeros))
    grid = paddle.stack([columns, rows], axis=-1).reshape([-1, nh * s, nw * s, 2])
    samples = F.grid_sample(features.astype(grid.dtype), grid, mode='bilinear',
                            padding_mode='zeros', align_corners=True)      # [B n, D, nh s, nw s]
    samples = samples + zeros.reshape([-1, 1, nh * s, nw * s])
    samples = samples.reshape([-1, s, nw, s]).transpose([0, 2, 1, 3])      # [B n D nh, nw, s, s]
    samples = samples.reshape([-1, n, D, nh * nw, s * s]).transpose([0, 3, 1, 4, 2])
    return samples.astype(features.dtype)
