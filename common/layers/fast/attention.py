"""Attention in heads, and in windows of a map, by a kernel that copies neither.

It reads q, k and v where a linear layer has put them, and writes where the next one reads. Paddle's
operators copy them to be by head, and by window before that, on one thread.

Letters: B batch, T tokens of a map, G windows of M tokens (of a whole map 1 and T), C channels, n
heads, d = C / n.
"""
import dataclasses

import paddle
from paddle.autograd import PyLayer

from common.layers.fast import kernels


@dataclasses.dataclass(frozen=True)
class Heads:
    """How attention is done.

    Args:
        n: number of heads.
        scale: of the scores.
        order: int32 [G, M], which token of the map is which of a window, each in one; None for all
            tokens in their order as one window.
        regions: int32 [G, M], tokens of different numbers do not see each other; or None.
        mask: what dropout keeps of the weights, bool [B, G, n, M, M]; or None.
        p: dropout's probability.
    """
    n: int
    scale: float
    order: paddle.Tensor | None = None
    regions: paddle.Tensor | None = None
    mask: paddle.Tensor | None = None
    p: float = 0.0

    def sizes(self, qkv):
        """(B, T, C) of qkv [B, T, 3 C]."""
        B, T, channels = qkv.shape
        return B, T, channels // 3

    def windows(self, qkv):
        """(G, M)"""
        return self.order.shape if self.order is not None else [1, qkv.shape[1]]


def attention(qkv, heads, bias=None):
    """softmax(q k^T * scale + bias) v, for tensors of which kernels.has_kernels.

    Args:
        qkv: q, k and v side by side, [B, T, 3 * n * d].
        heads: Heads.
        bias: [n, M, M] or None.

    Returns:
        [B, T, n * d]
    """
    return AttentionFunction.apply(qkv, bias, heads, paddle.is_grad_enabled())


class AttentionFunction(PyLayer):
    """See attention."""

    @staticmethod
    def forward(ctx, qkv, bias, heads, keeps):
        y, weights = kernels.attention(qkv, heads, bias, keeps)
        if keeps:
            ctx.save_for_backward(qkv, weights)
            ctx.heads = heads
            ctx.needs = [not x.stop_gradient for x in (qkv, bias) if x is not None]
        return y

    @staticmethod
    def backward(ctx, gradient):
        qkv, weights = ctx.saved_tensor()
        found = kernels.attention_gradient(qkv, ctx.heads, weights, gradient, any(ctx.needs[1:]))
        found = tuple(value if needed else None
                      for value, needed in zip(found, ctx.needs, strict=False))
        return found if len(found) > 1 else found[0]
