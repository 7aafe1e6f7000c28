"""Config of ViT: the MODEL keys and the defaults of this family; the rest is common/config.py."""
from common.config import Key, base_config, load_config, update_config  # noqa: F401

_C = base_config()
_C.MODEL.TYPE = 'vit'
_C.MODEL.NAME = 'vit'
# side of a patch in pixels
_C.MODEL.PATCH_SIZE = Key(16, low=1)
_C.MODEL.EMBED_DIM = Key(768, low=1)
_C.MODEL.DEPTH = Key(12, low=1)
_C.MODEL.NUM_HEADS = Key(12, low=1)
# width of a head; None is EMBED_DIM / NUM_HEADS
_C.MODEL.ATTN_HEAD_SIZE = Key(None, kind=int, low=1)
# hidden width of the MLP over EMBED_DIM
_C.MODEL.MLP_RATIO = Key(4.0, low=0.01)
_C.MODEL.QKV_BIAS = True
# width of the tanh layer before the classifier (the paper's pre-training head); None for none
_C.MODEL.REPRESENTATION_SIZE = Key(None, kind=int, low=1)
# None, or r50: the paper's hybrid
_C.MODEL.BACKBONE = Key(None, kind=str)


def get_config(cfg_file=None):
    """The frozen config of a yaml file, or the defaults."""
    return load_config(_C, cfg_file)
