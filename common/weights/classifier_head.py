"""What a file's classifier is for, and what happens to it where the model has other classes."""
import re

from common.core.class_names import IMAGENET_21K_CLASSES, check_class_names, head_order
from common.core.errors import InputError, first_few

# The names of a bias before the classifier: Google's, timm's, MMClassification's, this project's.
REPRESENTATION_BIAS = re.compile(r'(^|[./])pre_logits[./]((fc|0)\.)?bias$')


def which_classes(classes):
    """' (the 21,843 classes of ImageNet-21k)', for a classifier of that many, or ''."""
    return f' (the {classes:,} classes of ImageNet-21k)' if classes in IMAGENET_21K_CLASSES else ''


def own_representation(state, num_classes):
    """The width of the layer before a file's classifier, without which this is of no use, where
    the classifier is wanted: one of ImageNet-21k, with as many classes as the model is to have.

    Args:
        state: {name: array} of the file, under its own names.
        num_classes: of the model that is wanted.

    Returns:
        The width, or None; other classifiers are replaced in fine-tuning, with the layer.
    """
    widths = [value.size for name, value in state.items() if REPRESENTATION_BIAS.search(name)]
    if num_classes not in IMAGENET_21K_CLASSES or len(set(widths)) != 1:
        return None
    has_head = any(value.shape == (num_classes,) for value in state.values())  # its bias
    return widths[0] if has_head else None


def head_notes(model, state):
    """What is to be said about the classifier that a file gave, if it did.

    Args:
        model: the model that the weights are for.
        state: {name: array} under the model's names, without what was left out.

    Returns:
        Sentences for the log.
    """
    name = model.classifier_name
    weight = state.get(f'{name}.weight')
    if weight is None:
        return []
    notes = []
    if which_classes(weight.shape[-1]):
        notes.append(f'{name}: the {weight.shape[-1]:,} classes of ImageNet-21k')
    if not weight.any():
        notes.append(f"{name}: every weight is 0 in the file, so its scores say nothing; some of "
                     f"Google's ImageNet-21k files are published so, for fine-tuning")
    return notes


def order_head(model, state, known, names, file):
    """Moves the columns of a classifier to the classes that they are for, by name.

    Args:
        model: the model that the weights are for.
        state: {name: array} under the model's names; changed in place.
        known: class names of the file, or None where it has none.
        names: class names of the model, or None.
        file: path, for messages.

    Returns:
        Whether the classifier is for other classes, and notes.
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


def leave_out_head(model, state, model_state, other=False):
    """Takes a classifier of another shape, or for other classes, out of `state`, and with it the
    layer before, for which the classifier was trained.

    Args:
        model: the model that the weights are for.
        state: {name: array} under the model's names; changed in place.
        model_state: {name: tensor} of the model.
        other: whether the classifier is for other classes, whatever its shape.

    Returns:
        The names that the file need not have, and notes.
    """
    kept, notes = set(), []
    for part in head_parts(model):
        ours, theirs = ({name: list(value.shape) for name, value in arrays.items()
                         if name.startswith(f'{part}.')} for arrays in (model_state, state))
        if ours == theirs and not (other and ours):
            continue
        why = ', for other classes' if ours == theirs and not notes else ''
        other = True
        kept |= ours.keys()
        for name in theirs:
            del state[name]
        new = f'new, {weight_shape(ours)}' if ours else 'left out'
        size = weight_shape(theirs)
        if part == model.classifier_name and isinstance(size, list) and size:
            why = which_classes(size[-1]) + why
        notes.append(f'{part}: {new}; the file has {size}{why}')
    return kept, notes


def leave_out_optional(model, state, model_state):
    """Takes layers out of `state` that a file has and a model has not, of its `optional_parts`.

    Args:
        model, state, model_state: as in leave_out_head.

    Returns:
        The names of those that the model has and the file has not, and notes.
    """
    kept, notes = set(), []
    for part in model.optional_parts:
        ours, theirs = ({name: list(value.shape) for name, value in arrays.items()
                         if name.startswith(f'{part}.')} for arrays in (model_state, state))
        if ours and not theirs:
            kept |= ours.keys()
            notes.append(f'{part}: new; the file has none')
        elif theirs and not ours:
            for name in theirs:
                del state[name]
            notes.append(f'{part}: left out; the file has {weight_shape(theirs)}')
    return kept, notes


def head_parts(model):
    """The names of the layers after the features: one before the classifier, and this."""
    before = model.representation_name
    return [before, model.classifier_name] if before else [model.classifier_name]


def weight_shape(shapes):
    """The shape of a layer's weight, for a message."""
    return next((shape for name, shape in shapes.items() if name.endswith('.weight')), 'none')


def check_representation(model, state, model_state, file):
    """Raises InputError for weights with a layer before the classifier, into a model without."""
    prefix = f'{model.representation_name}.'
    names = [name for name in state if name.startswith(prefix) and name not in model_state]
    if names:
        width = ''.join(map(str, state[names[-1]].shape[-1:]))
        bias = state.get(f'{model.classifier_name}.bias')
        keep = ''
        if bias is not None and which_classes(bias.size):
            keep = f' -o MODEL.NUM_CLASSES={bias.size}{which_classes(bias.size)}'
        raise InputError(
            f'{file}: got a layer before the classifier ({first_few(names, 3)}), as weights '
            f'trained on ImageNet-21k have; nothing was loaded; expected '
            f'-o MODEL.REPRESENTATION_SIZE={width}{keep}, or fine-tuning with a new classifier, '
            f'which leaves both out')


def other_classes(model, state, model_state):
    """A sentence about weights that fit a model in all but its classifier, or ''."""
    prefix = f'{model.classifier_name}.'
    ours, theirs = ({name: list(value.shape) for name, value in arrays.items()
                     if not name.startswith(prefix)} for arrays in (model_state, state))
    if ours != theirs:
        return ''
    bias = state.get(f'{prefix}bias')
    if bias is None:
        return '; the file has no classifier: fine-tuning starts with a new one'
    return (f'; only the classifier differs: MODEL.NUM_CLASSES={bias.size} takes that of the file'
            f'{which_classes(bias.size)}, fine-tuning starts with a new one')
