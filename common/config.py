"""Configuration: the keys that every family shares, and the door to all that configs need.

Order: default < yaml (one BASE hop) < recipe < flag < -o KEY=VALUE; then frozen. yaml is read with
the safe loader only. A key that is unknown or given twice, and a value of the wrong type or range,
stop the program with the file and line, and name the nearest key.

A family's config.py adds its MODEL keys to `base_config()` and calls `load_config`. A key is one
line: `_C.MODEL.DEPTH = Key(12, low=1)`, see core/config_keys.py; `model_arguments` hands it to
the constructor of the model. core/config_nodes.py has the tree of keys, core/config_values.py
what gives them their values, core/yaml_files.py the reading of yaml.
"""
from common.core.config_keys import FILE_NAME, Key
from common.core.config_nodes import (  # noqa: F401 - for users of this module
    ConfigNode,
    differences,
    find_key,
    leaf_keys,
    origin_of,
    plain_config,
    set_key,
)
from common.core.config_values import (  # noqa: F401 - for users of this module
    ARGUMENT_OF,
    FLAG_KEYS,
    KEY_OF,
    keys_of_arguments,
    load_config,
    model_arguments,
    set_options,
    update_config,
    with_yaml,
)
from common.core.yaml_files import read_yaml  # noqa: F401 - for users of this module

_C = ConfigNode()
_C.DATA = ConfigNode()
# images of one training step on one device (one GPU or process), before accumulation
_C.DATA.BATCH_SIZE = Key(256, low=1)
# the same for evaluation; None is BATCH_SIZE
_C.DATA.BATCH_SIZE_EVAL = Key(None, kind=int, low=1)
# folder with train_list.txt and val_list.txt
_C.DATA.DATA_PATH = '/dataset/imagenet/'
# imagenet2012 | list: both read train_list.txt and val_list.txt ('relative/path label' a line)
# imagefolder: train/CLASS/*.jpg and val/CLASS/*.jpg
# class_folders: CLASS/*.jpg
# csv: a table of path and class, and of the split if it has one
# webdataset: .tar with KEY.jpg and KEY.cls or KEY.json
# Of all of these, folders may be archives, .tar or .zip (docs/scale.md).
# cifar10 | cifar100: the official archive, or the folder that it unpacks to
# digits: the 1,797 that come with scikit-learn; DATA_PATH has no effect
# The training program and the tools find the layout by themselves where the user has not set it.
_C.DATA.DATASET = Key('imagenet2012', choices=(
    'imagenet2012', 'list', 'imagefolder', 'class_folders', 'csv', 'webdataset', 'cifar10',
    'cifar100', 'digits'))
# fraction of each class that validates where the data have no split of their own, and the seed of
# this choice
_C.DATA.VAL_FRACTION = Key(0.1, low=1e-9, high=1.0)
_C.DATA.VAL_SEED = Key(0, low=0)
# images have several labels, or none: lists with 'path 0,3,7' and 'path -', a table with
# 'path,Dog|cat' and 'path,-'; trained with TRAIN.LOSS bce and evaluated by mAP
_C.DATA.MULTI_LABEL = False
# file with the name of each class, one a line; None: those of the data set, if it has them
_C.DATA.CLASS_NAMES = Key(None, kind=str)
# fraction of the training images of each class that is used, the same ones for the same SEED
_C.DATA.TRAIN_FRACTION = Key(1.0, low=1e-9, high=1.0)
# classes of different size in training: 0 takes each image once an epoch, 1 each class as often
# as any other, between them a class of n images gets n ** (1 - x) shares; see data/balance.py
_C.DATA.BALANCE = Key(0.0, low=0.0, high=1.0)
# real.json of the ReaL labels (arXiv 2006.07159), to evaluate with beside the labels
_C.DATA.REAL_LABELS = Key(None, kind=str)
# bad training images in an epoch that are replaced by others and counted; one more stops the
# run. A bad validation image always does.
_C.DATA.MAX_BAD_IMAGES = Key(0, low=0)
# pixels: a number, or [height, width]
_C.DATA.IMAGE_SIZE = Key(224, low=1, high=16384, pair=True)
_C.DATA.IMAGE_CHANNELS = Key(3, low=3, high=3)
# evaluation: the short side is resized to floor(IMAGE_SIZE / CROP_PCT), the centre is cut out
_C.DATA.CROP_PCT = Key(0.875, low=0.01, high=1.0)
# whether images are turned as their EXIF says, so that a phone's photo stands upright. None: in
# predict, features, visualize, the demo page and the Python API, and not in training and
# evaluation, since published accuracies are measured without
_C.DATA.EXIF_ORIENTATION = Key(None, kind=bool)
# evaluation filter: bicubic | bilinear (Pillow's, antialiased)
_C.DATA.INTERPOLATION = Key('bicubic', choices=('bicubic', 'bilinear'))
# loader processes of one device; 0 loads in the training process
_C.DATA.NUM_WORKERS = Key(2, low=0, high=256)
# seconds without a batch after which the loader processes count as stuck
_C.DATA.WORKER_TIMEOUT = Key(600.0, low=0.1)
# subtracted from and divided into pixels in [0, 1], by channel R, G, B
_C.DATA.IMAGENET_MEAN = Key([0.5, 0.5, 0.5], length=3)
_C.DATA.IMAGENET_STD = Key([0.5, 0.5, 0.5], low=1e-3, length=3)

