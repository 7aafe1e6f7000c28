"""Weights under other codes' names and layouts -> a model's own.

A model lists the dialects that it understands (`model.dialects()`); this file applies them. Arrays
are transposed by the type of the layer that they are for, never by their number of dimensions: a
bias table is a matrix too, and stays.
"""
import re
from dataclasses import dataclass

import numpy as np
from paddle import nn


@dataclass(frozen=True)
class Dialect:
    """How one code names the weights of a model.

    Attributes:
        name: of the code, for the log.
        marker: regular expression that one of the file's names matches, and no other dialect's.
        names: (pattern, replacement) pairs for re.sub, all applied, in order.
        fused: (pattern, parts, replacement): names that match the pattern, whose group 'part' is
            one of `parts`, are joined in the order of `parts` under the replacement.
        dropped: patterns of names that this model has no use for.
    """

    name: str
    marker: str
    names: tuple
    fused: tuple = ()
    dropped: tuple = ()


def translate(model, state, kind):
    """A file's weights with the model's names and layouts.

    Args:
        model: a Layer; may have `dialects()`.
        state: {name: array} of the file.
        kind: paddle | torch | flax, the layout of the arrays.

    Returns:
        {name: array}, and notes for the log.
    """
    notes = []
    dialects = model.dialects() if hasattr(model, 'dialects') else ()
    dialect = next((dialect for dialect in dialects
                    if any(re.search(dialect.marker, name) for name in state)), None)
    if kind == 'flax':
        state = {name: from_flax(name, value) for name, value in state.items()}
    if dialect is not None:
        notes.append(f'names of {dialect.name}')
        dropped = [name for name in state
                   if any(re.search(pattern, name) for pattern in dialect.dropped)]
        if dropped:
            notes.append(f'{len(dropped)} arrays have no place here: {", ".join(dropped[:3])}'
                         + (', ...' if len(dropped) > 3 else ''))
        state = {name: value for name, value in state.items() if name not in set(dropped)}
        state = fuse(state, dialect.fused, axis=1 if kind == 'flax' else 0)
        state = {rename(name, dialect.names): value for name, value in state.items()}
    if kind == 'torch':
        linear = {f'{name}.weight' for name, layer in model.named_sublayers()
                  if isinstance(layer, nn.Linear)}
        state = {name: from_torch_linear(value) if name in linear else value
                 for name, value in state.items()}
    return state, notes


def from_torch_linear(value):
    """[out, in], or a 1x1 convolution [out, in, 1, 1], -> [in, out]"""
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    return value.T if value.ndim == 2 else value


def rename(name, names):
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return name


def fuse(state, fused, axis):
    """Joins separate q, k and v; a weight along `axis`, a bias along its only one."""
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
        for target, found in groups.items():
            if len(found) == len(parts):
                values = [found[part][1] for part in parts]
                if len({value.ndim for value in values}) == 1:
                    result[target] = np.concatenate(values, min(axis, values[0].ndim - 1))
                    continue
            del result[target]  # incomplete: the comparison with the model names what is there
            result.update(found.values())
        state = result
    return state


def from_flax(name, value):
    """Flax's layouts -> Paddle's: HWIO convolutions, heads on an axis of their own, norms."""
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
