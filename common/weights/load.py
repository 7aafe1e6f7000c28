"""Puts the weights of a file into a model: compared first, assigned only when all is right."""
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle

from common.core.errors import InputError, first_few, shown
from common.layers.classifier import ImageClassifier, check_classifier
from common.layers.position import resize_position_embedding
from common.weights.arrays import from_bfloat16
from common.weights.classifier_head import (
    check_representation,
    head_notes,
    leave_out_head,
    leave_out_optional,
    order_head,
    other_classes,
)
from common.weights.containers import find_state
from common.weights.dialects import lookalike_among, translate
from common.weights.formats import read_file

# Paddle's own entry in a saved state dict; it holds no weights.
NAME_TABLE = 'StructuredToParameterName@@'
MAX_WEIGHTS = 10_000  # the largest model here has 750; each name is compared with every model's
# A run's files, in the order in which its folder is read.
BEST, LAST = 'best.pdparams', 'last.pdparams'


class Weights(NamedTuple):
    """What a weight file holds.

    Attributes:
        layout: paddle | torch | flax, how the arrays are laid out; see common/weights/dialects.py.
        state: {name: numpy array}, under the names of the file.
        notes: sentences about what was read, where the file leaves a choice.
        metadata: what a checkpoint of this project says about its weights: epoch, best, config,
            class_names; for a file of another code class_names at most.
    """

    layout: str
    state: dict[str, np.ndarray]
    notes: list[str]
    metadata: dict


def read_weights(file: str | os.PathLike) -> Weights:
    """Reads a weight file of any known format as data; no code in it is run.

    The formats are Paddle's .pdparams, PyTorch's .pth, Flax's .npz and .safetensors; the content
    of the file decides, not its name. bfloat16 arrays become float32.

    Args:
        file: path of the file, or of a run's folder, of which best.pdparams is read, or else
            last.pdparams.

    Returns:
        Weights, a named tuple (layout, state, notes, metadata).

    Raises:
        InputError: the file is missing, of no known format, damaged, or asks for more than data.

    Source: this project; the rules are those of safetensors, and of the weights-only loading of
    PyTorch, at a bounded cost; see common/core/bounds.py.

    Examples:
        >>> import paddle
        >>> from common.weights.load import read_weights
        >>> paddle.save(paddle.nn.Linear(3, 2).state_dict(), 'linear.pdparams')
        >>> weights = read_weights('linear.pdparams')
        >>> weights.layout, {name: array.shape for name, array in weights.state.items()}
        ('paddle', {'weight': (3, 2), 'bias': (2,)})
    """
    notes, metadata = [], {}
    if os.path.isdir(file):
        file = weights_of_run(file)
        notes.append(f'read from {file}')
    layout, content = read_file(file)
    if isinstance(content, dict):
        state, container_notes = find_state(content)
        notes += container_notes
        if state is not content:
            metadata = {key: content.get(key)
                        for key in ('epoch', 'best', 'config', 'class_names')}
        if 'format_version' not in content:  # another code's: its config has other values
            names = metadata.get('class_names')
            metadata = {'class_names': names} if isinstance(names, list) else {}
        content = state
    state = state_dict_of(content, file)
    if layout == 'torch':
        state = {name: value for name, value in state.items()
                 if not name.endswith('num_batches_tracked')}
    return Weights(layout, state, notes, metadata)


def weights_of_run(folder):
    """The file of the best weights in a run's folder, or else of the last ones."""
    for name in (BEST, LAST):
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise InputError(f"{folder}: got a folder without {BEST} and {LAST}, expected a run's folder "
                     f'or a weight file')


def state_dict_of(content, file):
    """The arrays of a file's content.

    Args:
        content: what read_file gives.
        file: its path, for messages.

    Returns:
        {name: array}; Paddle's bfloat16 arrays, which come as uint16, are float32.

    Raises:
        InputError: the content is no dictionary of names with arrays.
    """
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


