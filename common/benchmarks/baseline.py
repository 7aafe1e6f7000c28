"""The baseline that the benchmark's `peers` and `memory` measure a model against: a transformer as
textbooks write it, with Paddle's obvious calls. It is not optimised on purpose.
"""
import statistics

import paddle
import paddle.nn.functional as F
from paddle import nn

from common.benchmarks.steps import inference_step, measure, training_step
from common.core.errors import InputError
from common.core.sizes import to_pair
from common.zoo import create_model


class BaselineBlock(nn.Layer):
    """Pre-norm attention and MLP. [B, N, C] -> [B, N, C]"""

    def __init__(self, dim, num_heads, mlp_ratio, dropout=0.0):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.norm1, self.norm2 = (nn.LayerNorm(dim, epsilon=1e-6) for _ in range(2))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1 = nn.Linear(dim, int(dim * mlp_ratio))
        self.fc2 = nn.Linear(int(dim * mlp_ratio), dim)
        self.dropout = nn.Dropout(dropout)

    def heads(self, x):
        """[B, N, C] -> [B, h, N, d]"""
        return x.reshape([*x.shape[:2], self.num_heads, self.head_dim]).transpose([0, 2, 1, 3])

    def attention(self, x):
        q, k, v = (self.heads(part) for part in self.qkv(x).chunk(3, axis=-1))
        weights = F.softmax(paddle.matmul(q, k, transpose_y=True) * self.head_dim ** -0.5)
        x_heads = paddle.matmul(self.dropout(weights), v).transpose([0, 2, 1, 3])
        return self.dropout(self.proj(x_heads.reshape(x.shape)))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        hidden = self.dropout(F.gelu(self.fc1(self.norm2(x))))
        return x + self.dropout(self.fc2(hidden))


class BaselineTransformer(nn.Layer):
    """Patches, class token, position embedding, blocks, norm, classifier."""

    def __init__(self, image_size, patch_size, dim, depth, num_heads, mlp_ratio, num_classes):
        super().__init__()
        self.patches = nn.Conv2D(3, dim, patch_size, stride=patch_size)
        self.num_classes = num_classes
        count = (image_size[0] // patch_size) * (image_size[1] // patch_size)
        self.cls_token = self.create_parameter([1, 1, dim])
        self.position = self.create_parameter([1, count + 1, dim])
        self.blocks = nn.LayerList([BaselineBlock(dim, num_heads, mlp_ratio)
                                    for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, epsilon=1e-6)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose([0, 2, 1])            # [B, h * w, C]
        x = paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.norm(x)[:, 0])


def baseline_of(model):
    """The BaselineTransformer of a model's config.

    Raises:
        InputError: the model's blocks are not all alike.
    """
    config = model.config.MODEL
    keys = ('PATCH_SIZE', 'EMBED_DIM', 'DEPTH', 'NUM_HEADS', 'MLP_RATIO')
    if not all(isinstance(config.get(key), (int, float)) for key in keys):
        raise InputError(f'{config.NAME}: got a model of several kinds of blocks, expected one '
                         f'with a patch size, a width, a depth and a number of heads')
    size = to_pair(model.config.DATA.IMAGE_SIZE)
    return BaselineTransformer(size, *(config[key] for key in keys), config.NUM_CLASSES)


def peers_table(name, image_size, batch_size, train, rounds):
    """Measures a model beside its baseline, with and without Paddle's strided views.

    Args:
        name: of the model.
        image_size: pixels, or None for the model's own.
        batch_size: images in a step.
        train: whether to measure training steps instead of forward passes.
        rounds: measurements of each.

    Returns:
        A markdown table.
    """
    model = create_model(name, image_size=image_size, dropout=0.0, attention_dropout=0.0,
                         droppath=0.0)
    images = paddle.randn([batch_size, 3, *to_pair(model.config.DATA.IMAGE_SIZE)])
    make_step = training_step if train else inference_step
    baseline, own = make_step(baseline_of(model), images), make_step(model, images)

    times = measure({'textbook': with_views(baseline, True),
                     'textbook without strided views': with_views(baseline, False),
                     name: with_views(own, False)}, rounds)
    lines = ['| | img/s | Ratio |', '|---|---|---|']
    for what, seconds in times.items():
        ratio = statistics.median(first / second for first, second in
                                  zip(times['textbook'], seconds, strict=True))
        lines.append(f'| {what} | {batch_size / statistics.median(seconds):.2f} | {ratio:.2f} |')
    return '\n'.join(lines)


def with_views(step, views):
    """The step, with Paddle's strided views or without. They are its default; this project's
    programs switch them off."""
    def run():
        paddle.set_flags({'FLAGS_use_stride_kernel': views})
        step()
    return run
