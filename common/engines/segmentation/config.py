"""The keys of a segmentation recipe: default, range, meaning; common/config.py says how they are
set.

The defaults are those of upstream's one config, for ADE20K (Semantic-Segmentation/configs, with
_base_/models/upernet_swin.py and _base_/datasets/ade20k.py of MMSegmentation below it).
"""
from argparse import Namespace

from common.config import ConfigNode, Key, set_key
from common.core.config_values import set_option_keys
from common.core.errors import InputError
from common.engines.recipes import find_recipes, read_recipe
from common.engines.segmentation.data import ADE20K, CITYSCAPES, OWN

_C = ConfigNode()
_C.MODEL = ConfigNode()
_C.MODEL.NAME = 'segmenter'
# name of a model of the zoo, or a yaml file
_C.MODEL.BACKBONE = Key(None, kind=str)
# options of that model, as create_model takes them: ['depths=[1, 1, 2, 1]']
_C.MODEL.BACKBONE_OPTIONS = Key([])
_C.MODEL.DROPPATH = Key(0.2, low=0.0, high=0.99)
# statistics of the backbone's BatchNorm: of the batch, the stored ones, or of all GPUs
_C.MODEL.BATCH_NORM = Key('train', choices=('train', 'frozen', 'sync'))
# gradient checkpointing of the backbone
_C.MODEL.RECOMPUTE = False
_C.MODEL.NUM_CLASSES = Key(150, low=2, high=255)
_C.MODEL.CHANNELS = Key(512, low=1)
# of the auxiliary head; 0 for none
_C.MODEL.AUX_CHANNELS = Key(256, low=0)
_C.MODEL.DROPOUT = Key(0.1, low=0.0, high=0.99)
# deviation of the classifiers' first weights; a decoder of few channels needs a larger one
_C.MODEL.CLASSIFIER_STD = Key(0.01, low=0.0)
# what resizing maps does with their corners; true for crops of 769
_C.MODEL.ALIGN_CORNERS = False
# weights of a classifier, or of a whole segmenter
_C.MODEL.PRETRAINED = Key(None, kind=str)
_C.MODEL.RESUME = Key(None, kind=str)

_C.DATA = ConfigNode()
# what the recipe is for; own data need not be named: their layout is found
_C.DATA.DATASET = Key(ADE20K, choices=(ADE20K, CITYSCAPES, OWN))
_C.DATA.DATA_PATH = '/dataset/ADEChallengeData2016'
# images of one step on one device
_C.DATA.BATCH_SIZE = Key(2, low=1)
# [long, short]: images are resized to fit both sides; [] leaves them as they are
_C.DATA.SIDES = Key([2048, 512], low=1)
# in training both sides are multiplied by a factor between these
_C.DATA.SCALE = Key([0.5, 2.0], low=0.01, length=2, ascending=True)
# [height, width] of what is cut out in training
_C.DATA.CROP = Key([512, 512], low=1, length=2)
# largest share of a crop that one class may have
_C.DATA.MOST_OF_ONE = Key(0.75, low=0.0, high=1.0)
# brightness, contrast, saturation and hue are changed
_C.DATA.DISTORT = True
_C.DATA.MEAN = Key([0.485, 0.456, 0.406], length=3)
_C.DATA.STD = Key([0.229, 0.224, 0.225], low=1e-6, length=3)
# processes that load images ahead
_C.DATA.NUM_WORKERS = Key(4, low=0)

_C.TEST = ConfigNode()
# [height, width] of a window that slides over the image, and of its steps; 0 takes all at once
_C.TEST.WINDOW = Key([0, 0], low=0, length=2)
_C.TEST.STRIDE = Key([0, 0], low=0, length=2)
# -multi_scale: factors of the image, each with its mirror image if FLIP
_C.TEST.SCALES = Key([0.5, 0.75, 1.0, 1.25, 1.5, 1.75], low=0.01)
_C.TEST.FLIP = True

