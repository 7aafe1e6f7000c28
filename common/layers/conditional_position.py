"""Conditional position embedding: tokens plus a large depthwise convolution of their map."""
from paddle import nn
from paddle.autograd import PyLayer

from common.layers.basic import to_map, to_tokens
from common.layers.fast import Fast, is_fast, kernels
from common.layers.fast.tiles import add_depthwise_convolution


class ConditionalPosition(Fast, nn.Conv2D):
    """x plus a k x k convolution of each of its channels, k odd (arXiv 2102.10882).

    Args:
        channels: C.
        kernel: k.
    """

    def __init__(self, channels: int, kernel: int):
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x, h, w):
        """[B, h * w, C] -> [B, h * w, C]"""
        if not self.plain and kernels.has_kernels(x, self.weight):
            return DepthwiseConvolution.apply(x, self.weight, self.bias, h, w)
        if is_fast(self):
            return add_depthwise_convolution(x, h, w, self.weight, self.bias)
        return x + to_tokens(nn.Conv2D.forward(self, to_map(x, h, w)))     # compat: super


class DepthwiseConvolution(PyLayer):
    """x plus the convolution, by a kernel; see ConditionalPosition."""

    @staticmethod
    def forward(ctx, x, weight, bias, h, w):
        ctx.save_for_backward(x, weight)
        ctx.needs = [not tensor.stop_gradient for tensor in (x, weight, bias)]
        ctx.size = h, w
        return kernels.depthwise(x, h, w, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        of_x = of_weight = of_bias = None
        if ctx.needs[0]:
            of_x = kernels.depthwise(gradient, *ctx.size, weight, None, turned=True)
        if any(ctx.needs[1:]):
            of_weight, of_bias = kernels.depthwise_gradient(x, *ctx.size, weight, gradient)
        return tuple(value if needed else None for value, needed in zip(
            (of_x, of_weight, of_bias), ctx.needs, strict=True))
