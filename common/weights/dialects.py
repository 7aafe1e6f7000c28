"""Weights under other codes' names and layouts -> a model's own.

A dialect is the map from the names of one code (timm, Flax, upstream) to the model's own. A model
lists those that it understands (`model.dialects()`), its own names among them; this file applies
them, after the prefix that wrappers put before all names (`module.`, `_orig_mod.`, a
Lightning module's `model.`), whatever it is. Arrays are transposed by the type of the layer that
they are for, never by their number of dimensions: a bias table is a matrix too, and stays.
"""
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from paddle import nn

from common.core.errors import first_few


@dataclass(frozen=True)
class Dialect:
    """How one code names the weights of a model.

    Attributes:
        name: what the code is called in the log.
        marker: regular expression, from '^' on, that one of the file's names matches behind their
            common prefix, and no name of another dialect.
        names: (pattern, replacement) pairs for re.sub, all applied, in order.
        fused: (pattern, parts, replacement): names that match the pattern, whose group 'part' is
            one of `parts`, are joined in the order of `parts` under the replacement.
        dropped: patterns of names that no model here has.
        reordered: (pattern, function) pairs for inputs that the code counts in another order: an
            array whose name in the file matches becomes function(array), which permutes the last
            axis, that of a linear layer's inputs.
        unless: {name: array} -> whether a file is of a model that has the same names and computes
            something else; it keeps its names then, which fit no model here.
    """

    name: str
    marker: str
    names: tuple
    fused: tuple = ()
    dropped: tuple = ()
    reordered: tuple = ()
    unless: Callable[[dict], bool] | None = None


# Of several copies of a model in one file that one is taken with which the most weights agree, and
# of equal ones the average: published accuracies are mostly that one's.
AVERAGE = re.compile(r'(^|[._])(ema|teacher)([._]|$)')
MAX_COPIES, MAX_STAGES = 16, 16  # that are looked for: a file may hold any number of names


def translate(model, state, layout):
    """Gives a file's weights the names and layouts of a model.

    Args:
        model: a Layer; may have `dialects()`.
        state: {name: array} of the file.
        layout: paddle | torch | flax, how the arrays are laid out.

    Returns:
        {name: array}, and notes for the log.
    """
    dialects = model.dialects()
    model_state = model.state_dict()
    inside, outside, notes = own_names(dialects, state, layout, model_state)
    beside = [name for name in outside if name not in model_state]
    if beside:
        notes.append(f'{len(beside)} arrays beside the model are left out: {first_few(beside, 3)}')
    state = {**{name: value for name, value in outside.items() if name in model_state}, **inside}
    if layout == 'torch':
        linear = {f'{name}.weight' for name, sublayer in model.named_sublayers()
                  if isinstance(sublayer, nn.Linear)}
        state = {name: from_torch_linear(value) if name in linear else value
                 for name, value in state.items()}
    return state, notes


def own_names(dialects, state, layout, model_state=None):
    """Gives a file's weights a model's names; PyTorch's linear layers are not transposed yet.

    Args:
        dialects, state, layout: see `translate`.
        model_state: {name: tensor} of the model, to choose among several copies; None takes the
            first.

    Returns:
        {name: array} of what stands behind the model's prefix, the same of the rest (a wrapper's
        own classifier, a second copy of the model), and notes.
    """
    notes = []
    prefixes = find_prefixes(dialects, state) or ['']
    prefix = prefixes[0]
    if model_state and len(prefixes) > 1:  # a teacher may be a larger model than its student
        prefix = max(prefixes, key=lambda prefix: agreement(
            dialects, split(state, prefix, prefixes)[0], layout, model_state))
    inside, outside = split(state, prefix, prefixes)
    if prefix:
        notes.append(f'names behind the prefix {prefix[:80]!r}')
    dialect = dialect_of(dialects, inside)
    if dialect is None:
        return to_layout(inside, layout), to_layout(outside, layout), notes
    renamed = apply(dialect, inside, layout, notes)
    if renamed.keys() != inside.keys():
        notes.insert(0, f'names of {dialect.name}')
    return renamed, apply(dialect, outside, layout, []), notes


def split(state, prefix, prefixes):
    """The weights behind a prefix, without it; and the others, those of other copies among them."""
    others = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    inside, outside = {}, {}
    for name, value in state.items():
        if name.startswith(prefix) and not name.startswith(others):
            inside[name[len(prefix):]] = value
        else:
            outside[name] = value
    return inside, outside


def dialect_of(dialects, state):
    """The dialect in which some names are, or None."""
    found = next((dialect for dialect in dialects
                  if any(re.search(dialect.marker, name) for name in state)), None)
    return None if found and found.unless and found.unless(state) else found


def agreement(dialects, state, layout, model_state):
    """How many of a copy's weights a model has, by name and number of values."""
    dialect = dialect_of(dialects, state)
    renamed = apply(dialect, state, layout, []) if dialect else {}
    return sum(name in model_state and value.size == model_state[name].size
               for name, value in renamed.items())


