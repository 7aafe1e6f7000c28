"""A config as a tree of nodes, each of which knows what its keys may be.

    node = ConfigNode()
    # channels of the tokens
    node.EMBED_DIM = Key(768, low=1)      # a key, and all that is known about it
    node.QKV_BIAS = True                  # Key(True): any value of this type
"""
import copy
import difflib
from collections.abc import Iterator

from yacs.config import CfgNode

from common.core.config_keys import Key
from common.core.errors import InputError, printable
from common.core.yaml_files import MAX_KEY

# Where a node keeps its keys, and who has set its values, beside what yacs keeps there.
KEYS, ORIGINS = '__keys__', '__origins__'
IN_PYTHON = 'Python'  # sets a value without saying who it is
MAX_DIFFERENCE = 1000  # characters of what is said about a key that has changed


class ConfigNode(CfgNode):
    """yacs's CfgNode, whose keys are added by `node.NAME = Key(...)`.

    A plain value that is assigned is a value, as in yacs: the key stays what it was. Copies of a
    node, also those in other processes, know the same keys.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__[KEYS], self.__dict__[ORIGINS] = {}, {}

    def __setattr__(self, name, value):
        if not isinstance(value, Key):
            super().__setattr__(name, value)
            self.__dict__[ORIGINS][name] = IN_PYTHON
            return
        super().__setattr__(name, copy.copy(value.default))
        self.__dict__[KEYS][name] = value

    def key(self, name):
        """The Key of one of this node's values: its own, or the one of its type alone."""
        return self.__dict__[KEYS].get(name) or Key(self[name])


def set_key(config: ConfigNode, key: str, value: object, where: str) -> None:
    """Sets one dotted key of an unfrozen config.

    Args:
        config: ConfigNode.
        key: e.g. 'MODEL.DROPPATH'.
        value: what its Key takes.
        where: where the value stands, for messages.

    Raises:
        InputError: an unknown key, or a value that it may not be.
    """
    node, leaf = find_key(config, key, where)
    node[leaf] = node.key(leaf).check(key, value, where)
    node.__dict__[ORIGINS][leaf] = where


def origin_of(config: ConfigNode, key: str) -> str | None:
    """Who has set a dotted key: 'FILE:LINE' of a yaml, a flag, IN_PYTHON, or None for a default."""
    node, leaf = find_key(config, key, 'config')
    return node.__dict__[ORIGINS].get(leaf)


def forget_origins(config: ConfigNode) -> None:
    """Makes the present values of a config its defaults, which nobody has set."""
    config.__dict__[ORIGINS].clear()
    for value in config.values():
        if isinstance(value, ConfigNode):
            forget_origins(value)


def find_key(config, key, where):
    """Where a dotted key is in a config.

    Args:
        config: ConfigNode.
        key: e.g. 'MODEL.DROPPATH'.
        where: where the key stands, for messages.

    Returns:
        (the node that has it, its name there).

    Raises:
        InputError: there is no such key; the message names the nearest one.
    """
    *parents, leaf = key.split('.')
    node = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, ConfigNode) else None
    if not isinstance(node, ConfigNode) or leaf not in node or isinstance(node[leaf], ConfigNode):
        key = printable(key, MAX_KEY)  # the search takes the square of its length
        nearest = difflib.get_close_matches(key, list(leaf_keys(config)), n=1, cutoff=0.0)
        raise InputError(f'{where}: unknown key {key}; the nearest key is {nearest[0]}')
    return node, leaf


def leaf_keys(config: ConfigNode, prefix: str = '') -> Iterator[str]:
    """Yields all dotted keys of a config, e.g. 'MODEL.DROPPATH'."""
    for key, value in config.items():
        if isinstance(value, ConfigNode):
            yield from leaf_keys(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}'


def plain_config(node: ConfigNode) -> dict:
    """A config as dicts and lists, as checkpoints hold it."""
    return {key: plain_config(value) if isinstance(value, dict) else value
            for key, value in node.items()}


def differences(old: dict, new: dict, prefix: str = '') -> list[str]:
    """What has changed between two plain configs: ['KEY: was ..., is ...'], sorted by the key."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            changes += differences(before, now, f'{prefix}{key}.')
        elif before != now:
            changes.append(printable(f'{prefix}{key}: was {before!r}, is {now!r}', MAX_DIFFERENCE))
    return changes
