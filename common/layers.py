"""Layers that more than one family uses, and the initialisers.

Letters: B batch, N tokens, C channels, H W map.
A layer that does nothing (evaluation, or probability 0) emits no operator: a left-over dropout
keeps an exported graph from being fused.
"""
import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.nn.initializer import Constant, Normal

from common.errors import InputError


class Dropout(nn.Layer):
    """Inverted dropout with probability `p`; the identity, with no operator, when it is idle."""

    def __init__(self, p=0.0):
        super().__init__()
        self.p = check_probability('dropout', p)

    def forward(self, x):
        if not self.training or self.p == 0.0:
            return x
        return F.dropout(x, self.p)

    def extra_repr(self):
        return f'p={self.p}'


class DropPath(nn.Layer):
    """Stochastic depth (arXiv 1603.09382): drops a residual branch for a whole sample.

    A branch that is kept is scaled by 1 / (1 - p), so the expectation does not change. The draws
    come from Paddle's generator, which the training loop seeds for every step.
    """

    def __init__(self, p=0.0):
        super().__init__()
        self.p = check_probability('drop path', p)

    def forward(self, x):
        if not self.training or self.p == 0.0:
            return x
        keep = 1.0 - self.p
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        mask = paddle.floor(paddle.rand(shape, dtype='float32') + keep)  # [B, 1, ...] of 0 and 1
        return x * (mask / keep).astype(x.dtype)

    def extra_repr(self):
        return f'p={self.p}'


class Mlp(nn.Layer):
    """fc1 - GELU(erf) - dropout - fc2 - dropout over the last axis."""

    def __init__(self, dim, hidden_dim, dropout=0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x):
        x = self.dropout(F.gelu(self.fc1(x)))  # [B, N, hidden]
        return self.dropout(self.fc2(x))       # [B, N, C]


def check_probability(what, p):
    """Returns `p`; a value outside [0, 1) is an InputError."""
    if not 0.0 <= p < 1.0:
        raise InputError(f'{what} probability: got {p}, expected a number in [0, 1)')
    return p


def drop_path_rates(rate, depth):
    """The rate of each of `depth` blocks: linear from 0 at the first to `rate` at the last."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def normal_(parameter, std=0.02):
    """Fills with a normal of standard deviation `std`.

    This is what timm's trunc_normal_(std=.02) does in effect: it cuts at -2 and 2, which is a
    hundred deviations. Paddle's TruncatedNormal cuts elsewhere in 2.6 than in 3.x.
    """
    Normal(std=std)(parameter)


def zeros_(parameter):
    Constant(0.0)(parameter)


def ones_(parameter):
    Constant(1.0)(parameter)


def lecun_normal_(parameter):
    """A convolution weight [out, in / groups, kh, kw]: normal, std sqrt(1 / fan_in)."""
    normal_(parameter, std=math.sqrt(1.0 / math.prod(parameter.shape[1:])))


def kaiming_normal_(parameter):
    """A convolution weight [out, in / groups, kh, kw]: normal, std sqrt(2 / fan_out)."""
    fan_out = parameter.shape[0] * math.prod(parameter.shape[2:])
    normal_(parameter, std=math.sqrt(2.0 / fan_out))


def resize_position_embedding(position, num_prefix, old_grid, new_grid):
    """Resizes a learned position embedding to another grid of patches.

    Args:
        position: [1, num_prefix + h * w, C], the prefix (class token) first.
        num_prefix: how many leading tokens have no place in the grid.
        old_grid, new_grid: (h, w) in patches.

    Returns:
        [1, num_prefix + h' * w', C]: bicubic, no aligned corners, the prefix unchanged
        (as timm's resize_pos_embed without antialiasing).
    """
    if tuple(old_grid) == tuple(new_grid):
        return position
    channels = position.shape[-1]
    grid = position[:, num_prefix:].reshape([1, *old_grid, channels])      # [1, h, w, C]
    grid = F.interpolate(grid.transpose([0, 3, 1, 2]), size=list(new_grid),
                         mode='bicubic', align_corners=False)              # [1, C, h', w']
    grid = grid.flatten(2).transpose([0, 2, 1])                            # [1, h' * w', C]
    if num_prefix == 0:
        return grid
    return paddle.concat([position[:, :num_prefix], grid], axis=1)


def to_pair(size):
    """An int or a pair (height, width) as a tuple of two ints."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
