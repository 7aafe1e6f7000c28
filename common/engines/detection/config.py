"""The keys of a detector's recipe: default, range, meaning. common/config.py says how they are set.

The defaults are those of the published recipes (upstream's Object-Detection/configs, and
_base_/models/mask_rcnn_swin_fpn.py and cascade_mask_rcnn_swin_fpn.py of Swin's detection code).
"""
from collections.abc import Iterable

from common.config import ConfigNode, Key, set_key
from common.core.config_values import set_option_keys
from common.core.errors import InputError
from common.engines.recipes import find_recipes, read_recipe

DETECTORS = ('mask_rcnn', 'cascade_mask_rcnn')

_C = ConfigNode()
_C.MODEL = ConfigNode()
_C.MODEL.NAME = 'detector'
_C.MODEL.DETECTOR = Key('mask_rcnn', choices=DETECTORS)
# name of a model of the zoo, or a yaml file
_C.MODEL.BACKBONE = 'swin_tiny'
# options of that model, as create_model takes them: ['depths=[1, 1, 2, 1]']
_C.MODEL.BACKBONE_OPTIONS = Key([])
_C.MODEL.DROPPATH = Key(0.1, low=0.0, high=0.99)
# statistics of the backbone's BatchNorm: of the batch, the stored ones, or of all GPUs
_C.MODEL.BATCH_NORM = Key('train', choices=('train', 'frozen', 'sync'))
# gradient checkpointing of the backbone
_C.MODEL.RECOMPUTE = False
_C.MODEL.NUM_CLASSES = Key(80, low=1)
_C.MODEL.FPN_CHANNELS = Key(256, low=1)
# channels of the fully connected layers of a box head
_C.MODEL.FC_CHANNELS = Key(1024, low=1)
# convolutions in front of the logits of a mask head, and in a cascade's box head
_C.MODEL.MASK_CONVS = Key(4, low=0)
_C.MODEL.BOX_CONVS = Key(4, low=0)
# side of an anchor, in strides of its map
_C.MODEL.ANCHOR_SCALE = Key(8.0, low=0.1)
# boxes of the region proposal network: before NMS at each level and after it, in training, in tests
_C.MODEL.PROPOSALS_TRAIN = Key([2000, 1000], low=1, length=2)
_C.MODEL.PROPOSALS_TEST = Key([1000, 1000], low=1, length=2)
# anchors, and proposals, of an image that the losses see
_C.MODEL.RPN_SAMPLES = Key(256, low=2)
_C.MODEL.BOX_SAMPLES = Key(512, low=4)
# loss of the boxes of the proposals: absolute, or quadratic below 1/9
_C.MODEL.RPN_LOSS = Key('l1', choices=('l1', 'smooth_l1'))
# a detection: least score, IoU of the NMS, most of an image
_C.MODEL.SCORE = Key(0.05, low=0.0, high=1.0)
_C.MODEL.NMS = Key(0.5, low=0.0, high=1.0)
_C.MODEL.DETECTIONS = Key(100, low=1)
# weights of a classifier or a detector; of the latter all that fits
_C.MODEL.PRETRAINED = Key(None, kind=str)
_C.MODEL.RESUME = Key(None, kind=str)

_C.DATA = ConfigNode()
# the folder that the following are in; COCO's layout
_C.DATA.DATA_PATH = '/dataset/coco/'
_C.DATA.TRAIN_JSON = 'annotations/instances_train2017.json'
_C.DATA.TRAIN_IMAGES = 'train2017'
_C.DATA.VAL_JSON = 'annotations/instances_val2017.json'
_C.DATA.VAL_IMAGES = 'val2017'
# images of one step on one device
_C.DATA.BATCH_SIZE = Key(2, low=1)
# shorter side in pixels, one of these at random, as long as the longer one has at most MAX_SIDE
_C.DATA.SHORT_SIDES = Key([480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800], low=1)
_C.DATA.MAX_SIDE = Key(1333, low=1)
# half of the images: resized to one of CROP_SHORT_SIDES, then cut out at a height and width between
# the two of CROP_SIZE, before all else (DETR, arXiv 2005.12872); [] for none
_C.DATA.CROP_SHORT_SIDES = Key([400, 500, 600], low=1)
_C.DATA.CROP_SIZE = Key([384, 600], low=1, length=2, ascending=True)
_C.DATA.TEST_SHORT_SIDE = Key(800, low=1)
_C.DATA.MEAN = Key([0.485, 0.456, 0.406], length=3)
_C.DATA.STD = Key([0.229, 0.224, 0.225], low=1e-6, length=3)
# threads that load images ahead
_C.DATA.THREADS = Key(4, low=1)

