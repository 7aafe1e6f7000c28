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
import paddle.distributed as paddle_dist

from common import dist, processes
from common.checkpoint import resume
from common.class_names import check_same, match_labels
from common.config import plain_config
from common.ema import Ema, build_ema
from common.errors import InputError
from common.flags import add_flag
from common.launcher import DEBUG, discard_unused, errors_in_one_line, spawn, supervise
from common.layers import recompute_cells
from common.loader import Batches, Normalize, get_dataloader
from common.log import RunLog
from common.macs import count_parameters
from common.optim import build_optimizer, decayed_parameters, trainable_parameters
from common.precision import Precision
from common.run_folder import (
    AUTO,
    check_same_run,
    choose_folder,
    discard,
    facts_of_data,
    find_resumed,
    go_on,
    has_result,
    make_run_folder,  # noqa: F401 - was here
    own_folder,
    remove_result,
    with_resume,
    write_text,
)
from common.schedule import build_schedule
from common.signals import LAUNCHED, SUPERVISED, Stopped, StopSignal, held_back, is_child
from common.subset import Subset
from common.training import Evaluation, Keeper, Trainer, finish
from common.weights import load_pretrained, read_weights
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


def worker(config, device, folder, note, build_model, train_set, val_set, signals):
    """One rank of the run; `folder` is the run's on rank 0, and at once also on those that are
    spawned. A run that is refused or stopped before it trains leaves no folder."""
    try:
        if folder is not None and int(os.environ.get(LAUNCHED, '0')) == 0:
            held = processes.lock(folder)  # noqa: F841 - as long as this process lives
        trainer, position = prepare(config, device, folder, note, build_model, train_set, val_set,
                                    signals)
    except (InputError, Stopped):
        if folder is not None and dist.is_master():
            discard(folder)
        raise
    if trainer:
        with signals.noted():
            trainer.run(position)


def prepare(config, device, folder, note, build_model, train_set, val_set, signals):
    """(Trainer, position) for a training that is to come; (None, None) after an evaluation, or when
    nothing is left to train."""
    # STEP 1: process group and log
    paddle.set_device(device)
    if device == 'cpu':
        processes.set_up_cpu()
    if int(os.environ.get('PADDLE_TRAINERS_NUM', '1')) > 1:
        with held_back():  # a signal would break its connections
            paddle_dist.init_parallel_env()
    folder = dist.from_master('folder', folder)
    config = with_resume(config, dist.from_master('resume', config.MODEL.RESUME))
    log = RunLog(folder, active=dist.is_master(), visualdl=config.VISUALDL)
    if note:
        log.info(note)
    paddle.seed(config.SEED)

    # STEP 2: model and weights
    precision = Precision(config.AMP, config.AMP_DTYPE, config.AMP_LEVEL, device)
    model = build_model(config)
    describe(log, config, model, precision, device, folder)
    said = {}  # by the weights' file
    if config.MODEL.PRETRAINED and not config.MODEL.RESUME:  # a resumed run has its own weights
        said = load_weights(config, model, train_set, log)

    # STEP 3: evaluation alone, or what training needs
    if config.EVAL:
        if config.MODEL.RESUME:
            said = resume(config.MODEL.RESUME, model, None, None)
            log.info(f'weights: {said["file"]} loaded')
        for line in match_labels(val_set, said.get('class_names'),
                                 config.MODEL.RESUME or config.MODEL.PRETRAINED, config):
            log.warning(line)
    normalize = Normalize(config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD)
    evaluation = Evaluation(config, val_set, normalize, precision, log, signals)
    if config.EVAL:
        with signals.noted():
            result = evaluate_weights(config, model, evaluation, said.get('ema'))
            finish(log, folder, result, 'evaluation')
        return None, None
    facts = {'seed': config.SEED, 'config': plain_config(config),
             'class_names': train_set.class_names, 'data_sets': facts_of_data(train_set, val_set)}
    return prepare_training(config, folder, model, evaluation, train_set, facts, signals)


def load_weights(config, model, train_set, log):
    """Puts MODEL.PRETRAINED into the model and says what came with it; the file's facts.

    train_set: None in an evaluation, which takes the classifier as it is.
    """
    file = config.MODEL.PRETRAINED
    weights = read_weights(file)
    notes = load_pretrained(model, file, new_head=train_set is not None, weights=weights,
                            class_names=getattr(train_set, 'class_names', None))
    log.info(f'weights: {file} loaded')
    for note in notes:
        log.info(f'  {note}')
    return weights[3]