_C.AUG = ConfigNode()
# random resized crop: range of the area (fraction of the image) and of the aspect ratio
_C.AUG.SCALE = Key([0.08, 1.0], low=1e-6, high=1.0, length=2, ascending=True)
_C.AUG.RATIO = Key([3 / 4, 4 / 3], low=1e-3, high=1e3, length=2, ascending=True)
# cv2: OpenCV decodes and resizes the training images, twice as fast | cv2_reduced: also decodes
# crops of large JPEG files at 1/2, 1/4 or 1/8 | pillow: upstream's pixels, of which cv2's differ
# by 0.3 to 1.5 of 255 in the mean, reduced ones by 2 to 3. Evaluation is always Pillow's.
_C.AUG.BACKEND = Key('cv2', choices=('cv2', 'cv2_reduced', 'pillow'))
# training filter of pillow, and of AUTO_AUGMENT's geometric operations: bicubic | bilinear |
# random (one of both for each image)
_C.AUG.INTERPOLATION = Key('bicubic', choices=('bicubic', 'bilinear', 'random'))
# probability of a left-right flip
_C.AUG.HFLIP = Key(0.5, low=0.0, high=1.0)
# RandAugment ('rand-m9-mstd0.5-inc1') or AutoAugment ('original', 'originalr', 'v0', 'v0r') in
# timm's notation; None is neither
_C.AUG.AUTO_AUGMENT = Key(None, kind=str)
# brightness, contrast and saturation each times U(1 - x, 1 + x), in random order; only where
# AUTO_AUGMENT is None, as in timm
_C.AUG.COLOR_JITTER = Key(0.0, low=0.0, high=1.0)
# random erasing, after the normalisation: probability for an image, what is filled in
# (pixel: a normal number for each pixel and channel | rand: for each channel | const: 0), and
# up to how many boxes share the area
_C.AUG.ERASING = Key(0.0, low=0.0, high=1.0)
_C.AUG.ERASING_MODE = Key('pixel', choices=('pixel', 'rand', 'const'))
_C.AUG.ERASING_COUNT = Key(1, low=1, high=100)
# mixup and cutmix: alpha of the Beta distribution of the mixing weight; 0 is off
_C.AUG.MIXUP = Key(0.0, low=0.0)
_C.AUG.CUTMIX = Key(0.0, low=0.0)
# probability that a batch is mixed at all, and, where both are on, that cutmix does it
_C.AUG.MIXUP_PROB = Key(1.0, low=0.0, high=1.0)
_C.AUG.MIXUP_SWITCH_PROB = Key(0.5, low=0.0, high=1.0)
# one mixing weight for the batch | pair: for each image and its partner | elem: for each image
_C.AUG.MIXUP_MODE = Key('batch', choices=('batch', 'pair', 'elem'))
# last epoch with mixup and cutmix; None is all
_C.AUG.MIXUP_LAST_EPOCH = Key(None, kind=int, low=0)
# how often each image is in an epoch, each time augmented anew; an epoch has as many steps as
# without, so it holds fewer different images
_C.AUG.REPEATS = Key(1, low=1, high=100)

_C.MODEL = ConfigNode()
_C.MODEL.TYPE = ''
_C.MODEL.NAME = Key('', pattern=FILE_NAME)
# weight file to start from (fine-tuning) or to evaluate
_C.MODEL.PRETRAINED = Key(None, kind=str)
# checkpoint of an interrupted run to go on with, or its folder; or auto: the newest run of this
# NAME under SAVE goes on in its own folder, if there is one
_C.MODEL.RESUME = Key(None, kind=str)
# 0: no classifier, features
_C.MODEL.NUM_CLASSES = Key(1000, low=0)
_C.MODEL.DROPOUT = Key(0.0, low=0.0, high=0.999)
_C.MODEL.ATTENTION_DROPOUT = Key(0.0, low=0.0, high=0.999)
_C.MODEL.DROPPATH = Key(0.0, low=0.0, high=0.999)

