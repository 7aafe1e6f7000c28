"""What pyproject.toml cannot say: a wheel holds the whole project in one package, paddle_vitae.

The folders common/, vit/ and so on become paddle_vitae/common/, paddle_vitae/vit/ ..., and their
imports are rewritten; see paddle_vitae/checkout.py. An editable installation leaves all as it is.
"""
import importlib.util
import os
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = os.path.dirname(os.path.abspath(__file__))
# Beside Python's files: configs, the demo page, the names of ImageNet's classes, the kernels.
DATA = ('.yaml', '.html', '.txt', '.c')


def load_checkout():
    """The module of paddle_vitae/checkout.py, alone."""
    spec = importlib.util.spec_from_file_location(
        'checkout', os.path.join(ROOT, 'paddle_vitae', 'checkout.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checkout = load_checkout()


class BuildInOnePackage(build_py):
    """Builds paddle_vitae, and in it the folders of the checkout with rewritten imports."""

    def run(self):
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # a wheel would get what is left there
        super().run()
        target = os.path.join(self.build_lib, checkout.PACKAGE)
        os.remove(os.path.join(target, 'checkout.py'))
        names = checkout.folders(ROOT)
        for folder in names:
            for file in files_of(folder):
                self.write(file, os.path.join(target, file), names)

    def write(self, file, target, names):
        """Copies one file, whose path is relative to ROOT."""
        with open(os.path.join(ROOT, file), 'rb') as stream:
            content = stream.read()
        if file.endswith('.py'):
            content = checkout.rewritten(content, names, file)
        self.mkpath(os.path.dirname(target))
        with open(target, 'wb') as stream:
            stream.write(content)


def files_of(folder):
    """The files of a folder that a wheel has, with their paths relative to ROOT, sorted."""
    found = []
    for place, inner, names in os.walk(os.path.join(ROOT, folder)):
        inner[:] = [name for name in inner if name != 'output']  # runs, by the default of -output
        found += [os.path.relpath(os.path.join(place, name), ROOT) for name in names
                  if name.endswith(('.py', *DATA)) and name not in checkout.SCRIPTS]
    return sorted(found)


setup(cmdclass={'build_py': BuildInOnePackage})
