"""Which model some weights are for: the sentence behind the message that they do not fit."""
import json

from common.weights.dialects import find_prefixes, own_names, translate

# What may be built to try the sizes that a file has: blocks, and the side of a window.
MOST_BLOCKS, LARGEST_WINDOW = 128, 24


def describe(state, kind, model_types, build):
    """A sentence about which model some weights are for, whatever their classes and image size.

    Args:
        state: {name: array} of a file.
        kind: layout of the arrays, see common/weights/dialects.py.
        model_types: (module, models) for each type of model: the module has DIALECTS and
            `config_of(shapes)`, `models()` yields (name, MODEL node of its config).
        build: (name, {MODEL key: value}) -> the model without its weights, or None if it cannot
            have these values.

    Returns:
        the names of the models that fit, or of the nearest one with the options that make it fit;
        '' if there is none.
    """
    found = list(near_models(state, kind, model_types))
    exact = [name for name, other in found
             if not other and fits(build(name, {}), state, kind)]
    if exact:
        return f'; the file fits to {" or ".join(exact[:4])}'
    name, other = min(found, key=lambda pair: len(pair[1]), default=(None, {}))
    if not other or is_too_large(other) or not fits(build(name, other), state, kind):
        return ''
    options = ' '.join(f'-o MODEL.{key}={json.dumps(value, separators=(",", ":"))}'
                       for key, value in other.items())
    return f'; the file fits to {name} with {options}'


def near_models(state, kind, model_types):
    """Yields (name, {MODEL key: the file's value where the model has another}) for all models of
    the types that some weights can be of. The shapes tell the values; nothing is built."""
    for module, models in model_types:
        if not find_prefixes(module.DIALECTS, state):
            continue
        own, _, _ = own_names(module.DIALECTS, state, kind)
        try:
            told = module.config_of({name: list(value.shape) for name, value in own.items()})
        except (LookupError, ZeroDivisionError):
            continue  # weights of something else
        for name, model in models():
            yield name, {key: value for key, value in told.items() if model[key] != value}


def fits(model, state, kind):
    """Whether a file has a model's weights, whatever its classes and image size; None has none."""
    if model is None:
        return False
    own, _ = translate(model, state, kind)
    free = set(model.position_embeddings()) | {
        f'{model.classifier_name}.{part}' for part in ('weight', 'bias')}
    wanted = {key: list(value.shape) for key, value in model.state_dict().items()
              if key not in free}
    return wanted == {key: list(value.shape) for key, value in own.items() if key not in free}


def is_too_large(values):
    """Whether a model with these values of MODEL keys is not worth trying: a file could say any."""
    depths = values.get('DEPTHS', [values.get('DEPTH', 0)])
    return sum(depths) > MOST_BLOCKS or values.get('WINDOW_SIZE', 0) > LARGEST_WINDOW