_C.TRAIN = ConfigNode()
_C.TRAIN.NUM_STEPS = Key(160000, low=1)
# for a batch of 16 images over all devices
_C.TRAIN.BASE_LR = Key(6e-5, low=0.0)
_C.TRAIN.END_LR = Key(0.0, low=0.0)
# of the polynomial by which the rate falls
_C.TRAIN.POWER = Key(1.0, low=0.0)
# steps in which the rate rises from WARMUP_FACTOR of its value
_C.TRAIN.WARMUP_STEPS = Key(1500, low=0)
_C.TRAIN.WARMUP_FACTOR = Key(1e-6, low=0.0, high=1.0)
_C.TRAIN.WEIGHT_DECAY = Key(0.01, low=0.0)
# parameters whose names have one of these words in them are not decayed
_C.TRAIN.NO_DECAY = ['norm', 'relative_position_bias_table', 'absolute_pos_embed']
_C.TRAIN.BETAS = Key([0.9, 0.999], low=0.0, high=0.9999999, length=2)
# factor of the auxiliary head's loss
_C.TRAIN.AUX_WEIGHT = Key(0.4, low=0.0)
# whether the loss is the mean over the pixels with a label; upstream's is that over all
_C.TRAIN.MEAN_OF_LABELLED = False
# steps between two evaluations, with a checkpoint each
_C.TRAIN.EVAL_FREQ = Key(8000, low=1)

_C.SAVE = 'output'
_C.SEED = Key(0, low=0, high=(1 << 31) - 1)
_C.REPORT_FREQ = Key(50, low=1)
_C.DEVICE = Key('auto', choices=('auto', 'cpu', 'gpu'))
_C.AMP = False
_C.AMP_DTYPE = Key('auto', choices=('auto', 'float16', 'bfloat16'))

# what is known of a published recipe: mean IoU in percent at one scale and at several with flips,
# parameters in millions; None where nothing is published
_C.ZOO = ConfigNode()
_C.ZOO.MIOU = Key(None, kind=float)
_C.ZOO.MIOU_MULTI_SCALE = Key(None, kind=float)
_C.ZOO.PARAMETERS = Key(None, kind=float)

# Keys by which a run may differ from the one that it goes on with.
FREE = ('DATA.DATA_PATH', 'DATA.NUM_WORKERS', 'MODEL.RESUME', 'MODEL.PRETRAINED',
        'MODEL.RECOMPUTE', 'TRAIN.EVAL_FREQ', 'SAVE', 'REPORT_FREQ', 'DEVICE')
# A flag, and the key that it sets.
FLAG_KEYS = {'data_path': 'DATA.DATA_PATH', 'batch_size': 'DATA.BATCH_SIZE', 'output': 'SAVE',
             'num_classes': 'MODEL.NUM_CLASSES', 'pretrained': 'MODEL.PRETRAINED',
             'resume': 'MODEL.RESUME', 'amp': 'AMP'}


def list_recipes() -> dict[str, str]:
    """The recipes that come with this project.

    Returns:
        A dict from name to yaml file, sorted.

    Source: this project.

    Examples:
        >>> from common.engines.segmentation.config import list_recipes
        >>> 'upernet_vitaev2_s_ade20k' in list_recipes()
        True
    """
    return find_recipes('segmentation')


def read_config(name: str | None = None, args: Namespace | None = None) -> ConfigNode:
    """The frozen config of a recipe.

    Args:
        name: of `list_recipes`, or a yaml file; None has the defaults.
        args: an object with some of the attributes of FLAG_KEYS, and `o`, a list of 'KEY=VALUE'.

    Returns:
        The frozen config.

    Raises:
        InputError: no such recipe, an unknown key, a value of the wrong type or range.

    Source: this project.

    Examples:
        >>> from common.engines.segmentation.config import read_config
        >>> read_config('upernet_vitaev2_s_ade20k').TRAIN.BASE_LR
        6e-05
    """
    config = read_recipe(_C, name, list_recipes())
    for flag, key in FLAG_KEYS.items():
        value = getattr(args, flag, None)
        if value is not None and value is not False:
            set_key(config, key, value, f'-{flag}')
    set_option_keys(config, getattr(args, 'o', None) or [])
    check_together(config)
    config.freeze()
    return config


def check_together(config):
    """Raises InputError for values that do not go together."""
    if len(config.DATA.SIDES) not in (0, 2):
        raise InputError(f'DATA.SIDES: got {config.DATA.SIDES}, expected [long, short], or []')
    window, stride = config.TEST.WINDOW, config.TEST.STRIDE
    steps_fit = all(0 < step <= side for step, side in zip(stride, window, strict=True))
    if any(window) and not steps_fit:
        raise InputError(f'TEST.WINDOW, TEST.STRIDE: got {window} and {stride}, expected steps of '
                         f'1 up to the side of the window')
    if config.TRAIN.WARMUP_STEPS > config.TRAIN.NUM_STEPS:
        raise InputError(f'TRAIN.WARMUP_STEPS: got {config.TRAIN.WARMUP_STEPS}, expected at most '
                         f'TRAIN.NUM_STEPS {config.TRAIN.NUM_STEPS}')
