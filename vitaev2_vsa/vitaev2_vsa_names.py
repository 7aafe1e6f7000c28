"""The names that other codes have for ViTAEv2's weights.

common/weights/dialects.py says what a Dialect is; the model of vitaev2_vsa.py finds this file by
its name.
"""
from common.weights.dialects import Dialect, stage_counts

UPSTREAM = Dialect(
    'ViTAEv2', r'^layers\.0\.RC\.PRM\.',
    names=((r'\.running_mean$', '._mean'), (r'\.running_var$', '._variance'),
           # without VSA, upstream's reduction cell has attention, norms and MLP in one module
           (r'\.RC\.attn\.(norm1|attn|norm2|mlp)\.', r'.RC.\1.'),
           # after a pooling and an activation
           (r'\.sampling_(offsets|scales)\.2\.', r'.sampling_\1.')),
    dropped=(r'\.relative_position_index$',))
DIALECTS = (UPSTREAM,)


def config_of(shapes):
    """The MODEL keys that weights of this model tell; see vit/vit_names.py."""
    depths = stage_counts(r'layers\.{}\.NC\.(\d+)\.', shapes)
    return {'DEPTHS': depths, 'TOKEN_DIMS': [shapes[f'layers.{stage}.NC.0.norm1.weight'][0]
                                             for stage in range(len(depths))]}
