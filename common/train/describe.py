"""The first lines of a run's log: what runs, on what, and the arithmetic of batch and rate."""
import os

import paddle

from common.config import origin_of
from common.core import dist
from common.core.cores import core_count, free_cores
from common.core.devices import driver_version, gpus_looked_for
from common.core.native import Kernels
from common.layers.fast.kernels import has_kernels
from common.layers.macs import count_parameters
from common.train.optim import decayed_parameters, trainable_parameters
from common.train.sharding import ShardedOptimizer
from common.zoo import FINETUNE, is_of_the_zoo

# How much of a moving average may still be the first weights at the end of a run, before a warning
# says so.
MAX_FIRST_WEIGHTS = 0.1
# training images from which on a recipe for ImageNet, which has 1.28 million, is taken for meant
FEW_IMAGES = 100_000
# steps below which a fine-tuning is too short for a new classifier, and how many are enough; see
# the faces in docs/finetune.md
FEW_STEPS, ENOUGH_STEPS = 100, 200


def recipe_lines(config, train_set):
    """A line for a fine-tuning on few images by a recipe for ImageNet; else none.

    Args:
        config: the run's config.
        train_set: ImageDataset, or None in an evaluation.
    """
    if train_set is None or not config.MODEL.PRETRAINED or len(train_set) >= FEW_IMAGES:
        return []
    file = (origin_of(config, 'TRAIN.BASE_LR') or '').rpartition(':')[0]
    name = os.path.basename(file)
    if not is_of_the_zoo(file) or not name.startswith('_') or name == f'_{FINETUNE}.yaml':
        return []
    return [f'recipe: {name}, which is for training on ImageNet; -recipe {FINETUNE} is the one '
            f'for fine-tuning on few images']


def describe(log, config, model, precision, device, folder):
    """Says what runs, on what, in which precision, and on which preprocessing."""
    data, count = config.DATA, count_parameters(model)
    log.info(f'{config.MODEL.NAME}: {count:,} parameters, {config.MODEL.NUM_CLASSES} classes; '
             f'output in {folder}')
    log.info(f'device: {dist.world_size()} x {device}, precision {precision}, '
             f'Paddle {paddle.__version__}')
    if device == 'cpu':
        log.info(f'cores: {core_count()} for each process, of {free_cores()} that are free')
        log.info('compiled kernels: ' + ('yes' if has_kernels() else
                 f'no, {Kernels.missing or "Fast.plain"}; training takes some 1.1 times as long'))
    if device == 'cpu' and config.DEVICE != 'cpu':
        warn_of_gpus(log)
    log.info(f'evaluation images: {data.IMAGE_SIZE} px, crop {data.CROP_PCT}, '
             f'{data.INTERPOLATION}, mean {data.IMAGENET_MEAN}, std {data.IMAGENET_STD}')


def warn_of_gpus(log):
    """Warns of a run on the CPU where Paddle, or the machine, is one for GPUs."""
    for_gpus = paddle.is_compiled_with_cuda()
    if for_gpus or driver_version() is not None:
        what = 'this Paddle is built for GPUs and found none' if for_gpus else \
            'this machine has a GPU driver, and this Paddle is one for CPUs'
        log.warning(f'{what}: THE RUN IS ON THE CPU, many times slower')
        log.warning(f'  {gpus_looked_for()}; nvidia-smi shows what there is')
        log.warning('  -o DEVICE=gpu stops instead, -o DEVICE=cpu says that it is meant; the '
                    'docs/install.md says which CUDA and cuDNN Paddle needs')


def describe_training(log, config, state, sampler):
    """Says how the batch, the steps and the learning rate come about.

    Args:
        log: RunLog.
        config: the run's config.
        state: TrainState of a model that is not yet a DataParallel.
        sampler: TrainSampler.
    """
    train, schedule = config.TRAIN, state.schedule
    log.info(f'batch: {sampler.batch_size} x {sampler.world_size} processes x '
             f'{sampler.accum_iter} accumulated = {sampler.global_batch}; {sampler.num_samples} '
             f'images make {sampler.steps_per_epoch} steps an epoch, {schedule.num_steps} in all')
    if config.MODEL.PRETRAINED and schedule.num_steps < FEW_STEPS:
        epochs = -(-ENOUGH_STEPS // sampler.steps_per_epoch)
        log.info(f'  so few steps are hardly enough for a new classifier; -o '
                 f'TRAIN.NUM_EPOCHS={epochs} makes {epochs * sampler.steps_per_epoch}')
    if sampler.picker:
        log.info(f'DATA.BALANCE {config.DATA.BALANCE:g}: '
                 f'{sampler.picker.describe(sampler.num_samples // sampler.repeats)}')
    scaled = f'BASE_LR {train.BASE_LR:g}'
    if train.LR_BASE_BATCH:
        scaled += f' x {sampler.global_batch} / {train.LR_BASE_BATCH}'
    log.info(f'lr: {scaled} = {schedule.base_lr:g}, {train.LR_SCHEDULER.NAME} by '
             f'{train.LR_SCHEDULER.UNIT}, warm-up {schedule.warmup} '
             f'{train.LR_SCHEDULER.UNIT}s from {train.WARMUP_START_LR:g}, end {train.END_LR:g}')
    decayed = decayed_parameters(state.model, train.OPTIMIZER.DECAY)
    log.info(f'{train.OPTIMIZER.NAME}: weight decay {train.WEIGHT_DECAY:g} on {len(decayed)} of '
             f'{len(trainable_parameters(state.model))} parameters, clip {train.GRAD_CLIP}')
    if train.SHARDING:
        log.info(f'TRAIN.SHARDING {train.SHARDING}: '
                 + describe_shares(state.optimizer, train.SHARDING))
    if state.ema:
        describe_ema(log, state.ema, schedule.num_steps, train.EMA.BEST)


def describe_shares(optimizer, stage):
    """Says what is split over the ranks, and how, by TRAIN.SHARDING."""
    if not isinstance(optimizer, ShardedOptimizer):
        return 'one process, which has all of the optimiser\'s states'
    more = {1: '', 2: '; gradients too', 3: '; gradients and the weights of the blocks too'}[stage]
    return (f'optimiser states of {min(optimizer.sizes):,} to {max(optimizer.sizes):,} weights on '
            f'each of {len(optimizer.sizes)} processes{more}')


def describe_ema(log, ema, num_steps, can_be_best=False):
    """Says how fast the moving average moves, and warns if that is too slow for the run.

    Args:
        log: RunLog.
        ema: Ema.
        num_steps: optimiser steps of the whole run.
        can_be_best: TRAIN.EMA.BEST.
    """
    at_first = ', less at first' if ema.warmup else ''
    log.info(f'moving average of the weights: decay {ema.decay:.10g} a step{at_first}')
    rest = 0.0 if ema.warmup else ema.decay ** num_steps
    if rest > MAX_FIRST_WEIGHTS:
        log.warning(f'{rest:.0%} of the average will still be the first weights at the end; '
                    f'-o TRAIN.EMA.DECAY=null, a smaller one, or -o TRAIN.EMA.WARMUP=True '
                    f'helps' + can_be_best * ('; as long as it is more than half of them, or worse '
                                              'than the model in an evaluation, best.pdparams has '
                                              'the model\'s weights'))
