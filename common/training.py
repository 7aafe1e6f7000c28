"""The epochs of a run: training, evaluation, checkpoints, and how a run ends."""
import contextlib
import json
import os
import time
from collections import deque

import paddle

from common import dist
from common.checkpoint import BEST, LAST, save_checkpoint, save_weights
from common.config import plain_config
from common.engine import average_statistics, evaluate, train_one_epoch
from common.errors import InputError
from common.loader import Batches, get_dataloader
from common.losses import build_loss
from common.processes import Stopped
from common.real_labels import read_real_labels


class Trainer:
    """Trains a model over the epochs of its schedule.

    Checkpoints are written after SAVE_STEPS steps, SAVE_MINUTES minutes and SAVE_FREQ epochs, and
    when a signal ends the run. Their position is the number of epochs that are done, with their
    evaluation, and of the steps that are done in the next one.

    Args:
        config: of the run.
        model: a Layer or its DataParallel.
        optimizer, schedule, precision, ema: see common/engine.py.
        batches: Batches of the training set.
        evaluation: Evaluation.
        keeper: Keeper.
        log: RunLog.
        signals: StopSignal.
    """

    def __init__(self, config, model, optimizer, schedule, precision, ema, batches, evaluation,
                 keeper, log, signals):
        self.config = config
        self.model, self.bare_model = model, dist.unwrap(model)
        self.optimizer, self.schedule = optimizer, schedule
        self.precision, self.ema = precision, ema
        self.batches, self.sampler = batches, batches.loader.batch_sampler
        self.evaluation, self.keeper, self.log = evaluation, keeper, log
        self.signals = signals
        self.criterion = build_loss(config.TRAIN)
        self.agree, self.meet = dist.Agreement(), dist.Meeting()
        self.recent = deque(maxlen=2)  # the samples of this step and of the one before it
        self.stop = self.due = False
        self.saved_at = time.monotonic()

    def run(self, position):
        """Trains to the end of the schedule.

        Args:
            position: what `resume` gave: epoch, step, sums, best, and the optimiser's state.
        """
        epochs, steps_per_epoch = self.schedule.num_epochs, self.sampler.steps_per_epoch
        self.epoch, self.step, self.best = position['epoch'], position['step'], position['best']
        self.resumed = position['optimizer']
        self.bad_images = position.get('bad_images', 0)  # replaced in the epochs that are done
        sums = position['sums'] if dist.is_master() else None
        first = self.epoch + 1
        if self.step >= self.schedule.steps_of(first):  # only its evaluation is missing
            self.sampler.set_epoch(first + 1, 0, epochs)
        else:
            self.sampler.set_epoch(first, self.step, epochs)
        batches = iter(self.batches)
        done = self.epoch * steps_per_epoch + self.step
        # closing ends the loader's workers, also when a signal or an error ends the run
        with contextlib.closing(batches), \
                self.log.progress(self.schedule.num_steps, 'train', done) as self.bar:
            for epoch in range(first, epochs + 1):
                self.bar.set_description(f'epoch {epoch}/{epochs}')
                self.train(epoch, batches, sums)
                self.finish_epoch(epoch)
                sums = None
        self.keeper.check()
        finish(self.log, self.keeper.folder, self.best, f'best, epoch {self.best["epoch"]}')

    def train(self, epoch, batches, sums):
        """What is left of an epoch's steps."""
        last_step = self.schedule.steps_of(epoch)
        if self.step >= last_step:
            return
        train = self.config.TRAIN
        train_one_epoch(
            self.model, batches, self.criterion, self.optimizer, self.schedule, self.precision,
            epoch=epoch, steps_per_epoch=self.sampler.steps_per_epoch, first_step=self.step,
            last_step=last_step, accum_iter=train.ACCUM_ITER, grad_clip=train.GRAD_CLIP,
            ema=self.ema, seed=self.config.SEED, report_freq=self.config.REPORT_FREQ,
            max_skipped=train.MAX_SKIPPED, sums=sums, on_update=self.after_update,
            on_step=self.after_step, on_report=self.report)
        average_statistics(self.bare_model, self.ema)
        self.bad_images += count_bad_images(self.batches, self.log, epoch)

    def after_update(self, step, sums):
        """All ranks agree on what follows from this step: an error, the end, a checkpoint."""
        self.recent.append((step, self.batches.take_indices()))
        due = dist.is_master() and self.is_due(step)
        broken, self.stop, self.due = self.agree(
            ~paddle.isfinite(sums[0]), self.signals.number is not None, due)
        if broken:
            self.stop_at_broken_loss(sums)

    def stop_at_broken_loss(self, sums):
        step, indices = self.recent[0 if self.agree.delayed else -1]
        where = f'epoch {self.epoch + 1}, step {step}: the training loss is not finite'
        if bool(paddle.isfinite(sums[0])):
            raise InputError(f'{where} in another process')
        names = [self.batches.name(index) for index in indices]
        raise InputError(
            f'{where}; its samples: {", ".join(names[:8])}{", ..." * (len(names) > 8)}. The last '
            f'checkpoint is from before. A lower TRAIN.BASE_LR, a TRAIN.GRAD_CLIP or '
            f'TRAIN.MAX_SKIPPED may help')

    def is_due(self, step):
        done = self.epoch * self.sampler.steps_per_epoch + step
        return bool(self.config.SAVE_STEPS and done % self.config.SAVE_STEPS == 0) \
            or time.monotonic() - self.saved_at > 60 * self.config.SAVE_MINUTES

    def after_step(self, step, sums):
        self.step, self.resumed = step, None
        self.bar.update()
        if self.stop or self.due:
            self.save(dist.all_reduce_sum(sums.clone()).tolist())
        if self.stop:
            self.end()

    def end(self):
        where = f'epoch {self.epoch + 1}, step {self.step}'
        self.log.info(f'stopped by a signal at {where}; -resume={self.keeper.folder} goes on')
        raise Stopped(self.signals.number)

    def save(self, sums):
        """A checkpoint of the present position; `sums` count for the next report on rank 0."""
        facts = {'epoch': self.epoch, 'step': self.step, 'sums': sums, 'best': self.best,
                 'bad_images': self.bad_images}
        self.keeper.save(LAST, save_checkpoint, self.bare_model, facts, ema=self.ema,
                         optimizer=self.optimizer, scaler=self.precision.scaler,
                         resumed=self.resumed)
        self.saved_at = time.monotonic()
        self.meet()

    def report(self, figures):
        steps_per_epoch = self.sampler.steps_per_epoch
        done = (figures['epoch'] - 1) * steps_per_epoch + figures['step']
        self.log.metric('train', at=done, epoch_share=done / steps_per_epoch, **figures)
        self.bar.set_postfix(loss=f'{figures["loss"]:.3f}')
        self.log.info(f'epoch {figures["epoch"]}/{self.schedule.num_epochs} '
                      f'step {figures["step"]}/{steps_per_epoch}  loss {figures["loss"]:.4f}  '
                      f'acc@1 {figures["acc1"]:.2%}  lr {figures["lr"]:.3e}  '
                      f'{figures["images_per_s"]:.0f} img/s  data {figures["data_share"]:.0%}')

    def finish_epoch(self, epoch):
        """Evaluation and checkpoint at the end of an epoch, if they are due."""
        config, last = self.config, epoch == self.schedule.num_epochs
        if epoch % config.VALIDATE_FREQ == 0 or last:
            try:
                self.evaluate(epoch)
            except Stopped:  # the epoch's evaluation is done again when the run goes on
                self.save([0.0, 0.0, 0.0])
                self.end()
        self.epoch, self.step = epoch, 0
        if epoch % config.SAVE_FREQ == 0 or last:
            self.save([0.0, 0.0, 0.0])
        self.log.draw_curves(force=last)
        self.meet()

    def evaluate(self, epoch):
        """Evaluates the model and its moving average; keeps the weights of the one that the key
        TRAIN.EMA.BEST names if they are the best so far."""
        with contextlib.ExitStack() as stack:
            result = self.evaluation.run(self.bare_model, epoch, signals=self.signals)
            if self.ema:
                stack.enter_context(self.ema.in_place())
                averaged = self.evaluation.run(self.bare_model, epoch, True, self.signals)
                if self.config.TRAIN.EMA.BEST:
                    result = averaged
                else:
                    stack.close()
            if self.best is None or result['acc1'] > self.best['acc1']:
                self.best = result
                self.keeper.save(BEST, save_weights, self.bare_model,
                                 {'epoch': epoch, 'best': result})
                self.log.metric('best', at=epoch, **result)


