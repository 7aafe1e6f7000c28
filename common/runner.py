"""Starts a run: command line, processes, and the steps from config to checkpoint.

The same script runs on a CPU (one process, or several with -nprocs over gloo), on every GPU that
CUDA_VISIBLE_DEVICES names, and under `python -m paddle.distributed.launch` on several machines.
"""
import argparse
import contextlib
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
from common.ema import build_ema
from common.engine import average_statistics, evaluate, train_one_epoch
from common.errors import InputError
from common.layers import recompute_cells
from common.loader import Batches, Normalize, get_dataloader
from common.log import RunLog
from common.losses import build_loss
from common.macs import count_parameters
from common.optim import build_optimizer, decayed_parameters, trainable_parameters
from common.precision import Precision
from common.real_labels import read_real_labels
from common.safe_load import load_pickle
from common.schedule import build_schedule
from common.subset import Subset
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
    evaluation = Evaluation(config, val_set, normalize, precision, log)
    if config.EVAL:
        if config.MODEL.RESUME:
            resume(config.MODEL.RESUME, model, None, None)
            log.info(f'weights: {config.MODEL.RESUME} loaded')
        model, _ = precision.decorate(model)
        result = evaluation.run(model, 0)
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
    ema = build_ema(config, model, sampler.global_batch)
    describe_training(log, config, model, sampler, schedule, ema)
    start, best = config.TRAIN.LAST_EPOCH, None
    if config.MODEL.RESUME:
        facts = resume(config.MODEL.RESUME, model, optimizer, precision.scaler, ema)
        start, best = facts['epoch'], facts['best']
        if folder is not None:
            best = inherit_best(config.MODEL.RESUME, folder, best)
        log.info(f'resume: {config.MODEL.RESUME}, after epoch {start}')
    if start >= schedule.num_epochs:
        raise InputError(f'nothing to train: {start} of {schedule.num_epochs} epochs are done')

    # STEP 5: train
    if folder is not None and isinstance(train_set.images, Subset):
        write_names(os.path.join(folder, 'train_subset.txt'), train_set.images, log)
    batches = Batches(train_loader, normalize, train_set.erasing, config.SEED,
                      config.DATA.MAX_BAD_IMAGES)
    keeper = Keeper(folder, config, train_set.class_names)
    train(config, dist.data_parallel(model), optimizer, schedule, precision, ema, batches,
          evaluation, keeper, log, start, best)


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


def train(config, model, optimizer, schedule, precision, ema, batches, evaluation, keeper, log,
          start, best):
    """The epochs of a run, with evaluation, checkpoints and the log.

    Args:
        ema: moving average of the weights, or None.
        start: epochs that are done.
        best: result of the best evaluation so far, or None.
    """
    bare_model, sampler = dist.unwrap(model), batches.loader.batch_sampler
    criterion = build_loss(config.TRAIN)
    epochs = schedule.num_epochs
    with log.progress(schedule.num_steps - start * sampler.steps_per_epoch, 'train') as bar:

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
                model, batches, criterion, optimizer, schedule, precision, epoch=epoch,
                steps_per_epoch=sampler.steps_per_epoch,
                last_step=schedule.steps_of(epoch), accum_iter=config.TRAIN.ACCUM_ITER,
                grad_clip=config.TRAIN.GRAD_CLIP, ema=ema, seed=config.SEED,
                report_freq=config.REPORT_FREQ, on_step=lambda step: bar.update(),
                on_report=report)
            average_statistics(bare_model, ema)
            count_bad_images(batches, log, epoch)
            last = epoch == epochs
            if epoch % config.VALIDATE_FREQ == 0 or last:
                best = evaluate_and_keep(config, bare_model, ema, evaluation, keeper, epoch, best)
            if epoch % config.SAVE_FREQ == 0 or last:
                keeper.save('last.pdparams', save_checkpoint, bare_model, epoch, best,
                            optimizer=optimizer, scaler=precision.scaler, ema=ema)
            log.draw_curves(force=last)
    finish(log, keeper.folder, best, f'best, epoch {best["epoch"]}')


