"""Layers that more than one family uses, and the initialisers.

Letters: B batch, N tokens, C channels, H W map.
A layer that does nothing (evaluation, or probability 0) emits no operator: a left-over dropout
keeps an exported graph from being fused.
"""
import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.nn.initializer import Constant, Normal, Orthogonal, Uniform

from common.errors import InputError
from common.fast_layers import Conv2D, LayerNorm, Linear
from common.flash_attention import flash_attention, has_flash_attention

# what extract_feat of every family can give
FEATURE_TYPES = ('raw', 'featmap', 'cls_token', 'avg_featmap')


class Dropout(nn.Layer):
    """Inverted dropout with probability `p`; the identity, with no operator, when it is idle."""

    def __init__(self, p=0.0):
        super().__init__()
        self.p = check_probability('dropout', p)

    def is_idle(self):
        return not self.training or self.p == 0.0

    def forward(self, x):
        return x if self.is_idle() else F.dropout(x, self.p)

    def extra_repr(self):
        return f'p={self.p}'


class DropPath(nn.Layer):
    """Stochastic depth (arXiv 1603.09382): drops a residual branch for a whole sample.

    A branch that is kept is scaled by 1 / (1 - p), so the expectation does not change. The draws
    come from Paddle's generator, which the training loop seeds for every step.
    """

    def __init__(self, p=0.0):
        super().__init__()
        self.p = check_probability('drop path', p)

    def forward(self, x):
        if not self.training or self.p == 0.0:
            return x
        keep = 1.0 - self.p
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        mask = paddle.floor(paddle.rand(shape, dtype='float32') + keep)  # [B, 1, ...] of 0 and 1
        return x * (mask / keep).astype(x.dtype)

    def extra_repr(self):
        return f'p={self.p}'


class Mlp(nn.Layer):
    """fc1 - GELU(erf) - dropout - fc2 - dropout over the last axis."""

    def __init__(self, dim, hidden_dim, dropout=0.0):
        super().__init__()
        if hidden_dim < 1:
            raise InputError(f'MODEL.MLP_RATIO: {dim} channels make {hidden_dim} hidden ones, '
                             f'expected at least 1')
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x):
        x = self.fc1(x)                                                    # [B, N, hidden]
        if self.dropout.is_idle():
            return self.fc2(x, F.gelu)                                     # [B, N, C]
        return self.dropout(self.fc2(self.dropout(F.gelu(x))))


def check_probability(what, p):
    """Returns `p`; a value outside [0, 1) is an InputError."""
    if not 0.0 <= p < 1.0:
        raise InputError(f'{what} probability: got {p}, expected a number in [0, 1)')
    return p


