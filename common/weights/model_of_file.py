"""Which model a weight file is of, where the user names none.

A checkpoint of this project says it: its config has all keys of MODEL, whether the model is in the
zoo or not. Weights of another code tell it by their names and shapes, if one model alone has these.
What a file says is compared with its arrays before anything of its size is built.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

from common.config import ConfigNode, set_key
from common.core.config_keys import wrong
from common.core.config_values import RUN_KEYS
from common.core.errors import InputError
from common.weights.checkpoint_config import CHECKPOINT_KEYS, build_lazily
from common.weights.dialects import find_prefixes, lookalike_among, own_names, translate
from common.weights.identify import (
    describe,
    exact_models,
    fits,
    is_too_large,
    near_models,
)
from common.weights.load import Weights

EXPECTED = "expected the model's name or yaml (-cfg)"
# Keys of MODEL that a file does not decide, or not here: see CHECKPOINT_KEYS.
NOT_OF_A_FILE = ('PRETRAINED', 'RESUME', 'NUM_CLASSES')


class KnownModels(NamedTuple):
    """What there is to choose from, as functions of the zoo.

    Attributes:
        types: {MODEL.TYPE: (module of the names of its weights, function that yields (name, MODEL
            node) of its models)}.
        defaults: MODEL.TYPE -> the config of its family, with its defaults.
        config: name -> config of a model.
        build: config -> model.
        without_weights: (name, {MODEL key: value}) -> that model without its weights, or None.
    """

    types: dict[str, tuple[Any, Callable]]
    defaults: Callable[[str], ConfigNode]
    config: Callable[[str], ConfigNode]
    build: Callable[[ConfigNode], Any]
    without_weights: Callable[[str, dict], Any]


def config_of_file(weights: Weights, file: str, known: KnownModels) -> tuple[ConfigNode, str]:
    """The config of the model that a weight file is of.

    Args:
        weights: what the file holds.
        file: its path, for messages.
        known: the models that there are.

    Returns:
        The frozen config, for common.weights.checkpoint_config.merged_config, and a sentence about
        where it comes from.

    Raises:
        InputError: the file does not say which model it is of, or says what its arrays are not; or
            several models fit, which the message lists.
    """
    said = weights.metadata.get('config')
    if isinstance(said, dict) and isinstance(said.get('MODEL'), dict) and 'TYPE' in said['MODEL']:
        config = stated_config(said, weights, file, known)
        return config, f'model {config.MODEL.NAME}, as the config in the file says'
    config = identified_config(weights, file, known)
    return config, (f'model {config.MODEL.NAME}, by the names and shapes of the weights, with its '
                    f'preprocessing; -cfg names another')


def stated_config(said, weights, file, known):
    """The config with the MODEL keys that a checkpoint of this project says, checked against its
    arrays. Classes and preprocessing are left to merged_config.

    Args:
        said: the config in the checkpoint, a dict with the dict MODEL.
        weights, file, known: see config_of_file.
    """
    model_type = said['MODEL']['TYPE']
    if not isinstance(model_type, str) or model_type not in known.types:
        raise wrong(file, 'MODEL.TYPE', model_type, f'one of {", ".join(known.types)}')
    config = known.defaults(model_type).clone()
    config.defrost()
    for key, value in said['MODEL'].items():
        if key not in NOT_OF_A_FILE:
            set_key(config, f'MODEL.{key}', value, file)
    trial = config.clone()
    if isinstance(said.get('DATA'), dict) and 'IMAGE_SIZE' in said['DATA']:
        set_key(trial, 'DATA.IMAGE_SIZE', said['DATA']['IMAGE_SIZE'], file)
    check_sizes(trial, weights, file, known)
    config.freeze()
    return config


def check_sizes(config, weights, file, known):
    """Raises InputError if a checkpoint's arrays are not those of the model that it says it is."""
    module, _ = known.types[config.MODEL.TYPE]
    for key, value in sizes_of(module, weights).items():
        if config.MODEL[key] != value:
            raise InputError(f'{file}: its config says MODEL.{key} {config.MODEL[key]}, its '
                             f'arrays are those of {value}')
    if is_too_large(config.MODEL):
        raise InputError(f'{file}: its config says MODEL.WINDOW_SIZE {config.MODEL.WINDOW_SIZE} '
                         f'for a model of {config.MODEL.NAME}, more than a file is believed; '
                         f'{EXPECTED}')
    model = build_lazily(known.build, config, file)
    if not fits(model, weights.state, weights.layout):
        raise InputError(f'{file}: its arrays are not those of the model that its config says, '
                         f'{config.MODEL.TYPE} {config.MODEL.NAME}; {EXPECTED}')


