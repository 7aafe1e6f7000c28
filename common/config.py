"""Configuration: the keys that every family shares, and how a config is put together.

Order: default < yaml (one BASE hop) < flag < -o KEY=VALUE; then frozen. yaml is read with the
safe loader only. A key that is unknown or given twice, and a value of the wrong type or range,
stop the program with the file and line, and name the nearest key.

A family's config.py adds its MODEL keys to `base_config()` and calls `load_config`.
"""
import ast
import difflib
import os
import re
import reprlib
import sys

import yaml
from yacs.config import CfgNode

from common.core.errors import InputError, one_line, opened, printable

MAX_YAML_BYTES = 1 << 20
MAX_NODES = 5000     # keys, values and lists of a yaml file; the largest config has some 150
MAX_SCALAR = 4096    # characters of a value: a path's, in Linux
MAX_KEY = 100        # characters of a key
MAX_BASES = 8
MAX_DIFFERENCE = 1000  # characters of what is said about a key that has changed
# What a value may be, in yaml's words. Sets, binary data, merged and Python objects are not.
YAML_KINDS = {f'tag:yaml.org,2002:{kind}' for kind in
              ('str', 'int', 'float', 'bool', 'null', 'timestamp', 'seq', 'map')}
# What PyYAML lets out on a broken or hostile file: its own errors, and those of the constructors
# of dates, numbers and mappings.
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError, AttributeError)


