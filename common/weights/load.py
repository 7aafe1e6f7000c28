"""Puts the weights of a file into a model: compared first, assigned only when all is right."""
import math
import os
import re

import numpy as np
import paddle

from common.core.class_names import check_class_names, head_order
from common.core.errors import InputError, first_few, shown
from common.layers.position import resize_position_embedding
from common.weights.containers import find_state
from common.weights.dialects import translate
from common.weights.formats import from_bfloat16, read_file

# Paddle's own entry in a saved state dict; it holds no weights.
NAME_TABLE = 'StructuredToParameterName@@'
MAX_WEIGHTS = 10_000  # the largest model here has 750; each name is compared with every model's
# A run's files, in the order in which its folder is read.
BEST, LAST = 'best.pdparams', 'last.pdparams'


def read_weights(file):
    """The weights of a file of any format, see common/weights/formats.py; or of a run's folder.

    Returns:
        (kind, {name: numpy array}, notes, facts); kind is the layout of the arrays, facts what a
        checkpoint of this project says about its weights: epoch, best, config, class_names; of
        another code's at most the names.
    """
    notes, facts = [], {}
    if os.path.isdir(file):
        file = weights_of_run(file)
        notes.append(f'read from {file}')
    kind, content = read_file(file)
    if isinstance(content, dict):
        state, container_notes = find_state(content)
        notes += container_notes
        if state is not content:
            facts = {key: content.get(key) for key in ('epoch', 'best', 'config', 'class_names')}
        if 'format_version' not in content:  # another code's: its config has other values
            names = facts.get('class_names')
            facts = {'class_names': names} if isinstance(names, list) else {}
        content = state
    state = state_dict_of(content, file)
    if kind == 'torch':
        state = {name: value for name, value in state.items()
                 if not name.endswith('num_batches_tracked')}
    return kind, state, notes, facts


def weights_of_run(folder):
    """The best weights of a run's folder, or else its last ones."""
    for name in (BEST, LAST):
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise InputError(f"{folder}: got a folder without {BEST} and {LAST}, expected a run's folder "
                     f'or a weight file')


def state_dict_of(content, file):
    """A dictionary of arrays, checked to be one; Paddle's bfloat16 arrays become float32."""
    if not isinstance(content, dict):
        raise InputError(f'{file}: got a {type(content).__name__}, expected a state dict')
    content = {name: value for name, value in content.items() if name != NAME_TABLE}
    if len(content) > MAX_WEIGHTS:
        raise InputError(f'{file}: got {len(content)} names, expected a state dict of at most '
                         f'{MAX_WEIGHTS}')
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise InputError(f'{file}: {shown(name)}: got a {type(value).__name__}, expected a '
                             f'name with an array')
        if not name.isprintable():  # names go to terminals and logs
            raise InputError(f'{file}: {shown(name)}: got a name with control characters')
    return {name: from_bfloat16(value) if value.dtype == np.uint16 else value
            for name, value in content.items()}


def load_pretrained(model, file, new_head=False, weights=None, class_names=None,
                    known_as=lambda model, state, kind: lookalike(model, state)):
    """Loads a weight file into a model.

    Position embeddings of another grid are resized. Everything else must fit.

    Args:
        model: a Layer.
        file: path of a file, or of a run's folder.
        new_head: whether a classifier of another shape, or for other classes, is left out, so that
            the model keeps its newly initialised one (fine-tuning); otherwise it is an error.
        weights: what read_weights(file) gave, if the file was read already.
        class_names: with new_head, the names of the model's classes, or None. A checkpoint's
            classifier for the same names in another order is put into this one.
        known_as: (model, {name: array}, layout) -> the end of the message when the weights are
            another model's; common.zoo.known_as names the model that they fit.

    Returns:
        list of sentences about what was replaced, for the log.

    Raises:
        InputError: missing, unexpected or mismatched weights, or values that are not finite;
            nothing is assigned then.
    """
    kind, raw_state, notes, facts = weights or read_weights(file)
    state, translation_notes = translate(model, raw_state, kind)
    wanted = model.state_dict()
    notes = notes + translation_notes + resize_positions(model, state, wanted, file)
    kept = set()
    if new_head:
        other, order_notes = order_head(model, state, facts.get('class_names'), class_names, file)
        kept, head_notes = leave_out_head(model, state, wanted, other)
        notes += order_notes + head_notes
    check_representation(model, state, wanted, file)
    values, cast_notes = check_state(state, wanted, kept, file,
                                     lambda: other_classes(model, state, wanted)
                                     or known_as(model, raw_state, kind))
    assign(model, values)
    return notes + cast_notes


