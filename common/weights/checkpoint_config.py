"""What a checkpoint of this project says about its images and classes, and whether it is true.

A run's best.pdparams holds the config of its run beside the weights. A part of this config goes
with the weights into every model that is made of them. It is what the file says, so it is compared
with the file's arrays before anything of its size is built.
"""
import logging
from collections.abc import Callable, Sequence

import paddle
from paddle import nn

from common.config import ConfigNode, set_key, set_options
from common.core.class_names import class_names_of
from common.core.errors import InputError, one_line
from common.weights.classifier_head import own_representation
from common.weights.dialects import translate
from common.weights.load import Weights, load_parts, other_model

# The keys that a checkpoint's own config decides, unless the user sets them.
CHECKPOINT_KEYS = ('MODEL.NUM_CLASSES', 'DATA.IMAGE_SIZE', 'DATA.CROP_PCT', 'DATA.INTERPOLATION',
                   'DATA.IMAGENET_MEAN', 'DATA.IMAGENET_STD', 'DATA.EXIF_ORIENTATION',
                   'DATA.DATASET', 'DATA.MULTI_LABEL', 'MODEL.VSA_FORM')
SIZE_KEYS = {'DATA.IMAGE_SIZE', 'DATA.CROP_PCT'}
# Pixels of the short side before the crop; a file that asks for more is not believed.
MAX_PIXELS = 4096

logger = logging.getLogger('paddle_vitae')


def merged_config(requested: ConfigNode, options: Sequence[str], values: dict, file: str | None,
                  weights: Weights | None) -> tuple[ConfigNode, dict]:
    """The config of a model to be made, each of these over the one before: the model's own config,
    what a checkpoint says about itself, options, other values.

    Args:
        requested: the model's own config.
        options: see common.config.set_options.
        values: {key: (the argument that gives it, value)}.
        file: path of a weight file, or None.
        weights: what it holds, or None.

    Returns:
        (frozen config, {key: value} of what the checkpoint alone decides in it)

    Raises:
        InputError: values that a key may not have, or a key in both `options` and `values`.
    """
    requested = requested.clone()  # becomes the config as it would be without the checkpoint
    requested.defrost()
    config = requested.clone()
    for option in options:
        key = option.partition('=')[0]
        if key in values:
            raise InputError(f'{values[key][0]}, -o {key}: got both, expected one of them')

    def set_wishes(target):
        set_options(target, options)
        for key, (argument, value) in values.items():
            set_key(target, key, value, argument)

    set_wishes(requested)
    stated = stated_values(weights.metadata, config) if weights else {}
    if weights and 'REPRESENTATION_SIZE' in config.MODEL:
        width = own_representation(weights.state, requested.MODEL.NUM_CLASSES)
        stated.update({'MODEL.REPRESENTATION_SIZE': width} if width else {})
    for key, value in stated.items():
        set_key(config, key, value, file)
    set_wishes(config)
    config.freeze()
    return config, only_stated(stated, config, requested)


def stated_values(metadata: dict, config: ConfigNode) -> dict:
    """The values of CHECKPOINT_KEYS that a checkpoint says and another config does not: those
    in its own config, and without one the number of its class names.

    Args:
        metadata: of common.weights.load.Weights.
        config: the config to compare with.

    Returns:
        {key: value}, not checked in any way.
    """
    stated, class_names = metadata.get('config'), metadata.get('class_names')
    if is_of_an_engine(stated):
        return {}
    if not isinstance(stated, dict):
        has_names = isinstance(class_names, list) and class_names
        stated = {'MODEL': {'NUM_CLASSES': len(class_names)}} if has_names else {}
    values = {}
    for key in CHECKPOINT_KEYS:
        node, leaf = key.split('.')
        if isinstance(stated.get(node), dict) and leaf in stated[node] and leaf in config[node] \
                and stated[node][leaf] != config[node][leaf]:
            values[key] = stated[node][leaf]
    return values


def is_of_an_engine(stated):
    """Whether a checkpoint's config is that of a detector or a segmenter, whose keys mean others
    than a classifier's. These have a backbone and no type (a hybrid ViT has both)."""
    model = stated.get('MODEL') if isinstance(stated, dict) else None
    return isinstance(model, dict) and 'BACKBONE' in model and 'TYPE' not in model


