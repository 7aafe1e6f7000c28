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
    # compat: flash-trial
    if head_dim % 8 or head_dim > 256 or not is_ampere():
        return False
    state = paddle.get_cuda_rng_state()  # a resumed run must draw what an unbroken one does
    try:
        q = paddle.zeros([1, 1, 8, head_dim], dtype)
        flash_attention(q, q, q, head_dim ** -0.5, 0.0)
    except Exception:  # noqa: BLE001 - Paddle raises many kinds
        return False
    finally:
        paddle.set_cuda_rng_state(state)
    return True


def is_ampere():
    """Whether the GPU is of the Ampere generation or newer."""
    return paddle.device.cuda.get_device_capability() >= (8, 0)


def flash_attention(q, k, v, scale, dropout):
    """softmax(q k^T * scale) v for q, k, v [B, n, N, d] -> [B, n, N, d]

    dropout: the probability for the attention weights. Paddle 2.6 applies it in evaluation too.
    """
    d = q.shape[-1]
    if scale != d ** -0.5:  # Paddle's own, which it cannot be told
        q = q * (scale * d ** 0.5)
    q, k, v = (x.transpose([0, 2, 1, 3]) for x in (q, k, v))               # each [B, N, n, d]
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose([0, 2, 1, 3])