def base_config():
    """A new, unfrozen config with the keys of DATA, AUG, TRAIN and the run, and their defaults."""
    config = CfgNode()
    config.DATA = CfgNode()
    # images of one training step on one device (one GPU or process), before accumulation
    config.DATA.BATCH_SIZE = 256
    # the same for evaluation; None is BATCH_SIZE
    config.DATA.BATCH_SIZE_EVAL = None
    # folder with train_list.txt and val_list.txt
    config.DATA.DATA_PATH = '/dataset/imagenet/'
    # imagenet2012 | list: both read train_list.txt and val_list.txt ('relative/path label' a line)
    # imagefolder: train/CLASS/*.jpg and val/CLASS/*.jpg
    # cifar10 | cifar100: the official archive, or the folder that it unpacks to
    # digits: the 1,797 that come with scikit-learn; DATA_PATH has no effect
    config.DATA.DATASET = 'imagenet2012'
    # file with the name of each class, one a line; None: those of the data set, if it has them
    config.DATA.CLASS_NAMES = None
    # share of the training images that is used, of each class, the same for the same SEED
    config.DATA.TRAIN_FRACTION = 1.0
    # real.json of the ReaL labels (arXiv 2006.07159), to evaluate with beside the labels
    config.DATA.REAL_LABELS = None
    # bad training images in an epoch that are replaced by others and counted; one more stops the
    # run. A bad validation image always does.
    config.DATA.MAX_BAD_IMAGES = 0
    # pixels: a number, or [height, width]
    config.DATA.IMAGE_SIZE = 224
    config.DATA.IMAGE_CHANNELS = 3
    # evaluation: the short side is resized to floor(IMAGE_SIZE / CROP_PCT), the centre is cut out
    config.DATA.CROP_PCT = 0.875
    # evaluation filter: bicubic | bilinear (Pillow's, antialiased)
    config.DATA.INTERPOLATION = 'bicubic'
    # loader processes of one device; 0 loads in the training process
    config.DATA.NUM_WORKERS = 2
    # seconds without a batch after which the loader processes count as stuck
    config.DATA.WORKER_TIMEOUT = 600.0
    # subtracted from and divided into pixels in [0, 1], by channel R, G, B
    config.DATA.IMAGENET_MEAN = [0.5, 0.5, 0.5]
    config.DATA.IMAGENET_STD = [0.5, 0.5, 0.5]

    config.AUG = CfgNode()
    # random resized crop: range of the area (share of the image) and of the aspect ratio
    config.AUG.SCALE = [0.08, 1.0]
    config.AUG.RATIO = [3 / 4, 4 / 3]
    # cv2: OpenCV decodes and resizes the training images, twice as fast | pillow: upstream's
    # pixels. They differ by 0.3 to 1.5 of 255 in the mean. Evaluation is always Pillow's.
    config.AUG.BACKEND = 'cv2'
    # training filter of pillow, and of AUTO_AUGMENT's geometric operations: bicubic | bilinear |
    # random (one of both for each image)
    config.AUG.INTERPOLATION = 'bicubic'
    # probability of a left-right flip
    config.AUG.HFLIP = 0.5
    # RandAugment ('rand-m9-mstd0.5-inc1') or AutoAugment ('original', 'originalr', 'v0', 'v0r') in
    # timm's notation; None is neither
    config.AUG.AUTO_AUGMENT = None
    # brightness, contrast and saturation each times U(1 - x, 1 + x), in random order; only where
    # AUTO_AUGMENT is None, as in timm
    config.AUG.COLOR_JITTER = 0.0
    # random erasing, after the normalisation: probability for an image, what is filled in
    # (pixel: a normal number for each pixel and channel | rand: for each channel | const: 0), and
    # up to how many boxes share the area
    config.AUG.ERASING = 0.0
    config.AUG.ERASING_MODE = 'pixel'
    config.AUG.ERASING_COUNT = 1
    # mixup and cutmix: alpha of the Beta distribution of the share; 0 is off
    config.AUG.MIXUP = 0.0
    config.AUG.CUTMIX = 0.0
    # probability of either, and of cutmix where both are on
    config.AUG.MIXUP_PROB = 1.0
    config.AUG.MIXUP_SWITCH_PROB = 0.5
    # one share for the batch | pair: for each image and its partner | elem: for each image
    config.AUG.MIXUP_MODE = 'batch'
    # last epoch with mixup and cutmix; None is all
    config.AUG.MIXUP_LAST_EPOCH = None
    # how often each image is in an epoch, each time augmented anew; an epoch has as many steps as
    # without, so it holds fewer different images
    config.AUG.REPEATS = 1

    config.MODEL = CfgNode()
    config.MODEL.TYPE = ''
    config.MODEL.NAME = ''
    # weight file to start from (fine-tuning) or to evaluate
    config.MODEL.PRETRAINED = None
    # checkpoint of an interrupted run to go on with, or its folder; or auto: the newest run of this
    # NAME under SAVE goes on in its own folder, if there is one
    config.MODEL.RESUME = None
    config.MODEL.NUM_CLASSES = 1000
    config.MODEL.DROPOUT = 0.0
    config.MODEL.ATTENTION_DROPOUT = 0.0
    config.MODEL.DROPPATH = 0.0

    config.TRAIN = CfgNode()
    # epochs already done when a run starts from weights without a training state
    config.TRAIN.LAST_EPOCH = 0
    # epochs of the schedule; a cosine or linear schedule reaches END_LR at its end
    config.TRAIN.NUM_EPOCHS = 300
    # may be a part of an epoch
    config.TRAIN.WARMUP_EPOCHS = 32.0
    # epochs at END_LR after NUM_EPOCHS
    config.TRAIN.COOLDOWN_EPOCHS = 0
    config.TRAIN.BASE_LR = 3e-3
    # the batch that BASE_LR is meant for: lr = BASE_LR * global batch / this; None: not scaled
    config.TRAIN.LR_BASE_BATCH = None
    config.TRAIN.WARMUP_START_LR = 1e-6
    config.TRAIN.END_LR = 0.0
    config.TRAIN.WEIGHT_DECAY = 0.3
    # largest global L2 norm of the gradient; None does not clip
    config.TRAIN.GRAD_CLIP = None
    # the schedule in optimiser steps instead of epochs; the last epoch is cut short
    config.TRAIN.NUM_STEPS = None
    config.TRAIN.WARMUP_STEPS = None
    config.TRAIN.COOLDOWN_STEPS = None
    # cross_entropy | bce (a yes-or-no question for each class)
    config.TRAIN.LOSS = 'cross_entropy'
    # bce: a soft target above it counts as 1, else as 0; None leaves it soft
    config.TRAIN.BCE_THRESHOLD = None
    # bce: the sum over the classes instead of their mean
    config.TRAIN.BCE_SUM_CLASSES = False
    # learning rate of a block over that of the next one, from the classifier (1) down to the
    # patches; None: all the same
    config.TRAIN.LAYER_DECAY = None
    # parameters that are not trained: names, or layers with all that is in them
    config.TRAIN.FREEZE = []
    # gradient checkpointing: blocks run again in the backward pass instead of keeping activations
    config.TRAIN.RECOMPUTE = False
    # the forward and backward pass as a graph (paddle.jit.to_static); on a CPU slower than without
    config.TRAIN.TO_STATIC = False
    # micro-batches that are summed before one optimiser step
    config.TRAIN.ACCUM_ITER = 1
    # steps in a row that are left out when a gradient is not finite; one more stops the run
    config.TRAIN.MAX_SKIPPED = 0
    # share of the target that is spread evenly over all classes
    config.TRAIN.LABEL_SMOOTHING = 0.0

    config.TRAIN.LR_SCHEDULER = CfgNode()
    # cosine | linear | constant
    config.TRAIN.LR_SCHEDULER.NAME = 'cosine'
    # step: a new rate at every optimiser step; epoch: one rate for each epoch
    config.TRAIN.LR_SCHEDULER.UNIT = 'step'
    # where the decay starts to count: 'warmup' at the end of the warm-up, so that BASE_LR is
    # reached; 'zero' at the first step, as timm does
    config.TRAIN.LR_SCHEDULER.DECAY_FROM = 'warmup'

    config.TRAIN.OPTIMIZER = CfgNode()
    # AdamW (EPS, BETAS) | SGD (MOMENTUM; weight decay is added to the gradient)
    config.TRAIN.OPTIMIZER.NAME = 'AdamW'
    config.TRAIN.OPTIMIZER.EPS = 1e-8
    config.TRAIN.OPTIMIZER.BETAS = [0.9, 0.999]
    config.TRAIN.OPTIMIZER.MOMENTUM = 0.9
    # which parameters WEIGHT_DECAY acts on: 'matrices' leaves out biases, norms and what the
    # model's no_weight_decay() names; 'all_matrices' does not leave those out; 'all' is
    # PaddleViT's behaviour
    config.TRAIN.OPTIMIZER.DECAY = 'matrices'

    config.TRAIN.EMA = CfgNode()
    # share of the moving average of the weights that stays at an optimiser step; None: no average
    config.TRAIN.EMA.DECAY = None
    # the global batch that DECAY is meant for: decay = DECAY ** (global batch / this); None: DECAY
    config.TRAIN.EMA.BASE_BATCH = None
    # upstream's rounding of that quotient, with which a smaller batch never moves the average
    config.TRAIN.EMA.WHOLE_BATCHES = False
    # a smaller decay at first: at most (1 + t) / (10 + t) at step t
    config.TRAIN.EMA.WARMUP = False
    # best.pdparams is chosen by, and holds, the averaged weights instead of the model's
    config.TRAIN.EMA.BEST = False

    # what is published about the model, in percent on ImageNet-1k unless said; for the zoo's table
    config.ZOO = CfgNode()
    config.ZOO.ACC1 = None
    config.ZOO.ACC5 = None
    # top-1 accuracy with the ReaL labels (arXiv 2006.07159)
    config.ZOO.REAL = None
    # whose accuracy it is: converted (of its authors' weights, which load here) | paper (its
    # authors', who have published no weights) | trained here | none
    config.ZOO.PROVENANCE = 'none'
    config.ZOO.WEIGHTS = None

    # folder under which each run makes its own
    config.SAVE = './output'
    # epochs between two checkpoints
    config.SAVE_FREQ = 1
    # and optimiser steps, and minutes, between two of them; None: at ends of epochs only
    config.SAVE_STEPS = None
    config.SAVE_MINUTES = 30.0
    # optimiser steps between two lines of the log
    config.REPORT_FREQ = 20
    # epochs between two evaluations
    config.VALIDATE_FREQ = 1
    config.SEED = 0
    # evaluate MODEL.PRETRAINED and stop
    config.EVAL = False
    # mixed precision, in training and evaluation; no effect on a CPU
    config.AMP = False
    # auto (bfloat16 where the GPU has it, else float16) | float16 | bfloat16
    config.AMP_DTYPE = 'auto'
    # O1: by operator; O2: the whole model, as paddle.amp.decorate does it, with float32 master
    # weights
    config.AMP_LEVEL = 'O1'
    # also write the figures of metrics.jsonl for VisualDL, into the run's folder
    config.VISUALDL = False
    # auto (GPU when there is one) | cpu | gpu
    config.DEVICE = 'auto'
    return config


