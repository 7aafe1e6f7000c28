"""Trains, evaluates and runs models for semantic segmentation: UPerNet.

Loss, predictions and counts are PaddleSeg's, which `make engines` installs. Several GPUs:
python -m paddle.distributed.launch main.py train ... (in the folder of the recipes).

A recipe is named by -cfg: `paddle-vitae segmentation params` lists all. A run's folder knows its
own.
"""
import os
import sys
from collections.abc import Sequence
from functools import partial

from common.core.environment import DEBUG
from common.core.errors import say
from common.core.flags import add_flag, check_least, check_output_folder, tool_parser
from common.core.signals import StopSignal, is_child


def make_parser():
    """The command line: a sub-command, and its flags with one dash or two."""
    parser = tool_parser('segmentation', __doc__.strip(), 'shapes shapes_segmentation')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def command(name, text):
        part = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        return part, partial(add_flag, part)

    part, add = command('train', 'trains a recipe, or goes on with a run')
    add_config_flags(add)
    add('pretrained', 'weights to start with: of a classifier, any format, or of a segmenter',
        metavar='FILE')
    add('resume', 'folder of a run that goes on', metavar='RUN')
    add('batch_size', 'images of a step on one device', type=int, metavar='N')
    add('output', 'folder under which the run makes its own, default output', metavar='FOLDER')
    add('num_classes', 'of your own data', type=int, metavar='K')
    add_data_flags(add)

    part, add = command('eval', 'mean IoU of weights')
    add_config_flags(add)
    add_weight_flags(add)
    add('output', 'new folder for the predictions and result.json; none: they are not kept',
        metavar='FOLDER')
    add_data_flags(add)

    part, add = command('infer', 'lays the classes over images')
    part.add_argument('images', nargs='+', metavar='IMAGE', help='image file, or a folder')
    add_config_flags(add)
    add_weight_flags(add)
    add('output', 'folder for the pictures, default segmentations', default='segmentations',
        metavar='FOLDER')
    add('amp', 'mixed precision on a GPU', action='store_true')

    part, add = command('export', 'writes a checked graph for Paddle Inference')
    part.add_argument('images', nargs='*', metavar='IMAGE',
                      help='to check the graph with, beside random ones')
    add_config_flags(add)
    add_weight_flags(add, multi_scale=False)
    add('output', 'new folder', required=True, metavar='FOLDER')
    add('size', 'height and width of its images', nargs=2, type=int, required=True, metavar='N')

    part, add = command('params', 'parameters of the recipes, and what is published')
    part.add_argument('pattern', nargs='?', default='*', help="shell pattern, e.g. '*ade20k'")

    part, add = command('speed', 'images a second of a recipe, in inference')
    add_config_flags(add)
    add('size', 'height and width; default: those of the crops in training', nargs=2, type=int,
        metavar='N')
    add('batch_size', 'images at a time, default 1', type=int, default=1, metavar='N')
    add('steps', 'that are timed, default 5', type=int, default=5, metavar='N')
    add('amp', 'mixed precision on a GPU', action='store_true')

    part, add = command('shapes', 'draws a small data set of shapes with masks')
    part.add_argument('folder', metavar='FOLDER', help='new')
    add('train', 'pictures to train on, default 400', type=int, default=400, metavar='N')
    add('val', 'held-out pictures, default 60', type=int, default=60, metavar='N')
    add('seed', 'default 0', type=int, default=0, metavar='N')
    return parser


def add_config_flags(add):
    add('cfg', 'name of a recipe, or a yaml file', metavar='NAME')
    add('o', 'a key of the config; several are possible', action='append', metavar='KEY=VALUE')
    add('debug', 'show where in the code an error came up', action='store_true')


def add_weight_flags(add, multi_scale=True):
    add('pretrained', "a run's folder, or weights of a segmenter", required=True, metavar='RUN')
    if multi_scale:
        add('multi_scale', 'the mean over several scales and mirror images', action='store_true')
    add('num_classes', 'where the recipe is for other data', type=int, metavar='K')


def add_data_flags(add):
    add('data_path', 'folder of ADE20K, of Cityscapes, or of your own images and masks',
        metavar='FOLDER')
    add('amp', 'mixed precision on a GPU', action='store_true')


def train(args, signals):
    from common.engines.segmentation.run import run_training
    run_training(args, signals)


def evaluate(args, signals):
    from common.engines.segmentation.run import run_evaluation
    run_evaluation(args)


def infer(args, signals):
    from common.engines.segmentation.tools import write_overlays
    write_overlays(args)


def export(args, signals):
    check_least(args, size=1)
    from common.engines.segmentation.tools import write_export
    write_export(args)


def params(args, signals):
    from common.engines.segmentation.tools import parameter_table
    say(parameter_table(args.pattern))


def speed(args, signals):
    check_least(args, size=1, batch_size=1, steps=1)
    from common.engines.segmentation.tools import measure_speed
    say(measure_speed(args))


def shapes(args, signals):
    from common.engines.segmentation.tools import write_shapes
    check_least(args, train=1, val=1, seed=0)
    check_output_folder('folder', args.folder)
    write_shapes(args.folder, args.train, args.val, args.seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one sub-command.

    Args:
        argv: list of arguments; None is the command line's.

    Raises:
        SystemExit: with the exit code of common/core/processes.py, unless all went well.
    """
    args = make_parser().parse_args(argv)
    from common.train.launcher import errors_in_one_line  # imports Paddle
    if getattr(args, 'debug', False):
        os.environ[DEBUG] = '1'
    run = {'train': train, 'eval': evaluate, 'infer': infer, 'export': export, 'params': params,
           'speed': speed, 'shapes': shapes}[args.command]
    with StopSignal(is_child()) as signals, errors_in_one_line(signals):
        run(args, signals)


if __name__ == '__main__':
    sys.exit(main())
