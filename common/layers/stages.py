"""What the models of several stages say about each of them."""
from types import SimpleNamespace

from common.core.errors import InputError


class StageSpec(SimpleNamespace):
    """What the cells or blocks of one stage are built from, by name; the model makes it."""


def check_stages(most=None, **lists):
    """Raises InputError unless all lists, by their keys in MODEL, have an entry for each stage.

    most: how many stages there may be; None is any number.
    """
    first, *others = lists
    stages = len(lists[first])
    if not 1 <= stages <= (most or stages):
        raise InputError(f'MODEL.{first}: got {stages} stages, expected '
                         f'{f"1 to {most}" if most else "at least 1"}')
    for key in others:
        if len(lists[key]) != stages:
            raise InputError(f'MODEL.{key}: got {len(lists[key])} entries, expected one for each '
                             f'of the {stages} stages of MODEL.{first}')
