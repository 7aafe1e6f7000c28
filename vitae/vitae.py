"""ViTAE: vision transformer with reduction cells (multi-scale convolutions) and normal cells
(attention beside convolutions).

Sources: "ViTAE" (arXiv 2106.03348) and github.com/ViTAE-Transformer/ViTAE-Transformer
(Image-Classification/vitae), whose parameter names are kept so that its .pth files map by a small
table. Deliberate differences from it are listed in vitae/README.md.

Letters: B batch, N tokens, C channels, H W map in pixels, h w map in tokens, n heads, d = C / n.
Every stage carries h and w: any size that the strides divide, also not square. vitae_names.py has
the names of other codes.
"""
import dataclasses
import math

import paddle
from paddle import nn

from common.config import model_arguments
from common.core.errors import InputError
from common.core.sizes import to_pair
from common.layers.attention import Attention
from common.layers.basic import DropPath, Mlp, drop_path_rates, to_map, to_tokens
from common.layers.classifier import ImageClassifier
from common.layers.fast import Conv2D, LayerNorm, Linear, Silu
from common.layers.init import init_layer, zeros_
from common.layers.position import with_class_token
from common.layers.prm_performer import PRM, PerformerTokens
from common.layers.stages import per_stage, stage_specs

KERNELS = (7, 3, 3)
DILATIONS = ((1, 2, 3, 4), (1, 2, 3), (1, 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What a stage is built from; arguments of ViTAE, a list where each stage has its own value.

    Args:
        cell: its reduction cell: 'performer' (PRM, PCM, attention), 'performer_less' (PRM alone),
            'embedding' (patches, class token) or 'none'.
        ratio: by how much it reduces height and width.
        embed_dim: channels of each of the reduction cell's scales.
        token_dim: channels C after the stage.
        depth: normal cells.
        num_heads: n, of the normal cells.
        group: groups of the normal cells' convolutions.
        mlp_ratio: hidden width of MLP and PCM over C.
        shallow: two convolutions in a normal cell's PCM instead of three.
        qkv_bias: whether the normal cells' attention has it.
        dropout, attention_dropout: in the normal cells, in [0, 1).
        reduction_dropout: in the performers, in [0, 1); upstream has .1 hard-coded.
    """
    cell: str = per_stage('cells', 'performer', 'performer', 'performer_less')
    ratio: int = per_stage('ratios', 4, 2, 2)
    embed_dim: int = per_stage('embed_dims', 64, 64, 128)
    token_dim: int = per_stage('token_dims', 64, 64, 256)
    depth: int = per_stage('depths', 0, 0, 7)
    num_heads: int = per_stage('num_heads', 1, 1, 4)
    group: int = per_stage('groups', 1, 1, 64)
    mlp_ratio: float = 2.0
    shallow: bool = False
    qkv_bias: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    reduction_dropout: float = 0.1


class ReductionCell(nn.Layer):
    """A map [B, C, H, W] -> tokens [B, h * w, token_dim], h = H / ratio.

    With attention: multi-scale convolutions (PRM), a performer over their tokens, beside three
    convolutions of the cell's input (PCM), then an MLP. Without: the PRM alone.
    """

    def __init__(self, in_channels, spec, kernel, dilations):
        super().__init__()
        dim = spec.embed_dim
        self.ratio = spec.ratio
        self.PRM = PRM(in_channels, dim, kernel, spec.ratio, dilations)
        self.attn = None
        if spec.cell == 'performer_less':
            if self.PRM.out_channels != spec.token_dim:
                raise InputError(f'MODEL.TOKEN_DIMS: got {spec.token_dim}, expected '
                                 f'{self.PRM.out_channels}, since the cell has no attention')
            return
        strides = [2 if spec.ratio >> (step + 1) else 1 for step in range(3)]
        self.PCM = nn.Sequential(
            Conv2D(in_channels, dim, 3, strides[0], 1), Silu(),
            Conv2D(dim, dim, 3, strides[1], 1), nn.BatchNorm2D(dim), Silu(),
            Conv2D(dim, spec.token_dim, 3, strides[2], 1), Silu())
        self.attn = PerformerTokens(self.PRM.out_channels, spec.token_dim, spec.reduction_dropout)

    def forward(self, x):
        scales = to_tokens(self.PRM(x))                      # [B, h * w, embed_dim * scales]
        if self.attn is None:
            return scales
        tokens = self.attn.attention(self.attn.norm1(scales)) + to_tokens(self.PCM(x))
        return tokens + self.attn.mlp(self.attn.norm2(tokens))


class PatchProjection(nn.Layer):
    """Non-overlapping patches: [B, 3, H, W] -> [B, h * w, C]."""

    def __init__(self, patch_size, in_channels, dim):
        super().__init__()
        self.proj = Conv2D(in_channels, dim, patch_size, patch_size)

    def forward(self, x):
        return to_tokens(self.proj(x))


class EmbeddingCell(nn.Layer):
    """The first cell of the large models: patches, a class token and a position embedding."""

    def __init__(self, image_size, patch_size, in_channels, dim):
        super().__init__()
        self.ratio = patch_size
        self.grid = tuple(side // patch_size for side in to_pair(image_size))
        self.pos_embed = self.create_parameter([1, 1 + self.grid[0] * self.grid[1], dim])
        self.cls_token = self.create_parameter([1, 1, dim])
        self.PRM = PatchProjection(patch_size, in_channels, dim)

    def forward(self, x):
        grid = x.shape[2] // self.ratio, x.shape[3] // self.ratio
        return with_class_token(self.PRM(x), self.cls_token, self.pos_embed, self.grid, grid)


class NormalCell(nn.Layer):
    """x + attention(norm(x)) + PCM(x), then x + mlp(norm(x)); the class token has no PCM.

    PCM reads the input before the norm. The one drop path is drawn three times in a pass.

    Args:
        spec: the StageSpec of its stage.
        drop_path: probability of the cell's stochastic depth.
    """

    def __init__(self, spec, drop_path):
        super().__init__()
        dim, group = spec.token_dim, spec.group
        hidden = int(dim * spec.mlp_ratio)
        self.norm1 = LayerNorm(dim, epsilon=1e-6)
        self.attn = Attention(dim, spec.num_heads, spec.qkv_bias, spec.dropout,
                              spec.attention_dropout)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(dim, epsilon=1e-6)
        self.mlp = Mlp(dim, hidden, spec.dropout)
        layers = [Conv2D(dim, hidden, 3, 1, 1, groups=group), nn.BatchNorm2D(hidden), Silu(),
                  Conv2D(hidden, dim, 3, 1, 1, groups=group)]
        if not spec.shallow:
            layers += [nn.BatchNorm2D(dim), Silu(), Conv2D(dim, dim, 3, 1, 1, groups=group),
                       Silu()]
        self.PCM = nn.Sequential(*layers)

    def forward(self, x, h, w):
        prefix = x.shape[1] - h * w                          # 1 with a class token, else 0
        local = self.drop_path(to_tokens(self.PCM(to_map(x[:, prefix:], h, w))))
        x = x + self.drop_path(self.attn(self.norm1(x)))
        if prefix:
            local = paddle.concat([paddle.zeros_like(x[:, :prefix]), local], axis=1)
        x = x + local
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Layer):
    """A reduction cell (or none) and normal cells."""

    def __init__(self, reduction, cells):
        super().__init__()
        self.RC = reduction
        self.NC = nn.LayerList(cells)
        self.ratio = 1 if reduction is None else reduction.ratio


def make_reduction_cell(spec, image_size, in_channels, kernel, dilations):
    """The reduction cell of a stage; None for no cell."""
    if spec.cell == 'none':
        return None
    if spec.cell == 'embedding':
        return EmbeddingCell(image_size, spec.ratio, in_channels, spec.token_dim)
    if spec.cell not in ('performer', 'performer_less'):
        raise InputError(f'MODEL.CELLS: got {spec.cell!r}, expected performer, performer_less, '
                         f'embedding or none')
    return ReductionCell(in_channels, spec, kernel, dilations)


class ViTAE(ImageClassifier):
    """ViTAE.

    Args:
        image_size: int or (height, width) in pixels; only the models with a class token depend on
            it, by their position embedding, which is resized for other sizes.
        in_channels: channels of the image.
        num_classes: outputs of the classifier; 0 makes `forward` return the features.
        drop_path: stochastic depth of the last normal cell; linear from 0 at the first.
        stages: the arguments of StageSpec, as lists where it says so.
    """

    pool_parts = ('fc_norm',)

    def __init__(self, image_size=224, in_channels=3, num_classes=1000, *, drop_path=0.0,
                 **stages):
        super().__init__()
        specs = stage_specs(StageSpec, stages, most=len(KERNELS))
        self.stride = math.prod(spec.ratio for spec in specs)
        self.check_size(*to_pair(image_size))
        self.num_prefix_tokens = int(any(spec.cell == 'embedding' for spec in specs))
        rates = iter(drop_path_rates(drop_path, sum(spec.depth for spec in specs)))
        layers, channels = [], in_channels
        for spec, kernel, dilations in zip(specs, KERNELS, DILATIONS, strict=False):
            reduction = make_reduction_cell(spec, image_size, channels, kernel, dilations)
            layers.append(Stage(reduction, [
                NormalCell(spec, next(rates)) for _ in range(spec.depth)]))
            channels = spec.token_dim
        self.layers = nn.LayerList(layers)
        self.num_features = channels
        if self.num_prefix_tokens:
            self.fc_norm = LayerNorm(self.num_features, epsilon=1e-6)
        self.num_classes = num_classes
        self.head = Linear(self.num_features, num_classes) if num_classes else None
        init_weights(self)

    def position_embeddings(self):
        if not self.num_prefix_tokens:
            return {}
        return {'layers.0.RC.pos_embed': (1, self.layers[0].RC.grid)}

    def no_weight_decay(self):
        return {'layers.0.RC.pos_embed', 'layers.0.RC.cls_token'} if self.num_prefix_tokens \
            else set()

    def cells(self):
        return [cell for stage in self.layers for cell in stage.NC]

    def stages(self, image):
        self.check_size(*image.shape[2:])
        x, (h, w) = image, image.shape[2:]
        for index, stage in enumerate(self.layers):
            if stage.RC is not None:
                x = stage.RC(x if index == 0 else to_map(x, h, w))
            h, w = h // stage.ratio, w // stage.ratio
            for cell in stage.NC:
                x = cell(x, h, w)
            yield x, h, w

    def pool(self, tokens):
        """[B, N, C] -> [B, C]: the mean over the patch tokens, normalised if there is a class
        token."""
        # compat: super
        features = ImageClassifier.pool(self, tokens)
        return self.fc_norm(features) if self.num_prefix_tokens else features


def init_weights(model):
    """Initialises every parameter of a ViTAE, as upstream does.

    | parameter              | weight                                        | bias               |
    |------------------------|-----------------------------------------------|--------------------|
    | linear                 | normal, std .02                               | 0                  |
    | convolution            | uniform, +-sqrt(1 / fan_in) (PyTorch's)       | the same           |
    | LayerNorm, BatchNorm   | 1                                             | 0                  |
    | performer's w          | orthogonal rows of norm sqrt(m), not trained  |                    |
    | pos_embed, cls_token   | 0                                             |                    |
    """
    for layer in model.sublayers():
        if isinstance(layer, PerformerTokens):
            layer.init_weights()
        elif isinstance(layer, EmbeddingCell):
            zeros_(layer.pos_embed)
            zeros_(layer.cls_token)
        else:
            init_layer(layer)  # the first three lines of the table


def build_vitae(config):
    """The model that a config of vitae/config.py describes."""
    return ViTAE(**model_arguments(config))
