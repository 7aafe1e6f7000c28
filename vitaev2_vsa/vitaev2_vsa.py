"""ViTAEv2, with full, window or varied-size window attention (VSA) in each stage.

Sources: "ViTAEv2" (arXiv 2202.10108), "VSA" (arXiv 2204.08446),
github.com/ViTAE-Transformer/ViTAE-Transformer (Image-Classification/vitaev2) and
github.com/ViTAE-Transformer/ViTAE-VSA (Image-Classification/vitaev2_vsa). Parameter names are
theirs but for what UPSTREAM below maps. Deliberate differences: vitaev2_vsa/README.md.

Letters: B batch, N tokens, C channels, H W map in pixels, h w map in tokens, n heads, s window
side, nW windows. Every stage carries h and w; stages after the first round odd sizes up.
"""
import math

import paddle
from paddle import nn

from common.core.errors import InputError
from common.core.sizes import to_pair
from common.layers.attention import Attention, merge_heads
from common.layers.basic import DropPath, Mlp, drop_path_rates, to_map, to_tokens
from common.layers.classifier import ImageClassifier
from common.layers.conditional_position import ConditionalPosition
from common.layers.fast import Conv2D, LayerNorm, Linear
from common.layers.init import init_layers
from common.layers.prm_performer import PRM
from common.layers.windows import (
    WindowAttention,
    missing,
    pad_map,
    window_partition,
    window_reverse,
)
from common.weights.dialects import Dialect, stage_counts
from common.zoo import load_family_file

VSAWindowAttention = load_family_file('vitaev2_vsa', 'vsa').VSAWindowAttention

KERNELS = (7, 3, 3, 3)
DILATIONS = ((1, 2, 3, 4), (1, 2, 3), (1, 2), (1, 2))
UPSTREAM = Dialect(
    'ViTAEv2', r'^layers\.0\.RC\.PRM\.',
    names=((r'\.running_mean$', '._mean'), (r'\.running_var$', '._variance'),
           # without VSA, upstream's reduction cell has attention, norms and MLP in one module
           (r'\.RC\.attn\.(norm1|attn|norm2|mlp)\.', r'.RC.\1.'),
           # after a pooling and an activation
           (r'\.sampling_(offsets|scales)\.2\.', r'.sampling_\1.')),
    dropped=(r'\.relative_position_index$',))
DIALECTS = (UPSTREAM,)


class FullAttention(Attention):
    """Attention between all tokens; `value_skip` adds v to the result."""

    def __init__(self, *args, value_skip=False, **options):
        super().__init__(*args, **options)
        self.value_skip = value_skip

    def forward(self, x, h, w, return_weights=False):
        """[B, N, C] -> [B, N, out_dim]; with return_weights also [B, n, N, N]."""
        if not self.value_skip:
            # to_static of Paddle 2.6 does not know super()
            return Attention.forward(self, x, return_weights)
        weights, v = self.weights_and_values(x)
        x = self.mix(weights, v) + merge_heads(v)
        return (x, weights) if return_weights else x


class TokenWindowAttention(WindowAttention):
    """Window attention on tokens: the map is padded evenly on both sides, before q, k and v, and
    the zeros take part with their bias as key and value (upstream's way)."""

    def partition(self, x, h, w):
        """[B, h * w, C] -> windows [B * nW, s * s, C], and the padding (top, left)."""
        down, right = missing(h, self.window_size), missing(w, self.window_size)
        top, left = down // 2, right // 2
        x = pad_map(x.reshape([-1, h, w, x.shape[-1]]), top, down - top, left, right - left)
        return window_partition(x, self.window_size), top, left

    def forward(self, x, h, w, return_weights=False):
        """[B, h * w, C] -> [B, h * w, out_dim]; with return_weights also
        [B, nW, n, s * s, s * s]."""
        s, B = self.window_size, x.shape[0]
        windows, top, left = self.partition(x, h, w)
        weights, v = self.weights_and_values(windows)
        x = self.mix(weights, v)
        x = window_reverse(x, s, h + missing(h, s), w + missing(w, s))
        if x.shape[1:3] != [h, w]:
            x = x[:, top:top + h, left:left + w]
        x = x.reshape([-1, h * w, x.shape[-1]])
        return (x, split_windows(weights, B)) if return_weights else x


