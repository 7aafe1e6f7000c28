"""Swin Transformer, with shifted window attention or with varied-size window attention (VSA).

Sources: "Swin Transformer" (arXiv 2103.14030) and github.com/microsoft/Swin-Transformer, whose
parameter names are kept (swin_names.py has those of others); its code for detection shows how maps
are padded. For VSA: arXiv 2204.08446; its Swin models have no public code, vitaev2_vsa/README.md
says what was decided.

Letters: B batch, N tokens, C channels, H W map in pixels, h w map in tokens, n heads, s window
side, nW windows.
"""
import dataclasses
import functools

import numpy as np
import paddle
from paddle import nn

from common.config import model_arguments
from common.core.errors import InputError
from common.core.sizes import to_pair
from common.layers.basic import DropPath, Mlp, drop_path_rates, to_tokens
from common.layers.classifier import ImageClassifier
from common.layers.conditional_position import ConditionalPosition
from common.layers.fast import Conv2D, LayerNorm, Linear
from common.layers.fast.kernels import has_kernels
from common.layers.init import init_layer
from common.layers.stages import per_stage, stage_specs
from common.layers.vsa import Pointwise, TokenVSA, windows_in_pixels
from common.layers.windows import (
    WindowAttention,
    pad_map,
    split_windows,
    window_padding,
    window_partition,
    window_reverse,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What a stage is built from; arguments of Swin, a list where each stage has its own value.

    Args:
        attention: of its blocks: 'window' (every second block shifted by half a window) or 'vsa'
            (no shift, a 7x7 depthwise convolution as position embedding).
        dim: channels C; twice those of the stage before.
        depth: blocks.
        num_heads: n.
        window_size: side of a window in tokens.
        vsa_form: classification | detection, see FORMS in common/layers/vsa.py.
        mlp_ratio: hidden width of the MLP over C.
        dropout, attention_dropout: in [0, 1).
    """
    attention: str = per_stage('attention', *('window',) * 4)
    dim: int = per_stage('dims', 96, 192, 384, 768)
    depth: int = per_stage('depths', 2, 2, 6, 2)
    num_heads: int = per_stage('num_heads', 3, 6, 12, 24)
    window_size: int = 7
    vsa_form: str = 'classification'
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    attention_dropout: float = 0.0


class ShiftedWindowAttention(WindowAttention):
    """Window attention with a relative position bias, in windows that are shifted by `shift`.

    The map is padded at the bottom and right, before q, k and v. A map that fits into one window
    is not shifted. Places that the shift brings together from opposite sides do not see each
    other.
    """

    def __init__(self, dim, num_heads, window_size, shift, dropout, attention_dropout):
        super().__init__(dim, num_heads, window_size, relative_position=True, dropout=dropout,
                         attention_dropout=attention_dropout)
        self.shift = shift

    def pad(self, x, h, w):
        """[B, h * w, C] -> a map of whole windows [B, H, W, C], its shift and regions."""
        s = self.window_size
        x = pad_map(x.reshape([-1, h, w, x.shape[-1]]), *window_padding(h, w, s, split=False))
        shift, regions = 0 if min(h, w) <= s else self.shift, None
        if shift:
            regions = paddle.to_tensor(shift_regions(*x.shape[1:3], s, shift))
        return x, shift, regions

    def partition(self, x, h, w):
        """[B, h * w, C] -> windows [B * nW, s * s, C]"""
        return self.shifted_windows(*self.pad(x, h, w)[:2])

    def shifted_windows(self, x, shift):
        """[B, H, W, C] -> [B * nW, s * s, C]"""
        if shift:
            x = paddle.roll(x, [-shift, -shift], [1, 2])
        return window_partition(x, self.window_size)

    def forward(self, x, h, w, return_weights=False):
        """[B, h * w, C] -> [B, h * w, C]; with return_weights also the attention weights
        [B, nW, n, s * s, s * s], whose windows are those of the shifted map."""
        B, _, C = x.shape
        x, shift, regions = self.pad(x, h, w)
        padded = x.shape[1:3]
        if not return_weights and has_kernels(x):
            x = self.in_map(x, shift, regions)
        else:
            x, weights = self.with_weights(self.shifted_windows(x, shift), regions)
            x = window_reverse(x, self.window_size, *padded)
            if shift:
                x = paddle.roll(x, [shift, shift], [1, 2])
        if padded != [h, w]:
            x = x[:, :h, :w]
        x = x.reshape([-1, h * w, C])
        return (x, split_windows(weights, B)) if return_weights else x


@functools.cache
def shift_regions(h, w, size, shift):
    """int32 [nW, s * s]: tokens of a shifted window that were neighbours before the shift have one
    number. (As a mask of pairs it would be s * s times as large in an exported graph.)"""
    def region(side):
        """Of each index: 0 before the last window, 1 in it, 2 what came round from the start."""
        index = np.arange(side)
        return (index >= side - size).astype(np.int32) + (index >= side - shift)

    regions = region(h)[:, None] * 3 + region(w)[None]                     # [h, w]
    regions = regions.reshape(h // size, size, w // size, size).transpose(0, 2, 1, 3)
    return regions.reshape(-1, size * size)


def make_attention(spec, shift):
    """The attention of a block, called with (tokens, h, w): see MODEL.ATTENTION."""
    shared = {'dropout': spec.dropout, 'attention_dropout': spec.attention_dropout}
    if spec.attention == 'window':
        return ShiftedWindowAttention(spec.dim, spec.num_heads, spec.window_size, shift, **shared)
    if spec.attention == 'vsa':
        return TokenVSA(spec.dim, spec.num_heads, spec.window_size, form=spec.vsa_form, **shared)
    raise InputError(f'MODEL.ATTENTION: got {spec.attention!r}, expected window or vsa')


class SwinBlock(nn.Layer):
    """x + attention(norm(x)), then x + mlp(norm(x)); VSA reads x with its position embedding.

    Args:
        spec: the StageSpec of its stage.
        shift: tokens by which its windows are shifted; VSA has no shift.
        drop_path: probability of the block's stochastic depth.
    """

    def __init__(self, spec, shift, drop_path):
        super().__init__()
        self.norm1 = LayerNorm(spec.dim, epsilon=1e-5)
        self.pos = ConditionalPosition(spec.dim, 7) if spec.attention == 'vsa' else None
        self.attn = make_attention(spec, shift)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(spec.dim, epsilon=1e-5)
        self.mlp = Mlp(spec.dim, int(spec.dim * spec.mlp_ratio), spec.dropout)

    def attention_input(self, x, h, w):
        return self.norm1(x if self.pos is None else self.pos(x, h, w))

    def forward(self, x, h, w):
        x = x + self.drop_path(self.attn(self.attention_input(x, h, w), h, w))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Layer):
    """[B, h * w, C] -> [B, h / 2 * w / 2, 2 C]; odd sides are padded at the end."""

    def __init__(self, dim):
        super().__init__()
        self.norm = LayerNorm(4 * dim, epsilon=1e-5)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias_attr=False)

    def forward(self, x, h, w):
        C = x.shape[-1]
        x = pad_map(x.reshape([-1, h, w, C]), 0, h % 2, 0, w % 2)
        h, w = x.shape[1] // 2, x.shape[2] // 2
        x = x.reshape([-1, h, 2, w, 2, C]).transpose([0, 1, 3, 4, 2, 5])   # columns, then rows
        return self.reduction(self.norm(x.reshape([-1, h * w, 4 * C]))), h, w


class PatchEmbed(nn.Layer):
    """[B, 3, H, W] -> [B, h * w, C], h = H / patch_size."""

    def __init__(self, patch_size, in_channels, dim):
        super().__init__()
        self.proj = Conv2D(in_channels, dim, patch_size, patch_size)
        self.norm = LayerNorm(dim, epsilon=1e-5)

    def forward(self, x):
        return self.norm(to_tokens(self.proj(x)))


class Stage(nn.Layer):
    """Blocks, and the merging after them (None in the last stage)."""

    def __init__(self, blocks, downsample):
        super().__init__()
        self.blocks = nn.LayerList(blocks)
        self.downsample = downsample


class Swin(ImageClassifier):
    """Swin Transformer.

    Args:
        image_size: int or (height, width) in pixels, checked; the model takes any other too.
        in_channels: channels of the image.
        num_classes: outputs of the classifier; 0 makes `forward` return the features.
        patch_size: pixels of a patch's side.
        drop_path: stochastic depth of the last block; linear from 0 at the first.
        stages: the arguments of StageSpec, as lists where it says so.
    """

    has_pyramid = True
    norms_maps = True
    pool_parts = ('norm',)

    def __init__(self, image_size=224, in_channels=3, num_classes=1000, *, patch_size=4,
                 drop_path=0.0, **stages):
        super().__init__()
        specs = stage_specs(StageSpec, stages)
        dims = [spec.dim for spec in specs]
        if any(after != 2 * before for before, after in zip(dims, dims[1:], strict=False)):
            raise InputError(f'MODEL.TOKEN_DIMS: got {dims}, expected each to be twice the one '
                             f'before')
        self.dims = dims
        self.stride = patch_size
        self.check_size(*to_pair(image_size))
        self.patch_embed = PatchEmbed(patch_size, in_channels, dims[0])
        rates = iter(drop_path_rates(drop_path, sum(spec.depth for spec in specs)))
        layers = []
        for spec in specs:
            blocks = [SwinBlock(spec, spec.window_size // 2 if block % 2 else 0, next(rates))
                      for block in range(spec.depth)]
            layers.append(Stage(blocks, None if spec is specs[-1] else PatchMerging(spec.dim)))
        self.layers = nn.LayerList(layers)
        self.num_features = dims[-1]
        self.norm = LayerNorm(self.num_features, epsilon=1e-5)
        self.num_classes = num_classes
        self.head = Linear(self.num_features, num_classes) if num_classes else None
        init_weights(self)

    def no_weight_decay(self):
        return {name for name, _ in self.named_parameters()
                if name.endswith('relative_position_bias_table')}

    def cells(self):
        return [block for stage in self.layers for block in stage.blocks]

    def pool(self, tokens):
        """[B, N, C] -> [B, C]: the mean of the normalised tokens."""
        return self.norm(tokens).mean(axis=1)

    def stage_sizes(self):
        return [(dim, self.stride * 2 ** index) for index, dim in enumerate(self.dims)]

    def stages(self, image):
        self.check_size(*image.shape[2:])
        x = self.patch_embed(image)
        h, w = image.shape[2] // self.stride, image.shape[3] // self.stride
        for stage in self.layers:
            for block in stage.blocks:
                x = block(x, h, w)
            yield x, h, w
            if stage.downsample is not None:
                x, h, w = stage.downsample(x, h, w)

    def get_windows(self, image, layer=-1):
        """As ViTAEv2.get_windows."""
        return windows_in_pixels(self, image, layer)


def init_weights(model):
    """Initialises every parameter of a Swin.

    | parameter                 | weight                                        | bias     |
    |---------------------------|-----------------------------------------------|----------|
    | linear                    | normal, std .02                               | 0        |
    | convolution               | uniform, +-sqrt(1 / fan_in) (PyTorch's)       | the same |
    | VSA's linear layers       | uniform, +-sqrt(1 / fan_in), when it is made  | the same |
    | LayerNorm                 | 1                                             | 0        |
    | relative position bias    | normal, std .02, when it is made              |          |
    """
    for layer in model.sublayers():
        if not isinstance(layer, Pointwise):
            init_layer(layer)


def build_swin(config):
    """The model that a config of vitaev2_vsa/config.py describes; MODEL.TYPE 'swin'."""
    arguments = model_arguments(config)
    arguments['dims'] = arguments.pop('token_dims')
    return Swin(**arguments)
