"""Varied-size window attention (VSA): attention whose windows are learned, one for each head.

Sources: "VSA: Learning Varied-Size Window Attention in Vision Transformers" (arXiv 2204.08446)
and github.com/ViTAE-Transformer/ViTAE-VSA (Image-Classification/vitaev2_vsa/vsa.py).
`VSAWindowAttention` can be used in any model.

Kept from upstream, since its checkpoints need it: the scale of the scores from the input's
channels; offsets divided by the number of whole windows of the map before it is padded; padding
after q, k and v; a relative position bias always; and that its code for detection
(Object-Detection/mmdet/models/backbones/vitaev2_vsa_modules/window.py) pads and counts in another
way than its code for classification, see FORMS. The parameters are the same, and on a square map of
whole windows the results are, too.
Different from upstream, on purpose: coordinates are in pixels and for any size of the map (also
smaller than a window, where upstream divides by zero: one window then counts as one); dropout on
the attention weights is applied; no GPU is needed to build it.

Letters: B batch, H W map in tokens, C channels, s window side, nh nw windows along H and W,
nW = nh * nw, n heads, d = channels of a head. Maps are channels-last inside, [B, H, W, C].
"""
import math
from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.nn.initializer import Uniform

from common.core import compat
from common.core.errors import InputError
from common.layers.attention import attend
from common.layers.basic import Dropout, to_map
from common.layers.fast import Linear, mean_rows
from common.layers.fast.sampling import FORMS as SAMPLINGS
from common.layers.fast.sampling import bilinear_sample
from common.layers.windows import (
    add_relative_position_bias,
    pad_map,
    relative_position_bias,
    split_windows,
    window_padding,
)


class Form(NamedTuple):
    """How a map that is not square, or not of whole windows, is treated."""

    split_padding: bool  # the map is padded on both sides instead of at the bottom and right
    swapped_units: bool  # x is divided by the windows along the height, y by those along the width


FORMS = {'classification': Form(split_padding=False, swapped_units=False),
         'detection': Form(split_padding=True, swapped_units=True)}


class Windows(NamedTuple):
    """Learned windows in pixels of the map, (x, y) on the last axis; each [B, n, nh, nw, 2]."""

    centre: paddle.Tensor
    size: paddle.Tensor
    offset: paddle.Tensor  # of the centre from the default window's
    scale: paddle.Tensor   # of the side to the default window's, negative if mirrored


class Pointwise(Linear):
    """A 1x1 convolution on a channels-last map. It starts as PyTorch's convolutions do when it is
    made: weight and bias uniform in +-1 / sqrt(in_channels)."""

    def __init__(self, in_channels, out_channels):
        bound = 1 / math.sqrt(in_channels)
        start = paddle.ParamAttr(initializer=Uniform(-bound, bound))
        super().__init__(in_channels, out_channels, start, start)

    def forward(self, x):
        """[..., in] -> [..., out], in the type of x: the regression stays in float32 at O2."""
        if self.weight.dtype == x.dtype:
            return Linear.forward(self, x)  # compat: super
        return F.linear(x, self.weight.astype(x.dtype), self.bias.astype(x.dtype))