def count_bad_images(batches, log, epoch):
    """Says how many images were replaced in an epoch.

    Raises:
        InputError: on all ranks together they were more than is allowed.
    """
    count = dist.all_reduce_sum(paddle.to_tensor(float(len(batches.bad)), 'float64'))
    count = int(count)
    if count:
        log.metric('bad_images', epoch=epoch, count=count)
        log.warning(f'epoch {epoch}: {count} bad images were replaced by others; on this rank, '
                    f'e.g., {batches.bad[:1]}')
    if count > batches.max_bad:
        raise InputError(f'epoch {epoch}: got {count} bad images, expected at most '
                         f'DATA.MAX_BAD_IMAGES {batches.max_bad}')


def evaluate_and_keep(config, model, ema, evaluation, keeper, epoch, best):
    """Evaluates the model and its moving average; keeps the weights of the one that the key
    TRAIN.EMA.BEST names if they are the best so far. Returns the best result."""
    with contextlib.ExitStack() as stack:
        result = evaluation.run(model, epoch)
        if ema:
            stack.enter_context(ema.in_place())
            averaged = evaluation.run(model, epoch, averaged=True)
            if config.TRAIN.EMA.BEST:
                result = averaged
            else:
                stack.close()
        if best is None or result['acc1'] > best['acc1']:
            best = result
            keeper.save('best.pdparams', save_weights, model, epoch, best)
    return best


def write_names(file, images, log):
    """The images of a part of the training set and their labels, one a line, on rank 0."""
    if dist.is_master():
        with open(file, 'w') as stream:
            stream.writelines(f'{images.name(index)} {label}\n'
                              for index, label in enumerate(images.labels))
    log.info(f'{len(images)} training images, listed in {file}')


class Keeper:
    """Writes a run's checkpoints, on rank 0."""

    def __init__(self, folder, config, class_names):
        self.folder = folder
        self.facts = {'seed': config.SEED, 'config': plain_config(config),
                      'class_names': class_names}

    def save(self, name, writer, model, epoch, best, **state):
        if self.folder is not None and dist.is_master():
            writer(os.path.join(self.folder, name), model,
                   facts={'epoch': epoch, 'best': best, **self.facts}, **state)


class Evaluation:
    """Evaluates models on the validation set, with lines in the log."""

    def __init__(self, config, dataset, normalize, precision, log):
        self.batches = Batches(get_dataloader(config, dataset, is_train=False), normalize)
        self.images = dataset.images
        self.num_classes = config.MODEL.NUM_CLASSES
        self.precision = precision
        self.log = log
        self.real = read_real_labels(config.DATA.REAL_LABELS) if config.DATA.REAL_LABELS else None

    def run(self, model, epoch, averaged=False):
        """One pass; the result has the epoch in it."""
        start = time.perf_counter()
        with self.log.progress(len(self.batches.loader), 'evaluate') as bar:
            result = evaluate(model, self.batches, self.precision, bar.update,
                              self.real_mask if self.real else None)
        result = {'epoch': epoch, **result}
        self.log.metric('eval_ema' if averaged else 'eval', **result)
        what = 'averaged weights' if averaged else 'evaluation'
        self.log.info(f'{what}{f" after epoch {epoch}" if epoch else ""}: {figures_of(result)}, '
                      f'{time.perf_counter() - start:.1f} s')
        return result

    def real_mask(self):
        names = [self.images.name(index) for index in self.batches.indices]
        return self.real.mask(names, self.num_classes)


def figures_of(result):
    text = (f'acc@1 {result["acc1"]:.2%}  acc@5 {result["acc5"]:.2%}  loss {result["loss"]:.4f}  '
            f'on {result["seen"]} images')
    if 'real_acc1' in result:
        text += f', ReaL acc@1 {result["real_acc1"]:.2%} on {result["real_seen"]}'
    return text


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
        log.info(f'moving average of the weights: decay {ema.decay:.10g} a step')
        rest = 0.0 if ema.warmup else ema.decay ** schedule.num_steps
        if rest > 0.1:
            log.warning(f'{rest:.0%} of the average will still be the first weights at the end; '
                        f'-o TRAIN.EMA.DECAY=null, a smaller one, or -o TRAIN.EMA.WARMUP=True '
                        f'helps')
