"""ViTAEv2, with full, window or varied-size window attention (VSA) in each stage.

Sources: "ViTAEv2" (arXiv 2202.10108), "VSA" (arXiv 2204.08446),
github.com/ViTAE-Transformer/ViTAE-Transformer (Image-Classification/vitaev2) and
github.com/ViTAE-Transformer/ViTAE-VSA (Image-Classification/vitaev2_vsa). Parameter names are
theirs but for what vitaev2_vsa_names.py maps. Deliberate differences: vitaev2_vsa/README.md.

Letters: B batch, N tokens, C channels, H W map in pixels, h w map in tokens, n heads, s window
side, nW windows. Every stage carries h and w; stages after the first round odd sizes up.
"""
import dataclasses
import itertools
import math
import operator

from paddle import nn

from common.config import model_arguments
from common.core.errors import InputError
from common.core.sizes import to_pair
from common.layers.attention import Attention, attend, merge_heads, split_heads
from common.layers.basic import DropPath, Mlp, drop_path_rates, to_map, to_tokens
from common.layers.classifier import ImageClassifier
from common.layers.conditional_position import ConditionalPosition
from common.layers.fast import Conv2D, LayerNorm, Linear, Silu
from common.layers.init import init_layer
from common.layers.prm_performer import PRM
from common.layers.stages import per_stage, stage_specs
from common.layers.vsa import Pointwise, TokenVSA, windows_in_pixels
from common.layers.windows import TokenWindowAttention