def load_pretrained(model: ImageClassifier, file: str | os.PathLike, new_head: bool = False,
                    weights: Weights | None = None,
                    class_names: Sequence[str] | None = None) -> list[str]:
    """Loads a weight file into a model; either all of it fits, or nothing is assigned.

    Position embeddings of another grid are resized (bicubic). Everything else must fit in name
    and shape.

    Args:
        model: of create_model, or any other ImageClassifier.
        file: path of a file of any format that `read_weights` knows, or of a run's folder.
        new_head: whether a classifier of another shape, or for other classes, is left out, so that
            the model keeps its newly initialised one (fine-tuning); otherwise it is an error.
        weights: what read_weights(file) gave, if the file was read already.
        class_names: with new_head, the names of the model's classes, or None. A checkpoint's
            classifier for the same names in another order is put into this one.

    Returns:
        Sentences about what was replaced, for the log.

    Raises:
        InputError: missing, unexpected or mismatched weights, or values that are not finite;
            nothing is assigned then. Or the model is no ImageClassifier.

    Source: this project; strict as `load_state_dict` of PyTorch, with the resizing of
    position embeddings of ViT (arXiv 2010.11929, section 3.2).

    Examples:
        >>> import paddle
        >>> from common.weights.load import load_pretrained
        >>> from common.zoo import create_model
        >>> paddle.save(create_model('vit_digits').state_dict(), 'digits.pdparams')
        >>> load_pretrained(create_model('vit_digits', image_size=64), 'digits.pdparams')
        ['position_embedding: resized (bicubic) from 4x4 to 8x8']
    """
    return load_parts(model, file, new_head, weights, class_names)[0]


def load_parts(model, file, new_head=False, weights=None, class_names=None):
    """As load_pretrained; returns its sentences, and the names of the parameters that the file did
    not give, those of a new classifier."""
    check_classifier(model)
    layout, raw_state, notes, metadata = weights or read_weights(file)
    state, translation_notes = translate(model, raw_state, layout)
    model_state = model.state_dict()
    notes = notes + translation_notes + resize_positions(model, state, model_state, file)
    kept = set()
    if new_head:
        is_other, order_notes = order_head(model, state, metadata.get('class_names'), class_names,
                                           file)
        kept, new_notes = leave_out_head(model, state, model_state, is_other)
        notes += order_notes + new_notes
    optional, optional_notes = leave_out_optional(model, state, model_state)
    kept, notes = kept | optional, notes + optional_notes
    check_representation(model, state, model_state, file)
    values, cast_notes = check_state(state, model_state, kept, file,
                                     lambda: other_classes(model, state, model_state)
                                     or other_model(model, raw_state, layout))
    assign(model, values)
    return notes + cast_notes + head_notes(model, state), kept


def assign(model, values):
    """Puts checked values, {name: array}, into a model."""
    targets = model.state_dict()
    for name, value in values.items():
        targets[name].set_value(paddle.to_tensor(value).astype(targets[name].dtype))


def resize_positions(model, state, model_state, file):
    """Resizes the position embeddings of `state` to the model's grid, in place."""
    notes = []
    for name, (num_prefix, grid) in model.position_embeddings().items():
        value = state.get(name)
        if value is None or value.ndim != 3 or value.shape[1] == model_state[name].shape[1] \
                or value.shape[::2] != tuple(model_state[name].shape[::2]):
            continue
        check_values(name, value, file)
        side = math.isqrt(max(value.shape[1] - num_prefix, 0))
        if side * side != value.shape[1] - num_prefix or side == 0:
            raise InputError(f'{file}: {name}: got {value.shape[1]} tokens, expected {num_prefix} '
                             f'and a square grid, or {model_state[name].shape[1]}'
                             f'{lookalike(model, state)}')
        resized = resize_position_embedding(
            paddle.to_tensor(value.astype(dtype_name(model_state[name]))), num_prefix, (side, side),
            grid)
        state[name] = resized.numpy()
        notes.append(f'{name}: resized (bicubic) from {side}x{side} to {grid[0]}x{grid[1]}')
    return notes


def other_model(model, state, layout):
    """A sentence about which model some weights, {name: array}, are for that do not fit, or ''."""
    return model.known_as(model, state, layout) if model.known_as else lookalike(model, state)


def lookalike(model, state):
    """A sentence about the other model that some weights, {name: array}, are of, or ''."""
    return lookalike_among(model.lookalikes(), state)


def check_state(state, model_state, kept, file, known_as=lambda: ''):
    """Compares names, shapes, types and values.

    Args:
        state: {name: array} of the file.
        model_state: {name: tensor} of the model.
        kept: names that the file need not have.
        file: for messages.
        known_as: gives the end of the message when the weights are another model's.

    Returns:
        {name: array in the model's type, or float32 for bfloat16}, and notes about casts.
    """
    missing = [name for name in model_state if name not in state and name not in kept]
    unexpected = [name for name in state if name not in model_state]
    mismatched = [f'{name} {list(state[name].shape)} instead of {list(model_state[name].shape)}'
                  for name in model_state
                  if name in state and list(state[name].shape) != list(model_state[name].shape)]
    if missing or unexpected or mismatched:
        raise InputError(
            f'{file}: these weights are not for this model; nothing was loaded: '
            f'{count_names(missing, "missing")}; {count_names(unexpected, "unexpected")}; '
            f'{count_names(mismatched, "of another shape")}{known_as()}')
    values, casts = {}, {}
    for name, value in state.items():
        dtype = dtype_name(model_state[name])
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