class VSAWindowAttention(nn.Layer):
    """Multi-head attention of the queries of each window to keys and values that are sampled
    evenly from a window which is moved and scaled, for each head, by what the window holds.

    A map of any height and width; an exported graph is for one (its batch may be open).

    Args:
        dim: channels in, C.
        num_heads: n.
        window_size: s, side of the default windows in tokens.
        out_dim: channels out, and of q, k and v; default dim.
        dropout: after the output projection, in [0, 1).
        attention_dropout: on the attention weights, in [0, 1).
        sampling: auto | gather | grid_sample, see bilinear_sample.
        form: classification | detection, which of upstream's two codes is followed where a map is
            not square or not of whole windows; see FORMS.

    Source: "VSA: Learning Varied-Size Window Attention in Vision Transformers" (arXiv 2204.08446).

    Examples:
        >>> import paddle
        >>> from vitaev2_vsa.vsa import VSAWindowAttention
        >>> attention = VSAWindowAttention(dim=96, num_heads=3, window_size=7)
        >>> tuple(attention(paddle.zeros([2, 96, 28, 20])).shape)
        (2, 96, 28, 20)
    """

    def __init__(self, dim: int, num_heads: int, window_size: int = 7, out_dim: int | None = None,
                 dropout: float = 0.0, attention_dropout: float = 0.0, sampling: str = 'auto',
                 form: str = 'classification'):
        super().__init__()
        out_dim = out_dim or dim
        if dim % num_heads or out_dim % num_heads:
            raise InputError(f'MODEL.NUM_HEADS: got {num_heads}, expected a divisor of the '
                             f'channels, {dim} in and {out_dim} out')
        if sampling not in SAMPLINGS:
            raise InputError(f"VSA: sampling: got {sampling!r}, expected 'auto', 'gather' or "
                             f"'grid_sample'")
        if form not in FORMS:
            raise InputError(f'MODEL.VSA_FORM: got {form!r}, expected one of {", ".join(FORMS)}')
        self.num_heads = num_heads
        self.window_size = window_size
        self.out_dim = out_dim
        self.scale = (dim // num_heads) ** -0.5  # upstream's, also where out_dim is another
        self.sampling = sampling
        self.form = FORMS[form]
        self.sampling_offsets = Pointwise(dim, 2 * num_heads)
        self.sampling_scales = Pointwise(dim, 2 * num_heads)
        self.qkv = Pointwise(dim, 3 * out_dim)
        self.proj = Pointwise(out_dim, out_dim)
        add_relative_position_bias(self)
        self.attn_dropout = Dropout(attention_dropout)
        self.proj_dropout = Dropout(dropout)

    def forward(self, x):
        """[B, C, H, W] -> [B, out_dim, H, W], for any H and W."""
        x, _ = self.with_weights(x.transpose([0, 2, 3, 1]))
        return x.transpose([0, 3, 1, 2])

    def with_weights(self, x):
        """[B, H, W, C] -> [B, H, W, out_dim] and the attention weights [B * nW, n, s * s, s * s].
        """
        _, H, W, _ = x.shape
        if H < 0 or W < 0:
            raise InputError('VSA: export: got an open height or width, expected fixed ones (the '
                             'batch may be open)')
        d = self.out_dim // self.num_heads
        qkv = self.qkv(x)                                                  # [B, H, W, 3 * n * d]
        q = self.queries(qkv[:, :, :, :self.out_dim])                      # [B * nW, n, s * s, d]
        columns, rows = self.coordinates(x)
        kv = bilinear_sample(qkv[:, :, :, self.out_dim:], columns, rows, 2, self.sampling)
        k, v = kv[:, :, :, :d], kv[:, :, :, d:]                            # [B * nW, n, s * s, d]
        x, weights = attend(q, k, v, self.scale, self.attn_dropout, relative_position_bias(self),
                            return_weights=True)
        x = self.proj_dropout(self.proj(self.merge(x, H, W)))              # [B, H, W, out_dim]
        return x, weights

    def padding(self, H, W):
        """The tokens (top, bottom, left, right) around a map, with which it has whole windows."""
        return window_padding(H, W, self.window_size, self.form.split_padding)

    def queries(self, q):
        """[B, H, W, n * d] -> [B * nW, n, s * s, d], the map padded to whole windows."""
        _, H, W, _ = q.shape
        s, n, d = self.window_size, self.num_heads, self.out_dim // self.num_heads
        q = pad_map(q, *self.padding(H, W))
        q = q.reshape([-1, s, q.shape[2] // s, s, n, d])                   # [B nh, s, nw, s, n, d]
        return q.transpose([0, 2, 4, 1, 3, 5]).reshape([-1, n, s * s, d])

    def merge(self, x, H, W):
        """[B * nW, n, s * s, d] -> [B, H, W, n * d], without the padding."""
        s, n, d = self.window_size, self.num_heads, self.out_dim // self.num_heads
        top, bottom, left, right = self.padding(H, W)
        height, width = top + H + bottom, left + W + right
        x = x.reshape([-1, width // s, n, s, s, d])                        # [B * nh, nw, ...]
        x = x.transpose([0, 3, 1, 4, 2, 5])                                # [B nh, s, nw, s, n, d]
        x = x.reshape([-1, height, width, self.out_dim])
        return x[:, top:top + H, left:left + W] if (height, width) != (H, W) else x

    def regress(self, x):
        """Offsets in pixels and scales of the windows: [B, H, W, C] -> two of [B, nh, nw, n, 2].

        They are predicted from the mean of the default window, padding included. Float32 at
        least, also in mixed precision: a pixel's position needs more than fp16's three digits.
        """
        _, H, W, C = x.shape
        s, n = self.window_size, self.num_heads
        x = pad_map(x if x.dtype == paddle.float64 else x.astype('float32'), *self.padding(H, W))
        _, padded_h, padded_w, _ = x.shape
        nh, nw = padded_h // s, padded_w // s
        x = mean_rows(x.reshape([-1, s, padded_w * C]))                    # [B * nh, nw * s * C]
        x = mean_rows(x.reshape([-1, s, C]))                               # [B * nW, C]
        x = compat.leaky_relu(x)
        with compat.full_precision():
            offset = self.sampling_offsets(x).reshape([-1, nh, nw, n, 2])
            scale = self.sampling_scales(x).reshape([-1, nh, nw, n, 2])
        # Upstream's offsets are fractions of the map, from -1 to 1, over the whole windows in it.
        over_x, over_y = max(W // s, 1), max(H // s, 1)
        if self.form.swapped_units:
            over_x, over_y = over_y, over_x
        unit_x, unit_y = (padded_w - 1) / 2 / over_x, (padded_h - 1) / 2 / over_y
        offset = paddle.stack([offset[:, :, :, :, 0] * unit_x, offset[:, :, :, :, 1] * unit_y], -1)
        return offset, 1 + scale

    def first_centre(self, H, W):
        """(x, y) of the first default window's centre, in pixels of the map without its padding."""
        top, _, left, _ = self.padding(H, W)
        return (self.window_size - 1) / 2 - left, (self.window_size - 1) / 2 - top

    def coordinates(self, x):
        """Where keys and values are sampled: columns and rows in pixels of the map without its
        padding, each [B, nh, nw, n, s].

        A window's samples are the grid of its columns and rows.
        """
        offset, scale = self.regress(x)
        s, (nh, nw) = self.window_size, offset.shape[1:3]
        first_x, first_y = self.first_centre(*x.shape[1:3])
        steps = paddle.arange(s, dtype=x.dtype if x.dtype == paddle.float64 else 'float32')
        steps = steps - (s - 1) / 2                                        # [s], from the centre
        middle_x = paddle.arange(nw, dtype=steps.dtype).reshape([1, 1, nw, 1, 1]) * s + first_x
        middle_y = paddle.arange(nh, dtype=steps.dtype).reshape([1, nh, 1, 1, 1]) * s + first_y
        columns = middle_x + offset[:, :, :, :, :1] + scale[:, :, :, :, :1] * steps
        rows = middle_y + offset[:, :, :, :, 1:] + scale[:, :, :, :, 1:] * steps
        return columns, rows

    def windows(self, x) -> Windows:
        """The learned windows over a map [B, C, H, W], in its pixels; see Windows."""
        x = x.transpose([0, 2, 3, 1])
        offset, scale = (value.transpose([0, 3, 1, 2, 4]) for value in self.regress(x))
        s, (nh, nw) = self.window_size, offset.shape[2:4]
        middle = paddle.stack(paddle.meshgrid(paddle.arange(nh), paddle.arange(nw))[::-1], axis=-1)
        first = paddle.to_tensor(self.first_centre(*x.shape[1:3]), offset.dtype)
        centre = middle.astype(offset.dtype) * s + first + offset          # [B, n, nh, nw, 2]
        return Windows(centre, scale.abs() * s, offset, scale)


class TokenVSA(VSAWindowAttention):
    """VSA on tokens."""

    def forward(self, x, h, w, return_weights=False):
        """[B, h * w, C] -> [B, h * w, out_dim]; with return_weights also the attention weights
        [B, nW, n, s * s, s * s]."""
        B, _, C = x.shape
        x, weights = self.with_weights(x.reshape([-1, h, w, C]))
        x = x.reshape([-1, h * w, self.out_dim])
        return (x, split_windows(weights, B)) if return_weights else x


def windows_in_pixels(model, image, layer: int) -> Windows:
    """The windows that the VSA of a block attends to, in pixels of the image.

    Args:
        model: an ImageClassifier.
        image: [B, 3, H, W], float, normalised.
        layer: index of `model.cells()`, negative from the end.

    Returns:
        Windows, each [B, n, nh, nw, 2]; `centre` counts from the image's upper left corner.

    Raises:
        InputError: the layer has another attention.
    """
    one, = model.attention_passes(image, [layer])
    if not isinstance(one.layer, VSAWindowAttention):
        raise InputError(f'layer: got {layer}, expected a layer with varied-size windows')
    found = one.layer.windows(to_map(one.tokens, one.h, one.w))
    unit = paddle.to_tensor([image.shape[3] / one.w, image.shape[2] / one.h], found.centre.dtype)
    return found._replace(centre=(found.centre + 0.5) * unit, size=found.size * unit,
                          offset=found.offset * unit)
