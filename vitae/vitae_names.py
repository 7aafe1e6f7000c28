"""The names that other codes have for ViTAE's weights.

common/weights/dialects.py says what a Dialect is; vitae.py's model finds this file by its name.
"""
from common.weights.dialects import Dialect, count_of

UPSTREAM = Dialect(
    'ViTAE', r'^layers\.0\.RC\.PRM\.',
    names=((r'\.running_mean$', '._mean'), (r'\.running_var$', '._variance')))
DIALECTS = (UPSTREAM,)


def config_of(shapes):
    """The MODEL keys that weights of a ViTAE tell; see vit/vit_names.py."""
    return {'DEPTHS': [count_of(rf'layers\.{stage}\.NC\.(\d+)\.', shapes)
                       for stage in range(3)]}