# What a default of None may be, beside None.
NULLABLE = {
    'DATA.BATCH_SIZE_EVAL': int,
    'DATA.CLASS_NAMES': str,
    'DATA.REAL_LABELS': str,
    'AUG.AUTO_AUGMENT': str,
    'AUG.MIXUP_LAST_EPOCH': int,
    'MODEL.PRETRAINED': str,
    'MODEL.RESUME': str,
    'TRAIN.LR_BASE_BATCH': int,
    'TRAIN.GRAD_CLIP': float,
    'TRAIN.NUM_STEPS': int,
    'TRAIN.WARMUP_STEPS': int,
    'TRAIN.COOLDOWN_STEPS': int,
    'TRAIN.BCE_THRESHOLD': float,
    'TRAIN.LAYER_DECAY': float,
    'TRAIN.EMA.DECAY': float,
    'TRAIN.EMA.BASE_BATCH': int,
    'SAVE_STEPS': int,
    'ZOO.ACC1': float,
    'ZOO.ACC5': float,
    'ZOO.REAL': float,
    'ZOO.WEIGHTS': str,
}

# Closed ranges (low, high); None is open. They hold for every entry of a list.
RANGES = {
    'DATA.BATCH_SIZE': (1, None),
    'DATA.BATCH_SIZE_EVAL': (1, None),
    'DATA.IMAGE_SIZE': (1, 16384),
    'DATA.TRAIN_FRACTION': (1e-9, 1.0),
    'DATA.MAX_BAD_IMAGES': (0, None),
    'DATA.IMAGE_CHANNELS': (3, 3),
    'DATA.CROP_PCT': (0.01, 1.0),
    'DATA.NUM_WORKERS': (0, 256),
    'DATA.WORKER_TIMEOUT': (0.1, None),
    'DATA.IMAGENET_STD': (1e-3, None),
    'AUG.SCALE': (1e-6, 1.0),
    'AUG.RATIO': (1e-3, 1e3),
    'AUG.HFLIP': (0.0, 1.0),
    'AUG.COLOR_JITTER': (0.0, 1.0),
    'AUG.ERASING': (0.0, 1.0),
    'AUG.ERASING_COUNT': (1, 100),
    'AUG.MIXUP': (0.0, None),
    'AUG.CUTMIX': (0.0, None),
    'AUG.MIXUP_PROB': (0.0, 1.0),
    'AUG.MIXUP_SWITCH_PROB': (0.0, 1.0),
    'AUG.MIXUP_LAST_EPOCH': (0, None),
    'AUG.REPEATS': (1, 100),
    'MODEL.NUM_CLASSES': (0, None),  # 0: no classifier, features
    'MODEL.DROPOUT': (0.0, 0.999),
    'MODEL.ATTENTION_DROPOUT': (0.0, 0.999),
    'MODEL.DROPPATH': (0.0, 0.999),
    'TRAIN.LAST_EPOCH': (0, None),
    'TRAIN.NUM_EPOCHS': (1, None),
    'TRAIN.WARMUP_EPOCHS': (0, None),
    'TRAIN.COOLDOWN_EPOCHS': (0, None),
    'TRAIN.BASE_LR': (0.0, None),
    'TRAIN.LR_BASE_BATCH': (1, None),
    'TRAIN.WARMUP_START_LR': (0.0, None),
    'TRAIN.END_LR': (0.0, None),
    'TRAIN.WEIGHT_DECAY': (0.0, None),
    'TRAIN.GRAD_CLIP': (1e-12, None),
    'TRAIN.ACCUM_ITER': (1, None),
    'TRAIN.NUM_STEPS': (1, None),
    'TRAIN.WARMUP_STEPS': (0, None),
    'TRAIN.COOLDOWN_STEPS': (0, None),
    'TRAIN.BCE_THRESHOLD': (0.0, 1.0),
    'TRAIN.LAYER_DECAY': (1e-6, 1.0),
    'TRAIN.EMA.DECAY': (0.0, 1.0),
    'TRAIN.EMA.BASE_BATCH': (1, None),
    'TRAIN.MAX_SKIPPED': (0, None),
    'TRAIN.LABEL_SMOOTHING': (0.0, 0.999),
    'TRAIN.OPTIMIZER.EPS': (0.0, 1.0),
    'TRAIN.OPTIMIZER.BETAS': (0.0, 0.999999999),
    'TRAIN.OPTIMIZER.MOMENTUM': (0.0, 0.999999999),
    'ZOO.ACC1': (0.0, 100.0),
    'ZOO.ACC5': (0.0, 100.0),
    'ZOO.REAL': (0.0, 100.0),
    'SAVE_FREQ': (1, None),
    'SAVE_STEPS': (1, None),
    'SAVE_MINUTES': (0.001, None),
    'REPORT_FREQ': (1, None),
    'VALIDATE_FREQ': (1, None),
    'SEED': (0, 2 ** 31 - 1),
}

