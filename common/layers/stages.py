"""What the stages of a model are built from: a dataclass in the model's file names the options of a
stage, the model's constructor takes them as lists, and each part of a stage gets one spec."""
import dataclasses

from common.core.config_values import KEY_OF
from common.core.errors import InputError


def per_stage(argument, *default):
    """A field of a spec that has a value of its own in each stage.

    Args:
        argument: the list's name among the arguments of the model's constructor.
        default: the entries of the list.
    """
    return dataclasses.field(metadata={'argument': argument, 'default': default})


def stage_specs(spec, options, most=None):
    """One spec for each stage.

    Args:
        spec: a dataclass; its fields by per_stage are lists in `options`, with an entry for each
            stage, and all others have one value for all stages.
        options: {argument of the model's constructor: value}.
        most: how many stages there may be; None is any number.

    Raises:
        InputError: the lists are not of one length, or are empty or too long.
    """
    shared, lists, keys = dict(options), {}, []
    for field in dataclasses.fields(spec):
        if field.metadata:
            argument = field.metadata['argument']
            lists[field.name] = shared.pop(argument, field.metadata['default'])
            keys.append(KEY_OF.get(argument, argument.upper()))
    check_lengths(dict(zip(keys, lists.values(), strict=True)), most)
    return [spec(**dict(zip(lists, entries, strict=True)), **shared)
            for entries in zip(*lists.values(), strict=True)]


def check_lengths(lists, most):
    """Raises InputError unless all lists, by their keys in MODEL, have an entry for each stage."""
    first, *others = lists
    stages = len(lists[first])
    if not 1 <= stages <= (most or stages):
        raise InputError(f'MODEL.{first}: got {stages} stages, expected '
                         f'{f"1 to {most}" if most else "at least 1"}')
    for key in others:
        if len(lists[key]) != stages:
            raise InputError(f'MODEL.{key}: got {len(lists[key])} entries, expected one for each '
                             f'of the {stages} stages of MODEL.{first}')
