"""Calls of core/kernels.c and what it includes, on tensors.

What they compute stands there. They are for float32 on a CPU; where `has_kernels` says no (see
core/native.py, and Fast.plain), the caller takes Paddle's operators.
"""
import ctypes

import paddle
from paddle.profiler import RecordEvent

from common.core.native import Kernels
from common.layers.fast.base import Fast, is_fast


def has_kernels(*tensors):
    """Whether there are kernels for these tensors; None counts as one that suits."""
    return (is_fast(Fast) and all(x is None or x.dtype == paddle.float32 for x in tensors)
            and Kernels.library is not None)


def call(name, *arguments):
    """Calls a kernel with tensors, None, and numbers."""  # compat: kernels-by-pieces
    held = [x.contiguous() if isinstance(x, paddle.Tensor) and not x.is_contiguous() else x
            for x in arguments]
    with RecordEvent(f'{name} kernel'):  # only -profile records it
        getattr(Kernels.library, name)(*map(to_c, held))


def to_c(x):
    """What ctypes passes on; a tensor as the address of its numbers."""
    if isinstance(x, paddle.Tensor):
        return ctypes.c_void_p(x.data_ptr())
    if isinstance(x, float):
        return ctypes.c_float(x)
    return ctypes.c_int64(x) if isinstance(x, int) else x


def gelu(x, mask=None, p=0.0):
    """gelu(x), with a mask that of dropout: times mask / (1 - p)."""
    y = paddle.empty_like(x)
    call('gelu', x.size, x, mask, 1 / (1 - p), y)
    return y


def gelu_gradient(x, dy, mask=None, p=0.0):
    """What `gelu` gives, and the gradient of x."""
    y, dx = paddle.empty_like(x), paddle.empty_like(x)
    call('gelu_gradient', x.size, x, mask, 1 / (1 - p), dy, y, dx)
    return y, dx


def silu(x):
    y = paddle.empty_like(x)
    call('silu', x.size, x, y)
    return y


def silu_gradient(x, dy):
    dx = paddle.empty_like(x)
    call('silu_gradient', x.size, x, dy, dx)
    return dx


def keep(x, mask, p):
    """x * mask / (1 - p)"""
    y = paddle.empty_like(x)
    call('keep', x.size, x, mask, 1 / (1 - p), y)
    return y


def draw_mask(shape, limit, share, source):
    """See draw_mask in dropout.py; source: a numpy.random.SFC64."""
    mask = paddle.empty(shape, 'bool')
    state = (ctypes.c_uint64 * 4)(*source.state['state']['state'].tolist())
    call('draw_mask', mask.size, limit, ctypes.c_double(share), state, mask)
    return mask


def layer_norm(x, weight, bias, epsilon):
    """The normalised rows, and for the gradient mean and inverse deviation of each, [rows]."""
    C = x.shape[-1]
    rows = x.size // C
    y, mean, inverse = paddle.empty_like(x), floats(rows), floats(rows)
    call('layer_norm', rows, C, x, weight, bias, float(epsilon), y, mean, inverse)
    return y, mean, inverse


