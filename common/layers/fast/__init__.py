"""Layers that run other operations on a CPU than Paddle's plain ones, since those are faster.

Each is equal to Paddle's layer of its name but for rounding, has its parameters, and is that layer
in graphs (which have passes of their own for them), on GPUs, and where `plain` is set: on a layer,
or on Fast for all. The figures are in README.md of this folder.

Letters: B batch, C channels, H W map, M rows: all places of all axes but the last.
"""
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer


class Fast:
    """Base of the layers with a form for CPUs.

    Attributes:
        plain: whether to run Paddle's plain operations all the same.
    """

    plain = False


def is_fast(layer):
    """Whether a layer is to run its form for CPUs."""
    if layer.plain or not paddle.in_dynamic_mode():
        return False
    return paddle.get_device() == 'cpu'


class Linear(Fast, nn.Linear):
    """x W + b over the last axis.

    Forward, the bias goes into the product (addmm). Backward, Paddle sums the bias's gradient over
    the rows forty times as slowly as a product with ones does.
    """

    def forward(self, x, activation=None):
        """[..., C] -> [..., D]

        activation: applied to x first. In training on a CPU it is not kept, but computed again in
            the backward pass.
        """
        fast = self.bias is not None and is_fast(self)
        if fast and paddle.is_grad_enabled():
            return LinearFunction.apply(x, self.weight, self.bias, activation)
        if activation is not None:
            x = activation(x)
        return (add_product if fast else F.linear)(x, self.weight, self.bias)


def add_product(x, weight, bias):
    """[..., C], [C, D], [D] -> [..., D]"""
    C, D = weight.shape
    rows = paddle.addmm(bias.unsqueeze(0), x.reshape([-1, C]), weight)     # [M, D]
    return rows.reshape([*x.shape[:-1], D])


class LinearFunction(PyLayer):
    """See Linear."""

    @staticmethod
    def forward(ctx, x, weight, bias, activation):
        ctx.save_for_backward(x, weight)
        ctx.needs = [not tensor.stop_gradient for tensor in (x, weight, bias)]
        ctx.activation = activation
        return add_product(x if activation is None else activation(x), weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        activated = x
        if ctx.activation is not None:
            x = x.detach()
            x.stop_gradient = False
            with paddle.enable_grad():
                activated = ctx.activation(x)
        rows = gradient.reshape([-1, gradient.shape[-1]])                  # [M, D]
        of_x = of_weight = of_bias = None
        if ctx.needs[0]:
            of_x = paddle.matmul(rows, weight, transpose_y=True).reshape(x.shape)
            if ctx.activation is not None:
                paddle.autograd.backward([activated], [of_x])
                of_x = x.grad
        if ctx.needs[1]:
            inputs = activated.detach().reshape([-1, x.shape[-1]])         # [M, C]
            of_weight = paddle.matmul(inputs, rows, transpose_x=True)
        if ctx.needs[2]:
            of_bias = sum_rows(rows)
        return of_x, of_weight, of_bias


def sum_rows(x):
    """[M, C] -> [C], by a product with ones."""
    return paddle.matmul(paddle.ones([1, x.shape[0]], x.dtype), x).reshape([-1])


class Conv2D(Fast, nn.Conv2D):
    """A convolution, whose bias is added by the operator of BatchNorm.

    Paddle's sum with [1, C, 1, 1] takes fifteen to sixty times as long, and its gradient ten times.
    """

    def forward(self, x):
        fast = self.bias is not None and is_fast(self)
        x = F.conv2d(x, self.weight, None if fast else self.bias, self._stride, self._padding,
                     self._dilation, self._groups)
        return AddToChannels.apply(x, self.bias) if fast else x


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


def scale_channels(x, mean=None, scale=None, shift=None):
    """(x - mean) * scale + shift for x [B, C, ...] and [C], by the operator of BatchNorm: Paddle
    has no fast product or sum over an axis that is not the last. Without gradients."""
    ones, zeros = (paddle.full([x.shape[1]], value, x.dtype) for value in (1.0, 0.0))
    epsilon = 1e-9  # Paddle's smallest; the variance and it are 1 together
    return F.batch_norm(x, zeros if mean is None else mean, ones - epsilon,
                        ones if scale is None else scale, zeros if shift is None else shift,
                        epsilon=epsilon)


class LayerNorm(Fast, nn.LayerNorm):
    """Normalisation over the last axis, whose gradient is written out, with products for its sums.

    Paddle's own gradient takes twice as long.
    """

    def forward(self, x):
        if paddle.is_grad_enabled() and is_fast(self) and x.dtype == self.weight.dtype:
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
            share = scale * scale * scale * paddle.matmul(product, average)
            of_x = (of_x - scale_rows(centred, scale=share)).reshape(shape)
        if ctx.needs[1]:
            of_weight = paddle.matmul(scale, product, transpose_x=True).reshape([C])
        if ctx.needs[2]:
            of_bias = sum_rows(gradient)
        return of_x, of_weight, of_bias


def scale_rows(x, mean=None, scale=None):
    """(x - mean) * scale for x [M, C] and [M, 1]; see scale_channels."""
    mean, scale = (value if value is None else value.reshape([-1]) for value in (mean, scale))
    return scale_channels(x.unsqueeze(0), mean, scale).squeeze(0)


def mean_rows(x):
    """[B, M, C] -> [B, C], by a product; Paddle's mean takes ten times as long."""
    if not is_fast(Fast):
        return x.mean(axis=1)
    average = paddle.full([1, x.shape[1]], 1 / x.shape[1], x.dtype)
    return paddle.matmul(average, x).squeeze(1)
