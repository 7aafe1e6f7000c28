"""FlashAttention (arXiv 2205.14135) on a GPU: attention that keeps no matrix of weights.

Used by itself where it is there: in float16 or bfloat16 (at AMP; with Paddle 2.6 at O2 only, since
its linear layers give float32 at O1), on a GPU, in eager mode. Not by attention maps, which need
the weights; not by windows, whose bias it has no fast form for; not in graphs, which may run
elsewhere; and not where Fast.plain is set.
"""
import functools

import paddle
import paddle.nn.functional as F

from common.layers.fast import Fast


def has_flash_attention(dtype, head_dim):
    """Whether to run it on q, k and v of this type, with head_dim channels in each head."""
    if Fast.plain or not paddle.get_device().startswith('gpu'):
        return False
    return paddle.in_dynamic_mode() and dtype in (paddle.float16, paddle.bfloat16) \
        and works(dtype, head_dim)


@functools.cache
def works(dtype, head_dim):
    """Whether this GPU and this Paddle have it, tried on a small example: Paddle 2.6 raises if not,
    Paddle 3 goes over to a slower form. head_dim must be a multiple of 8, at most 256."""
    if head_dim % 8 or head_dim > 256 or not is_ampere():
        return False
    state = paddle.get_cuda_rng_state()  # a resumed run must draw what an unbroken one does
    try:
        flash_attention(paddle.zeros([1, 8, 3 * head_dim], dtype), 1, 0.0)
    except Exception:  # noqa: BLE001 - Paddle raises many kinds
        return False
    finally:
        paddle.set_cuda_rng_state(state)
    return True


def is_ampere():
    """Whether the GPU is of the Ampere generation or newer."""
    return paddle.device.cuda.get_device_capability() >= (8, 0)


def flash_attention(qkv, num_heads, dropout):
    """softmax(q k^T / sqrt(d)) v for q, k and v side by side: [B, N, 3 * n * d] -> [B, N, n * d]

    dropout: on the attention weights. Paddle 2.6 applies it in evaluation too.
    """
    B, N, channels = qkv.shape
    q, k, v = qkv.reshape([B, N, 3, num_heads, -1]).unbind(2)              # each [B, N, n, d]
    x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    return x.reshape([B, N, channels // 3])
