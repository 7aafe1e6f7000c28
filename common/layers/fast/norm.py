"""Layer normalisation with a fast gradient."""
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from common.layers.fast import kernels
from common.layers.fast.base import Fast, is_fast
from common.layers.fast.sums import scale_rows, sum_rows


class LayerNorm(Fast, nn.LayerNorm):
    """Normalisation over the last axis, whose gradient is written out, with products for its sums.

    Paddle's own gradient takes twice as long.
    """

    def forward(self, x):
        if is_fast(self) and x.dtype == self.weight.dtype:
            if kernels.has_kernels(x):  # without gradients, too: recomputed blocks give these bits
                return KernelFunction.apply(x, self.weight, self.bias, self._epsilon)
            if paddle.is_grad_enabled():
                return LayerNormFunction.apply(x, self.weight, self.bias, self._epsilon)
        return F.layer_norm(x, self._normalized_shape, self.weight, self.bias, self._epsilon)


class LayerNormFunction(PyLayer):
    """See LayerNorm."""

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        ctx.save_for_backward(x, weight)
        ctx.epsilon = float(np.float32(epsilon))  # what Paddle's operator takes
        ctx.needs = [not tensor.stop_gradient for tensor in (x, weight, bias)]
        return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)

    @staticmethod
    def backward(ctx, gradient):
        """With c = x - mean, s = (mean of c c + epsilon)^-1/2 and the gradient g, for each row:
        s (g w - mean of g w) - c s^3 (mean of g w c); of the weight: the sum of g c s."""
        x, weight = ctx.saved_tensor()
        shape, C = x.shape, x.shape[-1]
        x, gradient = x.reshape([-1, C]), gradient.reshape([-1, C])        # [M, C]
        average = paddle.full([C, 1], 1 / C, x.dtype)
        centred = scale_rows(x, paddle.matmul(x, average))
        scale = paddle.rsqrt(paddle.matmul(centred * centred, average) + ctx.epsilon)  # [M, 1]
        product = gradient * centred
        of_x = of_weight = of_bias = None
        if ctx.needs[0]:
            average = average * weight.unsqueeze(1)
            of_x = scale_rows(gradient * weight, paddle.matmul(gradient, average), scale)
            slope = scale * scale * scale * paddle.matmul(product, average)
            of_x = (of_x - scale_rows(centred, scale=slope)).reshape(shape)
        if ctx.needs[1]:
            of_weight = paddle.matmul(scale, product, transpose_x=True).reshape([C])
        if ctx.needs[2]:
            of_bias = sum_rows(gradient)
        return of_x, of_weight, of_bias


class KernelFunction(PyLayer):
    """See LayerNorm; by the kernels."""

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        ctx.needs = [not tensor.stop_gradient for tensor in (x, weight, bias)]
        y, mean, inverse = kernels.layer_norm(x, weight, bias, epsilon)
        ctx.save_for_backward(x, weight, mean, inverse)
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, inverse = ctx.saved_tensor()
        found = kernels.layer_norm_gradient(x, weight, gradient, mean, inverse)
        return tuple(value if needed else None
                     for value, needed in zip(found, ctx.needs, strict=True))
