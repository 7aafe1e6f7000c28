"""The models by name: the one file of `common` that knows which families exist.

A model's name is the stem of its yaml. The families' files are loaded by path, so that this works
from any working directory.
"""
import fnmatch
import functools
import glob
import importlib.util
import os

import yaml

from common.config import read_base, read_yaml, set_key
from common.errors import InputError
from common.weights import load_pretrained

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# folder (and MODEL.TYPE) -> (model file, its build function)
FAMILIES = {'vit': ('vit', 'build_vit')}


def list_models(pattern='*'):
    """The names of all models that match a shell pattern, sorted."""
    files = (file for family in FAMILIES
             for file in glob.glob(os.path.join(ROOT, family, 'configs', '*.yaml')))
    names = (os.path.splitext(os.path.basename(file))[0] for file in files)
    return sorted(name for name in names
                  if not name.startswith('_') and fnmatch.fnmatch(name, pattern))


def create_model(name, pretrained=None, num_classes=None, image_size=None, **model_overrides):
    """A model by its name.

    Args:
        name: one of list_models(), or the path of a yaml.
        pretrained: weight file, or None for newly initialised weights.
        num_classes: outputs of the classifier; with `pretrained`, another number than the file's
            gives a new classifier.
        image_size: pixels, or [height, width].
        model_overrides: other keys of the config's MODEL node, e.g. DROPPATH=0.1.

    Returns:
        A Layer in training mode, with `.config`, the config that it was built from.

    Raises:
        InputError: an unknown name or key, or weights that do not fit.
    """
    config = model_config(name).clone()
    config.defrost()
    if num_classes is not None:
        model_overrides['NUM_CLASSES'] = num_classes
    if image_size is not None:
        set_key(config, 'DATA.IMAGE_SIZE', image_size, 'image_size')
    for key, value in model_overrides.items():
        set_key(config, f'MODEL.{key.upper()}', value, key)
    config.freeze()
    model = build_model(config)
    if pretrained:
        load_pretrained(model, pretrained, new_head=num_classes is not None)
    return model


def build_model(config):
    """The model of a config, with the config as its attribute."""
    if config.MODEL.TYPE not in FAMILIES:
        raise InputError(f'MODEL.TYPE: got {config.MODEL.TYPE!r}, expected one of '
                         f'{", ".join(FAMILIES)}')
    model_file, build_function = FAMILIES[config.MODEL.TYPE]
    model = getattr(load_family_file(config.MODEL.TYPE, model_file), build_function)(config)
    model.config = config
    return model


def model_config(name_or_file):
    """The frozen config of a model's name or of a yaml file."""
    file, family = find_yaml(name_or_file)
    return load_family_file(family, 'config').get_config(file)


def find_yaml(name_or_file):
    """The (yaml file, family) of a name or path."""
    for family in FAMILIES:
        file = os.path.join(ROOT, family, 'configs', f'{name_or_file}.yaml')
        if os.path.isfile(file):
            return file, family
    if not str(name_or_file).endswith(('.yaml', '.yml')):
        raise InputError(f'model: got {name_or_file!r}, expected a yaml file or one of '
                         f'{", ".join(list_models())}')
    types = [value for file in [*read_base(name_or_file), name_or_file]
             for key, value, _ in read_yaml(file) if key == 'MODEL.TYPE']
    if not types or types[-1] not in FAMILIES:
        raise InputError(f'{name_or_file}: MODEL.TYPE: got {types[-1] if types else None!r}, '
                         f'expected one of {", ".join(FAMILIES)}')
    return name_or_file, types[-1]


@functools.cache
def load_family_file(family, name):
    """The module of FAMILY/NAME.py."""
    path = os.path.join(ROOT, family, f'{name}.py')
    spec = importlib.util.spec_from_file_location(f'_{family}_{name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == '__main__':
    print(yaml.safe_dump(list_models()), end='')
