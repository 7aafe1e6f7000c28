"""Config of ViT: the MODEL keys and the defaults of this family; the rest is common/config.py."""
from common import config as shared

NULLABLE = {'MODEL.ATTN_HEAD_SIZE': int, 'MODEL.REPRESENTATION_SIZE': int, 'MODEL.BACKBONE': str}
RANGES = {
    'MODEL.PATCH_SIZE': (1, None),
    'MODEL.EMBED_DIM': (1, None),
    'MODEL.DEPTH': (1, None),
    'MODEL.NUM_HEADS': (1, None),
    'MODEL.ATTN_HEAD_SIZE': (1, None),
    'MODEL.REPRESENTATION_SIZE': (1, None),
    'MODEL.MLP_RATIO': (0.01, None),
}

_C = shared.base_config()
_C.MODEL.TYPE = 'vit'
_C.MODEL.NAME = 'vit'
# side of a patch in pixels
_C.MODEL.PATCH_SIZE = 16
_C.MODEL.EMBED_DIM = 768
_C.MODEL.DEPTH = 12
_C.MODEL.NUM_HEADS = 12
# width of a head; None is EMBED_DIM / NUM_HEADS
_C.MODEL.ATTN_HEAD_SIZE = None
# hidden width of the MLP over EMBED_DIM
_C.MODEL.MLP_RATIO = 4.0
_C.MODEL.QKV_BIAS = True
# width of the tanh layer before the classifier (the paper's pre-training head); None for none
_C.MODEL.REPRESENTATION_SIZE = None
# None, or r50: the paper's hybrid
_C.MODEL.BACKBONE = None


def get_config(cfg_file=None):
    """The frozen config of a yaml file, or the defaults."""
    return shared.load_config(_C, cfg_file, NULLABLE, RANGES)


def update_config(config, args):
    """The frozen config with the command line's flags and -o values in place."""
    return shared.update_config(config, args, NULLABLE, RANGES)