KERNELS = (7, 3, 3, 3)
DILATIONS = ((1, 2, 3, 4), (1, 2, 3), (1, 2), (1, 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What a stage is built from; arguments of ViTAEv2, a list where each stage has its own value.

    Args:
        attention: of its cells: 'transformer' (all tokens), 'window' or 'vsa'.
        ratio: by how much it reduces height and width.
        embed_dim: channels of each scale of the reduction cell.
        dim: channels C after the stage.
        depth: normal cells.
        num_heads, group: of the normal cells' attention and convolutions.
        reduction_heads, reduction_group: the same of the reduction cell.
        mlp_ratio: hidden width of the normal cells' MLP and PCM over C.
        window_size: side of a window in tokens.
        vsa_form: classification | detection, see FORMS in common/layers/vsa.py.
        wide_pcm: 2 C hidden channels in the reduction cell's PCM instead of embed_dim.
        qkv_bias: whether the normal cells' full attention has it.
        dropout, attention_dropout: in the normal cells, in [0, 1).
    """
    attention: str = per_stage('attention', 'window', 'window', 'transformer', 'transformer')
    ratio: int = per_stage('ratios', 4, 2, 2, 2)
    embed_dim: int = per_stage('embed_dims', 64, 64, 128, 256)
    dim: int = per_stage('token_dims', 64, 128, 256, 512)
    depth: int = per_stage('depths', 2, 2, 8, 2)
    num_heads: int = per_stage('num_heads', 1, 2, 4, 8)
    reduction_heads: int = per_stage('reduction_heads', 1, 1, 2, 4)
    group: int = per_stage('groups', 1, 32, 64, 128)
    reduction_group: int = per_stage('reduction_groups', 1, 16, 32, 64)
    mlp_ratio: float = 4.0
    window_size: int = 7
    vsa_form: str = 'classification'
    wide_pcm: bool = False
    qkv_bias: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0


class FullAttention(Attention):
    """Attention between all tokens; `value_skip` adds v to the result."""

    def __init__(self, *args, value_skip=False, **options):
        super().__init__(*args, **options)
        self.value_skip = value_skip

    def forward(self, x, h, w, return_weights=False):
        """[B, N, C] -> [B, N, out_dim]; with return_weights also [B, n, N, N]."""
        if not self.value_skip:
            return Attention.forward(self, x, return_weights)              # compat: super
        q, k, v = split_heads(self.qkv(x), self.num_heads)                 # each [B, n, N, d]
        x, weights = attend(q, k, v, self.head_dim ** -0.5, self.attn_dropout, return_weights=True)
        x = self.project(merge_heads(x)) + merge_heads(v)                  # [B, N, out_dim]
        return (x, weights) if return_weights else x


def make_attention(spec, dim, num_heads, out_dim=None, qkv_bias=True, value_skip=False,
                   dropout=0.0, attention_dropout=0.0):
    """The attention of a cell, called with (tokens, h, w): see MODEL.ATTENTION.

    qkv_bias, value_skip: of full attention alone; windows have the one and not the other.
    """
    kind, window_size = spec.attention, spec.window_size
    shared = {'out_dim': out_dim, 'dropout': dropout, 'attention_dropout': attention_dropout}
    if kind == 'transformer':
        return FullAttention(dim, num_heads, qkv_bias, value_skip=value_skip, **shared)
    if kind == 'window':
        return TokenWindowAttention(dim, num_heads, window_size, **shared)
    if kind == 'vsa':
        return TokenVSA(dim, num_heads, window_size, form=spec.vsa_form, **shared)
    raise InputError(f'MODEL.ATTENTION: got {kind!r}, expected transformer, window or vsa')


def make_pcm(channels, strides, group, key='MODEL.GROUPS'):
    """Three convolutions with BatchNorm and SiLU between them: [B, channels[0], H, W] -> ...

    key: of the groups, for the message about wrong ones.
    """
    if any(width % group for width in channels):
        raise InputError(f'{key}: got {group}, expected a divisor of the channels of each '
                         f'convolution, {", ".join(map(str, channels))}')
    a, b, c, d = channels
    return nn.Sequential(
        Conv2D(a, b, 3, strides[0], 1, groups=group), nn.BatchNorm2D(b), Silu(),
        Conv2D(b, c, 3, strides[1], 1, groups=group), nn.BatchNorm2D(c), Silu(),
        Conv2D(c, d, 3, strides[2], 1, groups=group))


class ReductionCell(nn.Layer):
    """A map [B, C, H, W] -> tokens [B, h * w, dim] and (h, w), h about H / ratio.

    Multi-scale convolutions (PRM), attention over their tokens, beside three convolutions of the
    cell's input (PCM), then an MLP. Full attention adds v; the other kinds have no skip.

    Args:
        in_channels: C.
        spec: the StageSpec of its stage.
        kernel, dilations: of PRM's convolutions, one for each scale.
    """

    def __init__(self, in_channels, spec, kernel, dilations):
        super().__init__()
        hidden = 2 * spec.dim if spec.wide_pcm else spec.embed_dim
        strides = [2 if spec.ratio >> (step + 1) else 1 for step in range(3)]
        self.PCM = make_pcm((in_channels, hidden, hidden, spec.dim), strides, spec.reduction_group,
                            'MODEL.REDUCTION_GROUPS')
        self.PRM = PRM(in_channels, spec.embed_dim, kernel, spec.ratio, dilations)
        channels, heads = self.PRM.out_channels, spec.reduction_heads
        widths = [channels, spec.dim] if spec.attention == 'vsa' else [spec.dim]
        if any(width % heads for width in widths):
            raise InputError(f'MODEL.REDUCTION_HEADS: got {heads}, expected a divisor of the '
                             f'{" and the ".join(map(str, widths))} channels')
        self.norm1 = LayerNorm(channels, epsilon=1e-5)
        self.pos = ConditionalPosition(channels, 7) if spec.attention == 'vsa' else None
        self.attn = make_attention(spec, channels, heads, out_dim=spec.dim, qkv_bias=False,
                                   value_skip=True)
        self.norm2 = LayerNorm(spec.dim, epsilon=1e-5)
        self.mlp = Mlp(spec.dim, spec.dim)

    def forward(self, x):
        scales = self.PRM(x)                                 # [B, embed_dim * scales, h, w]
        h, w = scales.shape[2:]
        tokens = to_tokens(scales)                           # [B, h * w, embed_dim * scales]
        if self.pos is not None:
            tokens = self.pos(tokens, h, w)
        tokens = self.attn(self.norm1(tokens), h, w) + to_tokens(self.PCM(x))  # [B, h * w, dim]
        return tokens + self.mlp(self.norm2(tokens)), h, w


class NormalCell(nn.Layer):
    """x + attention(norm(x)) + PCM(x), then x + mlp(norm(x)).

    The attention of VSA reads x with its position embedding; PCM reads x as it is. The one drop
    path is drawn three times in a pass.

    Args:
        spec: the StageSpec of its stage.
        drop_path: probability of the cell's stochastic depth.
    """

    def __init__(self, spec, drop_path):
        super().__init__()
        dim, hidden = spec.dim, int(spec.dim * spec.mlp_ratio)
        self.norm1 = LayerNorm(dim, epsilon=1e-6)
        self.pos = ConditionalPosition(dim, 7) if spec.attention == 'vsa' else None
        self.attn = make_attention(spec, dim, spec.num_heads, qkv_bias=spec.qkv_bias,
                                   dropout=spec.dropout, attention_dropout=spec.attention_dropout)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(dim, epsilon=1e-6)
        self.mlp = Mlp(dim, hidden, spec.dropout)
        self.PCM = make_pcm((dim, hidden, dim, dim), (1, 1, 1), spec.group)

    def attention_input(self, x, h, w):
        return self.norm1(x if self.pos is None else self.pos(x, h, w))

    def forward(self, x, h, w):
        local = self.drop_path(to_tokens(self.PCM(to_map(x, h, w))))       # [B, N, C]
        x = x + self.drop_path(self.attn(self.attention_input(x, h, w), h, w)) + local
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Layer):
    """A reduction cell and normal cells."""

    def __init__(self, reduction, cells):
        super().__init__()
        self.RC = reduction
        self.NC = nn.LayerList(cells)


class ViTAEv2(ImageClassifier):
    """ViTAEv2.

    Args:
        image_size: int or (height, width) in pixels, checked; the model takes any other too.
        in_channels: channels of the image.
        num_classes: outputs of the classifier; 0 makes `forward` return the features.
        drop_path: stochastic depth, linear from 0 at the first normal cell.
        drop_path_slices: 'upstream' starts stage i at the rate of index depths[i - 1], as the
            published models were trained; 'cumulative' at the sum of the depths before it.
        stages: the arguments of StageSpec, as lists where it says so.
    """

    has_pyramid = True

    def __init__(self, image_size=224, in_channels=3, num_classes=1000, *, drop_path=0.0,
                 drop_path_slices='upstream', **stages):
        super().__init__()
        specs = stage_specs(StageSpec, stages, most=len(KERNELS))
        self.specs = specs
        self.stride = checked_stride([spec.ratio for spec in specs])
        self.check_size(*to_pair(image_size))
        rates = stage_rates(drop_path, [spec.depth for spec in specs], drop_path_slices)
        layers, channels = [], in_channels
        for index, spec in enumerate(specs):
            reduction = ReductionCell(channels, spec, KERNELS[index], DILATIONS[index])
            layers.append(Stage(reduction, [NormalCell(spec, rate) for rate in rates[index]]))
            channels = spec.dim
        self.layers = nn.LayerList(layers)
        self.num_features = channels
        self.num_classes = num_classes
        self.head = Linear(self.num_features, num_classes) if num_classes else None
        init_weights(self)

    def cells(self):
        return [cell for stage in self.layers for cell in stage.NC]

    def stage_sizes(self):
        strides = itertools.accumulate((spec.ratio for spec in self.specs), operator.mul)
        return list(zip((spec.dim for spec in self.specs), strides, strict=True))

    def stages(self, image):
        self.check_size(*image.shape[2:])
        x, h, w = self.layers[0].RC(image)
        for index, stage in enumerate(self.layers):
            if index:
                x, h, w = stage.RC(to_map(x, h, w))
            for cell in stage.NC:
                x = cell(x, h, w)
            yield x, h, w

    def get_windows(self, image, layer=-1):
        """The windows that the VSA of a normal cell attends to, in pixels of the image.

        Args:
            image: [B, 3, H, W], float, normalised.
            layer: index of `cells()`, negative from the end.

        Returns:
            Windows(centre, size, offset, scale), each [B, n, nh, nw, 2] with (x, y) last; see
            common/layers/vsa.py. `centre` counts from the image's upper left corner.

        Raises:
            InputError: the cell has another attention.
        """
        return windows_in_pixels(self, image, layer)


def checked_stride(ratios):
    """By how much an image's sides must divide, of the stages' ratios; wrong ones are an error."""
    for ratio, kernel in zip(ratios, KERNELS, strict=False):
        if ratio not in (1, 2, 4, 8) or ratio > kernel + 1:
            raise InputError(f'MODEL.RATIOS: got {ratio}, expected 1, 2, 4 or (first stage) 8')
    # halving rounds odd sizes up, a larger step would not
    last = max(index for index, ratio in enumerate(ratios) if index == 0 or ratio > 2)
    return math.prod(ratios[:last + 1])


def stage_rates(rate, depths, slices):
    """Drop path rates of the normal cells, a list for each stage.

    Upstream cuts the linear ramp at depths[i - 1] instead of the sum of all depths before, so
    that stages overlap and the last rate is never reached. The published models were trained so.
    """
    ramp = drop_path_rates(rate, sum(depths))
    if slices == 'upstream':
        starts = [0, *depths[:-1]]
    elif slices == 'cumulative':
        starts = [sum(depths[:index]) for index in range(len(depths))]
    else:
        raise InputError(f"MODEL.DROPPATH_SLICES: got {slices!r}, expected upstream or cumulative")
    return [ramp[start:start + depth] for start, depth in zip(starts, depths, strict=True)]


def init_weights(model):
    """Initialises every parameter of a ViTAEv2, as upstream does.

    | parameter                 | weight                                        | bias     |
    |---------------------------|-----------------------------------------------|----------|
    | linear                    | normal, std .02                               | 0        |
    | convolution               | uniform, +-sqrt(1 / fan_in) (PyTorch's)       | the same |
    | VSA's linear layers       | uniform, +-sqrt(1 / fan_in), when it is made: | the same |
    |                           | they are 1x1 convolutions upstream            |          |
    | LayerNorm, BatchNorm      | 1                                             | 0        |
    | relative position bias    | normal, std .02, when it is made              |          |
    """
    for layer in model.sublayers():
        if not isinstance(layer, Pointwise):
            init_layer(layer)


def build_vitaev2_vsa(config):
    """The model that a config of vitaev2_vsa/config.py describes; MODEL.TYPE 'vitaev2_vsa'."""
    return ViTAEv2(**model_arguments(config))
