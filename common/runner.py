"""Starts a run: command line, processes, and the steps from config to checkpoint.

The same script runs on a CPU (one process, or several with -nprocs over gloo), on every GPU that
CUDA_VISIBLE_DEVICES names, and under `python -m paddle.distributed.launch` on several machines.
"""
import argparse
import json
import os
import shutil
import sys
import time

import paddle
import paddle.distributed as paddle_dist
import yaml

from common import dist
from common.checkpoint import replace_atomically, resume, save_checkpoint, save_weights
from common.engine import evaluate, train_one_epoch
from common.errors import InputError
from common.loader import Normalize, device_batches, get_dataloader
from common.log import RunLog
from common.losses import LabelSmoothingCrossEntropy
from common.macs import count_parameters
from common.optim import build_optimizer, decayed_parameters, trainable_parameters
from common.precision import Precision
from common.safe_load import load_pickle
from common.schedule import build_schedule
from common.weights import load_pretrained


def make_parser():
    """The command line: PaddleViT's flags, -nprocs and -o. One or two dashes."""
    parser = argparse.ArgumentParser(
        description='Trains, fine-tunes (-pretrained) or evaluates (-eval) a model.',
        allow_abbrev=False)

    def add(flag, help_text, **options):
        parser.add_argument(f'-{flag}', f'--{flag}', dest=flag, help=help_text, **options)

    add('cfg', 'yaml of the model and recipe, e.g. ./configs/vit_base_patch16_224.yaml',
        metavar='FILE')
    add('dataset', 'imagenet2012 | list', metavar='NAME')
    add('data_path', 'folder with train_list.txt and val_list.txt', metavar='FOLDER')
    add('output', 'folder under which the run makes its own', metavar='FOLDER')
    add('batch_size', 'images on one device in one step', type=int, metavar='N')
    add('batch_size_eval', 'the same for evaluation', type=int, metavar='N')
    add('image_size', 'pixels', type=int, metavar='N')
    add('accum_iter', 'micro-batches in one optimiser step', type=int, metavar='N')
    add('pretrained', 'weights to fine-tune or evaluate', metavar='FILE')
    add('resume', 'last.pdparams of a run to go on with', metavar='FILE')
    add('last_epoch', 'epochs that count as done', type=int, metavar='N')
    add('eval', 'evaluate and stop', action='store_true')
    add('amp', 'mixed precision, in training and evaluation', action='store_true')
    add('nprocs', 'processes on this machine: default every visible GPU, or 1 on a CPU',
        type=int, metavar='N')
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
    try:
        config = update_config(get_config(args.cfg), args)
        check_flags(config)
        launch(config, args.nprocs, build_model, get_dataset)
    except InputError as error:
        fail(error)


def fail(error):
    """Ends the process with one line on standard error."""
    where = f' (process {dist.rank()})' if dist.world_size() > 1 and dist.rank() else ''
    print(f'error{where}: {error}', file=sys.stderr, flush=True)
    sys.exit(1)


def check_flags(config):
    """What can be known to be wrong before any process starts."""
    model = config.MODEL
    if config.EVAL and not (model.PRETRAINED or model.RESUME):
        raise InputError('-eval: got no weights, expected -pretrained FILE; without weights the '
                         'accuracy would be that of random numbers')
    if config.EVAL and model.PRETRAINED and model.RESUME:
        raise InputError('-pretrained and -resume: got both, expected one to evaluate')
    for flag, file in (('pretrained', model.PRETRAINED), ('resume', model.RESUME)):
        if file and not os.path.isfile(file):
            raise InputError(f'-{flag}: no such file: {file}')


def pick_device(config):
    """'gpu' or 'cpu', by DEVICE and by what this Paddle and machine have."""
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if config.DEVICE == 'gpu' and not has_gpu:
        raise InputError('DEVICE: got gpu, but this machine or this Paddle has none')
    return 'gpu' if has_gpu and config.DEVICE != 'cpu' else 'cpu'


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
    if launched or nprocs == 1:
        folder = None
        if int(os.environ.get('PADDLE_TRAINER_ID', '0')) == 0:
            folder = make_run_folder(config)
        worker(config, device, folder, build_model, train_set, val_set)
        return
    folder = make_run_folder(config)
    options = {'backend': 'gloo'} if device == 'cpu' else {}
    try:
        paddle_dist.spawn(spawned_worker, nprocs=nprocs, **options,
                          args=(config, device, folder, build_model, train_set, val_set))
    except Exception as error:
        if 'terminated with exit code 1' in str(error):  # the process has said why
            sys.exit(1)
        raise


