"""Config of ViTAEv2, VSA and Swin: the MODEL keys and the defaults of this family; the rest is
common/config.py. MODEL.TYPE says which of the two models a yaml is for."""
from common.config import Key, base_config, load_config
from common.config import update_config as set_flags
from common.core.errors import InputError

_C = base_config()
# vitaev2_vsa (vitaev2_vsa.py) | swin (swin.py)
_C.MODEL.TYPE = 'vitaev2_vsa'
_C.MODEL.NAME = 'vitaev2_vsa'
# for each stage: transformer (all tokens; not in Swin) | window | vsa
_C.MODEL.ATTENTION = ['window', 'window', 'transformer', 'transformer']
# channels of each stage
_C.MODEL.TOKEN_DIMS = Key([64, 128, 256, 512], low=1)
# normal cells or blocks of each stage, and their heads
_C.MODEL.DEPTHS = Key([2, 2, 8, 2], low=0)
_C.MODEL.NUM_HEADS = Key([1, 2, 4, 8], low=1)
# hidden width of MLP (and convolutions) over the channels
_C.MODEL.MLP_RATIO = Key(4.0, low=0.01)
# side of a window in tokens
_C.MODEL.WINDOW_SIZE = Key(7, low=1, high=64)
# vsa on maps that are not square, or not of whole windows: as in upstream's code for classification
# | for detection; see FORMS in common/layers/vsa.py
_C.MODEL.VSA_FORM = Key('classification', choices=('classification', 'detection'))
# ViTAEv2 alone, for each stage: by how much it reduces height and width
_C.MODEL.RATIOS = Key([4, 2, 2, 2], low=1, only_in='vitaev2_vsa')
# channels of each scale of a reduction cell, its heads, and the groups of its convolutions
_C.MODEL.EMBED_DIMS = Key([64, 64, 128, 256], low=1, only_in='vitaev2_vsa')
_C.MODEL.REDUCTION_HEADS = Key([1, 1, 2, 4], low=1, only_in='vitaev2_vsa')
_C.MODEL.REDUCTION_GROUPS = Key([1, 16, 32, 64], low=1, only_in='vitaev2_vsa')
# groups of the normal cells' convolutions
_C.MODEL.GROUPS = Key([1, 32, 64, 128], low=1, only_in='vitaev2_vsa')
# reduction cells with 2 * TOKEN_DIMS hidden channels in their convolutions instead of EMBED_DIMS
_C.MODEL.WIDE_PCM = Key(False, only_in='vitaev2_vsa')
# full attention in the normal cells
_C.MODEL.QKV_BIAS = Key(True, only_in='vitaev2_vsa')
# upstream: stage i's drop path rates start at index DEPTHS[i - 1] of the ramp, as the published
# models were trained | cumulative: at the sum of the depths before
_C.MODEL.DROPPATH_SLICES = Key('upstream', only_in='vitaev2_vsa')
# Swin alone: pixels of a patch's side
_C.MODEL.PATCH_SIZE = Key(4, low=1, only_in='swin')
_C.DATA.CROP_PCT = 0.9
_C.DATA.IMAGENET_MEAN = [0.485, 0.456, 0.406]
_C.DATA.IMAGENET_STD = [0.229, 0.224, 0.225]


def get_config(cfg_file=None):
    """The frozen config of a yaml file, or the defaults."""
    return load_config(_C, cfg_file)


def update_config(config, args):
    """The frozen config with the command line's flags and -o values in place."""
    config = set_flags(config, args)
    if config.MODEL.TYPE not in ('vitaev2_vsa', 'swin'):
        raise InputError(f'MODEL.TYPE: got {config.MODEL.TYPE!r}, expected vitaev2_vsa or swin')
    return config
