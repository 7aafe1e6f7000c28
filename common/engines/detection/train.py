"""Trains a detector: steps, evaluations, checkpoints, and how a run ends and goes on.

PaddleDetection's own Trainer is not used: what it draws at random is not kept, so that a resumed
run has other losses; its checkpoints can be left half written, and are read by unpickling. Here
every draw is a function of the seed, the epoch and the step (core/randomness.py), and a run may
stop at any step.
"""
import contextlib
import json
import os
import time

import paddle

from common.config import plain_config
from common.core import dist, processes
from common.core.errors import InputError, first_few
from common.core.randomness import seed_step
from common.core.signals import Stopped
from common.data.samplers import TrainSampler
from common.engines.detection.config import FREE
from common.engines.detection.data import load_batches, open_images, to_tensors
from common.engines.detection.evaluate import (
    evaluate_results,
    result_text,
    to_results,
    write_results,
)
from common.engines.detection.optim import StepSchedule, build_optimizer
from common.engines.detection.predict import predict_images
from common.engines.detection.weights import build_for_tests, build_for_training
from common.engines.device import set_up
from common.engines.recipes import changed_keys
from common.layers.macs import count_parameters
from common.train.checkpoint import resume, save_checkpoint, save_weights
from common.train.describe import warn_of_gpus
from common.train.engine import average_statistics, update
from common.train.evaluation import flags_of, signal_of
from common.train.log import RunLog
from common.train.precision import Precision
from common.train.run_folder import discard, make_run_folder, sweep_temporary, write_result
from common.train.saver import CheckpointSaver
from common.weights.load import BEST, LAST


def train(config, signals):
    """Trains the detector of a config, or goes on with the run that its MODEL.RESUME names.

    Args:
        config: of read_config.
        signals: StopSignal.

    Returns:
        {'box': {'AP': ...}, 'mask': ...} of the last evaluation.

    Raises:
        InputError: whatever is wrong with the config, the data or the weights; no folder is left
            then.
        Stopped: a signal has come; the run can go on.
    """
    device = set_up(config)
    train_set, val_set = (open_images(config, is_train) for is_train in (True, False))
    check_same_classes(train_set, val_set)
    resumed = config.MODEL.RESUME
    folder = resumed if resumed and os.path.isdir(resumed) else None
    if dist.is_master():
        folder = folder or make_run_folder(config)
        sweep_temporary(folder)
    folder = dist.from_master('folder', folder)
    try:
        with processes.lock(folder) if dist.is_master() else contextlib.nullcontext():
            trainer = Trainer(config, device, train_set, val_set, folder, signals)
            trainer.start()
            with signals.noted():
                return trainer.run()
    except (InputError, Stopped):
        if dist.is_master():
            discard(folder)
        raise


def check_same_classes(train_set, val_set):
    """Raises InputError if the two files have other categories."""
    before, now = (images.annotations.class_names for images in (train_set, val_set))
    if before != now:
        raise InputError(f'{val_set.annotations.file}: got the categories {first_few(now)}, '
                         f'expected those of {train_set.annotations.file}: {first_few(before)}')


