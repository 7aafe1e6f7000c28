"""Multi-head self-attention."""
import paddle
import paddle.nn.functional as F
from paddle import nn

from common.core.errors import InputError
from common.layers.basic import Dropout
from common.layers.fast import Linear
from common.layers.flash_attention import flash_attention, has_flash_attention


class Attention(nn.Layer):
    """Multi-head self-attention; one linear makes q, k and v, in this order.

    Args:
        dim: channels C.
        num_heads: n.
        qkv_bias: whether q, k and v have one.
        dropout: after the output projection.
        attention_dropout: on the attention weights.
        head_dim: d, if it is not channels out / n.
        out_dim: channels out, if they are not C.
        out_name: name of the output projection, which checkpoints fix.
    """

    def __init__(self, dim, num_heads, qkv_bias=True, dropout=0.0, attention_dropout=0.0,
                 head_dim=None, out_dim=None, out_name='proj'):
        super().__init__()
        out_dim = out_dim or dim
        inner = num_heads * head_dim if head_dim else out_dim
        if inner % num_heads:
            raise InputError(f'MODEL.NUM_HEADS: got {num_heads}, expected a divisor of the '
                             f'{inner} channels')
        self.num_heads = num_heads
        self.head_dim = inner // num_heads
        self.qkv = Linear(dim, inner * 3, bias_attr=None if qkv_bias else False)
        self.out_name = out_name
        setattr(self, out_name, Linear(inner, out_dim))
        self.attn_dropout = Dropout(attention_dropout)
        self.proj_dropout = Dropout(dropout)

    def scores_and_values(self, qkv):
        """[B, N, 3 * n * d] -> q k^T / sqrt(d) [B, n, N, N] and v [B, n, N, d]."""
        B, N, _ = qkv.shape
        qkv = qkv.reshape([B, N, 3, self.num_heads, self.head_dim])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)                 # each [B, n, N, d]
        return paddle.matmul(q * self.head_dim ** -0.5, k, transpose_y=True), v

    def weights_and_values(self, x):
        """[B, N, C] -> softmax of the scores [B, n, N, N] and v [B, n, N, d]."""
        scores, v = self.scores_and_values(self.qkv(x))
        return F.softmax(scores, axis=-1), v

    def forward(self, x):
        qkv = self.qkv(x)                                                  # [B, N, 3 * n * d]
        if has_flash_attention(qkv.dtype, self.head_dim):
            dropout = 0.0 if self.attn_dropout.is_idle() else self.attn_dropout.p
            return self.project(flash_attention(qkv, self.num_heads, dropout))
        scores, v = self.scores_and_values(qkv)
        return self.mix(F.softmax(scores, axis=-1), v)

    def mix(self, weights, v):
        """[B, n, N, N] and [B, n, N, d] -> [B, N, C]"""
        return self.project(merge_heads(paddle.matmul(self.attn_dropout(weights), v)))

    def project(self, x):
        """[B, N, n * d] -> [B, N, C]"""
        return self.proj_dropout(getattr(self, self.out_name)(x))


def merge_heads(x):
    """[B, n, N, d] -> [B, N, n * d]"""
    B, n, N, d = x.shape
    return x.transpose([0, 2, 1, 3]).reshape([B, N, n * d])
