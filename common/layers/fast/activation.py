"""GELU (by erf), SiLU and softmax, by kernels that take fewer passes over memory than Paddle's."""
import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from common.layers.fast import kernels
from common.layers.fast.base import Fast
from common.layers.fast.dropout import apply_mask
from common.layers.fast.sums import sum_rows


class GELU(Fast, nn.GELU):
    """GELU by erf."""

    def forward(self, x):
        return F.gelu(x) if self.plain else gelu(x)


class Silu(Fast, nn.Silu):
    """x * sigmoid(x)"""

    def forward(self, x):
        fast = not self.plain and kernels.has_kernels(x)
        return SiluFunction.apply(x) if fast else F.silu(x)


def gelu(x):
    """GELU by erf."""
    return GeluFunction.apply(x) if kernels.has_kernels(x) else F.gelu(x)


class GeluFunction(PyLayer):
    """See GELU."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return kernels.gelu(x)

    @staticmethod
    def backward(ctx, gradient):
        x, = ctx.saved_tensor()
        return kernels.gelu_gradient(x, gradient)[1]


class SiluFunction(PyLayer):
    """See Silu."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return kernels.silu(x)

    @staticmethod
    def backward(ctx, gradient):
        x, = ctx.saved_tensor()
        return kernels.silu_gradient(x, gradient)


class MaskedGelu:
    """GELU and then dropout, as the activation before a Linear.

    Args:
        mask: what dropout keeps, bool as x; None for all.
        p: dropout's probability.
    """

    def __init__(self, mask=None, p=0.0):
        self.mask, self.p = mask, p

    def __call__(self, x):
        if kernels.has_kernels(x):
            return kernels.gelu(x, self.mask, self.p)
        return self.plain(x)

    def plain(self, x):
        x = F.gelu(x)
        return x if self.mask is None else apply_mask(x, self.mask, self.p)

    def with_gradient(self, x, gradient):
        """The activated x, and from its gradient that of x."""
        if kernels.has_kernels(x, gradient):
            return kernels.gelu_gradient(x, gradient, self.mask, self.p)
        return gradient_by_autograd(self.plain, x, gradient)


def gradient_by_autograd(function, x, gradient):
    """function(x), and from its gradient that of x."""
    x = x.detach()
    x.stop_gradient = False
    with paddle.enable_grad():
        y = function(x)
    paddle.autograd.backward([y], [gradient])
    return y.detach(), x.grad


def scaled_softmax(scores, scale, bias=None):
    """softmax(scores * scale + bias) over the last axis, by a kernel; for tensors of which
    kernels.has_kernels.

    Args:
        scores: [B, n, N, M].
        scale: number.
        bias: [n, N, M], or [W, n, N, M] where B is a multiple of W; or None.
    """
    return SoftmaxFunction.apply(scores, bias, scale)


class SoftmaxFunction(PyLayer):
    """See scaled_softmax."""

    @staticmethod
    def forward(ctx, scores, bias, scale):
        y = kernels.softmax(scores, scale, bias)
        ctx.save_for_backward(y)
        ctx.scale = scale
        ctx.shape = None if bias is None else bias.shape
        ctx.needs = [not x.stop_gradient for x in (scores, bias) if x is not None]
        return y

    @staticmethod
    def backward(ctx, gradient):
        y, = ctx.saved_tensor()
        if not any(ctx.needs[1:]):
            gradient = kernels.softmax_gradient(y, gradient, ctx.scale)
            return gradient if ctx.shape is None else (gradient, None)
        gradient = kernels.softmax_gradient(y, gradient)
        of_bias = sum_rows(gradient.reshape([-1, math.prod(ctx.shape)])).reshape(ctx.shape)
        return gradient.scale_(ctx.scale) if ctx.needs[0] else None, of_bias
