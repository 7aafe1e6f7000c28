"""Pyramid reduction and performer attention, of which the reduction cells are made."""
import math

import paddle
from paddle import nn
from paddle.nn.initializer import Orthogonal

from common.layers.basic import Dropout
from common.layers.fast import GELU, Conv2D, LayerNorm, Linear

EPSILON = 1e-8  # keeps a sum of weights that is 0 from being divided by


class PRM(nn.Layer):
    """Pyramid reduction: one strided convolution for each dilation, side by side.

    [B, C, H, W] -> [B, embed_dim * len(dilations), H / stride, W / stride]; the channels of the
    first dilation come first. GELU after each convolution.
    """

    def __init__(self, in_channels, embed_dim, kernel, stride, dilations):
        super().__init__()
        self.convs = nn.LayerList([
            nn.Sequential(Conv2D(
                in_channels, embed_dim, kernel, stride, dilation=dilation,
                padding=math.ceil(((kernel - 1) * dilation + 1 - stride) / 2)), GELU())
            for dilation in dilations])
        self.out_channels = embed_dim * len(dilations)

    def forward(self, x):
        return paddle.concat([conv(x) for conv in self.convs], axis=1)


class PerformerTokens(nn.Layer):
    """Performer attention (arXiv 2009.14794) from `dim` to `out_dim` channels, one head.

    The cost is linear in the number of tokens. `attention` and `mlp` are called by the cell, which
    puts its convolutions between them. Features are exponentials, computed in float32 at least.
    """

    def __init__(self, dim, out_dim, dropout=0.1):
        super().__init__()
        self.norm1 = LayerNorm(dim, epsilon=1e-5)
        self.kqv = Linear(dim, 3 * out_dim)
        self.proj = Linear(out_dim, out_dim)
        self.dropout = Dropout(dropout)
        self.norm2 = LayerNorm(out_dim, epsilon=1e-5)
        self.mlp = nn.Sequential(Linear(out_dim, out_dim), GELU(),
                                 Linear(out_dim, out_dim), Dropout(dropout))
        self.num_features = out_dim // 2
        self.w = self.create_parameter([self.num_features, out_dim])
        self.w.stop_gradient = True

    def init_weights(self):
        """Fills w with orthogonal rows of norm sqrt(m)."""
        Orthogonal(gain=math.sqrt(self.num_features))(self.w)

    def features(self, x):
        """[B, N, C] -> exp(w x - |x|^2 / 2) / sqrt(m), [B, N, m]"""
        x = x if x.dtype == paddle.float64 else x.astype('float32')
        half_square = (x * x).sum(axis=-1, keepdim=True) / 2               # [B, N, 1]
        projected = paddle.matmul(x, self.w.astype(x.dtype), transpose_y=True)  # [B, N, m]
        return paddle.exp(projected - half_square) / math.sqrt(self.num_features)

    def attention(self, x):
        """[B, N, dim] -> v + projected attention, [B, N, out_dim]; v is the skip connection."""
        k, q, v = self.kqv(x).chunk(3, axis=-1)                            # this order
        key, query = self.features(k), self.features(q)                    # [B, N, m]
        total = paddle.matmul(query, key.sum(axis=1).unsqueeze(2))         # [B, N, 1]
        mixed = paddle.matmul(key, v.astype(key.dtype), transpose_x=True)  # [B, m, C]
        y = paddle.matmul(query, mixed) / (total + EPSILON)                   # [B, N, C]
        return v + self.dropout(self.proj(y.astype(v.dtype)))