def assign(model, values):
    """Puts checked values, {name: array}, into a model."""
    targets = model.state_dict()
    for name, value in values.items():
        targets[name].set_value(paddle.to_tensor(value).astype(targets[name].dtype))


def order_head(model, state, known, names, file):
    """Moves the columns of a classifier to the classes that they are for, by name.

    Args:
        known, names: class names of the file and of the model; None is not known.

    Returns:
        whether the classifier is for other classes, and notes.
    """
    arrays = [f'{model.classifier_name}.{part}' for part in ('weight', 'bias')]
    arrays = [name for name in arrays if name in state]
    if known is not None and arrays:
        check_class_names(known, state[arrays[-1]].shape[-1], file)
    relation, order = head_order(names, known)
    if relation == 'moved':
        for name in arrays:
            state[name] = state[name][..., order]
        return False, [f'{model.classifier_name}: its classes are in another order here; they are '
                       f'matched by name']
    return relation == 'other', []


def leave_out_head(model, state, wanted, other=False):
    """Takes a classifier of another shape, or for other classes, out of `state`; the same of the
    layer before it, for which the classifier was trained.

    Returns:
        names that the file need not have, and notes.
    """
    kept, notes = set(), []
    for part in head_parts(model):
        ours, theirs = ({name: list(value.shape) for name, value in arrays.items()
                         if name.startswith(f'{part}.')} for arrays in (wanted, state))
        if ours == theirs and not (other and ours):
            continue
        why = ', for other classes' if ours == theirs and not notes else ''
        other = True
        kept |= ours.keys()
        for name in theirs:
            del state[name]
        new = f'new, {weight_shape(ours)}' if ours else 'left out'
        notes.append(f'{part}: {new}; the file has {weight_shape(theirs)}{why}')
    return kept, notes


def head_parts(model):
    """The names of the layers after the features: one before the classifier, and this."""
    before = getattr(model, 'representation_name', None)
    return [before, model.classifier_name] if before else [model.classifier_name]


def weight_shape(shapes):
    return next((shape for name, shape in shapes.items() if name.endswith('.weight')), 'none')


def check_representation(model, state, wanted, file):
    """Raises InputError for weights with a layer before the classifier, into a model without."""
    prefix = f'{getattr(model, "representation_name", None)}.'
    names = [name for name in state if name.startswith(prefix) and name not in wanted]
    if names:
        width = ''.join(map(str, state[names[-1]].shape[-1:]))
        raise InputError(
            f'{file}: got a layer before the classifier ({first_few(names, 3)}), as weights '
            f'trained on ImageNet-21k have; nothing was loaded; expected '
            f'-o MODEL.REPRESENTATION_SIZE={width}, or fine-tuning with a new classifier, which '
            f'leaves both out')


