"""The names that other codes have for Swin's weights.

common/weights/dialects.py says what a Dialect is; swin.py's model finds this file by its name.
"""
import math

from common.weights.dialects import Dialect, stage_counts

BUFFERS = (r'\.relative_position_index$', r'\.attn_mask$')
# timm since 0.9: a merging belongs to the stage after it, and the head has a pooling.
TIMM = Dialect(
    'timm', r'^(head\.fc\.weight|layers_0\.blocks\.0\.norm1\.weight|'
            r'layers\.3\.downsample\.norm\.weight)$',
    names=((r'^layers_(\d+)\.', r'layers.\1.'),
           (r'^layers\.(\d+)\.downsample\.', lambda m: f'layers.{int(m[1]) - 1}.downsample.'),
           (r'^head\.fc\.', 'head.')),
    dropped=BUFFERS)
UPSTREAM = Dialect(
    'Swin', r'^layers\.0\.blocks\.0\.norm1\.weight$', names=(), dropped=BUFFERS)
DIALECTS = (TIMM, UPSTREAM)
LOOKALIKES = (
    (r'\.(cpb_mlp\.0\.weight|logit_scale)$', 'a Swin V2, another model'),
    (r'(^|\.)absolute_pos_embed$',
     'a Swin with an absolute position embedding, which this model lacks'))


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
