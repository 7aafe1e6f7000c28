"""The names that other codes have for Swin's weights.

common/weights/dialects.py says what a Dialect is; swin.py's model finds this file by its name.
"""
import math

from common.core.class_names import imagenet_22k_classes
from common.weights.dialects import Dialect, stage_counts

# PaddleClas keeps the gathered bias, too, since an evaluation makes it from the table.
BUFFERS = (r'\.relative_position_index$', r'\.relative_position_bias$', r'\.attn_mask$')


def from_unfold(value):
    """The 4 C inputs of a merging, on the last axis, in Swin's order of (column, row, channel);
    MMClassification's torch.nn.Unfold counts them by (channel, row, column)."""
    if not value.size or not value.ndim or value.shape[-1] % 4:
        return value  # no merging's; the comparison with the model will say so
    parts = value.reshape(*value.shape[:-1], -1, 2, 2)
    return parts.swapaxes(-3, -1).reshape(value.shape)


# Before timm, whose marker "head.fc" is a name of MMClassification's, too.
MMCLS = Dialect(
    'MMClassification', r'^(backbone\.)?stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight$',
    names=(
        (r'^backbone\.', ''), (r'^stages\.', 'layers.'),
        (r'^patch_embed\.projection\.', 'patch_embed.proj.'), (r'\.attn\.w_msa\.', '.attn.'),
        (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'), (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
        (r'^norm\d+\.', 'norm.'),  # the number is the last stage's; the first files have none
        (r'^head\.fc\.', 'head.')),
    dropped=BUFFERS,
    reordered=((r'\.downsample\.(norm|reduction)\.', from_unfold),))
HUGGING_FACE = Dialect(
    'Hugging Face',
    r'^(swin\.)?encoder\.layers\.0\.blocks\.0\.attention\.self\.query\.weight$',
    names=(
        (r'^swin\.', ''), (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
        (r'^embeddings\.norm\.', 'patch_embed.norm.'), (r'^encoder\.layers\.', 'layers.'),
        (r'\.layernorm_before\.', '.norm1.'), (r'\.layernorm_after\.', '.norm2.'),
        (r'\.attention\.self\.', '.attn.'), (r'\.attention\.output\.dense\.', '.attn.proj.'),
        (r'\.intermediate\.dense\.', '.mlp.fc1.'), (r'\.output\.dense\.', '.mlp.fc2.'),
        (r'^layernorm\.', 'norm.'), (r'^classifier\.', 'head.')),
    fused=((r'^(.*)\.attention\.self\.(?P<part>query|key|value)\.(weight|bias)$',
            ('query', 'key', 'value'), r'\1.attn.qkv.\3'),),
    dropped=BUFFERS)
PADDLEVIT = Dialect(
    'PaddleViT', r'^stages\.0\.blocks\.0\.attn\.qkv\.weight$',
    names=((r'^patch_embedding\.patch_embed\.', 'patch_embed.proj.'),
           (r'^patch_embedding\.norm\.', 'patch_embed.norm.'), (r'^stages\.', 'layers.'),
           (r'^fc\.', 'head.')),
    dropped=BUFFERS)
# timm since 0.9: a merging belongs to the stage after it, and the head has a pooling.
TIMM = Dialect(
    'timm', r'^(head\.fc\.weight|layers_0\.blocks\.0\.norm1\.weight|'
            r'layers\.3\.downsample\.norm\.weight)$',
    names=((r'^layers_(\d+)\.', r'layers.\1.'),
           (r'^layers\.(\d+)\.downsample\.', lambda m: f'layers.{int(m[1]) - 1}.downsample.'),
           (r'^head\.fc\.', 'head.')),
    dropped=BUFFERS)
# Microsoft's own, timm's before 0.9 and PaddleClas'.
UPSTREAM = Dialect(
    'Swin', r'^layers\.0\.blocks\.0\.norm1\.weight$', names=(), dropped=BUFFERS)
DIALECTS = (MMCLS, HUGGING_FACE, PADDLEVIT, TIMM, UPSTREAM)
LOOKALIKES = (
    (r'\.(cpb_mlp\.0\.weight|logit_scale)$', 'a Swin V2, another model'),
    (r'(^|\.)(absolute_pos_embed|absolute_positional_embedding(\.\d+)?|'
     r'swin\.embeddings\.position_embeddings)$',
     'a Swin with an absolute position embedding, which this model lacks'))
# Microsoft's order; the other codes' files were converted from theirs.
PUBLISHED_CLASSES = {21841: imagenet_22k_classes}


def config_of(shapes):
    """The MODEL keys that weights of this model tell; see vit/vit_names.py."""
    depths = stage_counts(r'layers\.{}\.blocks\.(\d+)\.', shapes)
    first = [f'layers.{stage}.blocks.0' for stage in range(len(depths))]
    found = {'DEPTHS': depths,
             'TOKEN_DIMS': [shapes[f'{block}.norm1.weight'][0] for block in first],
             'ATTENTION': ['vsa' if f'{block}.pos.weight' in shapes else 'window'
                           for block in first]}
    tables = [shapes.get(f'{block}.attn.relative_position_bias_table') for block in first]
    if all(tables):  # [(2 s - 1)^2, heads]; VSA has none
        found['NUM_HEADS'] = [table[1] for table in tables]
        found['WINDOW_SIZE'] = (math.isqrt(tables[0][0]) + 1) // 2
    found['PATCH_SIZE'] = shapes['patch_embed.proj.weight'][-1]
    return found