def count_bad_images(batches, log, epoch):
    """Says how many images were replaced in an epoch, and returns it.

    Raises:
        InputError: on all ranks together they were more than is allowed.
    """
    count = dist.all_reduce_sum(paddle.to_tensor(float(len(batches.bad)), 'float64'))
    count = int(count)
    if count:
        log.metric('bad_images', at=epoch, epoch=epoch, count=count)
        example = f'; one of them: {batches.bad[0]}' if batches.bad else ''
        log.warning(f'epoch {epoch}: {count} bad images were replaced by others{example}')
    if count > batches.max_bad:
        raise InputError(f'epoch {epoch}: got {count} bad images, expected at most '
                         f'DATA.MAX_BAD_IMAGES {batches.max_bad}')
    return count


class Keeper:
    """Writes a run's checkpoints, on rank 0.

    A checkpoint that cannot be written (disk full) is a warning, so that the run goes on to the
    next one; at the end of the run it is an error.
    """

    def __init__(self, folder, config, class_names, data, log):
        self.folder = folder
        self.log = log
        self.failed = {}
        self.facts = {'seed': config.SEED, 'config': plain_config(config),
                      'class_names': class_names, 'data': data}

    def save(self, name, writer, model, facts, **state):
        if self.folder is None or not dist.is_master():
            return
        facts = {**facts, **self.facts}
        try:
            writer(os.path.join(self.folder, name), model, facts=facts, **state)
            self.failed.pop(name, None)
        except OSError as error:
            self.failed[name] = f'cannot write {error.filename or name}: {error.strerror}'
            self.log.warning(f'{self.failed[name]}; the file before it is kept')

    def check(self):
        """Raises InputError if the last writing of a file failed."""
        for text in self.failed.values():
            raise InputError(text)


