"""Trains, evaluates and runs detectors: Mask R-CNN and Cascade Mask R-CNN.

The parts around the backbone are PaddleDetection's, which `make engines` installs. Several GPUs:
python -m paddle.distributed.launch main.py train ... (in the folder of the recipes).

A recipe is named by -cfg: `paddle-vitae detection params` lists all. A run's weights know theirs.
"""
import contextlib
import json
import os
import sys
from functools import partial

from common.core.environment import DEBUG
from common.core.errors import InputError, errors_of_a_tool, say
from common.core.flags import add_flag, check_least, check_output_folder, tool_parser
from common.core.processes import set_up_cpu
from common.core.signals import StopSignal, is_child
from common.engines.detection.config import (
    FLAG_KEYS,
    config_of_weights,
    list_recipes,
    read_config,
    with_options,
)


def make_parser():
    """The command line: a sub-command, and its flags with one dash or two."""
    parser = tool_parser('detection', __doc__.strip(), 'shapes shapes')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def command(name, text):
        part = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        return part, partial(add_flag, part)

    part, add = command('train', 'trains a recipe, or goes on with a run')
    add_config_flags(add)
    add('pretrained', 'weights to start with: of a classifier, any format, or of a detector',
        metavar='FILE')
    add('resume', 'folder of a run that goes on', metavar='RUN')
    add_data_flags(add)
    add('amp', 'mixed precision on a GPU', action='store_true')

    part, add = command('eval', 'average precision of weights, or of saved predictions')
    add_config_flags(add)
    add('pretrained', "a run's folder, or weights of a detector", metavar='RUN')
    add('predictions', 'folder with bbox.json and segm.json, in place of weights', metavar='FOLDER')
    add_data_flags(add)
    add('amp', 'mixed precision on a GPU', action='store_true')

    part, add = command('infer', 'draws boxes and masks into images')
    part.add_argument('images', nargs='+', metavar='IMAGE', help='image file, or a folder')
    add_config_flags(add)
    add('pretrained', "a run's folder, or weights of a detector", metavar='RUN')
    add('exported', 'folder of `detection export`, in place of weights', metavar='FOLDER')
    add('output', 'folder for the pictures, default detections', default='detections',
        metavar='FOLDER')
    add('threshold', 'least score, default 0.5', type=float, default=0.5, metavar='X')

    part, add = command('export', 'writes a checked graph for Paddle Inference')
    add_config_flags(add)
    add('pretrained', "a run's folder, or weights of a detector", required=True, metavar='RUN')
    add('output', 'new folder', required=True, metavar='FOLDER')
    add('size', 'height and width of its images, multiples of 32; default 800 1344', nargs=2,
        type=int, default=[800, 1344], metavar='N')

    part, add = command('params', 'parameters of the recipes, and what is published')
    part.add_argument('recipes', nargs='*', metavar='PATTERN',
                      help="names or shell patterns, e.g. 'mask_rcnn*1x'; default: all")

    part, add = command('speed', 'images a second of a recipe, in inference and training')
    add_config_flags(add)
    add('size', 'height and width, default 800 1344', nargs=2, type=int, default=[800, 1344],
        metavar='N')
    add('batch_size', 'images at a time, default 1', type=int, default=1, metavar='N')
    add('steps', 'that are timed, default 5', type=int, default=5, metavar='N')

    part, add = command('shapes', 'draws a small data set of shapes with boxes and masks')
    part.add_argument('folder', metavar='FOLDER', help='new')
    add('train', 'pictures to train on, default 400', type=int, default=400, metavar='N')
    add('val', 'held-out pictures, default 100', type=int, default=100, metavar='N')
    add('seed', 'default 0', type=int, default=0, metavar='N')
    return parser


def add_config_flags(add):
    add('cfg', 'name of a recipe, or a yaml file', metavar='NAME')
    add('o', 'a key of the config; several are possible', action='append', metavar='KEY=VALUE')


def add_data_flags(add):
    add('data_path', "folder in COCO's layout; other names: -o DATA.TRAIN_JSON=..., ...",
        metavar='FOLDER')
    add('batch_size', 'images of a step on one device', type=int, metavar='N')
    add('output', 'folder under which the run makes its own, default output', metavar='FOLDER')
    add('debug', 'show where in the code an error came up', action='store_true')


def config_of(args, weights=None):
    """The config of -cfg, or of the weights, with flags and options.

    Args:
        args: parsed flags.
        weights: Weights of -pretrained or -resume, or None.
    """
    options = [f'{key}={json.dumps(value)}' for flag, key in FLAG_KEYS.items()
               if (value := getattr(args, flag, None)) not in (None, False)]
    options += args.o or []
    if args.cfg is None and weights is None:
        raise InputError(f'-cfg: got nothing, expected a yaml file or one of '
                         f'{", ".join(list_recipes())}')
    if args.cfg is None:
        file = getattr(args, 'resume', None) or args.pretrained
        return config_of_weights(weights, file, ['MODEL.RESUME=null', *options])
    return read_config(args.cfg, options)