def drop_path_rates(rate, depth):
    """The rate of each of `depth` blocks: linear from 0 at the first to `rate` at the last."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def normal_(parameter, std=0.02):
    """Fills with a normal of standard deviation `std`.

    This is what timm's trunc_normal_(std=.02) does in effect: it cuts at -2 and 2, which is a
    hundred deviations. Paddle's TruncatedNormal cuts elsewhere in 2.6 than in 3.x.
    """
    Normal(std=std)(parameter)


def init_linear(layer):
    """A linear layer as every family starts it: normal, std .02, bias 0."""
    normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        zeros_(layer.bias)


def init_layers(model):
    """Starts the layers that every staged model has: linear ones (`init_linear`), convolutions
    (`torch_conv_`), norms (1 and 0). A layer with an `init_weights` of its own is left to it."""
    for layer in model.sublayers():
        if hasattr(layer, 'init_weights'):
            layer.init_weights()
        elif isinstance(layer, nn.Linear):
            init_linear(layer)
        elif isinstance(layer, nn.Conv2D):
            torch_conv_(layer)
        elif isinstance(layer, (nn.LayerNorm, nn.BatchNorm2D)):
            ones_(layer.weight)
            zeros_(layer.bias)


def zeros_(parameter):
    Constant(0.0)(parameter)


def ones_(parameter):
    Constant(1.0)(parameter)


def lecun_normal_(parameter):
    """A convolution weight [out, in / groups, kh, kw]: normal, std sqrt(1 / fan_in)."""
    normal_(parameter, std=math.sqrt(1.0 / math.prod(parameter.shape[1:])))


def kaiming_normal_(parameter):
    """A convolution weight [out, in / groups, kh, kw]: normal, std sqrt(2 / fan_out)."""
    fan_out = parameter.shape[0] * math.prod(parameter.shape[2:])
    normal_(parameter, std=math.sqrt(2.0 / fan_out))


def resize_position_embedding(position, num_prefix, old_grid, new_grid):
    """Resizes a learned position embedding to another grid of patches.

    Args:
        position: [1, num_prefix + h * w, C], the prefix (class token) first.
        num_prefix: how many leading tokens have no place in the grid.
        old_grid, new_grid: (h, w) in patches.

    Returns:
        [1, num_prefix + h' * w', C]: bicubic, no aligned corners, the prefix unchanged
        (as timm's resize_pos_embed without antialiasing).
    """
    if tuple(old_grid) == tuple(new_grid):
        return position
    channels = position.shape[-1]
    grid = position[:, num_prefix:].reshape([1, *old_grid, channels])      # [1, h, w, C]
    grid = F.interpolate(grid.transpose([0, 3, 1, 2]), size=list(new_grid),
                         mode='bicubic', align_corners=False)              # [1, C, h', w']
    grid = grid.flatten(2).transpose([0, 2, 1])                            # [1, h' * w', C]
    if num_prefix == 0:
        return grid
    return paddle.concat([position[:, :num_prefix], grid], axis=1)


def with_class_token(patches, cls_token, position, old_grid, new_grid):
    """Puts the class token before the patches and adds the position embedding.

    Args:
        patches: [B, h * w, C].
        cls_token: [1, 1, C].
        position: [1, 1 + h0 * w0, C], learned for `old_grid` (h0, w0).
        new_grid: (h, w) of the patches.

    Returns:
        [B, 1 + h * w, C].
    """
    B, _, C = patches.shape
    cls_token = cls_token.expand([B, 1, C]).astype(patches.dtype)
    position = resize_position_embedding(position, 1, old_grid, new_grid)
    return paddle.concat([cls_token, patches], axis=1) + position


def to_map(tokens, h, w):
    """[B, h * w, C] -> [B, C, h, w]"""
    B, _, C = tokens.shape
    return tokens.transpose([0, 2, 1]).reshape([B, C, h, w])


def to_tokens(feature_map):
    """[B, C, h, w] -> [B, h * w, C]"""
    return feature_map.flatten(2).transpose([0, 2, 1])


def check_feature_type(out_type):
    """Raises InputError for what extract_feat of no family gives."""
    if out_type is not None and out_type not in FEATURE_TYPES:
        raise InputError(f'out_type: got {out_type!r}, expected None or one of '
                         f'{", ".join(FEATURE_TYPES)}')


def block_indices(layers, depth):
    """Indices of blocks, negative ones from the end, as numbers in [0, depth); None is all."""
    layers = range(depth) if layers is None else layers
    for index in layers:
        if not -depth <= index < depth:
            raise InputError(f'layer: got {index}, expected {-depth} to {depth - 1}')
    return [index % depth for index in layers]


def new_classifier(num_features, num_classes, dtype):
    """A newly initialised linear layer of a model's type; None for no classes."""
    if not num_classes:
        return None
    layer = Linear(num_features, num_classes)
    init_linear(layer)
    layer.to(dtype=dtype)
    return layer


def to_pair(size):
    """An int or a pair (height, width) as a tuple of two ints."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def recompute_cells(model):
    """Gradient checkpointing: the blocks (`model.cells()`) keep only their input in training and
    run again, with the same random numbers, in the backward pass (arXiv 1604.06174)."""
    for cell in model.cells():
        cell.forward = Recomputed(cell, cell.forward)


class Recomputed:
    """The forward pass of a block, run again in the backward pass while it trains."""

    def __init__(self, cell, forward):
        self.cell = cell
        self.forward = forward
        self.norms = [layer for layer in cell.sublayers() if isinstance(layer, nn.BatchNorm2D)]

    def __call__(self, x, *others):
        # with a frozen stem x has no gradient, and recompute would give the block none
        if not self.cell.training or x.stop_gradient:
            return self.forward(x, *others)
        return recompute(self.run, x, *others)

    def run(self, *inputs):
        """The first pass is without gradients, the second with them: BatchNorm's running
        statistics must not move again in it."""
        momenta = [norm._momentum for norm in self.norms]
        try:
            if paddle.is_grad_enabled():
                for norm in self.norms:
                    norm._momentum = 1.0
            return self.forward(*inputs)
        finally:
            for norm, momentum in zip(self.norms, momenta, strict=True):
                norm._momentum = momentum


class Attention(nn.Layer):
    """Multi-head self-attention; one linear makes q, k and v, in this order.

    Args:
        dim: channels C.
        num_heads: n.
        qkv_bias: whether q, k and v have one.
        dropout: after the output projection.
        attention_dropout: on the attention weights.
        head_dim: d, if it is not channels out / n.
        out_dim: channels out, if they are not C.
        out_name: name of the output projection, which checkpoints fix.
    """

    def __init__(self, dim, num_heads, qkv_bias=True, dropout=0.0, attention_dropout=0.0,
                 head_dim=None, out_dim=None, out_name='proj'):
        super().__init__()
        out_dim = out_dim or dim
        inner = num_heads * head_dim if head_dim else out_dim
        if inner % num_heads:
            raise InputError(f'MODEL.NUM_HEADS: got {num_heads}, expected a divisor of the '
                             f'{inner} channels')
        self.num_heads = num_heads
        self.head_dim = inner // num_heads
        self.qkv = Linear(dim, inner * 3, bias_attr=None if qkv_bias else False)
        self.out_name = out_name
        setattr(self, out_name, Linear(inner, out_dim))
        self.attn_dropout = Dropout(attention_dropout)
        self.proj_dropout = Dropout(dropout)

    def scores_and_values(self, qkv):
        """[B, N, 3 * n * d] -> q k^T / sqrt(d) [B, n, N, N] and v [B, n, N, d]."""
        B, N, _ = qkv.shape
        qkv = qkv.reshape([B, N, 3, self.num_heads, self.head_dim])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)                 # each [B, n, N, d]
        return paddle.matmul(q * self.head_dim ** -0.5, k, transpose_y=True), v

    def weights_and_values(self, x):
        """[B, N, C] -> softmax of the scores [B, n, N, N] and v [B, n, N, d]."""
        scores, v = self.scores_and_values(self.qkv(x))
        return F.softmax(scores, axis=-1), v

    def forward(self, x):
        qkv = self.qkv(x)                                                  # [B, N, 3 * n * d]
        if has_flash_attention(qkv.dtype, self.head_dim):
            dropout = 0.0 if self.attn_dropout.is_idle() else self.attn_dropout.p
            return self.project(flash_attention(qkv, self.num_heads, dropout))
        scores, v = self.scores_and_values(qkv)
        return self.mix(F.softmax(scores, axis=-1), v)

    def mix(self, weights, v):
        """[B, n, N, N] and [B, n, N, d] -> [B, N, C]"""
        return self.project(merge_heads(paddle.matmul(self.attn_dropout(weights), v)))

    def project(self, x):
        """[B, N, n * d] -> [B, N, C]"""
        return self.proj_dropout(getattr(self, self.out_name)(x))


def merge_heads(x):
    """[B, n, N, d] -> [B, N, n * d]"""
    B, n, N, d = x.shape
    return x.transpose([0, 2, 1, 3]).reshape([B, N, n * d])


class PRM(nn.Layer):
    """Pyramid reduction: one strided convolution for each dilation, side by side.

    [B, C, H, W] -> [B, embed_dim * len(dilations), H / stride, W / stride]; the channels of the
    first dilation come first. GELU after each convolution.
    """

    def __init__(self, in_channels, embed_dim, kernel, stride, dilations):
        super().__init__()
        self.convs = nn.LayerList([
            nn.Sequential(Conv2D(
                in_channels, embed_dim, kernel, stride, dilation=dilation,
                padding=math.ceil(((kernel - 1) * dilation + 1 - stride) / 2)), nn.GELU())
            for dilation in dilations])
        self.out_channels = embed_dim * len(dilations)

    def forward(self, x):
        return paddle.concat([conv(x) for conv in self.convs], axis=1)


class PerformerTokens(nn.Layer):
    """Performer attention (arXiv 2009.14794) from `dim` to `out_dim` channels, one head.

    The cost is linear in the number of tokens. `attention` and `mlp` are called by the cell, which
    puts its convolutions between them. Features are exponentials, computed in float32 at least.
    """

    def __init__(self, dim, out_dim, dropout=0.1):
        super().__init__()
        self.norm1 = LayerNorm(dim, epsilon=1e-5)
        self.kqv = Linear(dim, 3 * out_dim)
        self.proj = Linear(out_dim, out_dim)
        self.dropout = Dropout(dropout)
        self.norm2 = LayerNorm(out_dim, epsilon=1e-5)
        self.mlp = nn.Sequential(Linear(out_dim, out_dim), nn.GELU(),
                                 Linear(out_dim, out_dim), Dropout(dropout))
        self.num_features = out_dim // 2
        self.w = self.create_parameter([self.num_features, out_dim])
        self.w.stop_gradient = True

    def init_weights(self):
        """Fills w with orthogonal rows of norm sqrt(m)."""
        Orthogonal(gain=math.sqrt(self.num_features))(self.w)

    def features(self, x):
        """[B, N, C] -> exp(w x - |x|^2 / 2) / sqrt(m), [B, N, m]"""
        x = x if x.dtype == paddle.float64 else x.astype('float32')
        half_square = (x * x).sum(axis=-1, keepdim=True) / 2               # [B, N, 1]
        projected = paddle.matmul(x, self.w.astype(x.dtype), transpose_y=True)  # [B, N, m]
        return paddle.exp(projected - half_square) / math.sqrt(self.num_features)

    def attention(self, x):
        """[B, N, dim] -> v + projected attention, [B, N, out_dim]; v is the skip connection."""
        k, q, v = self.kqv(x).chunk(3, axis=-1)                            # this order
        key, query = self.features(k), self.features(q)                    # [B, N, m]
        total = paddle.matmul(query, key.sum(axis=1).unsqueeze(2))         # [B, N, 1]
        mixed = paddle.matmul(key, v.astype(key.dtype), transpose_x=True)  # [B, m, C]
        y = paddle.matmul(query, mixed) / (total + 1e-8)                   # [B, N, C]
        return v + self.dropout(self.proj(y.astype(v.dtype)))


def torch_conv_(layer):
    """A convolution as PyTorch starts it: weight and bias uniform in +-1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
    Uniform(-bound, bound)(layer.weight)
    if layer.bias is not None:
        Uniform(-bound, bound)(layer.bias)