class TokenVSA(VSAWindowAttention):
    """VSA on tokens."""

    def forward(self, x, h, w, return_weights=False):
        """[B, h * w, C] -> [B, h * w, out_dim]; with return_weights also
        [B, nW, n, s * s, s * s]."""
        B, _, C = x.shape
        x, weights = self.attend(x.reshape([-1, h, w, C]))
        x = x.reshape([-1, h * w, x.shape[-1]])
        return (x, split_windows(weights, B)) if return_weights else x


def split_windows(x, B):
    """[B * nW, ...] -> [B, nW, ...]"""
    return x.reshape([B, -1, *x.shape[1:]])


def make_pcm(channels, strides, group, key='MODEL.GROUPS'):
    """Three convolutions with BatchNorm and SiLU between them: [B, channels[0], H, W] -> ...

    key: of the groups, for the message about wrong ones.
    """
    if any(width % group for width in channels):
        raise InputError(f'{key}: got {group}, expected a divisor of the channels of each '
                         f'convolution, {", ".join(map(str, channels))}')
    a, b, c, d = channels
    return nn.Sequential(
        Conv2D(a, b, 3, strides[0], 1, groups=group), nn.BatchNorm2D(b), nn.Silu(),
        Conv2D(b, c, 3, strides[1], 1, groups=group), nn.BatchNorm2D(c), nn.Silu(),
        Conv2D(c, d, 3, strides[2], 1, groups=group))


def make_position(kind, dim):
    """The conditional position embedding of VSA, a depthwise convolution; None for the others."""
    return ConditionalPosition(dim, 7) if kind == 'vsa' else None


def with_position(position, x, h, w):
    """x [B, h * w, C] plus its conditional position embedding, if there is one."""
    return x if position is None else position(x, h, w)


class ReductionCell(nn.Layer):
    """A map [B, C, H, W] -> tokens [B, h * w, token_dim] and (h, w), h about H / ratio.

    Multi-scale convolutions (PRM), attention over their tokens, beside three convolutions of the
    cell's input (PCM), then an MLP. Full attention adds v; the other kinds have no skip.
    """

    def __init__(self, in_channels, embed_dim, token_dim, ratio, kernel, dilations, kind,
                 num_heads, group, window_size, wide_pcm, mlp_ratio=1.0):
        super().__init__()
        hidden = 2 * token_dim if wide_pcm else embed_dim
        strides = [2 if ratio >> (step + 1) else 1 for step in range(3)]
        self.PCM = make_pcm((in_channels, hidden, hidden, token_dim), strides, group,
                            'MODEL.REDUCTION_GROUPS')
        self.PRM = PRM(in_channels, embed_dim, kernel, ratio, dilations)
        dim = self.PRM.out_channels
        widths = [dim, token_dim] if kind == 'vsa' else [token_dim]
        if any(width % num_heads for width in widths):
            raise InputError(f'MODEL.REDUCTION_HEADS: got {num_heads}, expected a divisor of the '
                             f'{" and the ".join(map(str, widths))} channels')
        self.norm1 = LayerNorm(dim, epsilon=1e-5)
        self.pos = make_position(kind, dim)
        if kind == 'transformer':
            self.attn = FullAttention(dim, num_heads, False, out_dim=token_dim, value_skip=True)
        elif kind == 'window':
            self.attn = TokenWindowAttention(dim, num_heads, window_size, token_dim)
        else:
            self.attn = TokenVSA(dim, num_heads, window_size, token_dim)
        self.norm2 = LayerNorm(token_dim, epsilon=1e-5)
        self.mlp = Mlp(token_dim, int(token_dim * mlp_ratio))

    def forward(self, x):
        scales = self.PRM(x)                                 # [B, embed_dim * scales, h, w]
        h, w = scales.shape[2:]
        tokens = with_position(self.pos, to_tokens(scales), h, w)
        tokens = self.attn(self.norm1(tokens), h, w) + to_tokens(self.PCM(x))
        return tokens + self.mlp(self.norm2(tokens)), h, w


