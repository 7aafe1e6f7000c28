"""Reads the yaml of configs and options, at a cost in proportion to its length.

Configs may come from anywhere, so they are read with the safe loader only, and what a config never
needs is refused before anything is made of it.
"""
import os

import yaml

from common.core.config_keys import is_file_name, wrong
from common.core.errors import InputError, one_line, opened

MAX_YAML_BYTES = 1 << 20
MAX_NODES = 5000     # keys, values and lists of a yaml file; the largest config has some 150
MAX_SCALAR = 4096    # characters of a value: a path's, in Linux
MAX_KEY = 100        # characters of a key
MAX_BASES = 8
# What a value may be, in yaml's words. Sets, binary data, merged and Python objects are not.
YAML_KINDS = {f'tag:yaml.org,2002:{kind}' for kind in
              ('str', 'int', 'float', 'bool', 'null', 'timestamp', 'seq', 'map')}
# What PyYAML lets out on a broken or hostile file: its own errors, and those of the constructors
# of dates, numbers and mappings.
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError, AttributeError)


def read_base(cfg_file):
    """The files whose values a yaml file takes over, by its key BASE.

    Args:
        cfg_file: path; its BASE is a name or a list of names of files in its folder.

    Returns:
        List of paths.

    Raises:
        InputError: a BASE that is no such name, lies in another folder, or has a BASE of its own.
    """
    names = [value for key, value, _ in read_yaml(cfg_file) if key == 'BASE']
    names = names[0] if names else []
    names = [names] if isinstance(names, str) else names or []
    if not isinstance(names, list):
        raise wrong(cfg_file, 'BASE', names, 'a file or a list of files')
    if len(names) > MAX_BASES:
        raise wrong(cfg_file, 'BASE', names, f'at most {MAX_BASES} files')
    folder = os.path.realpath(os.path.dirname(cfg_file))
    files = []
    for name in (name for name in names if name):
        if not is_file_name(str(name)):
            raise wrong(cfg_file, 'BASE', name, 'a file')
        file = os.path.realpath(os.path.join(folder, str(name)))
        if os.path.dirname(file) != folder:
            raise InputError(f'{cfg_file}: BASE: got {name}, expected a file in the same folder')
        if any(key == 'BASE' and value for key, value, _ in read_yaml(file)):
            raise InputError(f'{cfg_file}: BASE: {name} has a BASE of its own, expected none')
        files.append(os.path.join(os.path.dirname(cfg_file), str(name)))
    return files


def read_yaml(file):
    """Reads a yaml file of mappings.

    Args:
        file: path.

    Returns:
        List of (dotted key, value, line), one for each leaf.

    Raises:
        InputError: no such file, or one that is too large, no safe yaml or no mapping, or has a key
            twice; it names the file and line.
    """
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such config file')
    if os.path.getsize(file) > MAX_YAML_BYTES:
        raise InputError(f'{file}: got {os.path.getsize(file)} bytes, expected a config of at '
                         f'most {MAX_YAML_BYTES}')
    try:
        with opened(file) as stream:
            loader = ConfigLoader(stream)
            node = loader.get_single_node()
            if not isinstance(node, yaml.MappingNode):
                raise InputError(f'{file}:1: got no mapping, expected KEY: VALUE lines')
            return list(yaml_leaves(loader, node, '', file, set()))
    except InputError:
        raise
    except YAML_ERRORS as error:
        mark = getattr(error, 'problem_mark', None)
        where = f'{file}:{mark.line + 1}' if mark else file
        raise InputError(f'{where}: not safe yaml: {one_line(error)}') from None


def yaml_leaves(loader, node, prefix, file, seen):
    """Yields the (dotted key, value, line) of all leaves below a node.

    Args:
        loader: ConfigLoader, which makes the values.
        node: yaml.MappingNode.
        prefix: the keys above the node, with a point behind each.
        file: path, for messages.
        seen: the keys that were there already; changed in place.
    """
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or len(key_node.value) > MAX_KEY:
            raise InputError(f'{file}:{line}: got a key that is a list or has more than {MAX_KEY} '
                             f'characters, expected the name of a key')
        key = f'{prefix}{key_node.value}'
        if key in seen:
            raise InputError(f'{file}:{line}: {key} is given twice')
        seen.add(key)
        if isinstance(value_node, yaml.MappingNode):
            yield from yaml_leaves(loader, value_node, f'{key}.', file, seen)
        else:
            yield key, loader.construct_object(value_node, deep=True), line


def read_value(text, where):
    """The value of an option's text, in yaml.

    Args:
        text: what stands behind KEY=.
        where: the option, for messages.
    """
    try:
        return ConfigLoader(text).get_single_data()
    except YAML_ERRORS as error:
        raise InputError(f'{where}: got a value that is not yaml ({one_line(error)})') from None


class ConfigLoader(yaml.SafeLoader):
    """Reads plain values only, at a cost in proportion to the text.

    An alias, which stands for a node a second time, makes a few lines into billions of nodes; a
    long number takes the square of its digits; a tag makes other objects. A config needs none of
    them. The text is refused at the first such node, before anything is made of it.
    """

    def __init__(self, text):
        super().__init__(text)
        self.nodes = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise refused('an alias (*), expected the value itself', event)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise refused(f'more than {MAX_NODES} keys and values', event)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise refused(f'a value of {len(event.value)} characters, expected at most '
                          f'{MAX_SCALAR}', event)
        node = super().compose_node(parent, index)
        if node.tag not in YAML_KINDS:
            raise refused(f'the tag {node.tag[:MAX_KEY]}, expected a plain value', event)
        return node


def refused(what, event):
    return yaml.constructor.ConstructorError(None, None, f'got {what}', event.start_mark)