def spawned_worker(*args):
    try:
        worker(*args)
    except InputError as error:
        fail(error)


def make_run_folder(config):
    """A new folder SAVE/NAME-train-YYYYmmdd-HHMMSS with the run's config; never one that exists."""
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


def plain_config(node):
    """A config as dicts and lists."""
    return {key: plain_config(value) if isinstance(value, dict) else value
            for key, value in node.items()}


def worker(config, device, folder, build_model, train_set, val_set):
    """One rank of the run; `folder` is the run's (rank 0) or None."""
    # STEP 1: process group and log
    paddle.set_device(device)
    if device == 'cpu':
        # On a CPU Paddle's strided views make a transpose some 30 times slower than a copy; a
        # small ViT's training step takes 0.7 of the time without them.
        paddle.set_flags({'FLAGS_use_stride_kernel': False})
    if int(os.environ.get('PADDLE_TRAINERS_NUM', '1')) > 1:
        paddle_dist.init_parallel_env()
    log = RunLog(folder, active=dist.is_master())
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
    val_loader = get_dataloader(config, val_set, is_train=False)
    if config.EVAL:
        if config.MODEL.RESUME:
            resume(config.MODEL.RESUME, model, None, None)
            log.info(f'weights: {config.MODEL.RESUME} loaded')
        model, _ = precision.decorate(model)
        result = run_evaluation(model, val_loader, normalize, precision, log, 0)
        finish(log, folder, result, 'evaluation')
        return

    # STEP 4: optimiser and schedule
    train_loader = get_dataloader(config, train_set, is_train=True)
    sampler = train_loader.batch_sampler
    schedule = build_schedule(config.TRAIN, sampler.steps_per_epoch, sampler.global_batch)
    optimizer = build_optimizer(config.TRAIN, model)
    model, optimizer = precision.decorate(model, optimizer)
    describe_training(log, config, model, sampler, schedule)
    start, best = config.TRAIN.LAST_EPOCH, None
    if config.MODEL.RESUME:
        facts = resume(config.MODEL.RESUME, model, optimizer, precision.scaler)
        start, best = facts['epoch'], facts['best']
        if folder is not None:
            best = inherit_best(config.MODEL.RESUME, folder, best)
        log.info(f'resume: {config.MODEL.RESUME}, after epoch {start}')
    if start >= schedule.num_epochs:
        raise InputError(f'nothing to train: {start} of {schedule.num_epochs} epochs are done')

    # STEP 5: train
    train(config, dist.data_parallel(model), optimizer, schedule, precision, train_loader,
          val_loader, normalize, log, folder, start, best)


def inherit_best(checkpoint, folder, best):
    """Copies the best weights of the run that is gone on with into this run's folder.

    Returns `best`, or None if its weights are not there: then the next evaluation is the best.
    """
    source = os.path.join(os.path.dirname(checkpoint), 'best.pdparams')
    if best is None or not os.path.isfile(source):
        return None
    if load_pickle(source).get('epoch') != best.get('epoch'):
        return None
    with replace_atomically(os.path.join(folder, 'best.pdparams')) as temporary:
        shutil.copyfile(source, temporary)
    return best


def train(config, model, optimizer, schedule, precision, train_loader, val_loader, normalize,
          log, folder, start, best):
    """The epochs of a run, with evaluation, checkpoints and the log.

    Args:
        start: epochs that are done.
        best: result of the best evaluation so far, or None.
    """
    bare_model, sampler = dist.unwrap(model), train_loader.batch_sampler
    criterion = LabelSmoothingCrossEntropy(config.TRAIN.LABEL_SMOOTHING)
    epochs = schedule.num_epochs
    with log.progress((epochs - start) * sampler.steps_per_epoch, 'train') as bar:

        def report(figures):
            share = figures['epoch'] - 1 + figures['step'] / sampler.steps_per_epoch
            log.metric('train', epoch_share=share, **figures)
            bar.set_postfix(loss=f'{figures["loss"]:.3f}')
            log.info(f'epoch {figures["epoch"]}/{epochs} step {figures["step"]}'
                     f'/{sampler.steps_per_epoch}  loss {figures["loss"]:.4f}  '
                     f'acc@1 {figures["acc1"]:.2%}  lr {figures["lr"]:.3e}  '
                     f'{figures["images_per_s"]:.0f} img/s  data {figures["data_share"]:.0%}')

        for epoch in range(start + 1, epochs + 1):
            bar.set_description(f'epoch {epoch}/{epochs}')
            sampler.set_epoch(epoch)
            train_one_epoch(
                model, device_batches(train_loader, normalize), criterion, optimizer, schedule,
                precision, epoch=epoch, steps_per_epoch=sampler.steps_per_epoch,
                accum_iter=config.TRAIN.ACCUM_ITER, grad_clip=config.TRAIN.GRAD_CLIP,
                seed=config.SEED, report_freq=config.REPORT_FREQ,
                on_step=lambda step: bar.update(), on_report=report)
            last = epoch == epochs
            if epoch % config.VALIDATE_FREQ == 0 or last:
                result = run_evaluation(bare_model, val_loader, normalize, precision, log, epoch)
                if best is None or result['acc1'] > best['acc1']:
                    best = result
                    save(folder, 'best.pdparams', save_weights, bare_model, config, epoch, best)
            if epoch % config.SAVE_FREQ == 0 or last:
                save(folder, 'last.pdparams', save_checkpoint, bare_model, config, epoch, best,
                     optimizer=optimizer, scaler=precision.scaler)
            log.draw_curves(force=last)
    finish(log, folder, best, f'best, epoch {best["epoch"]}')


