"""Starts a run: command line, processes, and the steps from config to checkpoint.

The same script runs on a CPU (one process, or several with -nprocs over gloo), on every GPU that
CUDA_VISIBLE_DEVICES names, and under `python -m paddle.distributed.launch` on several machines.
"""
import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from functools import partial
from multiprocessing import connection

import paddle
import paddle.distributed as paddle_dist
import yaml

from common import dist, processes
from common.checkpoint import BEST, LAST, find_run, replace_atomically, resume
from common.config import differences, plain_config
from common.ema import Ema, build_ema
from common.errors import InputError, RunError, complain, one_line, set_up_output
from common.flags import add_flag
from common.layers import recompute_cells
from common.loader import Batches, Normalize, get_dataloader
from common.log import RunLog
from common.macs import count_parameters
from common.optim import build_optimizer, decayed_parameters, trainable_parameters
from common.precision import Precision
from common.processes import FAILED, STOPPED, WRONG_INPUT, Stopped, StopSignal
from common.safe_load import load_pickle
from common.schedule import build_schedule
from common.subset import Subset
from common.training import Evaluation, Keeper, Trainer, finish
from common.weights import load_pretrained

# Seconds that the other ranks have to end by themselves when one has failed.
GRACE = 8.0
AUTO = 'auto'  # of -resume
# Environment variables for the processes that are started.
DEBUG, SUPERVISED = 'RUN_DEBUG', 'RUN_SUPERVISED'


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
    add('pretrained', 'weights to fine-tune or evaluate', metavar='FILE')
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
    with errors_in_one_line():
        config = update_config(get_config(args.cfg), args)
        check_flags(config)
        if args.max_restarts:
            sys.exit(supervise(config, args.max_restarts))
        if SUPERVISED in os.environ:
            processes.end_with_parent(signal.SIGTERM)
        launch(config, args.nprocs, build_model, get_dataset)


@contextlib.contextmanager
def errors_in_one_line():
    """Ends the process with one line on standard error, and with the exit code that says what
    kind of end it is; see common/processes.py."""
    set_up_output()
    try:
        yield
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    except Exception as error:  # noqa: BLE001 - the last one to see it
        if DEBUG in os.environ:
            traceback.print_exc()
        where = f' (process {dist.rank()})' if dist.world_size() > 1 and dist.rank() else ''
        text, code = str(error), WRONG_INPUT if isinstance(error, InputError) else FAILED
        if not isinstance(error, (InputError, RunError)):
            text = f'{type(error).__name__}: {one_line(error)} (-debug shows where)'
        complain(f'error{where}: {text}')
        sys.exit(code)


def supervise(config, max_restarts):
    """Runs this command in a process of its own, again after a crash; its exit code."""
    command, skip = [sys.executable], False
    for argument in sys.orig_argv[1:]:
        if not skip and not argument.lstrip('-').startswith('max_restarts'):
            command.append(argument)
        skip = argument in ('-max_restarts', '--max_restarts')
    started = time.time()
    for restart in range(max_restarts + 1):
        going_on = restart and find_run(config.SAVE, config.MODEL.NAME, after=started)
        child = subprocess.Popen([*command, *(['-resume=auto'] if going_on else [])],
                                 env={**os.environ, SUPERVISED: '1'})
        with StopSignal() as signals:
            while child.poll() is None:
                time.sleep(0.05)
                if signals.number is not None:
                    child.send_signal(signals.number)
                    signals.number = None
        code = child.returncode
        if code in (0, WRONG_INPUT, *STOPPED):
            return code
        print(f'the run has ended with code {code}; restart {restart + 1} of {max_restarts}'
              if restart < max_restarts else
              f'the run has ended with code {code}; no restart is left', file=sys.stderr,
              flush=True)
        time.sleep(1.0)
    return FAILED


def check_flags(config):
    """What can be known to be wrong before any process starts."""
    model = config.MODEL
    if config.EVAL and not (model.PRETRAINED or model.RESUME):
        raise InputError('-eval: got no weights, expected -pretrained FILE; without weights the '
                         'accuracy would be that of random numbers')
    if config.EVAL and model.PRETRAINED and model.RESUME:
        raise InputError('-pretrained and -resume: got both, expected one to evaluate')
    if model.PRETRAINED and not os.path.isfile(model.PRETRAINED):
        raise InputError(f'-pretrained: no such file: {model.PRETRAINED}')
    if model.RESUME not in (None, AUTO) and not os.path.exists(model.RESUME):
        raise InputError(f'-resume: no such file or folder: {model.RESUME}')
    if config.EVAL and model.RESUME == AUTO:
        raise InputError('-resume: got auto with -eval, expected a file or folder')
    if config.VISUALDL and importlib.util.find_spec('visualdl') is None:
        raise InputError("-visualdl: visualdl is missing; pip install -e '.[visualdl]'")


