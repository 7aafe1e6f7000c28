"""What happens to the classifier of a file whose classes are not those of the model."""
from common.core.class_names import check_class_names, head_order
from common.core.errors import InputError, first_few


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
        notes.append(f'{part}: {new}; the file has {weight_shape(theirs)}{why}')
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
        raise InputError(
            f'{file}: got a layer before the classifier ({first_few(names, 3)}), as weights '
            f'trained on ImageNet-21k have; nothing was loaded; expected '
            f'-o MODEL.REPRESENTATION_SIZE={width}, or fine-tuning with a new classifier, which '
            f'leaves both out')


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
    return (f'; only the classifier differs: MODEL.NUM_CLASSES={bias.size} takes that of the file, '
            f'fine-tuning starts with a new one')