def save(folder, name, writer, model, config, epoch, best, **state):
    """Writes a checkpoint on rank 0."""
    if folder is not None and dist.is_master():
        facts = {'epoch': epoch, 'best': best, 'seed': config.SEED, 'config': plain_config(config)}
        writer(os.path.join(folder, name), model, facts=facts, **state)


def run_evaluation(model, loader, normalize, precision, log, epoch):
    """One evaluation with its line in the log; the result has the epoch in it."""
    start = time.perf_counter()
    with log.progress(len(loader), 'evaluate') as bar:
        result = evaluate(model, device_batches(loader, normalize), precision, bar.update)
    result = {'epoch': epoch, **result}
    log.metric('eval', **result)
    log.info(f'evaluation{f" after epoch {epoch}" if epoch else ""}: {figures_of(result)}, '
             f'{time.perf_counter() - start:.1f} s')
    return result


def figures_of(result):
    return (f'acc@1 {result["acc1"]:.2%}  acc@5 {result["acc5"]:.2%}  loss {result["loss"]:.4f}  '
            f'on {result["seen"]} images')


def finish(log, folder, result, what):
    """The last line of a run, and the same as json."""
    if folder is not None and dist.is_master():
        with open(os.path.join(folder, 'result.json'), 'w') as stream:
            json.dump(result, stream, indent=1)
        log.info(f'written to {folder}')
    log.info(f'{what}: {figures_of(result)}')
    log.close()


def describe(log, config, model, precision, device, folder):
    """What runs, on what, in which precision, on which preprocessing."""
    data, count = config.DATA, count_parameters(model)
    log.info(f'{config.MODEL.NAME}: {count:,} parameters, {config.MODEL.NUM_CLASSES} classes; '
             f'output in {folder}')
    log.info(f'device: {dist.world_size()} x {device}, precision {precision}, '
             f'Paddle {paddle.__version__}')
    log.info(f'evaluation images: {data.IMAGE_SIZE} px, crop {data.CROP_PCT}, '
             f'{data.INTERPOLATION}, mean {data.IMAGENET_MEAN}, std {data.IMAGENET_STD}')


def describe_training(log, config, model, sampler, schedule):
    """The arithmetic of batch, steps and learning rate."""
    train = config.TRAIN
    log.info(f'batch: {sampler.batch_size} x {sampler.world_size} processes x '
             f'{sampler.accum_iter} accumulated = {sampler.global_batch}; {sampler.num_samples} '
             f'images make {sampler.steps_per_epoch} steps an epoch, {schedule.num_steps} in all')
    scaled = f'BASE_LR {train.BASE_LR:g}'
    if train.LR_BASE_BATCH:
        scaled += f' x {sampler.global_batch} / {train.LR_BASE_BATCH}'
    log.info(f'lr: {scaled} = {schedule.base_lr:g}, {train.LR_SCHEDULER.NAME} by '
             f'{train.LR_SCHEDULER.UNIT}, warm-up {train.WARMUP_EPOCHS:g} epochs from '
             f'{train.WARMUP_START_LR:g}, end {train.END_LR:g}')
    decayed = decayed_parameters(model, train.OPTIMIZER.DECAY)
    log.info(f'{train.OPTIMIZER.NAME}: weight decay {train.WEIGHT_DECAY:g} on {len(decayed)} of '
             f'{len(trainable_parameters(model))} parameters, clip {train.GRAD_CLIP}')