def sizes_of(module, weights):
    """{MODEL key: value} that the arrays of a file tell, as weights of one type of model; {} where
    they are of another."""
    if not find_prefixes(module.DIALECTS, weights.state):
        return {}
    state, _, _ = own_names(module.DIALECTS, weights.state, weights.layout)
    try:
        return module.config_of({name: list(value.shape) for name, value in state.items()})
    except (LookupError, ZeroDivisionError):
        return {}


def identified_config(weights, file, known):
    """The config of the one model that the names and shapes of some weights are of, with as many
    classes as their classifier has."""
    state, layout, types = weights.state, weights.layout, list(known.types.values())
    names = exact_models(near_models(state, layout, types), known.without_weights, state, layout)
    if not names:
        nearest = describe(state, layout, types, known.without_weights) \
            or lookalike_of(types, state) or '; no model has these names and shapes'
        raise InputError(f'{file}: the weights do not tell which model they are of{nearest}; '
                         f'{EXPECTED}')
    of_this_size = [name for name in names
                    if has_positions(known.without_weights(name, {}), weights)]
    if not of_this_size:
        raise InputError(f'{file}: the weights fit to {" or ".join(names)}, but are for another '
                         f'image size; expected one of these names (-cfg) and -o '
                         f'DATA.IMAGE_SIZE=N')
    first, *others = of_this_size
    ours = as_used(known.config(first))
    differing = [key for key in ours
                 if any(as_used(known.config(name)).get(key) != ours[key] for name in others)]
    if differing:
        raise InputError(f'{file}: the weights fit to {" and ".join(of_this_size)}, which differ '
                         f'in {", ".join(differing)}; expected one of these names (-cfg)')
    config = known.config(first).clone()
    config.defrost()
    config.MODEL.NUM_CLASSES = classes_of(known.without_weights(first, {}), weights)
    config.freeze()
    return config


def has_positions(model, weights):
    """Whether the position embeddings of some weights have the grid of a model."""
    state, _ = translate(model, weights.state, weights.layout)
    ours = model.state_dict()
    return all(name in state and list(state[name].shape) == list(ours[name].shape)
               for name in model.position_embeddings())


def classes_of(model, weights):
    """How many classes the classifier of some weights has; 0 where they have none."""
    state, _ = translate(model, weights.state, weights.layout)
    bias = state.get(f'{model.classifier_name}.bias')
    return 0 if bias is None else int(bias.size)


def as_used(config):
    """{key: value} of what a config says about predictions: the network without its dropout, and
    the preprocessing."""
    network = {f'MODEL.{key}': value for key, value in config.MODEL.items()
               if key not in RUN_KEYS and 'DROP' not in key}
    data = {key: config.DATA[key.partition('.')[2]] for key in CHECKPOINT_KEYS
            if key.startswith('DATA.')}
    return {**network, **data}


def lookalike_of(types, state):
    """A sentence about a model that some weights are of and that is not here, or ''."""
    found = (lookalike_among(getattr(module, 'LOOKALIKES', ()), state) for module, _ in types
             if find_prefixes(module.DIALECTS, state))
    return next(filter(None, found), '')
