"""Vision Transformer (ViT) and its ResNet hybrid, for image classification.

Sources: "An Image is Worth 16x16 Words" (arXiv 2010.11929); the parameter names are those of
PaddleViT's image_classification/ViT/vit.py, so that its released .pdparams load unchanged.
Deliberate differences from PaddleViT are listed in vit/README.md. The hybrid's numbers follow
timm's vit_base_r50_s16 (weight standardisation with 1e-8 under the root, GroupNorm eps 1e-5).

Letters: B batch, N tokens (class token first), C channels, H W image in pixels,
h w grid of patches, n heads, d = C / n.

The parts come first: what a block is built from (BlockSpec), Attention, Mlp, their block
(TransformerLayer), the stack of blocks (Encoder), PatchEmbedding; then VisionTransformer, the
hybrid's ResNet, and `init_weights` with all initial values. vit_names.py has the names of other
codes.
"""
import dataclasses

import paddle
import paddle.nn.functional as F
from paddle import nn

from common.config import model_arguments
from common.core.errors import InputError
from common.core.sizes import to_pair
from common.layers.attention import attend_qkv
from common.layers.basic import Dropout, DropPath, drop_path_rates, to_tokens
from common.layers.classifier import ImageClassifier
from common.layers.fast import Conv2D, LayerNorm, Linear, gelu_linear
from common.layers.init import init_linear, kaiming_normal_, lecun_normal_, normal_, ones_, zeros_
from common.layers.position import with_class_token

NORM_EPS = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """What every block is built from; arguments of VisionTransformer.

    Args:
        embed_dim: channels C.
        num_heads: n.
        attn_head_size: channels of a head d; None is C / n.
        mlp_ratio: hidden width of the MLP over C.
        qkv_bias: whether q, k and v have a bias.
        dropout: after every dense layer but q, k and v, in [0, 1).
        attention_dropout: on the attention weights, in [0, 1).
    """
    embed_dim: int = 768
    num_heads: int = 12
    attn_head_size: int | None = None
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0


class Attention(nn.Layer):
    """Multi-head self-attention: softmax(q k^T / sqrt(d)) v in each head, then a projection."""

    def __init__(self, spec):
        super().__init__()
        if spec.attn_head_size is None and spec.embed_dim % spec.num_heads:
            raise InputError(f'MODEL.NUM_HEADS: got {spec.num_heads}, expected a divisor of the '
                             f'{spec.embed_dim} channels')
        self.num_heads = spec.num_heads
        self.head_size = spec.attn_head_size or spec.embed_dim // spec.num_heads
        self.scale = self.head_size ** -0.5
        inner = self.num_heads * self.head_size
        self.qkv = Linear(spec.embed_dim, 3 * inner, bias_attr=None if spec.qkv_bias else False)
        self.out = Linear(inner, spec.embed_dim)
        self.attn_dropout = Dropout(spec.attention_dropout)
        self.proj_dropout = Dropout(spec.dropout)

    def forward(self, x, return_weights=False):
        """[B, N, C] -> [B, N, C]; with return_weights also the softmax [B, n, N, N]."""
        x = attend_qkv(self.qkv(x), self.num_heads, self.scale, self.attn_dropout,
                       return_weights)                                     # [B, N, n * d]
        x, weights = x if return_weights else (x, None)
        x = self.proj_dropout(self.out(x))                                 # [B, N, C]
        return (x, weights) if return_weights else x


class Mlp(nn.Layer):
    """fc1 - GELU (by erf) - dropout - fc2 - dropout, for each token."""

    def __init__(self, spec):
        super().__init__()
        hidden_dim = int(spec.embed_dim * spec.mlp_ratio)
        if hidden_dim < 1:
            raise InputError(f'MODEL.MLP_RATIO: {spec.embed_dim} channels make {hidden_dim} hidden '
                             f'ones, expected at least 1')
        self.fc1 = Linear(spec.embed_dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, spec.embed_dim)
        self.dropout = Dropout(spec.dropout)

    def forward(self, x):
        x = self.fc1(x)                                                    # [B, N, hidden]
        x = gelu_linear(x, self.fc2, self.dropout)     # fc2(dropout(gelu(x))), [B, N, C]
        return self.dropout(x)


class TransformerLayer(nn.Layer):
    """Pre-norm encoder block: x + attention(norm(x)), then x + mlp(norm(x)).

    drop_path: probability of the block's stochastic depth.
    """

    def __init__(self, spec, drop_path):
        super().__init__()
        self.attn_norm = LayerNorm(spec.embed_dim, epsilon=NORM_EPS)
        self.attn = Attention(spec)
        self.mlp_norm = LayerNorm(spec.embed_dim, epsilon=NORM_EPS)
        self.mlp = Mlp(spec)
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.attn_norm(x)))
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