def read_run(path):
    """Weights of a file or a run's folder."""
    from common.weights.load import read_weights
    return read_weights(path)


def run_train(args):
    from common.engines.detection.train import train
    with program(args) as signals:
        weights = None
        if args.cfg is None and args.resume:
            from common.weights.load import LAST
            last = os.path.join(args.resume, LAST)
            weights = read_run(last if os.path.isfile(last) else args.resume)
        train(config_of(args, weights), signals)


def run_eval(args):
    from common.engines.detection.train import evaluate
    with program(args) as signals:
        if args.predictions:
            evaluate_predictions(args)
            return
        if not args.pretrained:
            raise InputError("-pretrained: got nothing, expected a run's folder or weights of a "
                             'detector, or -predictions')
        weights = read_run(args.pretrained) if args.cfg is None else None
        evaluate(with_options(config_of(args, weights), ['EVAL=true']), signals, weights)


def evaluate_predictions(args):
    """Evaluates bbox.json and segm.json."""
    from common.engines.detection.evaluate import evaluate_results, read_results, result_text
    config = config_of(args)
    file = os.path.join(config.DATA.DATA_PATH, config.DATA.VAL_JSON)
    if not os.path.isfile(file):
        raise InputError(f'{file}: no such file; expected annotations (-data_path, DATA.VAL_JSON)')
    say(result_text(evaluate_results(file, read_results(args.predictions))))


def run_infer(args):
    from common.data.input_images import images_of_tool
    from common.engines.detection.infer import infer, predict_one
    if not 0 <= args.threshold <= 1:
        raise InputError(f'-threshold: got {args.threshold}, expected 0 to 1')
    if bool(args.pretrained) == bool(args.exported):
        raise InputError("-pretrained, -exported: expected one of the two: a run's folder or "
                         'weights of a detector, or an export')
    check_output_folder('output', args.output)
    missing = [path for path in args.images if not os.path.exists(path)]
    if missing:
        raise InputError(f'{missing[0]}: no such file or folder')
    files = images_of_tool(args.images)
    set_up_cpu()
    if args.exported:
        from common.engines.detection.export import ExportedDetector
        exported = ExportedDetector(args.exported)
        predict, names = exported.predict, exported.class_names
    else:
        detector, names, config = detector_of(args)
        predict = predict_one(detector, config.DATA)
    if infer(predict, files, args.output, names, args.threshold) == len(files):
        raise InputError('got no image that can be read')


def detector_of(args):
    """(Detector, class names, config) of -pretrained."""
    from common.engines.detection.weights import build_for_tests
    weights = read_run(args.pretrained) if args.cfg is None else None
    config = config_of(args, weights)
    detector, weights = build_for_tests(config, weights)
    names = weights.metadata.get('class_names') \
        or [f'class {index}' for index in range(config.MODEL.NUM_CLASSES)]
    return detector, names, config


def run_export(args):
    from common.engines.detection.export import export
    set_up_cpu()
    detector, names, config = detector_of(args)
    count = export(detector, config, names, args.output, args.size)
    say(f'{args.output}: the graph finds the same {count} boxes as the model')


def run_params(args):
    from common.engines.detection.tables import print_parameters
    print_parameters(args.recipes)


def run_speed(args):
    from common.engines.detection.tables import measure
    check_least(args, batch_size=1, steps=1, size=32)
    set_up_cpu()
    batch_size, args.batch_size = args.batch_size, None  # which is not the config's here
    config = config_of(args)
    for what, speed in measure(config, args.size, batch_size, args.steps).items():
        say(f'{config.MODEL.NAME}, {what}, {args.size[0]}x{args.size[1]}, batch '
            f'{batch_size}: {speed:.3g} img/s')


def run_shapes(args):
    from common.engines.detection.shapes import write_shapes
    check_least(args, train=1, val=1, seed=0)
    write_shapes(args.folder, args.train, args.val, args.seed)
    say(f'{args.folder}: {args.train} training and {args.val} validation pictures')


@contextlib.contextmanager
def program(args):
    """The block of a run: signals, errors in one line, exit codes."""
    from common.train.launcher import errors_in_one_line  # imports Paddle
    if args.debug:
        os.environ[DEBUG] = '1'
    with StopSignal(child=is_child()) as signals, errors_in_one_line(signals):
        yield signals


def main(argv=None):
    args = make_parser().parse_args(argv)
    run = {'train': run_train, 'eval': run_eval, 'infer': run_infer, 'export': run_export,
           'params': run_params, 'speed': run_speed, 'shapes': run_shapes}[args.command]
    if args.command in ('train', 'eval'):
        run(args)
        return
    with errors_of_a_tool():
        run(args)


if __name__ == '__main__':
    sys.exit(main())
