"""UPerNet (arXiv 1807.10221): a pyramid of pooled maps and a feature pyramid, fused into one map.

Letters: B batch, K classes, C channels of the decoder, h w a map's size; maps are at strides 4, 8,
16 and 32.

Written after MMSegmentation's decode_heads/{uper,psp,fcn}_head.py, which the published tables were
made with; the parameters are as many as there. Different on purpose: an image whose sides 32 does
not divide is filled up with zeros at the bottom and right, and the logits are cut.

PaddleSeg 2.8.0 has a UPerNet too, which differs: it pools into C / 4 channels instead of C, aligns
corners when it resizes (but the logits), has an auxiliary head as wide as its map, and a layer of
9.4 million weights that nothing reads (DataParallel would need find_unused_parameters).
"""
import math

import paddle
import paddle.nn.functional as F
from paddle import nn

POOLED = (1, 2, 3, 6)  # sides of the pooled maps
AUXILIARY_MAP = 2      # which map the auxiliary head reads
COARSEST = 32          # stride of the last map


class ConvNormReLU(nn.Sequential):
    """A convolution without a bias, BatchNorm and ReLU; the map keeps its size."""

    def __init__(self, in_channels, out_channels, kernel_size):
        super().__init__(
            ('conv', nn.Conv2D(in_channels, out_channels, kernel_size, padding=kernel_size // 2,
                               bias_attr=False)),
            ('bn', nn.BatchNorm2D(out_channels)),
            ('activate', nn.ReLU()))


def size_of(x):
    """Height and width of a map [B, C, h, w]; a tensor in a graph."""
    return x.shape[2:] if paddle.in_dynamic_mode() else paddle.shape(x)[2:]


class PyramidPooling(nn.Layer):
    """A map beside what it is when it is pooled to 1, 4, 9 and 36 pixels (PSPNet)."""

    def __init__(self, in_channels, channels, align_corners):
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.LayerList([
            nn.Sequential(nn.AdaptiveAvgPool2D(side), ConvNormReLU(in_channels, channels, 1))
            for side in POOLED])
        self.bottleneck = ConvNormReLU(in_channels + len(POOLED) * channels, channels, 3)

    def forward(self, x):
        pooled = [F.interpolate(branch(x), size_of(x), mode='bilinear',
                                align_corners=self.align_corners) for branch in self.branches]
        return self.bottleneck(paddle.concat([x, *pooled], 1))         # [B, C, h, w]


class Classifier(nn.Layer):
    """Dropout of whole channels and a 1x1 convolution: [B, C, h, w] -> [B, K, h, w]."""

    def __init__(self, channels, num_classes, dropout):
        super().__init__()
        self.dropout = nn.Dropout2D(dropout)
        self.conv = nn.Conv2D(channels, num_classes, 1)

    def forward(self, x):
        return self.conv(self.dropout(x))


class Decoder(nn.Layer):
    """From four maps of a backbone to logits at the size of the first: [B, K, H / 4, W / 4]."""

    def __init__(self, in_channels, channels, num_classes, dropout, align_corners):
        super().__init__()
        self.align_corners = align_corners
        self.pooling = PyramidPooling(in_channels[-1], channels, align_corners)
        self.laterals = nn.LayerList([ConvNormReLU(c, channels, 1) for c in in_channels[:-1]])
        self.outputs = nn.LayerList([ConvNormReLU(channels, channels, 3)
                                     for _ in in_channels[:-1]])
        self.fuse = ConvNormReLU(len(in_channels) * channels, channels, 3)
        self.classifier = Classifier(channels, num_classes, dropout)

    def resize(self, x, like):
        return F.interpolate(x, size_of(like), mode='bilinear', align_corners=self.align_corners)

    def forward(self, maps):
        *finer, coarsest = maps
        # zip without strict, which a graph's zip has not
        levels = [lateral(x) for lateral, x in zip(self.laterals, finer)]  # noqa: B905
        levels.append(self.pooling(coarsest))                          # each [B, C, h, w]
        for level in range(len(levels) - 1, 0, -1):
            levels[level - 1] = levels[level - 1] + self.resize(levels[level], levels[level - 1])
        levels = [*(output(x) for output, x in zip(self.outputs, levels[:-1])),  # noqa: B905
                  levels[-1]]
        levels = [levels[0], *(self.resize(x, levels[0]) for x in levels[1:])]
        return self.classifier(self.fuse(paddle.concat(levels, 1)))


class UPerNetMMSeg(nn.Layer):
    """A backbone, the decoder, and in training an auxiliary head on the map at stride 16.

    Args:
        backbone: Layer of image -> list of four maps, with `channels`, a list of four numbers.
        num_classes: K.
        channels: C; upstream's 512.
        aux_channels: of the auxiliary head, upstream's 256; 0 for none.
        dropout: share of the channels that are left out before each classifier.
        align_corners: what resizing does with the corners; upstream's False, and True for crops of
            769.
        classifier_std: deviation of the classifiers' first weights; see init_heads.

    Attributes:
        num_classes: K.
    """

    def __init__(self, backbone: nn.Layer, num_classes: int, channels: int = 512,
                 aux_channels: int = 256, dropout: float = 0.1, align_corners: bool = False,
                 classifier_std: float = 0.01):
        super().__init__()
        self.num_classes, self.align_corners = num_classes, align_corners
        self.backbone = backbone
        self.decoder = Decoder(backbone.channels, channels, num_classes, dropout, align_corners)
        self.auxiliary = nn.Sequential(
            ConvNormReLU(backbone.channels[AUXILIARY_MAP], aux_channels, 3),
            Classifier(aux_channels, num_classes, dropout)) if aux_channels else None
        init_heads(self, classifier_std)

    def forward(self, image):
        """image [B, 3, H, W] -> list of logits [B, K, H, W]: the decoder's, and while it trains
        the auxiliary head's."""
        H, W = image.shape[2:]
        # Without aligned corners maps lie on each other only where every stride divides the image.
        down, right = (0, 0) if self.align_corners else (-H % COARSEST, -W % COARSEST)
        if down or right:
            image = F.pad(image, [0, right, 0, down])
        maps = self.backbone(image)
        logits = [self.decoder(maps)]
        if self.training and self.auxiliary is not None:
            logits.append(self.auxiliary(maps[AUXILIARY_MAP]))
        logits = [F.interpolate(x, size_of(image), mode='bilinear',
                                align_corners=self.align_corners) for x in logits]
        return [x[:, :, :H, :W] for x in logits] if down or right else logits


def init_heads(model, classifier_std):
    """Draws the weights of all but the backbone.

    | layer                          | weights                             | bias |
    |--------------------------------|-------------------------------------|------|
    | convolution before a BatchNorm | normal, 2 / (outputs * kernel area) | none |
    | classifier                     | normal, deviation classifier_std    | 0    |
    | BatchNorm                      | 1                                   | 0    |

    Upstream's deviation is 0.01. With few channels all weights of a frequent class then grow alike,
    and the pixels of other classes end where no channel is above 0, for good: a tiny decoder needs
    a larger one.
    """
    parts = [model.decoder] + ([model.auxiliary] if model.auxiliary is not None else [])
    for part in parts:
        for layer in part.sublayers():
            if isinstance(layer, nn.Conv2D):
                outputs, _, height, width = layer.weight.shape
                deviation = classifier_std if layer.bias is not None else \
                    math.sqrt(2 / (outputs * height * width))
                nn.initializer.Normal(0.0, deviation)(layer.weight)
                if layer.bias is not None:
                    nn.initializer.Constant(0.0)(layer.bias)

