"""Which model some weights are for: the sentence behind the message that they do not fit."""
import json

import paddle

from common.config import set_key
from common.core.errors import InputError
from common.weights.dialects import find_prefixes, own_names, translate

# What may be built to try the sizes that a file has: blocks, and the side of a window.
MAX_BLOCKS, MAX_WINDOW = 128, 24


def describe(state, layout, model_types, build):
    """A sentence about which model some weights are for, whatever their classes and image size.

    Args:
        state: {name: array} of a file.
        layout: of the arrays, see common/weights/dialects.py.
        model_types: (module, models) for each type of model: the module has DIALECTS and
            `config_of(shapes)`, `models()` yields (name, MODEL node of its config).
        build: (name, {MODEL key: value}) -> the model without its weights, or None if it cannot
            have these values.

    Returns:
        The names of the models that fit, or of the nearest one with the options that make it fit;
        '' if there is none.
    """
    candidates = list(near_models(state, layout, model_types))
    exact = exact_models(candidates, build, state, layout)
    if exact:
        return f'; the file fits to {" or ".join(exact[:4])}'
    name, other = min(candidates, key=lambda candidate: len(candidate[1]), default=(None, {}))
    if not other or is_too_large(other) or not fits(build(name, other), state, layout):
        return ''
    options = ' '.join(f'-o MODEL.{key}={json.dumps(value, separators=(",", ":"))}'
                       for key, value in other.items())
    return f'; the file fits to {name} with {options}'


def exact_models(candidates, build, state, layout):
    """The names of the models that some weights fit to, whatever their classes and image size.

    Args:
        candidates: of `near_models`.
        build, state, layout: see `describe`.
    """
    return [name for name, other in candidates
            if not other and fits(build(name, {}), state, layout)]


def near_models(state, layout, model_types):
    """Yields (name, {MODEL key: the file's value where the model has another}) for all models of
    the types that some weights can be of. The shapes tell the values; nothing is built."""
    for module, models in model_types:
        if not find_prefixes(module.DIALECTS, state):
            continue
        translated, _, _ = own_names(module.DIALECTS, state, layout)
        try:
            sizes = module.config_of({name: list(value.shape)
                                      for name, value in translated.items()})
        except (LookupError, ZeroDivisionError):
            continue  # weights of something else
        for name, node in models():
            yield name, {key: value for key, value in sizes.items() if node[key] != value}


def fits(model, state, layout):
    """Whether a file has a model's weights, whatever its classes and image size.

    Args:
        model: a Layer, or None for a model that cannot be built.
        state: {name: array} of the file.
        layout: of the arrays.
    """
    if model is None:
        return False
    translated, _ = translate(model, state, layout)
    free = {*model.position_embeddings(), f'{model.classifier_name}.weight',
            f'{model.classifier_name}.bias'}
    ours, theirs = ({name: list(value.shape) for name, value in arrays.items() if name not in free}
                    for arrays in (model.state_dict(), translated))
    return ours == theirs


def with_values(config, values, build):
    """A model without its weights, with some other values of MODEL keys.

    Args:
        config: of the model.
        values: {MODEL key: value}, as a file has them.
        build: makes the model of a config.

    Returns:
        The model, or None if it cannot have these values.
    """
    config = config.clone()
    config.defrost()
    try:
        for key, value in values.items():
            set_key(config, f'MODEL.{key}', value, config.MODEL.NAME)
        with paddle.LazyGuard():
            return build(config)
    except InputError:
        return None


def is_too_large(values):
    """Whether a model with these values of MODEL keys is not worth trying: a file could say any."""
    depths = values.get('DEPTHS', [values.get('DEPTH', 0)])
    return sum(depths) > MAX_BLOCKS or values.get('WINDOW_SIZE', 0) > MAX_WINDOW