def layer_norm_gradient(x, weight, dy, mean, inverse):
    """The gradients of x, weight and bias."""
    C, threads = x.shape[-1], Kernels.library.thread_count()
    dx, sums = paddle.empty_like(x), paddle.zeros([threads, 2, C], 'float32')
    call('layer_norm_gradient', x.size // C, C, threads, x, weight, dy, mean, inverse, dx, sums)
    return dx, *(sums[0] if threads == 1 else sums.sum(axis=0)).unbind(0)


def softmax(x, scale, bias=None):
    """softmax(x * scale + bias) over the last axis; bias: as x, but for leading axes that it has
    not, and a first one that may be a divisor of x's."""
    y, C = paddle.empty_like(x), x.shape[-1]
    call('softmax', x.size // C, C, x, float(scale), bias, 1 if bias is None else bias.size // C, y)
    return y


def softmax_gradient(y, dy, scale=1.0):
    """The gradient of the softmax's argument, times scale."""
    dx, C = paddle.empty_like(y), y.shape[-1]
    call('softmax_gradient', y.size // C, C, y, dy, float(scale), dx)
    return dx


def attention(qkv, heads, bias, keeps):
    """See attention.py; qkv [B, T, 3 C], heads a Heads, bias [n, M, M] or None.

    keeps: whether the weights are for a gradient.

    Returns:
        [B, T, C] and the weights [B, G, n, M, M], or None.
    """
    B, T, C, G, M = *heads.sizes(qkv), *heads.windows(qkv)
    y, threads = floats(B, T, C), Kernels.library.thread_count()
    weights = floats(B, G, heads.n, M, M) if keeps else None
    scratch = floats(threads, size_of('attention_scratch', M, C // heads.n))
    call('attention', B, T, G, M, heads.n, C // heads.n, threads, heads.order, qkv, heads.scale,
         bias, heads.regions, heads.mask, 1 / (1 - heads.p), weights, y, scratch)
    return y, weights


def attention_gradient(qkv, heads, weights, dy, of_bias):
    """The gradients of qkv, and with `of_bias` of the bias, else None."""
    B, T, C, G, M = *heads.sizes(qkv), *heads.windows(qkv)
    dqkv, threads = paddle.empty_like(qkv), Kernels.library.thread_count()
    scratch = floats(threads, size_of('attention_scratch', M, C // heads.n))
    sums = paddle.zeros([threads, heads.n, M, M], 'float32') if of_bias else None
    call('attention_gradient', B, T, G, M, heads.n, C // heads.n, threads, heads.order, qkv,
         heads.scale, heads.mask, 1 / (1 - heads.p), weights, dy, dqkv, sums, scratch)
    if of_bias:
        sums = sums[0] if threads == 1 else sums.sum(axis=0)
    return dqkv, sums


def convolution(x, weight, bias, groups, turned=False):
    """A convolution of 3 x 3, of stride 1, with zeros around the map; bias: or None. Turned, from
    its result's gradient x that of its input, without bias."""
    B, C, H, W = x.shape
    C, D = C // groups, weight.shape[1] if turned else weight.shape[0] // groups
    y, threads = floats(B, groups * D, H, W), Kernels.library.thread_count()
    scratch = floats(size_of('convolution_scratch', threads, groups, C, D, H, W))
    call('convolution', threads, B, groups, C, D, H, W, int(turned), x, weight, bias, scratch, y)
    return y


def convolution_gradient(x, weight, dy, groups):
    """The gradients of the weight and of the bias."""
    B, C, H, W = x.shape
    C, D = C // groups, weight.shape[0] // groups
    dw, db = paddle.empty_like(weight), floats(len(weight))
    threads = min(Kernels.library.thread_count(), groups)
    scratch = floats(threads, size_of('convolution_gradient_scratch', B, C, D, H, W))
    call('convolution_gradient', threads, B, groups, C, D, H, W, x, dy, scratch, dw, db)
    return dw, db


def depthwise(x, h, w, weight, bias, turned=False):
    """x plus a convolution of each of its channels, [B, h * w, C], with zeros around the map.
    Turned, from its result's gradient x that of its input, without bias."""
    (B, _, C), k, y = x.shape, weight.shape[-1], paddle.empty_like(x)
    threads = Kernels.library.thread_count()
    scratch = floats(threads, size_of('depthwise_scratch', h, w, C, k))
    call('depthwise', threads, B, h, w, C, k, int(turned), x, weight, bias, scratch, y)
    return y


def depthwise_gradient(x, h, w, weight, dy):
    """The gradients of the weight and of the bias."""
    (B, _, C), k, dw = x.shape, weight.shape[-1], paddle.empty_like(weight)
    db, threads = floats(C), Kernels.library.thread_count()
    scratch = floats(threads, size_of('depthwise_scratch', h, w, C, k))
    call('depthwise_gradient', threads, B, h, w, C, k, x, dy, scratch, dw, db)
    return dw, db


def floats(*shape):
    """Memory for a kernel; its numbers are float32, whatever Paddle's default is."""
    return paddle.empty(shape, 'float32')


def size_of(name, *arguments):
    """How many numbers a kernel needs to work in."""
    return getattr(Kernels.library, name)(*map(to_c, arguments))


def adamw(weight, gradient, moments, powers, rate, betas, epsilon, decay):
    """A step of AdamW, in place; see optimiser.c. rate and powers are tensors of one number."""
    call('adamw', weight.size, weight, gradient, *moments, *powers, rate, *map(float, betas),
         float(epsilon), float(decay))
