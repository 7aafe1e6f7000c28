"""Layers that run other operations on a CPU than Paddle's plain ones, since those are faster.

Each is equal to Paddle's layer of its name but for rounding, has its parameters, and is that layer
in graphs (which have passes of their own for them), on GPUs, and where `plain` is set: on a layer,
or on Fast for all. Dropout alone draws other masks from the same seed. The figures are in
common/README.md.

Letters: B batch, C channels, H W map, M rows: all indices of all axes but the last.
"""
from common.layers.fast.activation import GELU, Silu
from common.layers.fast.base import Fast, is_fast
from common.layers.fast.conv import Conv2D
from common.layers.fast.linear import Linear, gelu_linear
from common.layers.fast.norm import LayerNorm
from common.layers.fast.sums import mean_rows

__all__ = ['Conv2D', 'Fast', 'GELU', 'LayerNorm', 'Linear', 'Silu', 'gelu_linear', 'is_fast',
           'mean_rows']
