"""Counts parameters and MACs (multiply-adds) of a model, without its weights.

Counted: linear layers, convolutions and the matrix products of attention, for one image. Not
counted: norms, activations, softmax, biases, pooling, interpolation. One MAC is two FLOPs.
"""
import contextlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import paddle
from paddle import nn

from common.layers.fast import Fast


def count_parameters(model: nn.Layer) -> int:
    """Counts the numbers in all parameters, frozen ones too.

    The running statistics of BatchNorm, which are parameters for Paddle, are not counted.

    Args:
        model: any Layer; its parameters need not be allocated (paddle.LazyGuard).

    Returns:
        The number of parameters, in ones.

    Source: the usual sum over `parameters()`, as in PyTorch.

    Examples:
        >>> import paddle
        >>> from common.layers.macs import count_parameters
        >>> count_parameters(paddle.nn.Linear(3, 2))
        8
    """
    return sum(math.prod(parameter.shape) for name, parameter in model.named_parameters()
               if not name.endswith(('._mean', '._variance')))


def count_macs(build: Callable[[], nn.Layer], image_size: int | Sequence[int]) -> int:
    """Counts the multiply-adds of a model for one image; what is counted stands above.

    Args:
        build: function without arguments that makes the model. It is called under LazyGuard, so
            that the large matrices need no memory.
        image_size: pixels, a number or [height, width].

    Returns:
        The number of MACs, in ones; one MAC is two FLOPs.

    Source: the rules of fvcore's FlopCountAnalysis, less all that is no product of matrices.

    Examples:
        >>> from common.layers.macs import count_macs
        >>> from common.zoo import create_model
        >>> count_macs(lambda: create_model('vit_digits'), 32)
        5531328
    """
    with paddle.LazyGuard():
        model = build()
    model.eval()
    linear = {id(layer.weight) for layer in model.sublayers() if isinstance(layer, nn.Linear)}
    for parameter in model.parameters():
        if id(parameter) not in linear:
            parameter.initialize()
    height, width = np.broadcast_to(image_size, 2)
    with Counter(model) as counter, paddle.no_grad():
        model(paddle.zeros([1, 3, int(height), int(width)]))
    return counter.total


class Counter(contextlib.ExitStack):
    """Counts while a model runs; its linear layers give zeros of the right shape instead."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.total = 0

    def __enter__(self):
        super().__enter__()
        for layer in self.model.sublayers():
            if isinstance(layer, nn.Linear):
                self.replace(layer, 'forward', self.linear(layer))
            elif isinstance(layer, nn.Conv2D):
                hook = layer.register_forward_post_hook(self.convolution)
                self.callback(hook.remove)
        self.replace(paddle, 'matmul', self.matmul(paddle.matmul))
        self.replace(Fast, 'plain', True)  # no products in the place of other operations
        return self

    def replace(self, owner, name, function):
        before = vars(owner).get(name)
        setattr(owner, name, function)
        self.callback(delattr, owner, name) if before is None else \
            self.callback(setattr, owner, name, before)

    def linear(self, layer):
        def forward(x, activation=None):
            self.total += math.prod(x.shape) * layer.weight.shape[1]
            return paddle.zeros([*x.shape[:-1], layer.weight.shape[1]], x.dtype)
        return forward

    def convolution(self, layer, inputs, output):
        # [out, in / groups, kh, kw] once for each place of the result
        places = math.prod(output.shape) // layer.weight.shape[0]
        self.total += places * math.prod(layer.weight.shape)

    def matmul(self, product):
        def forward(x, y, transpose_x=False, transpose_y=False, name=None):
            result = product(x, y, transpose_x, transpose_y)
            self.total += math.prod(result.shape) * x.shape[-2 if transpose_x else -1]
            return result
        return forward
