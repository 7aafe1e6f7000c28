"""Varied-size window attention by loops over windows, heads and samples, in both forms of upstream.

It is written after upstream's two files, in their terms: coordinates from -1 to 1 over the padded
map, a padded map of queries, keys and values. Nothing of common/layers/vsa.py is used but the
weights of its layer.
"""
import math

import numpy as np


def dense(layer, x):
    """A 1x1 convolution of a channels-last array."""
    return x @ layer.weight.numpy() + layer.bias.numpy()


def pads(side, size, form):
    """How many zeros stand before and after a side."""
    total = (size - side % size) % size
    before = total // 2 if form == 'detection' else 0
    return before, total - before


def bilinear(plane, x, y):
    """The value [d] of a map [H, W, d] at x and y, -1 to 1 from first to last pixel; 0 outside."""
    H, W, d = plane.shape
    column, row = (x + 1) / 2 * (W - 1), (y + 1) / 2 * (H - 1)
    value = np.zeros(d)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < H and 0 <= c < W:
                value += (1 - abs(row - r)) * (1 - abs(column - c)) * plane[r, c]
    return value


def position_bias(layer):
    """The bias between the places of a window, [n, s * s, s * s]."""
    s, table = layer.window_size, layer.relative_position_bias_table.numpy()
    places = list(np.ndindex(s, s))
    bias = np.zeros((layer.num_heads, s * s, s * s))
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            row = (query[0] - key[0] + s - 1) * (2 * s - 1) + query[1] - key[1] + s - 1
            bias[:, i, j] = table[row]
    return bias


def window_axes(layer, pooled, head, size, whole, at):
    """Where a head samples, xs and ys from -1 to 1.

    Args:
        pooled: the mean of the window's tokens [C], after LeakyReLU.
        size: (height, width) of the padded map.
        whole: what divides the offset in x and in y.
        at: (row, column) of the window's first token.
    """
    s, axes = layer.window_size, []
    offset = dense(layer.sampling_offsets, pooled).reshape(-1, 2)[head]
    scale = dense(layer.sampling_scales, pooled).reshape(-1, 2)[head]
    for axis, (side, start) in enumerate(((size[1], at[1]), (size[0], at[0]))):
        places = np.linspace(-1, 1, side)[start:start + s]
        centre = places.mean()
        axes.append(centre + offset[axis] / whole[axis] + (places - centre) * (1 + scale[axis]))
    return axes


def plain_vsa(layer, x, form):
    """[B, H, W, C] -> [B, H, W, out_dim]; all arrays are float64."""
    B, H, W, C = x.shape
    s, n, out = layer.window_size, layer.num_heads, layer.out_dim
    d = out // n
    (top, bottom), (left, right) = pads(H, s, form), pads(W, s, form)
    around = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded, qkv = np.pad(x, around), np.pad(dense(layer.qkv, x), around)
    height, width = padded.shape[1:3]
    # the whole windows of the map; upstream divides by zero where there is none
    along_width, along_height = max(W // s, 1), max(H // s, 1)
    whole = (along_height, along_width) if form == 'detection' else (along_width, along_height)
    result, bias = np.zeros((B, height, width, out)), position_bias(layer)
    for b, row, column in np.ndindex(B, height // s, width // s):
        here = np.s_[row * s:row * s + s, column * s:column * s + s]
        pooled = padded[b][here].mean((0, 1))
        pooled = np.where(pooled > 0, pooled, 0.01 * pooled)
        for head in range(n):
            axes = window_axes(layer, pooled, head, (height, width), whole, (row * s, column * s))
            q, k, v = (qkv[b, :, :, part * out + head * d:part * out + head * d + d]
                       for part in range(3))
            keys, values = (np.array([bilinear(plane, x, y) for y in axes[1] for x in axes[0]])
                            for plane in (k, v))                           # [s * s, d]
            scores = q[here].reshape(s * s, d) @ keys.T * (C // n) ** -0.5 + bias[head]
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights = weights / weights.sum(-1, keepdims=True)
            result[b][here][:, :, head * d:head * d + d] = (weights @ values).reshape(s, s, d)
    return dense(layer.proj, result[:, top:top + H, left:left + W])
