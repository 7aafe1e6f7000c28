"""Starts a run: command line, and the steps from config to checkpoint.

The same script runs on a CPU (one process, or several with -nprocs over gloo), on every GPU that
CUDA_VISIBLE_DEVICES names, and under `python -m paddle.distributed.launch` on several machines.
"""
import argparse
import importlib.util
import os
import signal
import sys
from functools import partial

import paddle

from common.core import processes
from common.core.devices import pick_device
from common.core.errors import InputError
from common.core.flags import add_flag
from common.core.signals import LAUNCHED, SUPERVISED, StopSignal, is_child
from common.train.launcher import DEBUG, discard_unused, errors_in_one_line, spawn, supervise
from common.train.run_folder import (
    AUTO,
    choose_folder,
    find_resumed,
)
from common.train.worker import worker
from common.zoo import check_family


def make_parser():
    """The command line: PaddleViT's flags, -nprocs and -o. One or two dashes."""
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
    add('pretrained', 'weights to fine-tune or evaluate, or the folder of a run that has them',
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


def run(get_config, update_config, build_model, get_dataset, argv=None):
    """The whole program of a family's main_multi_gpu.py.

    Args:
        get_config: yaml path or None -> frozen config.
        update_config: (config, parsed flags) -> frozen config.
        build_model: config -> Layer. Must be importable by the processes that are spawned.
        get_dataset: (config, is_train) -> data set.
        argv: list of arguments; None is the command line's.
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
    """What can be known to be wrong before any process starts."""
    model = config.MODEL
    if config.EVAL and not (model.PRETRAINED or model.RESUME):
        raise InputError('-eval: got no weights, expected -pretrained FILE; without weights the '
                         'accuracy would be that of random numbers')
    if config.EVAL and model.PRETRAINED and model.RESUME:
        raise InputError('-pretrained and -resume: got both, expected one to evaluate')
    if model.PRETRAINED and not os.path.exists(model.PRETRAINED):
        raise InputError(f'-pretrained: no such file: {model.PRETRAINED}')
    if model.RESUME not in (None, AUTO) and not os.path.exists(model.RESUME):
        raise InputError(f'-resume: no such file or folder: {model.RESUME}')
    if config.EVAL and model.RESUME == AUTO:
        raise InputError('-resume: got auto with -eval, expected a file or folder')
    if config.VISUALDL and importlib.util.find_spec('visualdl') is None:
        raise InputError("-visualdl: visualdl is missing; pip install -e '.[visualdl]'")


def launch(config, nprocs, build_model, get_dataset, signals):
    """Runs `worker` here (one process, or one of a launcher's), or spawns one for each device."""
    device = pick_device(config)
    launched = LAUNCHED in os.environ  # also with one process
    if launched and nprocs is not None:
        raise InputError('-nprocs: got it under paddle.distributed.launch, which decides it itself')
    if nprocs is not None and nprocs < 1:
        raise InputError(f'-nprocs: got {nprocs}, expected at least 1')
    visible = paddle.device.cuda.device_count() if device == 'gpu' else None
    if visible and nprocs and nprocs > visible:
        raise InputError(f'-nprocs: got {nprocs}, expected at most the {visible} visible GPUs')
    nprocs = nprocs or visible or 1
    train_set = None if config.EVAL else get_dataset(config, is_train=True)
    val_set = get_dataset(config, is_train=False)
    if device == 'cpu':
        os.environ['PADDLE_DISTRI_BACKEND'] = 'gloo'
    folder = choose_folder(config)
    config, note = find_resumed(config, folder)
    arguments = config, device, folder, note, build_model, train_set, val_set
    if launched or nprocs == 1:
        worker(*arguments, signals)
    else:
        code = spawn(worker, nprocs, arguments, device, signals)
        discard_unused(folder, code)
        if code:
            sys.exit(code)