_C.TRAIN = ConfigNode()
# epochs already done when a run starts from weights without a training state
_C.TRAIN.LAST_EPOCH = Key(0, low=0)
# epochs of the schedule; a cosine or linear schedule reaches END_LR at its end
_C.TRAIN.NUM_EPOCHS = Key(300, low=1)
# may be a part of an epoch
_C.TRAIN.WARMUP_EPOCHS = Key(32.0, low=0)
# epochs at END_LR after NUM_EPOCHS
_C.TRAIN.COOLDOWN_EPOCHS = Key(0, low=0)
_C.TRAIN.BASE_LR = Key(3e-3, low=0.0)
# the batch that BASE_LR is meant for: lr = BASE_LR * global batch / this; None: not scaled
_C.TRAIN.LR_BASE_BATCH = Key(None, kind=int, low=1)
_C.TRAIN.WARMUP_START_LR = Key(1e-6, low=0.0)
_C.TRAIN.END_LR = Key(0.0, low=0.0)
_C.TRAIN.WEIGHT_DECAY = Key(0.3, low=0.0)
# largest global L2 norm of the gradient; None does not clip
_C.TRAIN.GRAD_CLIP = Key(None, kind=float, low=1e-12)
# the schedule in optimiser steps instead of epochs; the last epoch is cut short
_C.TRAIN.NUM_STEPS = Key(None, kind=int, low=1)
_C.TRAIN.WARMUP_STEPS = Key(None, kind=int, low=0)
_C.TRAIN.COOLDOWN_STEPS = Key(None, kind=int, low=0)
# cross_entropy | bce (a yes-or-no question for each class)
_C.TRAIN.LOSS = Key('cross_entropy', choices=('cross_entropy', 'bce'))
# bce: a soft target above it counts as 1, else as 0; None leaves it soft
_C.TRAIN.BCE_THRESHOLD = Key(None, kind=float, low=0.0, high=1.0)
# bce: the sum over the classes instead of their mean
_C.TRAIN.BCE_SUM_CLASSES = False
# weights of the classes in the training loss: None | balanced (n / (K * n_k): the same sum for each
# class) | a list of K numbers, as they are; see train/class_weights.py
_C.TRAIN.CLASS_WEIGHTS = Key(None, kind=str, choices=('balanced',), numbers=True, low=0.0)
# learning rate of a block over that of the next one, from the classifier (1) down to the
# patches; None: all the same
_C.TRAIN.LAYER_DECAY = Key(None, kind=float, low=1e-6, high=1.0)
# parameters that are not trained: names, or layers with all that is in them
_C.TRAIN.FREEZE = []
# gradient checkpointing: blocks run again in the backward pass instead of keeping activations
_C.TRAIN.RECOMPUTE = False
# the forward and backward pass as a graph (paddle.jit.to_static); on a CPU slower than without
_C.TRAIN.TO_STATIC = False
# what is split over the ranks: 0 nothing; 1 the optimiser's states; 2 gradients too; 3 also the
# weights of the blocks, see docs/scale.md
_C.TRAIN.SHARDING = Key(0, low=0, high=3)
# micro-batches that are summed before one optimiser step
_C.TRAIN.ACCUM_ITER = Key(1, low=1)
# steps in a row that are left out when a gradient is not finite; one more stops the run
_C.TRAIN.MAX_SKIPPED = Key(0, low=0)
# evaluations in a row without a better one after which the run ends; None: it does not
_C.TRAIN.PATIENCE = Key(None, kind=int, low=1)
# fraction of the target that is spread evenly over all classes
_C.TRAIN.LABEL_SMOOTHING = Key(0.0, low=0.0, high=0.999)

_C.TRAIN.LR_SCHEDULER = ConfigNode()
# cosine | linear | constant
_C.TRAIN.LR_SCHEDULER.NAME = Key('cosine', choices=('cosine', 'linear', 'constant'))
# step: a new rate at every optimiser step; epoch: one rate for each epoch
_C.TRAIN.LR_SCHEDULER.UNIT = Key('step', choices=('step', 'epoch'))
# where the decay starts to count: 'warmup' at the end of the warm-up, so that BASE_LR is
# reached; 'zero' at the first step, as timm does
_C.TRAIN.LR_SCHEDULER.DECAY_FROM = Key('warmup', choices=('warmup', 'zero'))