def pick_device(config):
    """'gpu' or 'cpu', by DEVICE and by what this Paddle and machine have."""
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if config.DEVICE == 'gpu' and not has_gpu:
        raise InputError(f'DEVICE: got gpu, but this machine or this Paddle has none '
                         f'({gpus_looked_for()})')
    return 'gpu' if has_gpu and config.DEVICE != 'cpu' else 'cpu'


def gpus_looked_for():
    """Where Paddle has looked for GPUs, in words."""
    if not paddle.is_compiled_with_cuda():
        return f'Paddle {paddle.__version__} is built for CPUs'
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    return (f'looked for NVIDIA GPUs with a driver for CUDA {paddle.version.cuda()}, '
            f'CUDA_VISIBLE_DEVICES {"is not set" if visible is None else f"is {visible!r}"}')


def launch(config, nprocs, build_model, get_dataset):
    """Runs `worker` here (one process, or one of a launcher's), or spawns one for each device."""
    device = pick_device(config)
    launched = 'PADDLE_TRAINER_ID' in os.environ  # also with one process
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
    config, folder = find_resumed(config)
    folder = make_run_folder(config, folder) \
        if int(os.environ.get('PADDLE_TRAINER_ID', '0')) == 0 else None
    arguments = config, device, folder, build_model, train_set, val_set
    if launched or nprocs == 1:
        worker(*arguments)
        return
    options = {'backend': 'gloo'} if device == 'cpu' else {}
    with StopSignal() as signals:
        with warnings.catch_warnings():
            # what this run's own log says, too: that it computes on the CPU
            warnings.filterwarnings('ignore', 'Your model will be trained under CPUONLY mode')
            context = paddle_dist.spawn(spawned_worker, nprocs=nprocs, join=False, args=arguments,
                                        **options)
        wait_for(context.processes, signals)


def find_resumed(config):
    """(config, None), or with -resume=auto (config with the run's folder, that folder)."""
    if config.MODEL.RESUME != AUTO:
        return config, None
    folder = find_run(config.SAVE, config.MODEL.NAME)
    config = config.clone()
    config.defrost()
    config.MODEL.RESUME = folder
    config.freeze()
    return config, folder


def wait_for(ranks, signals):
    """Waits for the processes of a run, passes signals on, and exits if one has failed; the
    others then have GRACE seconds."""
    passed_on, failed, deadline = False, None, None
    while running := [rank for rank in ranks if rank.is_alive()]:
        connection.wait([rank.sentinel for rank in running], timeout=0.2)
        if signals.number is not None and not passed_on:
            passed_on = True
            for rank in running:
                os.kill(rank.pid, signals.number)
        failed = failed or next((rank for rank in ranks if rank.exitcode), None)
        if failed and deadline is None:
            deadline = time.monotonic() + GRACE
            if failed.exitcode < 0:
                print(f'error: process {ranks.index(failed)} was ended by '
                      f'{processes.end_of(failed.exitcode)}', file=sys.stderr, flush=True)
        if deadline is not None and time.monotonic() > deadline:
            for rank in running:
                rank.kill()
    failed = failed or next((rank for rank in ranks if rank.exitcode), None)
    if failed:
        sys.exit(failed.exitcode if failed.exitcode > 0 else FAILED)


def spawned_worker(*args):
    processes.end_with_parent(signal.SIGTERM)
    with errors_in_one_line():
        worker(*args)