class Encoder(nn.Layer):
    """The blocks and the final norm. [B, N, C] -> [B, N, C]"""

    def __init__(self, embed_dim, blocks):
        super().__init__()
        self.layers = nn.LayerList(blocks)
        self.encoder_norm = LayerNorm(embed_dim, epsilon=NORM_EPS)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.encoder_norm(x)


class PatchEmbedding(nn.Layer):
    """Non-overlapping patches, projected: [B, 3, H, W] -> [B, h * w, C].

    With `backbone='r50'` the patches are the pixels of the ResNet's feature map.
    """

    def __init__(self, patch_size=16, in_channels=3, embed_dim=768, backbone=None):
        super().__init__()
        self.patch_size = patch_size
        self.backbone = None
        kernel = patch_size
        if backbone is not None:
            if backbone != 'r50':
                raise InputError(f"MODEL.BACKBONE: got {backbone!r}, expected None or 'r50'")
            self.backbone = ResNetBackbone(in_channels)
            if patch_size % self.backbone.stride:
                raise InputError(f'MODEL.PATCH_SIZE: got {patch_size}, expected a multiple of '
                                 f'{self.backbone.stride} with MODEL.BACKBONE {backbone!r}')
            kernel = patch_size // self.backbone.stride
            in_channels = self.backbone.out_channels
        self.patch_embedding = Conv2D(in_channels, embed_dim, kernel, stride=kernel)

    def grid(self, height, width):
        """The patches (h, w) of an image in pixels; a size that does not divide is an error."""
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise InputError(f'image size: got {height}x{width}, expected a height and a width '
                             f'that are multiples of the patch size {self.patch_size}')
        return height // self.patch_size, width // self.patch_size

    def forward(self, x):
        if self.backbone is not None:
            x = self.backbone(x)
        return to_tokens(self.patch_embedding(x))    # [B, C, h, w] -> [B, h * w, C]


class VisionTransformer(ImageClassifier):
    """ViT with a class token.

    Args:
        image_size: int or (height, width) in pixels; fixes the size of the position embedding.
            Other sizes run too: the embedding is then resized on the way.
        patch_size: side of a patch in pixels (with a backbone, of its total stride).
        in_channels: channels of the image.
        num_classes: outputs of the classifier; 0 makes `forward` return the features.
        depth: number of blocks.
        drop_path: stochastic depth of the last block, in [0, 1); linear from 0 at the first.
        representation_size: width of the tanh layer before the classifier (the paper's
            pre-training head); None for none.
        backbone: None, or 'r50' for the hybrid.
        block: the arguments of BlockSpec; `dropout` also stands after the position embedding.
    """

    classifier_name = 'classifier'
    representation_name = 'pre_logits'
    num_prefix_tokens = 1
    reads_class_token = True
    pool_parts = ('pre_logits',)

    def __init__(self, image_size=224, patch_size=16, in_channels=3, num_classes=1000, *,
                 depth=12, drop_path=0.0, representation_size=None, backbone=None, **block):
        super().__init__()
        spec = BlockSpec(**block)
        embed_dim = spec.embed_dim
        self.patch_embedding = PatchEmbedding(patch_size, in_channels, embed_dim, backbone)
        self.grid = self.patch_embedding.grid(*to_pair(image_size))
        self.position_embedding = self.create_parameter(
            [1, self.num_prefix_tokens + self.grid[0] * self.grid[1], embed_dim])
        self.cls_token = self.create_parameter([1, 1, embed_dim])
        self.pos_dropout = Dropout(spec.dropout)
        self.encoder = Encoder(embed_dim, [
            TransformerLayer(spec, rate) for rate in drop_path_rates(drop_path, depth)])
        self.pre_logits = None
        if representation_size is not None:
            self.pre_logits = nn.Sequential(Linear(embed_dim, representation_size), nn.Tanh())
        self.num_features = representation_size or embed_dim
        self.num_classes = num_classes
        self.classifier = Linear(self.num_features, num_classes) if num_classes else None
        init_weights(self)

    def embed(self, image):
        """[B, 3, H, W] -> [B, 1 + h * w, C], class token first, with the position embedding."""
        grid = self.patch_embedding.grid(*image.shape[2:])
        x = self.patch_embedding(image)                                       # [B, h * w, C]
        return self.pos_dropout(with_class_token(
            x, self.cls_token, self.position_embedding, self.grid, grid))

    def stages(self, image):
        """The one stage: yields (tokens after the last norm [B, 1 + h * w, C], h, w)."""
        tokens = self.encoder(self.embed(image))
        yield tokens, *self.patch_embedding.grid(*image.shape[2:])

    def pool(self, tokens):
        """[B, 1 + h * w, C] -> [B, num_features]: the class token."""
        x = tokens[:, 0]
        return x if self.pre_logits is None else self.pre_logits(x)

    def cells(self):
        return list(self.encoder.layers)

    def stage_sizes(self):
        return [(self.cls_token.shape[-1], self.patch_embedding.patch_size)]

    def check_size(self, height, width):
        self.patch_embedding.grid(height, width)

    def position_embeddings(self):
        return {'position_embedding': (self.num_prefix_tokens, self.grid)}

    def no_weight_decay(self):
        return {'position_embedding', 'cls_token'}