_C.TRAIN.OPTIMIZER = ConfigNode()
# AdamW (EPS, BETAS) | SGD (MOMENTUM; weight decay is added to the gradient)
_C.TRAIN.OPTIMIZER.NAME = Key('AdamW', choices=('AdamW', 'SGD'))
_C.TRAIN.OPTIMIZER.EPS = Key(1e-8, low=0.0, high=1.0)
_C.TRAIN.OPTIMIZER.BETAS = Key([0.9, 0.999], low=0.0, high=0.999999999, length=2)
_C.TRAIN.OPTIMIZER.MOMENTUM = Key(0.9, low=0.0, high=0.999999999)
# which parameters WEIGHT_DECAY acts on: 'matrices' leaves out biases, norms and what the
# model's no_weight_decay() names; 'all_matrices' does not leave those out; 'all' is
# PaddleViT's behaviour
_C.TRAIN.OPTIMIZER.DECAY = Key('matrices', choices=('matrices', 'all_matrices', 'all'))

_C.TRAIN.EMA = ConfigNode()
# fraction of the moving average of the weights that an optimiser step keeps; None: no average
_C.TRAIN.EMA.DECAY = Key(None, kind=float, low=0.0, high=1.0)
# the global batch that DECAY is meant for: decay = DECAY ** (global batch / this); None: DECAY
_C.TRAIN.EMA.BASE_BATCH = Key(None, kind=int, low=1)
# upstream's rounding of that quotient, with which a smaller batch never moves the average
_C.TRAIN.EMA.WHOLE_BATCHES = False
# a smaller decay at first: at most (1 + t) / (10 + t) at step t
_C.TRAIN.EMA.WARMUP = False
# best.pdparams holds the averaged weights where their evaluation is no worse than the model's,
# else the model's; False: always the model's, whatever the average's
_C.TRAIN.EMA.BEST = False

# what is published about the model, in percent on ImageNet-1k unless said; for the zoo's table
_C.ZOO = ConfigNode()
_C.ZOO.ACC1 = Key(None, kind=float, low=0.0, high=100.0)
_C.ZOO.ACC5 = Key(None, kind=float, low=0.0, high=100.0)
# top-1 accuracy with the ReaL labels (arXiv 2006.07159)
_C.ZOO.REAL = Key(None, kind=float, low=0.0, high=100.0)
# whose accuracy it is: converted (of its authors' weights, which load here) | paper (its
# authors', who have published no weights) | trained here | none
_C.ZOO.PROVENANCE = Key('none', choices=('converted', 'paper', 'trained here', 'none'))
_C.ZOO.WEIGHTS = Key(None, kind=str)

# folder under which each run makes its own
_C.SAVE = './output'
# epochs between two checkpoints
_C.SAVE_FREQ = Key(1, low=1)
# and optimiser steps, and minutes, between two of them; None: at ends of epochs only
_C.SAVE_STEPS = Key(None, kind=int, low=1)
_C.SAVE_MINUTES = Key(30.0, low=0.001)
# training goes on while a checkpoint is written, from a copy, where there is memory for it
_C.SAVE_ASYNC = False
# optimiser steps between two lines of the log
_C.REPORT_FREQ = Key(20, low=1)
# epochs between two evaluations
_C.VALIDATE_FREQ = Key(1, low=1)
_C.SEED = Key(0, low=0, high=2 ** 31 - 1)
# evaluate MODEL.PRETRAINED and stop
_C.EVAL = False
# mixed precision, in training and evaluation; no effect on a CPU
_C.AMP = False
# auto (bfloat16 where the GPU has it, else float16) | float16 | bfloat16
_C.AMP_DTYPE = Key('auto', choices=('auto', 'float16', 'bfloat16'))
# O1: by operator; O2: the whole model, as paddle.amp.decorate does it, with float32 master
# weights
_C.AMP_LEVEL = Key('O1', choices=('O1', 'O2'))
# also write the figures of metrics.jsonl for VisualDL, into the run's folder
_C.VISUALDL = False
# auto (GPU when there is one) | cpu | gpu
_C.DEVICE = Key('auto', choices=('auto', 'cpu', 'gpu'))


def base_config() -> ConfigNode:
    """A new config with the keys that every family shares, and their defaults.

    Returns:
        An unfrozen ConfigNode; a family adds its MODEL keys to it.

    Source: PaddleViT's config.py, whose keys most of these are.

    Examples:
        >>> from common.config import base_config
        >>> base_config().DATA.CROP_PCT
        0.875
    """
    return _C.clone()


def check_value(key: str, value: object, where: str) -> object:
    """A value as a key of `base_config()` takes it, without a config.

    Args:
        key: dotted name, e.g. 'DATA.CROP_PCT'.
        value: of any type.
        where: where the value stands, for messages.

    Returns:
        The value in the key's type.

    Raises:
        InputError: an unknown key, or a value that it may not be.
    """
    node, leaf = find_key(_C, key, where)
    return node.key(leaf).check(key, value, where)
