"""Which model some weights are for: the sentence behind the message that they do not fit."""
import json

import paddle

from common.config import set_key
from common.dialects import find_prefixes, own_names, translate
from common.errors import InputError
from common.zoo import (
    MODELS,
    build_model,
    load_family_file,
    model_config,
    models_of,
    without_weights,
)

# What may be built to try the sizes that a file has: blocks, and the side of a window.
MOST_BLOCKS, LARGEST_WINDOW = 128, 24


def describe(state, kind):
    """A sentence about which model some weights are for, whatever their classes and image size.

    Args:
        state: {name: array} of a file.
        kind: layout of the arrays, see common/dialects.py.

    Returns:
        the names of the models that fit, or of the nearest one with the options that make it fit;
        '' if there is none.
    """
    found = list(near_models(state, kind))
    exact = [name for name, other in found
             if not other and fits(without_weights(name), state, kind)]
    if exact:
        return f'; the file fits to {" or ".join(exact[:4])}'
    name, other = min(found, key=lambda pair: len(pair[1]), default=(None, {}))
    if not other or not fits_with(name, other, state, kind):
        return ''
    options = ' '.join(f'-o MODEL.{key}={json.dumps(value, separators=(",", ":"))}'
                       for key, value in other.items())
    return f'; the file fits to {name} with {options}'


def near_models(state, kind):
    """Yields (name, {MODEL key: the file's value where the model has another}) for all models of
    the types that some weights can be of. The shapes tell the values; nothing is built."""
    for model_type, (folder, file, _) in MODELS.items():
        module = load_family_file(folder, file)
        if not find_prefixes(module.DIALECTS, state):
            continue
        own, _, _ = own_names(module.DIALECTS, state, kind)
        try:
            told = module.config_of({name: list(value.shape) for name, value in own.items()})
        except (LookupError, ZeroDivisionError):
            continue  # weights of something else
        for name in models_of(folder):
            model = model_config(name).MODEL
            if model_type == model.TYPE:
                yield name, {key: value for key, value in told.items() if model[key] != value}


def fits(model, state, kind):
    """Whether a file has a model's weights, whatever its classes and image size."""
    own, _ = translate(model, state, kind)
    free = set(model.position_embeddings()) | {
        f'{model.classifier_name}.{part}' for part in ('weight', 'bias')}
    wanted = {key: list(value.shape) for key, value in model.state_dict().items()
              if key not in free}
    return wanted == {key: list(value.shape) for key, value in own.items() if key not in free}


def fits_with(name, values, state, kind):
    """Whether a file fits to a model with some other values of MODEL keys."""
    config = model_config(name).clone()
    config.defrost()
    try:
        for key, value in values.items():
            set_key(config, f'MODEL.{key}', value, name)
    except InputError:
        return False
    depths = values.get('DEPTHS', [values.get('DEPTH', 0)])
    if sum(depths) > MOST_BLOCKS or values.get('WINDOW_SIZE', 0) > LARGEST_WINDOW:
        return False  # a file could say anything
    try:
        with paddle.LazyGuard():
            return fits(build_model(config), state, kind)
    except InputError:
        return False
