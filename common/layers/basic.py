"""Layers that more than one family uses, and the initialisers.

Letters: B batch, N tokens, C channels, H W map.
A layer that does nothing (evaluation, or probability 0) emits no operator: a left-over dropout
keeps an exported graph from being fused.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from common.core.errors import InputError
from common.layers.fast import Fast, Linear, gelu_linear, is_fast
from common.layers.fast.dropout import DTYPES, apply_mask, draw_mask


class Dropout(Fast, nn.Layer):
    """Inverted dropout with probability `p`; the identity, with no operator, when it is idle.

    All draws come from Paddle's generator, which the training loop seeds for every step.
    """

    def __init__(self, p=0.0):
        super().__init__()
        self.p = check_probability('dropout', p)

    def is_idle(self):
        return not self.training or self.p == 0.0

    def forward(self, x):
        if self.is_idle():
            return x
        mask = self.draw_mask(x)
        return F.dropout(x, self.p) if mask is None else apply_mask(x, mask, self.p)

    def draw_mask(self, x):
        """What of x stays, bool of its shape, to be applied by `apply_mask`; None where Paddle's
        operator is to draw and apply it."""
        return draw_mask(x.shape, self.p) if is_fast(self) and x.dtype in DTYPES else None

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
        if hidden_dim < 1:
            raise InputError(f'MODEL.MLP_RATIO: {dim} channels make {hidden_dim} hidden ones, '
                             f'expected at least 1')
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x):
        x = self.fc1(x)                                                    # [B, N, hidden]
        x = gelu_linear(x, self.fc2, self.dropout)     # fc2(dropout(gelu(x))), [B, N, C]
        return self.dropout(x)


def check_probability(what, p):
    """Returns `p`; a value outside [0, 1) is an InputError."""
    if not 0.0 <= p < 1.0:
        raise InputError(f'{what} probability: got {p}, expected a number in [0, 1)')
    return p


def drop_path_rates(rate, depth):
    """The rate of each of `depth` blocks: linear from 0 at the first to `rate` at the last."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def to_map(tokens, h, w):
    """[B, h * w, C] -> [B, C, h, w]"""
    B, _, C = tokens.shape
    return tokens.transpose([0, 2, 1]).reshape([B, C, h, w])


def to_tokens(feature_map):
    """[B, C, h, w] -> [B, h * w, C]"""
    return feature_map.flatten(2).transpose([0, 2, 1])