def resize_positions(model, state, wanted, file):
    """Resizes the position embeddings of `state` to the model's grid, in place."""
    notes = []
    table = model.position_embeddings() if hasattr(model, 'position_embeddings') else {}
    for name, (num_prefix, grid) in table.items():
        value = state.get(name)
        if value is None or value.ndim != 3 or value.shape[1] == wanted[name].shape[1] \
                or value.shape[::2] != tuple(wanted[name].shape[::2]):
            continue
        check_values(name, value, file)
        side = math.isqrt(max(value.shape[1] - num_prefix, 0))
        if side * side != value.shape[1] - num_prefix or side == 0:
            raise InputError(f'{file}: {name}: got {value.shape[1]} tokens, expected {num_prefix} '
                             f'and a square grid, or {wanted[name].shape[1]}'
                             f'{lookalike(model, state)}')
        resized = resize_position_embedding(
            paddle.to_tensor(value.astype(dtype_name(wanted[name]))), num_prefix, (side, side),
            grid)
        state[name] = resized.numpy()
        notes.append(f'{name}: resized (bicubic) from {side}x{side} to {grid[0]}x{grid[1]}')
    return notes


def other_classes(model, state, wanted):
    """A sentence about weights that fit to a model but for its classifier, or ''."""
    prefix = f'{model.classifier_name}.'
    ours, theirs = ({name: list(value.shape) for name, value in arrays.items()
                     if not name.startswith(prefix)} for arrays in (wanted, state))
    if ours != theirs:
        return ''
    bias = state.get(f'{prefix}bias')
    if bias is None:
        return '; the file has no classifier: fine-tuning starts with a new one'
    return (f'; only the classifier differs: MODEL.NUM_CLASSES={bias.size} takes that of the file, '
            f'fine-tuning starts with a new one')


def lookalike(model, names):
    """A sentence about the other model that some names of weights are of, or ''."""
    return next((f'; the file is of {what}' for pattern, what in getattr(model, 'lookalikes', ())
                 if any(re.search(pattern, name) for name in names)), '')


def check_state(state, wanted, kept, file, known_as=lambda: ''):
    """Compares names, shapes, types and values.

    Args:
        state: {name: array} of the file.
        wanted: {name: tensor} of the model.
        kept: names that the file need not have.
        file: for messages.
        known_as: gives the end of the message when the weights are another model's.

    Returns:
        {name: array in the model's type, or float32 for bfloat16}, and notes about casts.
    """
    missing = [name for name in wanted if name not in state and name not in kept]
    unexpected = [name for name in state if name not in wanted]
    mismatched = [f'{name} {list(state[name].shape)} instead of {list(wanted[name].shape)}'
                  for name in wanted
                  if name in state and list(state[name].shape) != list(wanted[name].shape)]
    if missing or unexpected or mismatched:
        raise InputError(
            f'{file}: these weights are not for this model; nothing was loaded: '
            f'{count_names(missing, "missing")}; {count_names(unexpected, "unexpected")}; '
            f'{count_names(mismatched, "of another shape")}{known_as()}')
    values, casts = {}, {}
    for name, value in state.items():
        dtype = dtype_name(wanted[name])
        values[name] = check_values(name, value, file, dtype)
        if value.dtype.name != dtype:
            casts[value.dtype.name] = casts.get(value.dtype.name, 0) + 1
    return values, [f'{count} arrays were cast from {dtype}' for dtype, count in casts.items()]


def check_values(name, value, file, dtype='float64'):
    """The array cast to `dtype`; it must hold floats that are finite then."""
    if value.dtype.kind != 'f':
        raise InputError(f'{file}: {name}: got {value.dtype} values, expected floats')
    with np.errstate(over='ignore'):
        value = value.astype(dtype)
    if not np.isfinite(value).all():
        raise InputError(f'{file}: {name}: got values that are not finite in {dtype}')
    return value


def dtype_name(tensor):
    """The numpy type of a tensor; bfloat16, which numpy lacks, is float32."""
    name = str(tensor.dtype).removeprefix('paddle.')
    return 'float32' if name == 'bfloat16' else name


def count_names(names, what):
    """'3 missing (a, b, c)', for a message."""
    return f'{len(names)} {what}' + (f' ({first_few(names, 10)})' if names else '')