CHOICES = {
    'DATA.DATASET': ('imagenet2012', 'list', 'imagefolder', 'cifar10', 'cifar100', 'digits'),
    'DATA.INTERPOLATION': ('bicubic', 'bilinear'),
    'AUG.BACKEND': ('cv2', 'pillow'),
    'AUG.INTERPOLATION': ('bicubic', 'bilinear', 'random'),
    'AUG.ERASING_MODE': ('pixel', 'rand', 'const'),
    'AUG.MIXUP_MODE': ('batch', 'pair', 'elem'),
    'TRAIN.LOSS': ('cross_entropy', 'bce'),
    'TRAIN.LR_SCHEDULER.NAME': ('cosine', 'linear', 'constant'),
    'TRAIN.LR_SCHEDULER.UNIT': ('step', 'epoch'),
    'TRAIN.LR_SCHEDULER.DECAY_FROM': ('warmup', 'zero'),
    'TRAIN.OPTIMIZER.NAME': ('AdamW', 'SGD'),
    'TRAIN.OPTIMIZER.DECAY': ('matrices', 'all_matrices', 'all'),
    'ZOO.PROVENANCE': ('converted', 'paper', 'trained here', 'none'),
    'AMP_DTYPE': ('auto', 'float16', 'bfloat16'),
    'AMP_LEVEL': ('O1', 'O2'),
    'DEVICE': ('auto', 'cpu', 'gpu'),
}