def to_layout(state, layout):
    """Flax's layouts -> Paddle's; the others' are handled by the type of the layer."""
    if layout != 'flax':
        return state
    return {name: from_flax(name, value) for name, value in state.items()}


def apply(dialect, state, layout, notes):
    """Weights under a model's names; what the dialect drops is added to `notes`."""
    dropped = {name for name in state
               if any(re.search(pattern, name) for pattern in dialect.dropped)}
    if dropped:
        names = [name for name in state if name in dropped]
        notes.append(f'{len(names)} arrays have no place here: {first_few(names, 3)}')
    state = {name: reorder(name, value, dialect.reordered, layout)
             for name, value in state.items() if name not in dropped}
    state = fuse(to_layout(state, layout), dialect.fused, axis=0 if layout == 'torch' else 1)
    renamed = {}
    for name, value in state.items():
        own = rename(name, dialect.names)
        if own in renamed:  # no model has this name: it is refused, and neither array is lost
            own = f'{name} (the second {own})'
        renamed[own] = value
    return renamed


def reorder(name, value, reordered, layout):
    """An array after the functions of `Dialect.reordered` for its name; they see inputs on the
    last axis, where PyTorch's linear layers have them, and Paddle's have their outputs."""
    turned = layout != 'torch' and value.ndim == 2
    for pattern, function in reordered:
        if re.search(pattern, name):
            value = function(value.T).T if turned else function(value)
    return value


def find_prefixes(dialects, state):
    """What stands before a model's names in a file, for each copy of the model there.

    Returns:
        list of '' or e.g. 'module.model.', averages first; empty if no dialect knows a name.
    """
    prefixes = {}  # a dict keeps the order of the file
    for dialect in dialects:
        marker = re.compile(rf'(?:^|(?<=[./])){dialect.marker.removeprefix("^")}')
        for name in state:
            match = marker.search(name)
            if match:
                prefixes[name[:match.start()]] = None
    averages_first = sorted(prefixes, key=lambda prefix: (not AVERAGE.search(prefix), len(prefix)))
    return averages_first[:MAX_COPIES]


def from_torch_linear(value):
    """[out, in], or a 1x1 convolution [out, in, 1, 1], -> [in, out]"""
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    return value.T if value.ndim == 2 else value


def rename(name, names):
    """A name after all (pattern, replacement) pairs."""
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return name


def fuse(state, fused, axis):
    """Joins arrays that a model here keeps as one, such as q, k and v.

    Args:
        state: {name: array}.
        fused: see `Dialect`.
        axis: along which matrices are joined; biases have one axis only.

    Returns:
        {name: array}. Where a part is missing or has another number of axes the parts stay under
        their own names, which the comparison with the model will name.
    """
    for pattern, parts, replacement in fused:
        groups, result = {}, {}
        for name, value in state.items():
            match = re.search(pattern, name)
            if match and match.group('part') in parts:
                target = match.expand(replacement)
                result.setdefault(target, None)  # keeps the order of the file
                groups.setdefault(target, {})[match.group('part')] = (name, value)
            else:
                result[name] = value
        for target, group in groups.items():
            values = [group[part][1] for part in parts if part in group]
            if len(values) == len(parts) and len({value.ndim for value in values}) == 1:
                result[target] = np.concatenate(values, min(axis, values[0].ndim - 1))
            else:
                del result[target]
                result.update(group.values())
        state = result
    return state


def from_flax(name, value):
    """An array in Flax's layout -> Paddle's: HWIO convolutions, heads on an axis of their own,
    norms with axes of size 1."""
    if name.endswith('/kernel'):
        if value.ndim == 4:
            return value.transpose(3, 2, 0, 1)                       # HWIO -> OIHW
        if value.ndim == 3 and name.endswith('/out/kernel'):
            return value.reshape(-1, value.shape[-1])                # [heads, d, C] -> [C, C]
        if value.ndim == 3:
            return value.reshape(value.shape[0], -1)                 # [C, heads, d] -> [C, C]
    elif name.endswith(('/bias', '/scale')):
        return value.reshape(-1)
    return value


def count_of(pattern, names):
    """How many different numbers the pattern's group has in some names."""
    matches = (re.search(pattern, name) for name in names)
    return len({match[1] for match in matches if match})


def stage_counts(pattern, names):
    """The `count_of` of stage 0, 1, ... of a pattern with {} for the stage, to the first 0."""
    counts = []
    while len(counts) < MAX_STAGES and (count := count_of(pattern.format(len(counts)), names)):
        counts.append(count)
    return counts


def lookalike_among(lookalikes, state):
    """A sentence about the other model that some weights are of, or ''.

    Args:
        lookalikes: pairs of (pattern of a name, or function of `state` that says whether it is so;
            what such a file is of), see LOOKALIKES in a model's file of names.
        state: {name: array}.
    """
    def matches(pattern):
        return pattern(state) if callable(pattern) else any(re.search(pattern, name)
                                                            for name in state)

    return next((f'; the file is of {what}' for pattern, what in lookalikes
                 if matches(pattern)), '')
