"""The project's folders under the one name `paddle_vitae`, which a wheel has alone.

The sources say `from common.zoo import NAME`. In a wheel common/ and the families' folders lie in
paddle_vitae/, and setup.py has `rewritten` each such import as `from paddle_vitae.common.zoo import
NAME`: plain files, and nothing happens at run time. In a checkout the finder below does the same
to the same files while they are imported, so that `import paddle_vitae` needs no build and follows
every edit. A wheel leaves this file out.

There, `common.zoo` and `paddle_vitae.common.zoo` are two modules. A program uses one of the names.
"""
import ast
import glob
import importlib.machinery
import importlib.util
import os
import re
import sys

PACKAGE = 'paddle_vitae'
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# What a family's folder is for alone: they are run where they are.
SCRIPTS = ('main_multi_gpu.py', 'load_pytorch_weights.py', 'main.py')


def folders(root=ROOT):
    """The folders of a checkout that become packages in PACKAGE: common, and every family's."""
    configs = glob.glob(os.path.join(root, '*', 'configs', ''))
    families = [os.path.basename(os.path.dirname(os.path.dirname(path))) for path in configs]
    return ['common', *sorted(name for name in families
                              if os.path.isfile(os.path.join(root, name, 'config.py')))]


def rewritten(source, names, file='<source>'):
    """Puts PACKAGE before the modules that a source imports from the folders of the checkout.

    Every line that begins with such an import is rewritten, so those of a docstring's example are,
    too; that none was missed is read from the result.

    Args:
        source: bytes of a Python file, UTF-8.
        names: of the folders.
        file: its path, for messages.

    Returns:
        bytes, in which everything is at the line where it was.

    Raises:
        SyntaxError: an import that is not a line `from FOLDER.MODULE import NAME`.
    """
    line = rf'^([ \t]*(?:>>> |\.\.\. )?from )((?:{"|".join(names)})[. ])'
    result = re.sub(line.encode(), rf'\1{PACKAGE}.\2'.encode(), source, flags=re.MULTILINE)
    for node in ast.walk(ast.parse(result, file)):
        for module in modules_of(node):
            if module.partition('.')[0] in names:
                raise SyntaxError(f'{file}:{node.lineno}: got an import of {module}, expected a '
                                  f'line: from {module} import NAME')
    return result


def modules_of(node):
    """The modules, by their full names, that a node of a syntax tree imports; not relative ones."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []


class Loader(importlib.machinery.SourceFileLoader):
    """Runs a file of the checkout as `rewritten`; a .pyc of it, which Python may have made when it
    was imported by its other name, is neither read nor written."""

    def __init__(self, name, path, names):
        super().__init__(name, path)
        self.names = names

    def get_code(self, name):
        source = rewritten(self.get_data(self.path), self.names, self.path)
        return compile(source, self.path, 'exec', dont_inherit=True)


class Finder:
    """Finds PACKAGE.common.zoo and its like in the folders of a checkout; an entry of
    sys.meta_path."""

    def __init__(self, root):
        self.root, self.names = root, folders(root)

    def find_spec(self, name, path=None, target=None):
        package, *parts = name.split('.')
        if package != PACKAGE or not parts or parts[0] not in self.names:
            return None
        place = os.path.join(self.root, *parts)
        for file, inner in ((os.path.join(place, '__init__.py'), [place]), (f'{place}.py', None)):
            if os.path.isfile(file):
                return importlib.util.spec_from_file_location(
                    name, file, loader=Loader(name, file, self.names),
                    submodule_search_locations=inner)
        if not os.path.isdir(place):
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [place]  # a folder without __init__.py, as families are
        return spec


def install():
    """Makes the folders of this checkout importable as parts of PACKAGE in this process."""
    if not any(isinstance(entry, Finder) for entry in sys.meta_path):
        sys.meta_path.insert(0, Finder(ROOT))  # before that of files, which would not rewrite
