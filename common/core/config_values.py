"""How a config gets its values: default < yaml (one BASE hop) < recipe (a yaml, too) < flag < -o
KEY=VALUE, then frozen.

The other end, `model_arguments`, hands the values to the constructor of a model.
"""
import argparse
import os
from collections.abc import Iterable

from common.core.config_nodes import ConfigNode, forget_origins, set_key
from common.core.errors import InputError, printable
from common.core.yaml_files import read_base, read_value, read_yaml

# Keys of MODEL that say something about a run, so that no constructor takes them,
RUN_KEYS = ('TYPE', 'NAME', 'PRETRAINED', 'RESUME')
# and those that the constructors call by another name than the key's in lower case.
ARGUMENT_OF = {'DROPPATH': 'drop_path', 'DROPPATH_SLICES': 'drop_path_slices'}
# Names of arguments, the constructors' own and timm's -> keys of MODEL with other names.
KEY_OF = {**{argument: key for key, argument in ARGUMENT_OF.items()},
          'drop_path_rate': 'DROPPATH', 'attn_drop_rate': 'ATTENTION_DROPOUT',
          'dims': 'TOKEN_DIMS'}
# The keys that each flag sets; a later flag wins over an earlier one.
FLAG_KEYS = {
    'dataset': ['DATA.DATASET'],
    'data_path': ['DATA.DATA_PATH'],
    'class_names': ['DATA.CLASS_NAMES'],
    'train_fraction': ['DATA.TRAIN_FRACTION'],
    'real_labels': ['DATA.REAL_LABELS'],
    'val_fraction': ['DATA.VAL_FRACTION'],
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


def load_config(defaults: ConfigNode, cfg_file: str | os.PathLike | None = None) -> ConfigNode:
    """A copy of a config with the values of a yaml file.

    Args:
        defaults: the config with every key that may be set.
        cfg_file: path of the yaml, which may name others in its folder under BASE; None sets
            nothing.

    Returns:
        The frozen copy.

    Raises:
        InputError: an unknown key, one that is given twice, a value of the wrong type or range, or
            no such file; it names the file and line.

    Source: yacs, and `_update_config_from_file` of PaddleViT with its BASE.

    Examples:
        >>> from common.config import base_config, load_config
        >>> with open('small.yaml', 'w') as file:
        ...     _ = file.write('DATA: {IMAGE_SIZE: 32}')
        >>> load_config(base_config(), 'small.yaml').DATA.IMAGE_SIZE
        32
    """
    config = defaults.clone()
    forget_origins(config)
    config.freeze()
    return with_yaml(config, cfg_file) if cfg_file else config


def with_yaml(config: ConfigNode, file: str | os.PathLike) -> ConfigNode:
    """A frozen copy of a config with the values of a yaml file over its own; as `load_config`, but
    what has set the other values stays known."""
    config = config.clone()
    config.defrost()
    for source in [*read_base(file), file]:
        for key, value, line in read_yaml(source):
            if key != 'BASE':
                set_key(config, key, value, f'{source}:{line}')
    check_together(config, f'{file}: ')
    config.freeze()
    return config


def update_config(config: ConfigNode, args: argparse.Namespace | None = None) -> ConfigNode:
    """A copy of a config with the values of the flags (FLAG_KEYS), and then of `-o KEY=VALUE`.

    Args:
        config: ConfigNode, frozen or not.
        args: namespace of common.runner's parser, or any object with some of its attributes. A
            flag that is None or False is left alone, and None for all of them sets nothing.

    Returns:
        The frozen copy.

    Raises:
        InputError: a value of the wrong type or range, naming the flag.

    Source: the function of this name in PaddleViT.

    Examples:
        >>> import argparse
        >>> from common.config import base_config, update_config
        >>> args = argparse.Namespace(batch_size=8, o=['TRAIN.NUM_EPOCHS=40'])
        >>> config = update_config(base_config(), args)
        >>> config.DATA.BATCH_SIZE, config.TRAIN.NUM_EPOCHS
        (8, 40)
    """
    config = config.clone()
    config.defrost()
    for flag, keys in FLAG_KEYS.items():
        value = getattr(args, flag, None)
        if value is not None and value is not False:
            for key in keys:
                set_key(config, key, value, f'-{flag}')
    set_options(config, getattr(args, 'o', None) or [])
    config.freeze()
    return config


def set_options(config: ConfigNode, options: Iterable[str]) -> None:
    """Sets the keys of `-o KEY=VALUE` flags in a config, and checks the config as a whole.

    Args:
        config: an unfrozen ConfigNode; changed in place.
        options: 'KEY=VALUE' strings; the values are yaml.

    Raises:
        InputError: no such text, an unknown key, or a value of the wrong type or range.

    Source: `merge_from_list` of yacs, with the form of Hydra's and mmcv's options.

    Examples:
        >>> from common.config import base_config, set_options
        >>> config = base_config()
        >>> set_options(config, ['MODEL.DROPPATH=0.1', 'DATA.IMAGE_SIZE=[192, 256]'])
        >>> config.MODEL.DROPPATH, config.DATA.IMAGE_SIZE
        (0.1, [192, 256])
    """
    set_option_keys(config, options)
    check_together(config)


def set_option_keys(config, options):
    """The part of `set_options` that holds for the keys of any config."""
    for option in options:
        key, equals, text = option.partition('=')
        where = f'-o {printable(option, 1000)}'
        if not equals:
            raise InputError(f'{where}: got no "=", expected KEY=VALUE')
        set_key(config, key, read_value(text, where), where)


def model_arguments(config: ConfigNode) -> dict[str, object]:
    """The arguments of the constructor of a config's model, by name.

    These are DATA's image size and channels, and all keys of MODEL that describe a model of this
    MODEL.TYPE. `Model(**model_arguments(config))` ends with a TypeError where the constructor and
    the config have not the same, so that no key is without effect.

    Args:
        config: of a family's get_config, or common.zoo.model_config.

    Returns:
        A dict from argument to value.

    Source: this project.

    Examples:
        >>> from common.config import model_arguments
        >>> from common.zoo import model_config
        >>> arguments = model_arguments(model_config('vit_digits'))
        >>> arguments['image_size'], arguments['patch_size'], arguments['drop_path']
        (32, 8, 0.05)
    """
    model = config.MODEL
    arguments = {'image_size': config.DATA.IMAGE_SIZE, 'in_channels': config.DATA.IMAGE_CHANNELS}
    for name, value in model.items():
        if name not in RUN_KEYS and model.key(name).only_in in (None, model.TYPE):
            arguments[ARGUMENT_OF.get(name, name.lower())] = value
    return arguments


def check_together(config, where=''):
    """Raises InputError for values that do not go together.

    Args:
        config: ConfigNode.
        where: the file and ': ', if all values are from one; it begins the message.
    """
    train = config.TRAIN
    if train.TO_STATIC and train.RECOMPUTE:
        raise InputError(f'{where}TRAIN.TO_STATIC, TRAIN.RECOMPUTE: got both, expected one of '
                         f'them')
    check_multi_label(config.DATA, where)
    by_epochs = train.NUM_STEPS is None and train.WARMUP_STEPS is None
    if by_epochs and train.WARMUP_EPOCHS > train.NUM_EPOCHS:
        raise InputError(f'{where}TRAIN.WARMUP_EPOCHS: got {train.WARMUP_EPOCHS}, expected at most '
                         f'TRAIN.NUM_EPOCHS {train.NUM_EPOCHS}')


def check_multi_label(data, where):
    """Raises InputError for keys of a config's DATA node that need one label for each image."""
    if not data.MULTI_LABEL:
        return
    for key, fits, expected in (
            ('DATASET', data.DATASET in ('imagenet2012', 'list', 'csv'),
             'imagenet2012, list or csv'),
            ('BALANCE', data.BALANCE == 0.0, '0'),
            ('TRAIN_FRACTION', data.TRAIN_FRACTION == 1.0, '1'),
            ('REAL_LABELS', data.REAL_LABELS is None, 'null')):
        if not fits:
            raise InputError(f'{where}DATA.{key}: got {data[key]}, expected {expected} with '
                             f'DATA.MULTI_LABEL, whose images may have several labels')


def keys_of_arguments(num_classes=None, image_size=None, **arguments):
    """The keys that the arguments of common.zoo.create_model set.

    Args:
        num_classes, image_size: None sets nothing.
        arguments: keys of MODEL, or names of a constructor's arguments for them.

    Returns:
        {key: (name of the argument, value)}

    Raises:
        InputError: two arguments for one key.
    """
    values = {}
    if num_classes is not None:
        values['MODEL.NUM_CLASSES'] = 'num_classes', num_classes
    if image_size is not None:
        values['DATA.IMAGE_SIZE'] = 'image_size', image_size
    for argument, value in arguments.items():
        key = f'MODEL.{KEY_OF.get(argument, argument.upper())}'
        if key in values:
            raise InputError(f'{values[key][0]}, {argument}: got both, expected one of them')
        values[key] = argument, value
    return values