# Texts that become a part of a file's name: (what the whole text is like, in words).
PATTERNS = {
    'MODEL.NAME': (re.compile(r'(?:[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,99})?'),
                   'up to 100 letters, digits and _.+=- that begin with a letter or a digit'),
}

# Lists of a fixed length.
LENGTHS = {'DATA.IMAGENET_MEAN': 3, 'DATA.IMAGENET_STD': 3, 'AUG.SCALE': 2, 'AUG.RATIO': 2,
           'TRAIN.OPTIMIZER.BETAS': 2}

# Ranges: the smaller number comes first.
ASCENDING = ('AUG.SCALE', 'AUG.RATIO')


def load_config(defaults, cfg_file=None, nullable=None, ranges=None):
    """A frozen copy of `defaults` with the values of a yaml file.

    Args:
        defaults: CfgNode with every key that may be set.
        cfg_file: path of the yaml, or None.
        nullable, ranges: the family's additions to NULLABLE and RANGES.

    Raises:
        InputError: naming the file and line.
    """
    config = defaults.clone()
    if cfg_file:
        for file in [*read_base(cfg_file), cfg_file]:
            for key, value, line in read_yaml(file):
                if key == 'BASE':
                    continue
                set_key(config, key, value, f'{file}:{line}', nullable, ranges)
        check_together(config, f'{cfg_file}: ')
    config.freeze()
    return config