def evaluate_weights(config, model, evaluation, averaged):
    """The result of -eval, of the moving average too if the checkpoint has one."""
    model, _ = evaluation.precision.decorate(model)
    result = evaluation.run(model, 0)
    if averaged:
        ema = Ema(model, decay=1.0)
        ema.load(averaged, config.MODEL.RESUME)
        with ema.in_place():
            result['averaged'] = evaluation.run(model, 0, averaged=True)
    return result


def prepare_training(config, folder, model, evaluation, train_set, facts, signals):
    """As `prepare`; `facts` is what the checkpoints keep, but for the order of the samples."""
    # STEP 4: optimiser and schedule
    log, precision = evaluation.log, evaluation.precision
    train_loader = get_dataloader(config, train_set, is_train=True)
    sampler = train_loader.batch_sampler
    schedule = build_schedule(config.TRAIN, sampler.steps_per_epoch, sampler.global_batch)
    optimizer = build_optimizer(config.TRAIN, model)
    model, optimizer = precision.decorate(model, optimizer)
    model = with_training_options(config, model, precision)
    ema = build_ema(config, model, sampler.global_batch)
    describe_training(log, config, model, sampler, schedule, ema)

    # STEP 5: where the run goes on
    position = {'epoch': config.TRAIN.LAST_EPOCH, 'step': 0, 'sums': None, 'best': None,
                'optimizer': None}
    facts['data'] = {'images': sampler.num_samples, 'global_batch': sampler.global_batch,
                     'repeats': sampler.repeats}
    if config.MODEL.RESUME:
        check = partial(check_same_run, facts, schedule.num_epochs, folder, log) \
            if folder == config.MODEL.RESUME else None
        position = resume(config.MODEL.RESUME, model, optimizer, precision.scaler, ema, check)
        check_same(train_set.class_names, position.get('class_names'), position['file'])
        facts['class_names'] = train_set.class_names or position.get('class_names')
        go_on(position, folder, facts, log)
    elif folder and own_folder() and dist.is_master():
        log.cut(position['epoch'], 0)  # a start before this one died before its first checkpoint
    if position['epoch'] >= schedule.num_epochs:
        text = f'nothing to train: {position["epoch"]} of {schedule.num_epochs} epochs are done'
        if folder != config.MODEL.RESUME:
            raise InputError(text)
        if any(dist.Meeting('end')(dist.is_master() and has_result(folder))):
            log.info(text)  # -resume=auto of a finished run
            return None, None
        log.info(f'{text}; what follows the last one is missing, and is done now')
    elif folder is not None and dist.is_master():
        remove_result(folder)

    if folder is not None and isinstance(train_set.images, Subset):
        write_names(os.path.join(folder, 'train_subset.txt'), train_set.images, log)
    batches = Batches(train_loader, evaluation.batches.normalize, train_set.erasing, config.SEED,
                      config.DATA.MAX_BAD_IMAGES, remembered=config.TRAIN.ACCUM_ITER)
    return Trainer(config, dist.data_parallel(model), optimizer, schedule, precision, ema, batches,
                   evaluation, Keeper(folder, facts, log), log, signals), position


def with_training_options(config, model, precision):
    """The model as TRAIN.RECOMPUTE and TRAIN.TO_STATIC have it."""
    if config.TRAIN.RECOMPUTE:
        recompute_cells(model)
    if config.TRAIN.TO_STATIC:
        if precision.enabled and precision.dtype == 'bfloat16' \
                and paddle.__version__.startswith('2.'):
            raise InputError('TRAIN.TO_STATIC: Paddle 2.6 makes a float16 graph of a bfloat16 '
                             'training; expected -o AMP_DTYPE=float16, or Paddle 3')
        model = paddle.jit.to_static(model, full_graph=True)
    return model


def write_names(file, images, log):
    """The images of a part of the training set and their labels, one a line, on rank 0."""
    if dist.is_master():
        write_text(file, ''.join(f'{images.name(index)} {label}\n'
                                 for index, label in enumerate(images.labels)))
    log.info(f'{len(images)} training images, listed in {file}')


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
