"""A convolution with a fast sum of its bias, by a kernel where it is in groups."""
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from common.layers.fast import kernels
from common.layers.fast.base import Fast, is_fast
from common.layers.fast.sums import scale_channels, sum_rows

LEAST = 4  # channels of a group: the kernel computes so many of the result together


class Conv2D(Fast, nn.Conv2D):
    """A convolution, whose bias is added by the operator of BatchNorm.

    Paddle's sum with [1, C, 1, 1] takes fifteen to sixty times as long, and its gradient ten times.
    One of 3 x 3 in groups, of stride 1, is a kernel.
    """

    def forward(self, x):
        if self.has_kernel(x):
            return GroupedConvolution.apply(x, self.weight, self.bias, self._groups)
        fast = self.bias is not None and is_fast(self)
        x = F.conv2d(x, self.weight, None if fast else self.bias, self._stride, self._padding,
                     self._dilation, self._groups)
        return AddToChannels.apply(x, self.bias) if fast else x

    def has_kernel(self, x):
        """Whether it is one for which there is a kernel, which is faster than Paddle's."""
        if self.plain or self._groups == 1 or not kernels.has_kernels(x, self.weight, self.bias):
            return False
        width = min(self._in_channels, self._out_channels) // self._groups
        return (width >= LEAST and self._kernel_size == [3, 3] and self._padding in (1, [1, 1])
                and self._stride == self._dilation == [1, 1])


class GroupedConvolution(PyLayer):
    """See Conv2D."""

    @staticmethod
    def forward(ctx, x, weight, bias, groups):
        ctx.save_for_backward(x, weight)
        ctx.needs = [not tensor.stop_gradient for tensor in (x, weight, bias) if tensor is not None]
        ctx.groups = groups
        return kernels.convolution(x, weight, bias, groups)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        of_x = kernels.convolution(gradient, weight, None, ctx.groups, turned=True) \
            if ctx.needs[0] else None
        of_weight = of_bias = None
        if any(ctx.needs[1:]):
            of_weight, of_bias = kernels.convolution_gradient(x, weight, gradient, ctx.groups)
        found = (of_x, of_weight, of_bias)[:len(ctx.needs)]
        return tuple(value if needed else None
                     for value, needed in zip(found, ctx.needs, strict=True))


class AddToChannels(PyLayer):
    """[B, C, H, W] + [C]; see Conv2D."""

    @staticmethod
    def forward(ctx, x, bias):
        ctx.needs = [not tensor.stop_gradient for tensor in (x, bias)]
        return scale_channels(x, shift=bias)

    @staticmethod
    def backward(ctx, gradient):
        of_bias = None
        if ctx.needs[1]:  # two products with ones, for the same reason as in LinearFunction
            B, C, H, W = gradient.shape
            sums = sum_rows(gradient.reshape([B, -1]))                     # [C * H * W]
            of_bias = paddle.matmul(sums.reshape([C, H * W]),
                                    paddle.ones([H * W, 1], gradient.dtype)).reshape([C])
        return gradient if ctx.needs[0] else None, of_bias