def plain_config(node):
    """A config as dicts and lists."""
    return {key: plain_config(value) if isinstance(value, dict) else value
            for key, value in node.items()}


def differences(old, new, prefix=''):
    """['KEY: was ..., is ...'] of two plain configs."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f'{prefix}{key}.')
        elif before != now:
            found.append(printable(f'{prefix}{key}: was {before!r}, is {now!r}', MAX_DIFFERENCE))
    return found


def update_config(config, args=None, nullable=None, ranges=None):
    """A frozen copy of `config` with the values of the flags and then of `-o KEY=VALUE`.

    Args:
        config: CfgNode.
        args: namespace of common.runner's parser; a flag that is None is left alone.

    Raises:
        InputError: naming the flag.
    """
    config = config.clone()
    config.defrost()
    for flag, keys in FLAG_KEYS.items():
        value = getattr(args, flag, None)
        if value is not None and value is not False:
            for key in keys:
                set_key(config, key, value, f'-{flag}', nullable, ranges)
    set_options(config, getattr(args, 'o', None) or [], nullable, ranges)
    config.freeze()
    return config


def set_options(config, items, nullable=None, ranges=None):
    """Sets the keys of `-o KEY=VALUE` flags in an unfrozen config, and checks the whole of it."""
    for item in items:
        key, equals, text = item.partition('=')
        if not equals:
            raise InputError(f'-o {printable(item, 1000)}: got no "=", expected KEY=VALUE')
        where = f'-o {printable(item, 1000)}'
        try:
            value = ConfigLoader(text).get_single_data()
        except YAML_ERRORS as error:
            raise InputError(f'{where}: got a value that is not yaml ({one_line(error)})'
                             ) from None
        set_key(config, key, value, where, nullable, ranges)
    check_together(config)


# The keys that each flag sets; a later flag wins over an earlier one.
FLAG_KEYS = {
    'dataset': ['DATA.DATASET'],
    'data_path': ['DATA.DATA_PATH'],
    'class_names': ['DATA.CLASS_NAMES'],
    'train_fraction': ['DATA.TRAIN_FRACTION'],
    'real_labels': ['DATA.REAL_LABELS'],
    'output': ['SAVE'],
    'batch_size': ['DATA.BATCH_SIZE', 'DATA.BATCH_SIZE_EVAL'],
    'batch_size_eval': ['DATA.BATCH_SIZE_EVAL'],
    'image_size': ['DATA.IMAGE_SIZE'],
    'accum_iter': ['TRAIN.ACCUM_ITER'],
    'pretrained': ['MODEL.PRETRAINED'],
    'resume': ['MODEL.RESUME'],
    'last_epoch': ['TRAIN.LAST_EPOCH'],
    'eval': ['EVAL'],
    'amp': ['AMP'],
    'visualdl': ['VISUALDL'],
}


def check_together(config, where=''):
    """Raises InputError for what no single key can say.

    Args:
        where: the file and ': ', where it is one file's word.
    """
    train = config.TRAIN
    if train.TO_STATIC and train.RECOMPUTE:
        raise InputError(f'{where}TRAIN.TO_STATIC, TRAIN.RECOMPUTE: got both, expected one of '
                         f'them')
    if train.NUM_STEPS is train.WARMUP_STEPS is None and train.WARMUP_EPOCHS > train.NUM_EPOCHS:
        raise InputError(f'{where}TRAIN.WARMUP_EPOCHS: got {train.WARMUP_EPOCHS}, expected at most '
                         f'TRAIN.NUM_EPOCHS {train.NUM_EPOCHS}')


def read_base(cfg_file):
    """The files that `cfg_file` names under BASE: a name or a list of names, in its folder."""
    names = [value for key, value, _ in read_yaml(cfg_file) if key == 'BASE']
    names = names[0] if names else []
    names = [names] if isinstance(names, str) else names or []
    if not isinstance(names, list):
        raise wrong(cfg_file, 'BASE', names, 'a file or a list of files')
    if len(names) > MAX_BASES:
        raise wrong(cfg_file, 'BASE', names, f'at most {MAX_BASES} files')
    folder = os.path.realpath(os.path.dirname(cfg_file))
    files = []
    for name in (name for name in names if name):
        if not is_file_name(str(name)):
            raise wrong(cfg_file, 'BASE', name, 'a file')
        file = os.path.realpath(os.path.join(folder, str(name)))
        if os.path.dirname(file) != folder:
            raise InputError(f'{cfg_file}: BASE: got {name}, expected a file in the same folder')
        if any(key == 'BASE' and value for key, value, _ in read_yaml(file)):
            raise InputError(f'{cfg_file}: BASE: {name} has a BASE of its own, expected none')
        files.append(os.path.join(os.path.dirname(cfg_file), str(name)))
    return files


class ConfigLoader(yaml.SafeLoader):
    """Reads plain values only, at a cost in proportion to the text.

    An alias, which stands for a node a second time, makes a few lines into billions of nodes; a
    long number takes the square of its digits; a tag makes other objects. A config needs none of
    them. The text is refused at the first such node, before anything is made of it.
    """

    def __init__(self, text):
        super().__init__(text)
        self.nodes = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise refused('an alias (*), expected the value itself', event)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise refused(f'more than {MAX_NODES} keys and values', event)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise refused(f'a value of {len(event.value)} characters, expected at most '
                          f'{MAX_SCALAR}', event)
        node = super().compose_node(parent, index)
        if node.tag not in YAML_KINDS:
            raise refused(f'the tag {node.tag[:MAX_KEY]}, expected a plain value', event)
        return node


def refused(what, event):
    return yaml.constructor.ConstructorError(None, None, f'got {what}', event.start_mark)


def read_yaml(file):
    """The leaves of a yaml file as a list of (dotted key, value, line)."""
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such config file')
    if os.path.getsize(file) > MAX_YAML_BYTES:
        raise InputError(f'{file}: got {os.path.getsize(file)} bytes, expected a config of at '
                         f'most {MAX_YAML_BYTES}')
    try:
        with opened(file) as stream:
            loader = ConfigLoader(stream)
            node = loader.get_single_node()
            if not isinstance(node, yaml.MappingNode):
                raise InputError(f'{file}:1: got no mapping, expected KEY: VALUE lines')
            return list(yaml_leaves(loader, node, '', file, set()))
    except InputError:
        raise
    except YAML_ERRORS as error:
        mark = getattr(error, 'problem_mark', None)
        where = f'{file}:{mark.line + 1}' if mark else file
        raise InputError(f'{where}: not safe yaml: {one_line(error)}') from None


def yaml_leaves(loader, node, prefix, file, seen):
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or len(key_node.value) > MAX_KEY:
            raise InputError(f'{file}:{line}: got a key that is a list or has more than {MAX_KEY} '
                             f'characters, expected the name of a key')
        key = f'{prefix}{key_node.value}'
        if key in seen:
            raise InputError(f'{file}:{line}: {key} is given twice')
        seen.add(key)
        if isinstance(value_node, yaml.MappingNode):
            yield from yaml_leaves(loader, value_node, f'{key}.', file, seen)
        else:
            yield key, loader.construct_object(value_node, deep=True), line


def set_key(config, key, value, where, nullable=None, ranges=None):
    """Sets one dotted key of an unfrozen config, or raises InputError with `where`."""
    *parents, leaf = key.split('.')
    node = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or leaf not in node or isinstance(node[leaf], CfgNode):
        key = printable(key, MAX_KEY)  # the search takes the square of its length
        nearest = difflib.get_close_matches(key, list(leaf_keys(config)), n=1, cutoff=0.0)
        raise InputError(f'{where}: unknown key {key}; the nearest key is {nearest[0]}')
    value = coerce(key, value, node[leaf], where, nullable or {})
    check_value(key, value, where, ranges or {})
    node[leaf] = value


def leaf_keys(config, prefix=''):
    """All dotted keys of a config."""
    for key, value in config.items():
        if isinstance(value, CfgNode):
            yield from leaf_keys(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}'


def coerce(key, value, default, where, nullable):
    """The value in the type of the key; what only looks like it ('10', 224.0) is an error."""
    nullable = {**NULLABLE, **nullable}
    if value is None:
        if key in nullable:
            return None
        raise wrong(where, key, value, type_name(type(default)))
    if key == 'DATA.IMAGE_SIZE':  # either form, whichever it has now
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2
        if not all(type(item) is int for item in (value if is_pair else [value])):
            raise wrong(where, key, value, 'a whole number or [height, width]')
        return list(value) if is_pair else value
    wanted = nullable.get(key, type(default))
    if wanted is tuple or (wanted is list and isinstance(value, str)):
        wanted = list
        value = parse_literal(value)  # '(0.9, 0.999)' is a string in yaml
    if wanted is float:
        if isinstance(value, str):
            value = parse_literal(value)  # so is 1e-3 in YAML 1.1
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise wrong(where, key, value, 'a number')
        return float(value)
    if wanted is list:
        if not isinstance(value, (list, tuple)):
            raise wrong(where, key, value, 'a list')
        kind = type(default[0]) if default else str
        if kind is float:
            return [coerce(f'{key}[]', item, 0.0, where, {}) for item in value]
        if not all(type(item) is kind for item in value):
            raise wrong(where, key, value, f'a list of {type_name(kind)}s')
        return list(value)
    if type(value) is not wanted:
        raise wrong(where, key, value, type_name(wanted))
    return value


def is_file_name(text):
    """Whether a file could be called so: the functions for files raise errors of their own at a
    zero byte, and at half a character."""
    try:
        return b'\0' not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def parse_literal(value):
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def check_value(key, value, where, ranges):
    low, high = {**RANGES, **ranges}.get(key, (None, None))
    values = value if isinstance(value, list) else [value]
    if key in LENGTHS and len(values) != LENGTHS[key]:
        raise wrong(where, key, value, f'{LENGTHS[key]} numbers')
    if key in CHOICES and value not in CHOICES[key]:
        raise wrong(where, key, value, 'one of ' + ', '.join(CHOICES[key]))
    if key in PATTERNS and not PATTERNS[key][0].fullmatch(value):
        raise wrong(where, key, value, PATTERNS[key][1])
    if isinstance(value, str) and not is_file_name(value):
        raise wrong(where, key, value, 'text that a file can have as its name')
    if key in ASCENDING and values[0] > values[1]:
        raise wrong(where, key, value, 'the smaller one first')
    for item in values:
        if item is not None and ((low is not None and item < low)
                                 or (high is not None and item > high)):
            bounds = f'at least {low}' if high is None else f'{low} to {high}'
            raise wrong(where, key, value, bounds)


def type_name(kind):
    return {int: 'whole number', float: 'number', str: 'string', bool: 'true or false',
            list: 'list'}.get(kind, kind.__name__)


def wrong(where, key, value, expected):
    try:
        shown = reprlib.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        shown = 'a very long number'
    return InputError(f'{where}: {key}: got {shown}, expected {expected}')
