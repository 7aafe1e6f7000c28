"""A linear layer with a fast sum of its bias and of the bias's gradient."""
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from common.layers.fast.activation import MaskedGelu, gelu
from common.layers.fast.base import Fast, is_fast
from common.layers.fast.sums import sum_rows


class Linear(Fast, nn.Linear):
    """x W + b over the last axis.

    Forward, the bias goes into the product (addmm). Backward, Paddle sums the bias's gradient over
    the rows forty times as slowly as a product with ones does.
    """

    def forward(self, x, activation=None):
        """[..., C] -> [..., D]

        activation: a MaskedGelu, applied to x first, or None. In training on a CPU what it gives is
            not kept, but computed again in the backward pass.
        """
        fast = self.bias is not None and is_fast(self)
        if fast and paddle.is_grad_enabled():
            return LinearFunction.apply(x, self.weight, self.bias, activation)
        if activation is not None:
            x = activation.plain(x) if paddle.is_grad_enabled() else activation(x)
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
        rows = gradient.reshape([-1, gradient.shape[-1]])                  # [M, D]
        of_x = of_weight = of_bias = None
        if ctx.needs[0]:
            of_x = paddle.matmul(rows, weight, transpose_y=True).reshape(x.shape)
        if ctx.activation is not None:
            if ctx.needs[0]:
                x, of_x = ctx.activation.with_gradient(x, of_x)
            else:
                x = ctx.activation(x)
        if ctx.needs[1]:
            inputs = x.reshape([-1, x.shape[-1]])                          # [M, C]
            of_weight = paddle.matmul(inputs, rows, transpose_x=True)
        if ctx.needs[2]:
            of_bias = sum_rows(rows)
        return of_x, of_weight, of_bias


def gelu_linear(x, linear, dropout):
    """linear(dropout(gelu(x))), with GELU by erf.

    In training on a CPU neither gelu(x) nor what dropout makes of it is kept, but computed again
    in the backward pass.

    Args:
        x: [..., C].
        linear: a layer [..., C] -> [..., D].
        dropout: a Dropout.
    """
    if isinstance(linear, Linear):
        if dropout.is_idle():
            return linear(x, MaskedGelu())
        mask = dropout.draw_mask(x)
        if mask is not None:
            return linear(x, MaskedGelu(mask, dropout.p))
    return linear(dropout(gelu(x)))
