"""Config of ViTAEv2, VSA and Swin: the MODEL keys and the defaults of this family; the rest is
common/config.py. MODEL.TYPE says which of the two models a yaml is for."""
from common import config as shared
from common.core.errors import InputError

RANGES = {
    'MODEL.RATIOS': (1, None),
    'MODEL.EMBED_DIMS': (1, None),
    'MODEL.TOKEN_DIMS': (1, None),
    'MODEL.DEPTHS': (0, None),
    'MODEL.NUM_HEADS': (1, None),
    'MODEL.REDUCTION_HEADS': (1, None),
    'MODEL.GROUPS': (1, None),
    'MODEL.REDUCTION_GROUPS': (1, None),
    'MODEL.MLP_RATIO': (0.01, None),
    'MODEL.WINDOW_SIZE': (1, 64),
    'MODEL.PATCH_SIZE': (1, None),
}

_C = shared.base_config()
# vitaev2_vsa (vitaev2_vsa.py) | swin (swin.py)
_C.MODEL.TYPE = 'vitaev2_vsa'
_C.MODEL.NAME = 'vitaev2_vsa'
# for each stage: transformer (all tokens; not in Swin) | window | vsa
_C.MODEL.ATTENTION = ['window', 'window', 'transformer', 'transformer']
# channels of each stage
_C.MODEL.TOKEN_DIMS = [64, 128, 256, 512]
# normal cells or blocks of each stage, and their heads
_C.MODEL.DEPTHS = [2, 2, 8, 2]
_C.MODEL.NUM_HEADS = [1, 2, 4, 8]
# hidden width of MLP (and convolutions) over the channels
_C.MODEL.MLP_RATIO = 4.0
# side of a window in tokens
_C.MODEL.WINDOW_SIZE = 7
# ViTAEv2 alone, for each stage: by how much it reduces height and width
_C.MODEL.RATIOS = [4, 2, 2, 2]
# channels of each scale of a reduction cell, its heads, and the groups of its convolutions
_C.MODEL.EMBED_DIMS = [64, 64, 128, 256]
_C.MODEL.REDUCTION_HEADS = [1, 1, 2, 4]
_C.MODEL.REDUCTION_GROUPS = [1, 16, 32, 64]
# groups of the normal cells' convolutions
_C.MODEL.GROUPS = [1, 32, 64, 128]
# reduction cells with 2 * TOKEN_DIMS hidden channels in their convolutions instead of EMBED_DIMS
_C.MODEL.WIDE_PCM = False
# full attention in the normal cells
_C.MODEL.QKV_BIAS = True
# upstream: stage i's drop path rates start at index DEPTHS[i - 1] of the ramp, as the published
# models were trained | cumulative: at the sum of the depths before
_C.MODEL.DROPPATH_SLICES = 'upstream'
# Swin alone: pixels of a patch's side
_C.MODEL.PATCH_SIZE = 4
_C.DATA.CROP_PCT = 0.9
_C.DATA.IMAGENET_MEAN = [0.485, 0.456, 0.406]
_C.DATA.IMAGENET_STD = [0.229, 0.224, 0.225]


def get_config(cfg_file=None):
    """The frozen config of a yaml file, or the defaults."""
    return shared.load_config(_C, cfg_file, ranges=RANGES)


def update_config(config, args):
    """The frozen config with the command line's flags and -o values in place."""
    config = shared.update_config(config, args, ranges=RANGES)
    if config.MODEL.TYPE not in ('vitaev2_vsa', 'swin'):
        raise InputError(f'MODEL.TYPE: got {config.MODEL.TYPE!r}, expected vitaev2_vsa or swin')
    return config