class StdConv2D(nn.Conv2D):
    """Convolution with a standardised weight (arXiv 1903.10520) and TensorFlow's SAME padding."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1):
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, bias_attr=False)

    def forward(self, x):
        weight = self.weight
        mean = weight.mean(axis=[1, 2, 3], keepdim=True)
        variance = ((weight - mean) ** 2).mean(axis=[1, 2, 3], keepdim=True)
        weight = (weight - mean) / paddle.sqrt(variance + 1e-8)
        return F.conv2d(x, weight, stride=self._stride, padding='SAME')


def group_norm(channels):
    return nn.GroupNorm(32, channels, epsilon=1e-5)


class Bottleneck(nn.Layer):
    """1x1 - 3x3 - 1x1 residual unit with GroupNorm, ReLU after the addition."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        hidden = out_channels // 4
        self.conv1 = StdConv2D(in_channels, hidden, 1)
        self.gn1 = group_norm(hidden)
        self.conv2 = StdConv2D(hidden, hidden, 3, stride)
        self.gn2 = group_norm(hidden)
        self.conv3 = StdConv2D(hidden, out_channels, 1)
        self.gn3 = group_norm(out_channels)
        self.conv_proj = None
        if stride != 1 or in_channels != out_channels:
            self.conv_proj = StdConv2D(in_channels, out_channels, 1, stride)
            self.gn_proj = group_norm(out_channels)

    def forward(self, x):
        shortcut = x if self.conv_proj is None else self.gn_proj(self.conv_proj(x))
        x = F.relu(self.gn1(self.conv1(x)))
        x = F.relu(self.gn2(self.conv2(x)))
        return F.relu(self.gn3(self.conv3(x)) + shortcut)


class ResNetBackbone(nn.Layer):
    """The first three stages of the paper's ResNet-50 (BiT): [B, 3, H, W] -> [B, 1024, H/16, W/16].

    The paper moves the fourth stage's units into the third, so the units are 3, 4 and 9.
    """

    out_channels = 1024
    stride = 16

    def __init__(self, in_channels=3, units=(3, 4, 9)):
        super().__init__()
        self.conv_root = StdConv2D(in_channels, 64, 7, 2)
        self.gn_root = group_norm(64)
        channels = 64
        for stage, count in enumerate(units):
            out_channels = 256 * 2 ** stage
            blocks = nn.LayerDict()
            for unit in range(count):
                stride = 2 if unit == 0 and stage > 0 else 1
                blocks[f'unit{unit + 1}'] = Bottleneck(channels, out_channels, stride)
                channels = out_channels
            setattr(self, f'block{stage + 1}', blocks)
        self.num_stages = len(units)

    def forward(self, x):
        x = F.relu(self.gn_root(self.conv_root(x)))                      # [B, 64, H/2, W/2]
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding='SAME')     # [B, 64, H/4, W/4]
        for stage in range(self.num_stages):
            for unit in getattr(self, f'block{stage + 1}').values():
                x = unit(x)
        return x                                                         # [B, 1024, H/16, W/16]


def init_weights(model):
    """Initialises every parameter of a VisionTransformer.

    | parameter                               | weight                              | bias |
    |-----------------------------------------|-------------------------------------|------|
    | linear (qkv, out, fc1, fc2, classifier) | normal, std .02                     | 0    |
    | patch convolution                       | normal, std sqrt(1 / fan_in)        | 0    |
    | LayerNorm, GroupNorm                    | 1                                   | 0    |
    | position_embedding, cls_token           | normal, std .02                     |      |
    | ResNet convolutions                     | normal, std sqrt(2 / fan_out)       |      |
    | last GroupNorm of a ResNet unit (gn3)   | 0 (the unit starts as its shortcut) | 0    |
    """
    normal_(model.position_embedding)
    normal_(model.cls_token)
    for name, layer in model.named_sublayers():
        if isinstance(layer, nn.Linear):
            init_linear(layer)
        elif isinstance(layer, StdConv2D):
            kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Conv2D):
            lecun_normal_(layer.weight)
            zeros_(layer.bias)
        elif isinstance(layer, (nn.LayerNorm, nn.GroupNorm)):
            (zeros_ if name.endswith('.gn3') else ones_)(layer.weight)
            zeros_(layer.bias)


def build_vit(config):
    """The model that a config of vit/config.py describes."""
    return VisionTransformer(**model_arguments(config))
