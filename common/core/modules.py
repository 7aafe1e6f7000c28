"""Imports modules by their files: there is one of each, however it is imported."""
import functools
import importlib
import importlib.util
import os
import sys
import types

# 'paddle_vitae.' where all of the project is one package; '' where it is imported as common.X
PREFIX = __name__.removesuffix('common.core.modules')


@functools.cache
def import_file(root, folder, name):
    """Imports ROOT/FOLDER/NAME.py under the name by which a program here imports it, so that there
    is one copy of each class, which `isinstance` and pickle know.

    Args:
        root: folder from which FOLDER.NAME may be imported, whether it is on sys.path or not.
        folder: a folder without __init__.py, whose scripts import the file as NAME.
        name: the name of the file, without .py.
    """
    path = os.path.join(root, folder, f'{name}.py')
    if PREFIX and is_importable(f'{PREFIX}{folder}.{name}', path):
        return importlib.import_module(f'{PREFIX}{folder}.{name}')
    full = f'{folder}.{name}'
    if not is_importable(folder):  # the root is not among the places of imports
        sys.modules[folder] = package = types.ModuleType(folder)
        package.__path__ = [os.path.dirname(path)]
    for known in (name, full):  # as in the folder's scripts; as from the root
        if is_importable(known, path):
            return importlib.import_module(known)
    spec = importlib.util.spec_from_file_location(full, path)  # FOLDER is something else here
    module = sys.modules[full] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_importable(name, path=None):
    """Whether `import name` finds a module, and that of a path if one is given."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # its parent is no package, or a module made by hand
        return name in sys.modules and path is None
    return spec is not None and (path is None or
                                 bool(spec.origin) and os.path.realpath(spec.origin)
                                 == os.path.realpath(path))