def only_stated(stated: dict, config: ConfigNode, requested: ConfigNode) -> dict:
    """The entries of `stated` that decide something: they hold in `config`, and neither the yaml
    nor the user, whose config is `requested`, says the same."""
    values = {}
    for key, value in stated.items():
        node, leaf = key.split('.')
        if config[node][leaf] == value != requested[node][leaf]:
            values[key] = value
    return values


def check_stated(config: ConfigNode, stated: dict, weights: Weights, file: str,
                 build: Callable[[ConfigNode], nn.Layer]) -> None:
    """Compares what a checkpoint says about its sizes with its arrays, before they are believed.

    Args:
        config: the config to be built.
        stated: {key: value} that the checkpoint alone says, see `only_stated`.
        weights: what the file holds.
        file: its path, for messages.
        build: makes the model of a config; it is called under LazyGuard, so nothing is allocated.

    Raises:
        InputError: the arrays are for another number of classes or another image size.
    """
    if not stated.keys() & {'MODEL.NUM_CLASSES', *SIZE_KEYS}:
        return
    size = config.DATA.IMAGE_SIZE
    pixels = max(size if isinstance(size, list) else [size]) / config.DATA.CROP_PCT
    if pixels > MAX_PIXELS and stated.keys() & SIZE_KEYS:
        raise InputError(f'{file}: its config says DATA.IMAGE_SIZE {size} and DATA.CROP_PCT '
                         f'{config.DATA.CROP_PCT:g}, expected images of at most {MAX_PIXELS} '
                         f'pixels; -o DATA.IMAGE_SIZE=N where it is meant')
    model = build_lazily(build, config, file)
    state, _ = translate(model, weights.state, weights.layout)
    model_state = model.state_dict()
    # (key, name of an array, the axis of it that the key decides)
    sizes = [('MODEL.NUM_CLASSES', f'{model.classifier_name}.weight', -1)]
    sizes += [('DATA.IMAGE_SIZE', name, 1) for name in model.position_embeddings()]
    for key, name, axis in sizes:
        if key not in stated or name not in model_state:
            continue
        if name not in state:
            known_as = other_model(model, weights.state, weights.layout)
            raise InputError(f'{file}: these weights are not for this model; nothing was loaded: '
                             f'1 missing ({name}){known_as}')
        expected, got = list(model_state[name].shape), list(state[name].shape)
        if got[axis:][:1] != expected[axis:][:1]:  # [:1]: an array may have fewer axes
            source = 'its config says' if 'config' in weights.metadata else 'its class names say'
            raise InputError(f'{file}: {source} {key} {stated[key]}, for which {name} is '
                             f'{expected}; the file has {got}')


def build_lazily(build, config, file):
    """A model without its weights, by a config that a file has a part in.

    Raises:
        InputError: what the file says makes no model. (Paddle has errors of its own for numbers
            that are too large.)
    """
    try:
        with paddle.LazyGuard():
            return build(config)
    except InputError as error:
        raise InputError(f'{file}: its config makes no model: {error}') from None
    except Exception as error:  # noqa: BLE001 - whatever the numbers in a file lead to
        raise InputError(f'{file}: its config makes no model: {one_line(error)}') from None


def load_with_names(model: nn.Layer, file: str | None, weights: Weights | None,
                    new_head: bool) -> None:
    """Puts weights, if there are some, into a new model, and sets its `notes` and `class_names`.

    Args:
        model: has the attribute `config`.
        file: path of the weight file, or None.
        weights: what it holds, or None.
        new_head: see common.weights.load.load_pretrained.
    """
    model.notes, class_names = [], None
    if weights:
        model.notes, new_parts = load_parts(model, file, new_head, weights)
        for note in model.notes:
            logger.info('%s: %s', file, note)
        class_names = weights.metadata.get('class_names')
        if class_names is None and 'config' not in weights.metadata and not new_parts:
            known = model.published_classes().get(model.config.MODEL.NUM_CLASSES)
            class_names = known and known()
        if new_head and isinstance(class_names, list) \
                and len(class_names) != model.config.MODEL.NUM_CLASSES:
            class_names = None  # of a classifier that was left out
    model.class_names = class_names_of(model.config, class_names, file)