def make_run_folder(config, resumed=None):
    """A new folder SAVE/NAME-train-YYYYmmdd-HHMMSS with the run's config, never one that exists;
    or the folder of the run that is resumed in it."""
    if resumed:
        processes.sweep(resumed, r'.*\.tmp(\d+)')
        return resumed
    kind = 'eval' if config.EVAL else 'train'
    stem = os.path.join(config.SAVE,
                        f'{config.MODEL.NAME}-{kind}-{time.strftime("%Y%m%d-%H%M%S")}')
    for attempt in range(1, 1000):
        folder = stem if attempt == 1 else f'{stem}-{attempt}'
        try:
            os.makedirs(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise InputError(f'-output: {folder} is in the way') from None
            continue
        except OSError as error:
            raise InputError(f'-output: cannot make {folder}: {error.strerror}') from None
        plain = plain_config(config)
        plain['MODEL']['RESUME'] = None  # of this start, not of the recipe
        with open(os.path.join(folder, 'config.yaml'), 'w') as stream:
            yaml.safe_dump(plain, stream, sort_keys=False)
        return folder
    raise InputError(f'-output: {stem} and 998 more exist already')


def worker(config, device, folder, build_model, train_set, val_set):
    """One rank of the run; `folder` is the run's (rank 0) or None."""
    # STEP 1: process group and log
    paddle.set_device(device)
    if device == 'cpu':
        processes.set_up_cpu()
    if folder is not None and int(os.environ.get('PADDLE_TRAINER_ID', '0')) == 0:
        held = processes.lock(folder)  # noqa: F841 - as long as this process lives
    if int(os.environ.get('PADDLE_TRAINERS_NUM', '1')) > 1:
        paddle_dist.init_parallel_env()
    log = RunLog(folder, active=dist.is_master(), visualdl=config.VISUALDL)
    paddle.seed(config.SEED)

    # STEP 2: model and weights
    precision = Precision(config.AMP, config.AMP_DTYPE, config.AMP_LEVEL, device)
    model = build_model(config)
    describe(log, config, model, precision, device, folder)
    if config.MODEL.PRETRAINED and not config.MODEL.RESUME:  # a resumed run has its own weights
        notes = load_pretrained(model, config.MODEL.PRETRAINED, new_head=not config.EVAL)
        log.info(f'weights: {config.MODEL.PRETRAINED} loaded')
        for note in notes:
            log.info(f'  {note}')

    # STEP 3: evaluation alone
    normalize = Normalize(config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD)
    evaluation = Evaluation(config, val_set, normalize, precision, log)
    if config.EVAL:
        averaged = None
        if config.MODEL.RESUME:
            facts = resume(config.MODEL.RESUME, model, None, None)
            averaged = facts.get('ema')
            log.info(f'weights: {facts["file"]} loaded')
        model, _ = precision.decorate(model)
        result = evaluation.run(model, 0)
        if averaged:
            ema = Ema(model, decay=1.0)
            ema.load(averaged, config.MODEL.RESUME)
            with ema.in_place():
                result['averaged'] = evaluation.run(model, 0, averaged=True)
        finish(log, folder, result, 'evaluation')
        return

    # STEP 4: optimiser and schedule
    train_loader = get_dataloader(config, train_set, is_train=True)
    sampler = train_loader.batch_sampler
    schedule = build_schedule(config.TRAIN, sampler.steps_per_epoch, sampler.global_batch)
    optimizer = build_optimizer(config.TRAIN, model)
    model, optimizer = precision.decorate(model, optimizer)
    if config.TRAIN.RECOMPUTE:
        recompute_cells(model)
    if config.TRAIN.TO_STATIC:
        if precision.enabled and precision.dtype == 'bfloat16' \
                and paddle.__version__.startswith('2.'):
            raise InputError('TRAIN.TO_STATIC: Paddle 2.6 makes a float16 graph of a bfloat16 '
                             'training; expected -o AMP_DTYPE=float16, or Paddle 3')
        model = paddle.jit.to_static(model, full_graph=True)
    ema = build_ema(config, model, sampler.global_batch)
    describe_training(log, config, model, sampler, schedule, ema)
    position = {'epoch': config.TRAIN.LAST_EPOCH, 'step': 0, 'sums': None, 'best': None,
                'optimizer': None}
    data = {'images': sampler.num_samples, 'global_batch': sampler.global_batch,
            'repeats': sampler.repeats}
    if config.MODEL.RESUME:
        position = resume(config.MODEL.RESUME, model, optimizer, precision.scaler, ema)
        go_on(position, config, folder, data, log)
    if position['epoch'] >= schedule.num_epochs:
        text = f'nothing to train: {position["epoch"]} of {schedule.num_epochs} epochs are done'
        if folder != config.MODEL.RESUME:
            raise InputError(text)
        log.info(text)  # -resume=auto of a finished run
        return

    # STEP 5: train
    if folder is not None and isinstance(train_set.images, Subset):
        write_names(os.path.join(folder, 'train_subset.txt'), train_set.images, log)
    batches = Batches(train_loader, normalize, train_set.erasing, config.SEED,
                      config.DATA.MAX_BAD_IMAGES)
    keeper = Keeper(folder, config, train_set.class_names, data, log)
    with StopSignal() as signals:
        Trainer(config, dist.data_parallel(model), optimizer, schedule, precision, ema, batches,
                evaluation, keeper, log, signals).run(position)


def go_on(position, config, folder, data, log):
    """Says where a resumed run goes on and what is different, and takes over its best weights.

    Raises:
        InputError: it would go on in an epoch whose order was another one.
    """
    file = position['file']
    if position['note']:
        log.warning(position['note'])
    log.info(f'resume: {file}, after epoch {position["epoch"]}'
             + (f' and {position["step"]} steps' if position['step'] else ''))
    for line in differences(position['config'], plain_config(config)):
        log.info(f'  {line}')
    before = {**data, **position.get('data', {}), 'SEED': position.get('seed')}
    now = {**data, 'SEED': config.SEED}
    if position['step'] and before != now:
        raise InputError(
            f'-resume: {file} stops within an epoch, after {position["step"]} steps; to go on with '
            f'its other samples, expected {before}, got {now} (global batch: DATA.BATCH_SIZE x '
            f'TRAIN.ACCUM_ITER x processes)')
    if folder is None:
        return
    if os.path.dirname(file) != folder:
        best = position['best'] = inherit_best(file, folder, position['best'])
        if best:
            log.metric('best', at=best['epoch'], **best)
        return
    log.cut(position['epoch'], position['step'])
    damaged = os.path.join(folder, LAST)
    if file != damaged and dist.is_master() and os.path.exists(damaged):
        os.replace(damaged, f'{damaged}.damaged')  # else it would become the one before the next


def write_names(file, images, log):
    """The images of a part of the training set and their labels, one a line, on rank 0."""
    if dist.is_master():
        with open(file, 'w', encoding='utf-8') as stream:
            stream.writelines(f'{images.name(index)} {label}\n'
                              for index, label in enumerate(images.labels))
    log.info(f'{len(images)} training images, listed in {file}')


def inherit_best(checkpoint, folder, best):
    """Copies the best weights of the run that is gone on with into this run's folder.

    Returns `best`, or None if its weights are not there: then the next evaluation is the best.
    """
    source = os.path.join(os.path.dirname(checkpoint), BEST)
    if best is None or not os.path.isfile(source):
        return None
    if load_pickle(source).get('epoch') != best.get('epoch'):
        return None
    with replace_atomically(os.path.join(folder, BEST)) as temporary:
        shutil.copyfile(source, temporary)
    return best


def describe(log, config, model, precision, device, folder):
    """What runs, on what, in which precision, on which preprocessing."""
    data, count = config.DATA, count_parameters(model)
    log.info(f'{config.MODEL.NAME}: {count:,} parameters, {config.MODEL.NUM_CLASSES} classes; '
             f'output in {folder}')
    log.info(f'device: {dist.world_size()} x {device}, precision {precision}, '
             f'Paddle {paddle.__version__}')
    if device == 'cpu' and config.DEVICE != 'cpu' and paddle.is_compiled_with_cuda():
        log.warning(f'this Paddle is built for GPUs and found none: the run is on the CPU, many '
                    f'times slower ({gpus_looked_for()}; nvidia-smi shows what there is). '
                    f'-o DEVICE=gpu stops instead, -o DEVICE=cpu says that it is meant')
    log.info(f'evaluation images: {data.IMAGE_SIZE} px, crop {data.CROP_PCT}, '
             f'{data.INTERPOLATION}, mean {data.IMAGENET_MEAN}, std {data.IMAGENET_STD}')


def describe_training(log, config, model, sampler, schedule, ema):
    """The arithmetic of batch, steps and learning rate."""
    train = config.TRAIN
    log.info(f'batch: {sampler.batch_size} x {sampler.world_size} processes x '
             f'{sampler.accum_iter} accumulated = {sampler.global_batch}; {sampler.num_samples} '
             f'images make {sampler.steps_per_epoch} steps an epoch, {schedule.num_steps} in all')
    scaled = f'BASE_LR {train.BASE_LR:g}'
    if train.LR_BASE_BATCH:
        scaled += f' x {sampler.global_batch} / {train.LR_BASE_BATCH}'
    log.info(f'lr: {scaled} = {schedule.base_lr:g}, {train.LR_SCHEDULER.NAME} by '
             f'{train.LR_SCHEDULER.UNIT}, warm-up {schedule.warmup} '
             f'{train.LR_SCHEDULER.UNIT}s from {train.WARMUP_START_LR:g}, end {train.END_LR:g}')
    decayed = decayed_parameters(model, train.OPTIMIZER.DECAY)
    log.info(f'{train.OPTIMIZER.NAME}: weight decay {train.WEIGHT_DECAY:g} on {len(decayed)} of '
             f'{len(trainable_parameters(model))} parameters, clip {train.GRAD_CLIP}')
    if ema:
        log.info(f'moving average of the weights: decay {ema.decay:.10g} a step'
                 + ', less at first' * ema.warmup)
        rest = 0.0 if ema.warmup else ema.decay ** schedule.num_steps
        if rest > 0.1:
            log.warning(f'{rest:.0%} of the average will still be the first weights at the end; '
                        f'-o TRAIN.EMA.DECAY=null, a smaller one, or -o TRAIN.EMA.WARMUP=True '
                        f'helps')
