"""A run in one process: from a config to trained or evaluated weights."""
import os
from functools import partial

import paddle
import paddle.distributed as paddle_dist

from common.config import plain_config
from common.core import dist, processes
from common.core.class_names import check_same, match_labels
from common.core.devices import gpus_looked_for
from common.core.errors import InputError
from common.core.signals import LAUNCHED, Stopped, held_back
from common.data.batches import Normalize, train_batches
from common.data.loader import build_loader
from common.data.subset import Subset
from common.layers.macs import count_parameters
from common.layers.recompute import recompute_cells
from common.train.checkpoint import resume
from common.train.ema import Ema, build_ema
from common.train.log import RunLog
from common.train.optim import build_optimizer, decayed_parameters, trainable_parameters
from common.train.precision import Precision
from common.train.run_folder import (
    check_same_run,
    discard,
    facts_of_data,
    go_on,
    has_result,
    own_folder,
    remove_result,
    with_resume,
    write_text,
)
from common.train.schedule import build_schedule
from common.train.trainer import Evaluation, Keeper, Trainer, finish
from common.weights.load import load_pretrained, read_weights
from common.zoo import known_as


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
                            class_names=getattr(train_set, 'class_names', None), known_as=known_as)
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
    train_loader = build_loader(config, train_set, is_train=True)
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
    batches = train_batches(config, train_loader)
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
