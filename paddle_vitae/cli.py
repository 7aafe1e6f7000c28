"""The command `paddle-vitae`, also `python -m paddle_vitae`: a tool by its name.

Each is the `main` of a module in paddle_vitae.common, or of one beside this file, with the flags
that `python -m common.MODULE` has. Only the one that is asked for is imported.
"""
import difflib
import importlib
import sys
from typing import NamedTuple

from paddle_vitae.version import VERSION


class Command(NamedTuple):
    """A sub-command: the module, the function there that takes the arguments, a line for --help."""
    module: str
    function: str
    help: str


# A new sub-command is one line here. --help is to fit 24 lines of 80 columns.
COMMANDS = {
    'train': Command('common.runner', 'train', 'trains or fine-tunes a model'),
    'eval': Command('common.runner', 'evaluate', 'evaluates weights on a data set'),
    'predict': Command('common.predict', 'main', 'classifies images'),
    'features': Command('common.features', 'main', "writes a model's features of images"),
    'visualize': Command('common.visualize', 'main', 'draws attention, windows, batches, curves'),
    'export': Command('common.export', 'main', 'writes a checked graph: Paddle or ONNX'),
    'serve': Command('common.serve', 'main', 'opens a page to try a model on pictures'),
    'convert': Command('common.convert', 'main', 'converts weights of other projects'),
    'verify': Command('common.verify_dataset', 'main', 'checks a data set, or writes its lists'),
    'pack': Command('common.pack', 'main', 'packs a data set into a few large files'),
    'zoo': Command('common.zoo', 'main', 'lists the models'),
    'weights': Command('common.pretrained', 'main', 'lists the published weights'),
    'benchmark': Command('common.benchmark', 'main', 'measures models, memory, the loader'),
    'plan': Command('common.plan', 'main', 'plans a training: memory, batch, loader'),
    'report': Command('common.report', 'main', 'shows what a model gets wrong, and why'),
    'probe': Command('common.probe', 'main', 'tells how well features tell the classes'),
    'segmentation': Command('common.segmentation', 'main', 'trains and runs UPerNet'),
    'detection': Command('common.detection', 'main', 'trains and runs Mask R-CNN (`detection -h`)'),
    'curves': Command('common.curves', 'main', "draws a run's curves again"),
    'digits': Command('common.digits', 'main', 'writes a small data set of handwritten digits'),
    'cifar': Command('common.cifar', 'main', 'downloads CIFAR-10 or CIFAR-100'),
    'env': Command('env', 'main', 'prints what a report of a fault needs'),
}
# They run until a signal stops them, in the seconds of their imports, too.
RUNS = ('train', 'eval', 'segmentation')


def usage():
    """The text of --help."""
    return '\n'.join([
        f'usage: paddle-vitae COMMAND ...      (version {VERSION}; COMMAND -h: its flags)', '',
        *(f'  {name:<12} {command.help}' for name, command in COMMANDS.items())])


def main(argv=None):
    """Runs the command that the first argument names, with the others.

    Args:
        argv: list of arguments; None is the command line's.

    Raises:
        SystemExit: with the command's exit code, if that is not 0; 1 for an unknown command.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ('-h', '--help', '-help', 'help'):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        sys.exit(0 if argv else 1)
    if argv[0] in ('-V', '--version', '-version'):
        print(f'paddle-vitae {VERSION}')
        return
    name, *arguments = argv
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name[:100], COMMANDS, n=1, cutoff=0.0)
        sys.exit(f'error: unknown command {ascii(name[:100])}; the nearest is {nearest[0]} '
                 f'(paddle-vitae --help lists all)')
    if name in RUNS:
        part('common.core.signals').end_on_signal()
    command = COMMANDS[name]
    getattr(part(command.module), command.function)(arguments)


def part(module):
    """A module of this package."""
    return importlib.import_module(f'paddle_vitae.{module}')


if '__mp_main__' in sys.modules:
    # multiprocessing is starting a process of a run, and imports the command first there. What it
    # unpickles next begins with Paddle; Pillow must come before, see common/__init__.py.
    part('common')
