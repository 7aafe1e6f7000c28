"""Multi-head self-attention.

Letters: B batch (times windows), N tokens, C channels, n heads, d = channels of a head.
"""
import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from common.core.errors import InputError
from common.layers.basic import Dropout
from common.layers.fast import Linear
from common.layers.fast.activation import scaled_softmax
from common.layers.fast.attention import Heads, attention
from common.layers.fast.dropout import draw_mask
from common.layers.fast.kernels import has_kernels
from common.layers.flash_attention import flash_attention, has_flash_attention


def attend(q, k, v, scale, dropout, bias=None, return_weights=False):
    """softmax(q k^T * scale + bias) v, the one attention of all models.

    On a GPU in a half type it is FlashAttention, unless there is a bias or the weights are asked
    for.

    Args:
        q, k, v: [B, n, N, d].
        scale: of the scores, mostly d^-0.5.
        dropout: a Dropout, for the weights.
        bias: added to the scores [B, n, N, N], in whose shape it broadcasts; or [W, n, N, N], where
            B is a multiple of W (windows of an image that have biases of their own); or None.
        return_weights: whether to return the weights, too.

    Returns:
        [B, n, N, d]; with return_weights also the weights before dropout, [B, n, N, N].
    """
    if bias is None and not return_weights and has_flash_attention(q.dtype, q.shape[-1]):
        return flash_attention(q, k, v, scale, 0.0 if dropout.is_idle() else dropout.p)
    fits = bias is None or bias.shape[-3:] == [q.shape[1], q.shape[2], k.shape[2]]
    if fits and has_kernels(q, bias):
        weights = scaled_softmax(paddle.matmul(q, k, transpose_y=True), scale, bias)
    else:
        scores = paddle.matmul(q * scale, k, transpose_y=True)             # [B, n, N, N]
        if bias is not None:
            scores = add_bias(scores, bias.astype(scores.dtype))
        weights = F.softmax(scores, axis=-1)
    x = paddle.matmul(dropout(weights), v)                                 # [B, n, N, d]
    return (x, weights) if return_weights else x


def add_bias(scores, bias):
    """scores [B, n, N, N] + bias, see attend."""
    if list(bias.shape[-3:]) != list(scores.shape[-3:]):
        return scores + bias
    # a sum over one trailing axis is ten times as fast on a CPU as a broadcast over a middle one
    flat = scores.reshape([-1, math.prod(bias.shape)])
    return (flat + bias.reshape([-1])).reshape([-1, *scores.shape[1:]])


def split_heads(qkv, num_heads):
    """q, k and v side by side [B, N, 3 * n * d] -> each [B, n, N, d]."""
    B, N, channels = qkv.shape
    qkv = qkv.reshape([B, N, 3, num_heads, channels // (3 * num_heads)])
    return qkv.transpose([2, 0, 3, 1, 4]).unbind(0)


def merge_heads(x):
    """[B, n, N, d] -> [B, N, n * d]"""
    B, n, N, d = x.shape
    return x.transpose([0, 2, 1, 3]).reshape([B, N, n * d])


def attend_qkv(qkv, num_heads, scale, dropout, return_weights=False):
    """`attend` of q, k and v side by side, on a CPU by one kernel.

    Args:
        qkv: [B, N, 3 * n * d].
        num_heads: n.
        scale, dropout, return_weights: as for `attend`.

    Returns:
        [B, N, n * d]; with return_weights also the weights before dropout, [B, n, N, N].
    """
    B, N, _ = qkv.shape
    if not return_weights and has_kernels(qkv):
        return attention(qkv, heads_of(num_heads, scale, dropout, [B, 1, num_heads, N, N]))
    q, k, v = split_heads(qkv, num_heads)                                  # each [B, n, N, d]
    x = attend(q, k, v, scale, dropout, return_weights=return_weights)     # [B, n, N, d]
    return (merge_heads(x[0]), x[1]) if return_weights else merge_heads(x)


def heads_of(num_heads, scale, dropout, shape, **windows):
    """The Heads of a forward pass; shape: of the weights, which dropout acts on."""
    if dropout.is_idle():
        return Heads(num_heads, scale, **windows)
    return Heads(num_heads, scale, mask=draw_mask(shape, dropout.p), p=dropout.p, **windows)


class Attention(nn.Layer):
    """Multi-head self-attention; one linear makes q, k and v, in this order.

    Args:
        dim: channels C of the input.
        num_heads: n.
        qkv_bias: whether q, k and v have a bias.
        dropout: after the output projection, in [0, 1).
        attention_dropout: on the attention weights, in [0, 1).
        out_dim: channels of the output, if they are not C.
    """

    def __init__(self, dim, num_heads, qkv_bias=True, dropout=0.0, attention_dropout=0.0,
                 out_dim=None):
        super().__init__()
        out_dim = out_dim or dim
        if out_dim % num_heads:
            raise InputError(f'MODEL.NUM_HEADS: got {num_heads}, expected a divisor of the '
                             f'{out_dim} channels')
        self.num_heads = num_heads
        self.head_dim = out_dim // num_heads
        self.qkv = Linear(dim, out_dim * 3, bias_attr=None if qkv_bias else False)
        self.proj = Linear(out_dim, out_dim)
        self.attn_dropout = Dropout(attention_dropout)
        self.proj_dropout = Dropout(dropout)

    def forward(self, x, return_weights=False):
        """[B, N, C] -> [B, N, channels out]; with return_weights also [B, n, N, N]."""
        x = attend_qkv(self.qkv(x), self.num_heads, self.head_dim ** -0.5, self.attn_dropout,
                       return_weights)                                     # [B, N, n * d]
        x, weights = x if return_weights else (x, None)
        x = self.project(x)                                                # [B, N, channels out]
        return (x, weights) if return_weights else x

    def project(self, x):
        """[B, N, n * d] -> [B, N, channels out]"""
        return self.proj_dropout(self.proj(x))
