"""The training program: its command line, and the start of a run.

The same script runs on a CPU (one process, or several with -nprocs over gloo), on every GPU that
CUDA_VISIBLE_DEVICES names, and under `python -m paddle.distributed.launch` on several machines.
"""
import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from common.core import processes
from common.core.environment import DEBUG, SUPERVISED
from common.core.errors import InputError
from common.core.flags import add_flag
from common.core.signals import StopSignal, is_child
from common.hub.references import is_reference
from common.train.launcher import errors_in_one_line, launch, supervise
from common.train.run_folder import AUTO
from common.zoo import check_family


def make_parser():
    """The command line: PaddleViT's flags, -nprocs and -o, each with one dash or two."""
    parser = argparse.ArgumentParser(
        description='Trains, fine-tunes (-pretrained) or evaluates (-eval) a model.',
        allow_abbrev=False)

    add = partial(add_flag, parser)
    add('cfg', 'yaml of the model and recipe, e.g. ./configs/vit_base_patch16_224.yaml',
        metavar='FILE')
    add('dataset', 'imagenet2012 | list | imagefolder | cifar10 | cifar100 | digits',
        metavar='NAME')
    add('data_path', 'folder of the data set', metavar='FOLDER')
    add('class_names', 'file with the name of each class, one a line', metavar='FILE')
    add('train_fraction', 'share of the training images of each class, e.g. 0.01', type=float,
        metavar='X')
    add('real_labels', 'real.json: also evaluate by the ReaL labels', metavar='FILE')
    add('output', 'folder under which the run makes its own', metavar='FOLDER')
    add('batch_size', 'images on one device in one step', type=int, metavar='N')
    add('batch_size_eval', 'the same for evaluation', type=int, metavar='N')
    add('image_size', 'pixels', type=int, metavar='N')
    add('accum_iter', 'micro-batches in one optimiser step', type=int, metavar='N')
    add('pretrained', 'weights to fine-tune or evaluate: a file, the folder of a run, hub (the '
        'published ones of the model), hub:TAG, https://... or hf:OWNER/NAME',
        metavar='FILE')
    add('resume', 'last.pdparams of a run to go on with, or the run\'s folder; auto: the newest '
        'run of this model under -output goes on in its own folder, if there is one',
        metavar='FILE')
    add('last_epoch', 'epochs that count as done', type=int, metavar='N')
    add('eval', 'evaluate and stop', action='store_true')
    add('amp', 'mixed precision, in training and evaluation', action='store_true')
    add('visualdl', 'write the figures for VisualDL too', action='store_true')
    add('nprocs', 'processes on this machine: default every visible GPU, or 1 on a CPU',
        type=int, metavar='N')
    add('max_restarts', 'how often the run is started again and goes on when it has crashed',
        type=int, default=0, metavar='N')
    add('debug', 'show where in the code an error came up', action='store_true')
    parser.add_argument('-o', action='append', metavar='KEY=VALUE',
                        help='sets any config key; may be repeated')
    return parser


def run(get_config: Callable, update_config: Callable, build_model: Callable,
        get_dataset: Callable, argv: Sequence[str] | None = None) -> None:
    """Runs the whole program of a family's main_multi_gpu.py.

    Args:
        get_config: yaml path or None -> frozen config.
        update_config: (config, parsed flags) -> frozen config.
        build_model: config -> Layer. Must be importable by the processes that are spawned.
        get_dataset: (config, is_train) -> data set.
        argv: list of arguments; None is the command line's.

    Raises:
        SystemExit: with the exit code of common/core/processes.py, unless the run has ended well.
    """
    args = make_parser().parse_args(argv)
    if args.debug:
        os.environ[DEBUG] = '1'
    with StopSignal(is_child()) as signals, errors_in_one_line(signals):
        check_family(args.cfg, get_config(None))
        config = update_config(get_config(args.cfg), args)
        check_flags(config)
        if args.max_restarts:
            sys.exit(supervise(config, args.max_restarts, signals))
        if SUPERVISED in os.environ:
            processes.end_with_parent(signal.SIGTERM, int(os.environ[SUPERVISED]))
        launch(config, args.nprocs, build_model, get_dataset, signals)


def check_flags(config):
    """Raises InputError for what can be known to be wrong before any process starts."""
    model = config.MODEL
    if config.EVAL and not (model.PRETRAINED or model.RESUME):
        raise InputError('-eval: got no weights, expected -pretrained FILE; without weights the '
                         'accuracy would be that of random numbers')
    if config.EVAL and model.PRETRAINED and model.RESUME:
        raise InputError('-pretrained and -resume: got both, expected one to evaluate')
    if model.PRETRAINED and not is_reference(model.PRETRAINED) \
            and not os.path.exists(model.PRETRAINED):
        raise InputError(f'-pretrained: no such file: {model.PRETRAINED}')
    if model.RESUME not in (None, AUTO) and not os.path.exists(model.RESUME):
        raise InputError(f'-resume: no such file or folder: {model.RESUME}')
    if config.EVAL and model.RESUME == AUTO:
        raise InputError('-resume: got auto with -eval, expected a file or folder')
    if config.VISUALDL and importlib.util.find_spec('visualdl') is None:
        raise InputError("-visualdl: visualdl is missing; pip install -e '.[visualdl]'")