class Trainer:
    """One process of a training.

    Args:
        config: of read_config.
        device: 'cpu' or 'gpu'.
        train_set, val_set: CocoImages.
        folder: the run's.
        signals: StopSignal.

    Attributes:
        epoch, step: how many epochs are done, and how many steps of the next one.
        sums: float64 tensor [2]: the losses since the last line of the log, and how many.
    """

    def __init__(self, config, device, train_set, val_set, folder, signals):
        self.config, self.device, self.folder, self.signals = config, device, folder, signals
        self.train_set, self.val_set = train_set, val_set
        self.sampler = TrainSampler(len(train_set), config.DATA.BATCH_SIZE, 1, config.SEED,
                                    dist.rank(), dist.world_size())
        self.schedule = StepSchedule(config.TRAIN, self.sampler.steps_per_epoch,
                                     self.sampler.global_batch)
        self.detector, self.notes = build_for_training(config)
        if device == 'gpu' and dist.world_size() > 1:  # the box heads of a cascade
            paddle.nn.SyncBatchNorm.convert_sync_batchnorm(self.detector.engine.bbox_head)
        self.precision = Precision(config.AMP, config.AMP_DTYPE, 'O1', device)
        self.detector.use_precision(self.precision if self.precision.enabled else None)
        self.optimizer = build_optimizer(config.TRAIN, self.detector)
        self.parameters = [p for p in self.detector.parameters() if not p.stop_gradient]
        self.any_rank, self.barrier = dist.AnyReduce(), dist.Barrier('detection')
        self.epoch = self.step = 0
        self.best, self.result, self.resumed = None, None, None
        self.reset_sums()

    def start(self):
        """Reads the checkpoint of a run that goes on, and writes the first lines of the log."""
        config, annotations = self.config, self.train_set.annotations
        self.metadata = {'seed': config.SEED, 'config': plain_config(config),
                         'class_names': annotations.class_names,
                         'categories': sorted(annotations.class_of),
                         'data': {'images': len(self.train_set), 'sha256': annotations.sha256}}
        start = None
        if config.MODEL.RESUME:
            start = resume(config.MODEL.RESUME, self.detector.engine, self.optimizer,
                           self.precision.scaler, check=self.check_same_run)
            self.epoch, self.step = start['epoch'], start['step']
            self.best, self.resumed = start.get('best_detection'), start['optimizer']
            if dist.is_master():
                self.sums = paddle.to_tensor([start['sums'][0], start['sums'][2]], 'float64')
            if self.epoch >= config.TRAIN.NUM_EPOCHS:
                raise InputError(f'{start["file"]}: nothing to train: {self.epoch} of '
                                 f'{config.TRAIN.NUM_EPOCHS} epochs are done')
        self.log = RunLog(self.folder, active=dist.is_master())
        self.saver = CheckpointSaver(self.folder, self.metadata, self.log)
        if start:
            self.log.cut(self.epoch, self.step)
            if start['note']:
                self.log.warning(start['note'])
            self.log.info(f'resume: {start["file"]}, after epoch {self.epoch} and {self.step} '
                          f'steps')
        self.describe()

    def check_same_run(self, content):
        """Raises InputError if a checkpoint is of a run with another recipe, batch or data."""
        changed = changed_keys(content['config'], self.metadata['config'], FREE).values()
        if changed:
            raise InputError(f'{self.config.MODEL.RESUME}: is a run of another recipe: '
                             f'{first_few(list(changed), 3)}; the same recipe goes on, and another '
                             f'one starts with -pretrained')
        if content.get('data') != self.metadata['data']:
            raise InputError(f'{self.config.MODEL.RESUME}: is a run on other images than '
                             f'{self.train_set.annotations.file}')

    def describe(self):
        """The first lines of the log: model, data, batch, learning rate."""
        config, log, sampler = self.config, self.log, self.sampler
        log.info(f'{config.MODEL.NAME}: {config.MODEL.DETECTOR}, {config.MODEL.BACKBONE}, '
                 f'{count_parameters(self.detector):,} parameters, {config.MODEL.NUM_CLASSES} '
                 f'classes; output in {self.folder}')
        log.info(f'device: {dist.world_size()} x {self.device}, precision {self.precision}, '
                 f'Paddle {paddle.__version__}')
        if self.device == 'cpu' and config.DEVICE != 'cpu':
            warn_of_gpus(log)
        for note in [*self.notes, *self.train_set.notes, *self.val_set.notes]:
            log.info(f'  {note}')
        log.info(f'batch: {sampler.batch_size} x {sampler.world_size} processes = '
                 f'{sampler.global_batch}; {len(self.train_set)} images make '
                 f'{sampler.steps_per_epoch} steps an epoch, '
                 f'{sampler.steps_per_epoch * config.TRAIN.NUM_EPOCHS} in all')
        train, base = config.TRAIN, self.schedule.base_lr
        log.info(f'lr: {base:g}, x {train.LR_FACTOR:g} after the epochs '
                 f'{train.MILESTONES}, warm-up {train.WARMUP_STEPS} steps; weight decay '
                 f'{train.WEIGHT_DECAY:g}, clip {train.GRAD_CLIP}')
        if train.BATCH_OF_LR is not None:
            log.info(f'  {base:g} = BASE_LR {train.BASE_LR:g} x {sampler.global_batch} / '
                     f'{train.BATCH_OF_LR}')

    def run(self):
        """Trains to the last epoch. Returns the result of its evaluation."""
        epochs = self.config.TRAIN.NUM_EPOCHS
        if self.step >= self.sampler.steps_per_epoch:  # only the evaluation is missing
            self.end_epoch()
        while self.epoch < epochs:
            self.train_epoch()
            self.end_epoch()
        if dist.is_master():
            write_result(self.folder, {'epoch': self.epoch, **self.result})
        self.log.info(f'written to {self.folder}')
        self.saver.check(LAST)
        self.log.close()
        return self.result

    def train_epoch(self):
        """The steps of the next epoch that are left."""
        config, epoch = self.config, self.epoch + 1
        self.sampler.set_epoch(epoch, self.step)
        self.detector.train()
        batches = load_batches(self.train_set, self.sampler, config.DATA, config.DATA.THREADS)
        bar = self.log.progress(self.sampler.steps_per_epoch, f'epoch {epoch}', self.step)
        self.since = time.perf_counter()
        for batch in batches:
            seed_step(config.SEED, epoch, self.step, dist.rank())
            rate = self.schedule((epoch - 1) * self.sampler.steps_per_epoch + self.step)
            losses = self.train_step(to_tensors(batch), rate)
            self.step += 1
            self.add(losses)
            bar.update()
            if self.step % config.REPORT_FREQ == 0 or self.step == self.sampler.steps_per_epoch:
                self.report(epoch, rate)
            number = signal_of(self.any_rank(*flags_of(self.signals)))
            if number is not None:
                bar.close()
                self.save()
                self.log.info(f'stopped after epoch {self.epoch} and {self.step} steps; '
                              f'-resume {self.folder} goes on')
                self.log.close()
                raise Stopped(number)
            if config.TRAIN.SAVE_STEPS and self.step % config.TRAIN.SAVE_STEPS == 0 \
                    and self.step < self.sampler.steps_per_epoch:
                self.save()
        bar.close()

    def train_step(self, batch, rate):
        """One step of the optimiser. Returns the losses, {name: scalar tensor}."""
        self.optimizer.set_lr(rate)
        losses = self.detector.losses(batch)
        # so that all have a gradient: a box layer has none where an image has no object, and on
        # other ranks it may have one
        loss = losses['loss'].reshape([]) + sum((p * 0).sum() for p in self.parameters)
        scaler = self.precision.scaler
        (scaler.scale(loss) if scaler else loss).backward()
        dist.average([p.grad for p in self.parameters])
        update(self.optimizer, self.parameters, self.config.TRAIN.GRAD_CLIP, self.precision)
        return {name: value.detach() for name, value in losses.items()}

    def add(self, losses):
        """Counts the losses of a step."""
        self.sums += paddle.stack([losses['loss'].reshape([]).astype('float64'),
                                   paddle.ones([], 'float64')])
        for name, value in losses.items():
            if name != 'loss':
                self.parts[name] = self.parts.get(name, 0.0) + value.reshape([])
        self.seen += 1

    def reset_sums(self):
        self.sums, self.parts, self.seen = paddle.zeros([2], 'float64'), {}, 0
        self.since = time.perf_counter()

    def report(self, epoch, rate):
        """Writes the means since the last report. Raises InputError if the loss is not finite."""
        total, count = dist.all_reduce_sum(self.sums.clone()).tolist()
        loss = total / max(count, 1)
        if not loss < float('inf'):  # also False for NaN
            raise InputError(f'epoch {epoch}, step {self.step}: the training loss is {loss}; a '
                             f'lower TRAIN.BASE_LR or a TRAIN.GRAD_CLIP may help')
        parts = {name: value.item() / max(self.seen, 1) for name, value in self.parts.items()}
        speed = self.seen * self.sampler.global_batch / (time.perf_counter() - self.since)
        self.log.metric('train', (epoch - 1) * self.sampler.steps_per_epoch + self.step,
                        epoch=epoch, step=self.step, loss=loss, lr=rate, images_per_s=speed,
                        **parts)
        shown = ', '.join(f'{name.removeprefix("loss_")} {value:.3f}'
                          for name, value in parts.items())
        self.log.info(f'epoch {epoch}/{self.config.TRAIN.NUM_EPOCHS} step {self.step}/'
                      f'{self.sampler.steps_per_epoch}: loss {loss:.4f} ({shown}), lr {rate:.3g}, '
                      f'{speed:.3g} img/s')
        self.reset_sums()

    def end_epoch(self):
        """Evaluates, and writes the checkpoints of the epoch's end."""
        is_last = self.epoch + 1 == self.config.TRAIN.NUM_EPOCHS
        average_statistics(self.detector)
        if is_last or (self.epoch + 1) % self.config.TRAIN.EVAL_FREQ == 0:
            self.save()  # an evaluation takes minutes
            result = evaluate_detector(self.detector, self.val_set, self.config, self.signals,
                                       self.barrier, self.folder)
            self.epoch, self.step = self.epoch + 1, 0
            self.result = result
            self.log.info(f'evaluation after epoch {self.epoch}: {result_text(result)}')
            self.log.metric('eval', self.epoch, epoch=self.epoch, **flat(result))
            if self.best is None or result['box']['AP'] > self.best['box']['AP']:
                self.best = {'epoch': self.epoch, **result}
                self.saver.save(BEST, save_weights, self.detector.engine,
                                {'epoch': self.epoch, 'best_detection': self.best})
        else:
            self.epoch, self.step = self.epoch + 1, 0
        self.save()

    def save(self):
        """Writes last.pdparams."""
        total, count = dist.all_reduce_sum(self.sums.clone()).tolist()
        self.barrier()
        self.saver.save(LAST, save_checkpoint, self.detector.engine,
                        {'epoch': self.epoch, 'step': self.step, 'best': None,
                         'best_detection': self.best, 'sums': [total, 0.0, count]},
                        optimizer=self.optimizer, scaler=self.precision.scaler,
                        resumed=self.resumed)
        self.barrier()