class Evaluation:
    """Evaluates models on the validation set, with lines in the log."""

    def __init__(self, config, dataset, normalize, precision, log):
        self.batches = Batches(get_dataloader(config, dataset, is_train=False), normalize)
        self.num_classes = config.MODEL.NUM_CLASSES
        self.precision = precision
        self.log = log
        self.real = read_real_labels(config.DATA.REAL_LABELS) if config.DATA.REAL_LABELS else None
        if self.real:  # before the first epoch, not after it
            self.real.check(map(dataset.images.name, range(len(dataset))), self.num_classes)

    def run(self, model, epoch, averaged=False, signals=None):
        """One pass; the result has the epoch in it. A signal raises Stopped."""
        start = time.perf_counter()
        with self.log.progress(len(self.batches.loader), 'evaluate') as bar:

            def progress():
                bar.update()
                if signals and signals.number is not None:
                    raise Stopped(signals.number)

            result = evaluate(model, self.batches, self.precision, progress,
                              self.real_mask if self.real else None)
        result = {'epoch': epoch, **result}
        self.log.metric('eval_ema' if averaged else 'eval', at=epoch, **result)
        what = 'averaged weights' if averaged else 'evaluation'
        self.log.info(f'{what}{f" after epoch {epoch}" if epoch else ""}: {figures_of(result)}, '
                      f'{time.perf_counter() - start:.1f} s')
        return result

    def real_mask(self):
        names = [self.batches.name(index) for index in self.batches.indices]
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