class NormalCell(nn.Layer):
    """x + attention(norm(x)) + PCM(x), then x + mlp(norm(x)).

    The attention of VSA reads x with its position embedding; PCM reads x as it is. The one drop
    path is drawn three times in a pass.
    """

    def __init__(self, dim, num_heads, kind, mlp_ratio, group, window_size, qkv_bias, dropout,
                 attention_dropout, drop_path):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = LayerNorm(dim, epsilon=1e-6)
        self.pos = make_position(kind, dim)
        if kind == 'transformer':
            self.attn = FullAttention(dim, num_heads, qkv_bias, dropout, attention_dropout)
        elif kind == 'window':
            self.attn = TokenWindowAttention(dim, num_heads, window_size, dropout=dropout,
                                             attention_dropout=attention_dropout)
        else:
            self.attn = TokenVSA(dim, num_heads, window_size, dropout=dropout,
                                 attention_dropout=attention_dropout)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(dim, epsilon=1e-6)
        self.mlp = Mlp(dim, hidden, dropout)
        self.PCM = make_pcm((dim, hidden, dim, dim), (1, 1, 1), group)

    def attention_input(self, x, h, w):
        return self.norm1(with_position(self.pos, x, h, w))

    def forward(self, x, h, w):
        local = self.drop_path(to_tokens(self.PCM(to_map(x, h, w))))
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
        attention: for each stage, in its reduction and normal cells: 'transformer' (all tokens),
            'window' or 'vsa'.
        ratios: by how much each stage reduces height and width.
        embed_dims: channels of each scale of a reduction cell.
        token_dims: channels after each stage.
        depths: normal cells in each stage.
        num_heads, groups: of the normal cells' attention and convolutions, for each stage.
        reduction_heads, reduction_groups: the same of the reduction cells.
        mlp_ratio: hidden width of the normal cells' MLP and PCM over the channels.
        window_size: side of a window in tokens.
        wide_pcm: 2 * token_dim hidden channels in the reduction cells' PCM instead of embed_dim.
        qkv_bias: whether the normal cells' full attention has it.
        dropout, attention_dropout: in the normal cells, in [0, 1).
        drop_path: stochastic depth, linear from 0 at the first normal cell.
        drop_path_slices: 'upstream' starts stage i at the rate of index depths[i - 1], as the
            published models were trained; 'cumulative' at the sum of the depths before it.
    """

    def __init__(self, image_size=224, in_channels=3, num_classes=1000,
                 attention=('window', 'window', 'transformer', 'transformer'),
                 ratios=(4, 2, 2, 2), embed_dims=(64, 64, 128, 256),
                 token_dims=(64, 128, 256, 512), depths=(2, 2, 8, 2), num_heads=(1, 2, 4, 8),
                 reduction_heads=(1, 1, 2, 4), groups=(1, 32, 64, 128),
                 reduction_groups=(1, 16, 32, 64), mlp_ratio=4.0, window_size=7, wide_pcm=False,
                 qkv_bias=True, dropout=0.0, attention_dropout=0.0, drop_path=0.0,
                 drop_path_slices='upstream'):
        super().__init__()
        check_stages(len(KERNELS), ATTENTION=attention, RATIOS=ratios, EMBED_DIMS=embed_dims,
                     TOKEN_DIMS=token_dims, DEPTHS=depths, NUM_HEADS=num_heads,
                     REDUCTION_HEADS=reduction_heads, GROUPS=groups,
                     REDUCTION_GROUPS=reduction_groups)
        for kind in attention:
            if kind not in ('transformer', 'window', 'vsa'):
                raise InputError(f'MODEL.ATTENTION: got {kind!r}, expected transformer, window '
                                 f'or vsa')
        for ratio, kernel in zip(ratios, KERNELS, strict=False):
            if ratio not in (1, 2, 4, 8) or ratio > kernel + 1:
                raise InputError(f'MODEL.RATIOS: got {ratio}, expected 1, 2, 4 or (first stage) 8')
        # halving rounds odd sizes up, a larger step would not
        last = max(index for index, ratio in enumerate(ratios) if index == 0 or ratio > 2)
        self.stride = math.prod(ratios[:last + 1])
        self.check_size(*to_pair(image_size))
        rates = stage_rates(drop_path, depths, drop_path_slices)
        stages, channels = [], in_channels
        for index, kind in enumerate(attention):
            dim = token_dims[index]
            reduction = ReductionCell(
                channels, embed_dims[index], dim, ratios[index], KERNELS[index],
                DILATIONS[index], kind, reduction_heads[index], reduction_groups[index],
                window_size, wide_pcm)
            stages.append(Stage(reduction, [
                NormalCell(dim, num_heads[index], kind, mlp_ratio, groups[index], window_size,
                           qkv_bias, dropout, attention_dropout, rate)
                for rate in rates[index]]))
            channels = dim
        self.layers = nn.LayerList(stages)
        self.num_features = token_dims[-1]
        self.num_classes = num_classes
        self.head = Linear(self.num_features, num_classes) if num_classes else None
        init_weights(self)

    def dialects(self):
        return DIALECTS

    def cells(self):
        return [cell for stage in self.layers for cell in stage.NC]

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
            vsa.py. `centre` counts from the image's upper left corner.

        Raises:
            InputError: the cell has another attention.
        """
        return windows_in_pixels(self, image, layer)


