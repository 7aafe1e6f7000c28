"""Runs a model on a CPU as it would run on a GPU: the same operators, and types of the same shares.

A CPU computes neither in float16 nor in bfloat16, and AMP does nothing there. So float64 stands for
float32 and float32 for the half type, and the operators cast their inputs as AMP at O1 does, by
Paddle's lists. Bytes that are counted are twice those of the GPU. The numbers do not matter.
"""
import contextlib
from unittest import mock

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from common.layers import attention

WIDE, HALF = 'float64', 'float32'
# What AMP computes in the half type, and in float32; of all others the widest input decides.
IN_HALF = ((paddle, 'matmul'), (paddle, 'einsum'), (F, 'linear'), (F, 'conv2d'))
IN_WIDE = ((F, 'softmax'), (F, 'log_softmax'), (F, 'layer_norm'), (paddle, 'exp'))
OPERATORS = ('__add__', '__sub__', '__mul__', '__truediv__')  # of the others
MOST_FLASH_CHANNELS = 256  # of a head, a multiple of 8


@contextlib.contextmanager
def as_on_gpu(half: bool = False):
    """A block in which models run the forms for GPUs.

    Args:
        half: whether in mixed precision, with float64 and float32 in place of float32 and the half
            type; models must be built within the block.
    """
    with contextlib.ExitStack() as stack:
        def replace(owner, name, value):
            stack.enter_context(mock.patch.object(owner, name, value))

        replace(paddle, 'get_device', lambda: 'gpu:0')
        if half:
            stack.callback(paddle.set_default_dtype, paddle.get_default_dtype())
            paddle.set_default_dtype(WIDE)
            for names, dtype in ((IN_HALF, HALF), (IN_WIDE, WIDE)):
                for owner, name in names:
                    replace(owner, name, casting(getattr(owner, name), dtype))
            replace(paddle, 'concat', widest(paddle.concat))
            for name in OPERATORS:
                replace(paddle.Tensor, name, widest_pair(getattr(paddle.Tensor, name)))
            replace(paddle.Tensor, 'astype', float32_is_wide(paddle.Tensor.astype))
            replace(nn.Conv2D, 'forward', convolution)
            replace(nn.BatchNorm2D, 'forward', batch_norm)
            replace(nn.GroupNorm, 'forward', casting_input(nn.GroupNorm.forward))
        replace(attention, 'has_flash_attention', has_flash_attention if half else no_flash)
        replace(attention, 'flash_attention', lambda q, k, v, *_: Flash.apply(q, k, v))
        yield


def is_float(value):
    return isinstance(value, paddle.Tensor) and value.is_floating_point()


def cast(value, dtype):
    """A tensor of floats in another type, with an operator only where that differs."""
    return paddle.cast(value, dtype) if is_float(value) \
        and not str(value.dtype).endswith(dtype) else value


def casting(function, dtype):
    """A function whose tensors of floats are cast before."""
    def run(*arguments, **options):
        return function(*(cast(value, dtype) for value in arguments),
                        **{name: cast(value, dtype) for name, value in options.items()})
    return run


def casting_input(forward):
    return lambda layer, x: forward(layer, cast(x, WIDE))


def widest(function):
    """paddle.concat of tensors of different types."""
    def run(tensors, *arguments, **options):
        if len({str(one.dtype) for one in tensors}) > 1:
            tensors = [cast(one, WIDE) for one in tensors]
        return function(tensors, *arguments, **options)
    return run


def widest_pair(operator):
    """A sum or its like of two tensors, which may be of different types."""
    def run(x, y):
        if is_float(x) and is_float(y) and x.dtype != y.dtype:
            x, y = cast(x, WIDE), cast(y, WIDE)
        return operator(x, y)
    return run


def float32_is_wide(astype):
    """Tensor.astype, by which models ask for float32 by its name."""
    return lambda tensor, dtype: astype(tensor, WIDE if dtype == 'float32' and
                                        isinstance(dtype, str) else dtype)


def convolution(layer, x):
    return F.conv2d(x, layer.weight, layer.bias, layer._stride, layer._padding, layer._dilation,
                    layer._groups)


def batch_norm(layer, x):
    """BatchNorm2D, whose operator takes a half input beside float32 parameters."""
    mean, variance, weight, bias = (cast(one, str(x.dtype).rpartition('.')[2]) for one in (
        layer._mean, layer._variance, layer.weight, layer.bias))
    return F.batch_norm(x, mean.detach(), variance.detach(), weight, bias, layer.training)


def has_flash_attention(dtype, head_dim):
    return dtype == paddle.float32 and head_dim % 8 == 0 and head_dim <= MOST_FLASH_CHANNELS


def no_flash(dtype, head_dim):
    return False


class Flash(PyLayer):
    """What FlashAttention keeps: q, k, v and the result [B, n, N, d], and a number for each row."""

    @staticmethod
    def forward(ctx, q, k, v):
        result = v * 1.0
        sums = paddle.zeros(q.shape[:-1], WIDE)                            # [B, n, N]
        ctx.save_for_backward(q, k, v, result, sums)
        return result

    @staticmethod
    def backward(ctx, gradient):
        q, k, v, *_ = ctx.saved_tensor()
        return q * 1.0, k * 1.0, v * 1.0
