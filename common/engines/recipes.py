"""What the recipes of detection and segmentation share: how they are found, read and changed."""
import glob
import os

from common.config import differences, set_key
from common.core.config_nodes import forget_origins
from common.core.errors import InputError
from common.core.yaml_files import read_base, read_value, read_yaml
from common.zoo import ROOT


def find_recipes(task):
    """The recipes that come with this project, {name: yaml file}, sorted.

    Args:
        task: name of a folder beside a family's models: detection or segmentation.
    """
    files = glob.glob(os.path.join(ROOT, '*', task, 'configs', '[!_]*.yaml'))
    return dict(sorted((os.path.splitext(os.path.basename(file))[0], file) for file in files))


def read_recipe(defaults, name, recipes):
    """A copy of a config with the values of a recipe, not frozen; MODEL.NAME is the file's stem
    unless the file says another.

    Args:
        defaults: ConfigNode with every key that may be set.
        name: one of `recipes`, or a yaml file; None sets nothing.
        recipes: {name: yaml file}.

    Raises:
        InputError: no such recipe, an unknown key, a value of the wrong type or range.
    """
    file = recipes.get(name, name)
    if file is not None and not os.path.isfile(file):
        raise InputError(f'-cfg: got {name}, expected a yaml file or one of {", ".join(recipes)}')
    config = defaults.clone()
    forget_origins(config)
    if file is None:
        return config
    config.MODEL.NAME = os.path.splitext(os.path.basename(file))[0]
    for source in [*read_base(file), file]:
        for key, value, line in read_yaml(source):
            if key != 'BASE':
                set_key(config, key, value, f'{source}:{line}')
    return config


def changed_keys(before, now, free):
    """{key: 'KEY: was ..., is ...'} of what differs between two plain configs, but for the keys of
    `free`, in which a run may differ from the one that it goes on with."""
    changed = {line.partition(':')[0]: line for line in differences(before, now)}
    return {key: line for key, line in changed.items() if key not in free}


def backbone_options(config):
    """MODEL.BACKBONE_OPTIONS of a config as arguments of create_backbone."""
    found = {}
    for option in config.MODEL.BACKBONE_OPTIONS:
        name, equals, value = option.partition('=')
        if not equals or not name.isidentifier():
            raise InputError(f'MODEL.BACKBONE_OPTIONS: got {option!r}, expected NAME=VALUE')
        found[name] = read_value(value, f'MODEL.BACKBONE_OPTIONS: {name}')
    return found
