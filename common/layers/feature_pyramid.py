"""The simple feature pyramid of plain transformers: four maps out of the last one.

Source: ViTDet, "Exploring Plain Vision Transformer Backbones for Object Detection" (arXiv
2203.16527), section 3 and appendix A.2. Layers without a bias where a norm follows, norms with
epsilon 1e-6 and all layers but the norms started as PyTorch starts them, as in its authors' code.

Letters: B batch, C channels, h w map in tokens.
"""
import paddle.nn.functional as F
from paddle import nn

from common.layers.fast import Conv2D, LayerNorm
from common.layers.init import torch_conv_

STRIDE = 16             # of the map that the pyramid is made of
STRIDES = (4, 8, 16, 32)
CHANNELS = 256


class MapNorm(LayerNorm):
    """LayerNorm over the channels of a map [B, C, h, w]."""

    def forward(self, x):
        x = LayerNorm.forward(self, x.transpose([0, 2, 3, 1]))             # compat: super
        return x.transpose([0, 3, 1, 2])


class HalvingPool(nn.Layer):
    """[B, C, h, w] -> [B, C, h / 2, w / 2], the largest of 2 x 2; odd sides are rounded up."""

    def forward(self, x):
        return F.max_pool2d(x, 2, 2, ceil_mode=True)


class SimpleFeaturePyramid(nn.Layer):
    """Maps at strides 4, 8, 16 and 32 out of one at stride 16.

    Two, one or no deconvolutions with stride 2, or a pooling; then a 1x1 and a 3x3 convolution to
    256 channels, each with a LayerNorm.

    Args:
        channels: of the map that it gets, C; a multiple of 4.
        out_indices: which of the four maps it gives; the layers of the others are not made.
    """

    def __init__(self, channels, out_indices=(0, 1, 2, 3)):
        super().__init__()
        self.out_indices = tuple(out_indices)
        for index in self.out_indices:
            setattr(self, f'level{index}', make_level(channels, index))
        for layer in self.sublayers():
            if isinstance(layer, (nn.Conv2D, nn.Conv2DTranspose)):
                torch_conv_(layer)

    def forward(self, x):
        """[B, C, h, w] -> list of [B, 256, h', w'], in the order of out_indices; h' is 4 h, 2 h, h
        or h / 2."""
        return [getattr(self, f'level{index}')(x) for index in self.out_indices]


def make_level(channels, index):
    """The layers that make the map of STRIDES[index]."""
    half, quarter = channels // 2, channels // 4
    resize, width = (
        ([nn.Conv2DTranspose(channels, half, 2, 2), MapNorm(half, epsilon=1e-6), nn.GELU(),
          nn.Conv2DTranspose(half, quarter, 2, 2)], quarter),              # [B, C / 4, 4 h, 4 w]
        ([nn.Conv2DTranspose(channels, half, 2, 2)], half),                # [B, C / 2, 2 h, 2 w]
        ([], channels),                                                    # [B, C, h, w]
        ([HalvingPool()], channels),                                       # [B, C, h / 2, w / 2]
    )[index]
    return nn.Sequential(
        *resize,
        Conv2D(width, CHANNELS, 1, bias_attr=False), MapNorm(CHANNELS, epsilon=1e-6),
        Conv2D(CHANNELS, CHANNELS, 3, padding=1, bias_attr=False), MapNorm(CHANNELS, epsilon=1e-6))
