"""Conditional position embedding: tokens plus a large depthwise convolution of their map."""
from paddle import nn

from common.layers.basic import to_map, to_tokens
from common.layers.fast import Fast, is_fast
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
        if is_fast(self):
            return add_depthwise_convolution(x, h, w, self.weight, self.bias)
        return x + to_tokens(nn.Conv2D.forward(self, to_map(x, h, w)))     # compat: super