def flat(result):
    """{'box_AP': ..., 'mask_AP': ...} of a result."""
    return {f'{kind}_{name}': value for kind, figures in result.items()
            for name, value in figures.items()}


def evaluate_detector(detector, images, config, signals, barrier, folder=None):
    """Predicts on all images, each on one rank, and evaluates.

    Args:
        detector: Detector.
        images: CocoImages.
        config: of read_config.
        signals: StopSignal.
        barrier: Barrier of the ranks.
        folder: where rank 0 writes bbox.json and segm.json, or None.

    Returns:
        What evaluate_results gives, on every rank.

    Raises:
        Stopped: a signal has come, on any rank.
    """
    keys = range(dist.rank(), len(images), dist.world_size())
    categories = sorted(images.annotations.class_of)
    found = {'bbox': [], 'segm': []}
    for image, prediction in predict_images(detector, images, keys, config.DATA,
                                            config.DATA.THREADS):
        for kind, results in to_results(image, prediction, categories).items():
            found[kind] += results
        if barrier.is_requested(signals.number is not None):
            break
    number = signal_of(barrier(*flags_of(signals)))
    if number is not None:
        raise Stopped(number)
    parts = [json.loads(text) for text in dist.gather_texts(json.dumps(found))]
    result = None
    if dist.is_master():
        found = {kind: [item for part in parts for item in part[kind]] for kind in found}
        if folder is not None:
            write_results(folder, found)
        result = evaluate_results(images.annotations.file, found)
    barrier()
    return json.loads(dist.gather_texts(json.dumps(result))[0])