def windows_in_pixels(model, image, layer):
    """The windows of one cell's VSA."""
    one = model.attention_passes(image, [layer])[0]
    if not isinstance(one.layer, TokenVSA):
        raise InputError(f'layer: got {layer}, expected a layer with varied-size windows')
    found = one.layer.windows(to_map(one.tokens, one.h, one.w))
    unit = paddle.to_tensor([image.shape[3] / one.w, image.shape[2] / one.h], found.centre.dtype)
    return found._replace(centre=(found.centre + 0.5) * unit, size=found.size * unit,
                          offset=found.offset * unit)


def check_stages(most=None, **lists):
    """Raises InputError unless all lists, by their keys in MODEL, have an entry for each stage.

    most: how many stages there may be; None is any number.
    """
    first, *others = lists
    stages = len(lists[first])
    if not 1 <= stages <= (most or stages):
        raise InputError(f'MODEL.{first}: got {stages} stages, expected '
                         f'{f"1 to {most}" if most else "at least 1"}')
    for key in others:
        if len(lists[key]) != stages:
            raise InputError(f'MODEL.{key}: got {len(lists[key])} entries, expected one for each '
                             f'of the {stages} stages of MODEL.{first}')


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


def config_of(shapes):
    """The MODEL keys that weights of this model tell; see vit/vit.py."""
    depths = stage_counts(r'layers\.{}\.NC\.(\d+)\.', shapes)
    return {'DEPTHS': depths, 'TOKEN_DIMS': [shapes[f'layers.{stage}.NC.0.norm1.weight'][0]
                                             for stage in range(len(depths))]}


def init_weights(model):
    """Initialises every parameter of a ViTAEv2, as upstream does.

    | parameter                 | weight                                  | bias     |
    |---------------------------|-----------------------------------------|----------|
    | linear                    | normal, std .02                         | 0        |
    | convolution, and VSA's    | uniform, +-sqrt(1 / fan_in) (PyTorch's) | the same |
    | linear layers, which are 1x1 convolutions upstream                  |  |          |
    | LayerNorm, BatchNorm      | 1                                       | 0        |
    | relative position bias    | normal, std .02                         |          |
    """
    init_layers(model)


def build_vitaev2_vsa(config):
    """The model that a config of vitaev2_vsa/config.py describes; MODEL.TYPE 'vitaev2_vsa'."""
    model = config.MODEL
    return ViTAEv2(
        image_size=config.DATA.IMAGE_SIZE,
        in_channels=config.DATA.IMAGE_CHANNELS,
        num_classes=model.NUM_CLASSES,
        attention=model.ATTENTION,
        ratios=model.RATIOS,
        embed_dims=model.EMBED_DIMS,
        token_dims=model.TOKEN_DIMS,
        depths=model.DEPTHS,
        num_heads=model.NUM_HEADS,
        reduction_heads=model.REDUCTION_HEADS,
        groups=model.GROUPS,
        reduction_groups=model.REDUCTION_GROUPS,
        mlp_ratio=model.MLP_RATIO,
        window_size=model.WINDOW_SIZE,
        wide_pcm=model.WIDE_PCM,
        qkv_bias=model.QKV_BIAS,
        dropout=model.DROPOUT,
        attention_dropout=model.ATTENTION_DROPOUT,
        drop_path=model.DROPPATH,
        drop_path_slices=model.DROPPATH_SLICES)
