"""Config of ViTAE: the MODEL keys and the defaults of this family; the rest is common/config.py."""
from common import config as shared

RANGES = {
    'MODEL.RATIOS': (1, None),
    'MODEL.EMBED_DIMS': (1, None),
    'MODEL.TOKEN_DIMS': (1, None),
    'MODEL.DEPTHS': (0, None),
    'MODEL.NUM_HEADS': (1, None),
    'MODEL.GROUPS': (1, None),
    'MODEL.MLP_RATIO': (0.01, None),
    'MODEL.REDUCTION_DROPOUT': (0.0, 0.999),
}

_C = shared.base_config()
_C.MODEL.TYPE = 'vitae'
_C.MODEL.NAME = 'vitae'
# for each stage the kind of its reduction cell: performer (multi-scale convolutions, attention),
# performer_less (multi-scale convolutions alone), embedding (patches and a class token), none
_C.MODEL.CELLS = ['performer', 'performer', 'performer_less']
# by how much each stage reduces height and width
_C.MODEL.RATIOS = [4, 2, 2]
# channels of each of a reduction cell's scales
_C.MODEL.EMBED_DIMS = [64, 64, 128]
# channels after each stage
_C.MODEL.TOKEN_DIMS = [64, 64, 256]
# normal cells in each stage, their heads, and the groups of their convolutions
_C.MODEL.DEPTHS = [0, 0, 7]
_C.MODEL.NUM_HEADS = [1, 1, 4]
_C.MODEL.GROUPS = [1, 1, 64]
# hidden width of MLP and convolutions over the channels
_C.MODEL.MLP_RATIO = 2.0
# two convolutions in a normal cell instead of three
_C.MODEL.SHALLOW = False
_C.MODEL.QKV_BIAS = True
# dropout of the performers; upstream has .1 hard-coded
_C.MODEL.REDUCTION_DROPOUT = 0.1
_C.DATA.CROP_PCT = 0.9
_C.DATA.IMAGENET_MEAN = [0.485, 0.456, 0.406]
_C.DATA.IMAGENET_STD = [0.229, 0.224, 0.225]


def get_config(cfg_file=None):
    """The frozen config of a yaml file, or the defaults."""
    return shared.load_config(_C, cfg_file, ranges=RANGES)


def update_config(config, args):
    """The frozen config with the command line's flags and -o values in place."""
    return shared.update_config(config, args, ranges=RANGES)