def evaluate(config, signals, weights=None):
    """Evaluates the weights of MODEL.PRETRAINED; as `train`, with a folder of its own.

    weights: what the file holds, if it is read already.
    """
    device = set_up(config)
    images = open_images(config, is_train=False)
    detector, weights = build_for_tests(config, weights)
    check_class_names(weights, images, config)
    precision = Precision(config.AMP, config.AMP_DTYPE, 'O1', device)
    detector.use_precision(precision if precision.enabled else None)
    folder = dist.from_master('folder', make_run_folder(config) if dist.is_master() else None)
    log = RunLog(folder, active=dist.is_master())
    for note in images.notes:
        log.info(f'  {note}')
    with signals.noted():
        result = evaluate_detector(detector, images, config, signals, dist.Barrier('detection'),
                                   folder)
    if dist.is_master():
        write_result(folder, result)
    log.info(f'{len(images)} images: {result_text(result)}; written to {folder}')
    log.close()
    return result


def check_class_names(weights, images, config):
    """Raises InputError if weights are for other classes than the data have."""
    names = weights.metadata.get('class_names')
    if names and names != images.annotations.class_names:
        raise InputError(f'{config.MODEL.PRETRAINED}: is for the classes {first_few(names)}, got '
                         f'{first_few(images.annotations.class_names)} in '
                         f'{images.annotations.file}')
