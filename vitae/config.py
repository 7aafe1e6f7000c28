"""Config of ViTAE: the MODEL keys and the defaults of this family; the rest is common/config.py."""
from common.config import Key, base_config, load_config, update_config  # noqa: F401

_C = base_config()
_C.MODEL.TYPE = 'vitae'
_C.MODEL.NAME = 'vitae'
# for each stage the kind of its reduction cell: performer (multi-scale convolutions, attention),
# performer_less (multi-scale convolutions alone), embedding (patches and a class token), none
_C.MODEL.CELLS = ['performer', 'performer', 'performer_less']
# by how much each stage reduces height and width
_C.MODEL.RATIOS = Key([4, 2, 2], low=1)
# channels of each of a reduction cell's scales
_C.MODEL.EMBED_DIMS = Key([64, 64, 128], low=1)
# channels after each stage
_C.MODEL.TOKEN_DIMS = Key([64, 64, 256], low=1)
# normal cells in each stage, their heads, and the groups of their convolutions
_C.MODEL.DEPTHS = Key([0, 0, 7], low=0)
_C.MODEL.NUM_HEADS = Key([1, 1, 4], low=1)
_C.MODEL.GROUPS = Key([1, 1, 64], low=1)
# hidden width of MLP and convolutions over the channels
_C.MODEL.MLP_RATIO = Key(2.0, low=0.01)
# two convolutions in a normal cell instead of three
_C.MODEL.SHALLOW = False
_C.MODEL.QKV_BIAS = True
# dropout of the performers; upstream has .1 hard-coded
_C.MODEL.REDUCTION_DROPOUT = Key(0.1, low=0.0, high=0.999)
_C.DATA.CROP_PCT = 0.9
_C.DATA.IMAGENET_MEAN = [0.485, 0.456, 0.406]
_C.DATA.IMAGENET_STD = [0.229, 0.224, 0.225]


def get_config(cfg_file=None):
    """The frozen config of a yaml file, or the defaults."""
    return load_config(_C, cfg_file)