_C.TRAIN = ConfigNode()
_C.TRAIN.NUM_EPOCHS = Key(12, low=1)
# for a batch of BATCH_OF_LR images over all devices; the rate is scaled where that is not None
_C.TRAIN.BASE_LR = Key(1e-4, low=0.0)
_C.TRAIN.BATCH_OF_LR = Key(None, kind=int, low=1)
# the rate is multiplied by LR_FACTOR after each of these epochs
_C.TRAIN.MILESTONES = Key([8, 11], low=1, ascending=True)
_C.TRAIN.LR_FACTOR = Key(0.1, low=0.0, high=1.0)
# steps in which it rises from WARMUP_FACTOR of its value
_C.TRAIN.WARMUP_STEPS = Key(500, low=0)
_C.TRAIN.WARMUP_FACTOR = Key(0.001, low=0.0, high=1.0)
_C.TRAIN.WEIGHT_DECAY = Key(0.05, low=0.0)
# parameters whose names have one of these words in them are not decayed
_C.TRAIN.NO_DECAY = ['norm', 'relative_position_bias_table', 'absolute_pos_embed']
_C.TRAIN.BETAS = Key([0.9, 0.999], low=0.0, high=0.9999999, length=2)
_C.TRAIN.GRAD_CLIP = Key(None, kind=float, low=1e-9)
# epochs between two evaluations, and steps between two checkpoints beside those of an epoch's end
_C.TRAIN.EVAL_FREQ = Key(1, low=1)
_C.TRAIN.SAVE_STEPS = Key(None, kind=int, low=1)

_C.SAVE = 'output'
# set by the command `eval`
_C.EVAL = False
_C.SEED = Key(0, low=0, high=(1 << 31) - 1)
_C.REPORT_FREQ = Key(50, low=1)
_C.DEVICE = Key('auto', choices=('auto', 'cpu', 'gpu'))
_C.AMP = False
_C.AMP_DTYPE = Key('auto', choices=('auto', 'float16', 'bfloat16'))

# what is known of a published recipe: average precision in percent on COCO's val2017, parameters in
# millions; None where nothing is published
_C.ZOO = ConfigNode()
_C.ZOO.BOX_AP = Key(None, kind=float)
_C.ZOO.MASK_AP = Key(None, kind=float)
_C.ZOO.PARAMETERS = Key(None, kind=float)

# Keys by which a run may differ from the one that it goes on with.
FREE = ('DATA.DATA_PATH', 'DATA.THREADS', 'MODEL.RESUME', 'MODEL.PRETRAINED', 'MODEL.RECOMPUTE',
        'TRAIN.NUM_EPOCHS', 'TRAIN.SAVE_STEPS', 'TRAIN.EVAL_FREQ', 'SAVE', 'REPORT_FREQ', 'DEVICE')
# A flag, and the key that it sets.
FLAG_KEYS = {'data_path': 'DATA.DATA_PATH', 'batch_size': 'DATA.BATCH_SIZE', 'output': 'SAVE',
             'pretrained': 'MODEL.PRETRAINED', 'resume': 'MODEL.RESUME', 'amp': 'AMP'}


def list_recipes() -> dict[str, str]:
    """The recipes that come with this project.

    Returns:
        A dict from name to yaml file, sorted.

    Source: this project; a recipe's first lines say whose it is.

    Examples:
        >>> from common.engines.detection.config import list_recipes
        >>> 'mask_rcnn_vitaev2_s_1x' in list_recipes()
        True
    """
    return find_recipes('detection')


def read_config(name: str | None = None, options: Iterable[str] = ()) -> ConfigNode:
    """The frozen config of a recipe.

    Args:
        name: of `list_recipes`, or a yaml file; None has the defaults.
        options: 'KEY=VALUE' each; the values are yaml.

    Returns:
        ConfigNode.

    Raises:
        InputError: no such recipe, an unknown key, a value of the wrong type or range.

    Source: this project.

    Examples:
        >>> from common.engines.detection.config import read_config
        >>> read_config('mask_rcnn_vitaev2_s_1x', ['MODEL.NUM_CLASSES=3']).TRAIN.WEIGHT_DECAY
        0.045
    """
    return with_options(read_recipe(_C, name, list_recipes()), options)


def config_of_weights(weights, file, options=()):
    """The config that a run has written beside its weights, with `options` as in read_config.

    Args:
        weights: Weights of `file`.

    Raises:
        InputError: there is none, or none of a detector.
    """
    plain = weights.metadata.get('config')
    if not isinstance(plain, dict) or 'DETECTOR' not in plain.get('MODEL', {}):
        raise InputError(f'{file}: does not say which detector it is of; -cfg does')
    config = _C.clone()
    for node, values in plain.items():
        if isinstance(values, dict):
            for key, value in values.items():
                set_key(config, f'{node}.{key}', value, file)
        else:
            set_key(config, node, values, file)
    return with_options(config, options)


def with_options(config, options):
    """A copy of a config with the keys of 'KEY=VALUE' options, frozen."""
    config = config.clone()
    config.defrost()
    set_option_keys(config, options)
    config.freeze()
    return config
