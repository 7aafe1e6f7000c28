"""The epochs of a run: training, evaluation, checkpoints, and how a run ends."""
import contextlib
import os
import time
from collections import deque

import paddle

from common.core import dist
from common.core.errors import InputError, RunError
from common.core.signals import STOP_SIGNALS, Stopped
from common.data.batches import Batches
from common.data.loader import build_loader
from common.data.real_labels import read_real_labels
from common.train.checkpoint import BEST, LAST, PREVIOUS, save_checkpoint, save_weights
from common.train.engine import average_statistics, evaluate, train_one_epoch
from common.train.losses import build_loss
from common.train.run_folder import write_result


class Trainer:
    """Trains a model over the epochs of its schedule.

    Checkpoints are written after SAVE_STEPS steps, SAVE_MINUTES minutes and SAVE_FREQ epochs, and
    when a signal ends the run. Their position is the number of epochs that are done, with their
    evaluation, and of the steps that are done in the next one.

    Args:
        config: of the run.
        model: a Layer or its DataParallel.
        optimizer, schedule, precision, ema: see common/train/engine.py.
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
        self.agree, self.meet = dist.Agreement(), dist.Meeting('training')
        self.recent = deque(maxlen=2)  # the samples of this step and of the one before it
        self.stop, self.due = None, False  # the signal that all ranks stop by
        self.saved_at = time.monotonic()

    def run(self, position):
        """Trains to the end of the schedule.

        Args:
            position: what `resume` gave: epoch, step, sums, best, unsaved, and the optimiser's
                state.
        """
        epochs, steps_per_epoch = self.schedule.num_epochs, self.sampler.steps_per_epoch
        self.epoch, self.step = position['epoch'], position['step']
        # The evaluation whose weights best.pdparams holds, and a better one whose weights could
        # not be written, or None.
        self.best, self.unsaved = position['best'], position.get('unsaved')
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
            self.rescue_best()
            for epoch in range(first, epochs + 1):
                self.bar.set_description(f'epoch {epoch}/{epochs}')
                self.train(epoch, batches, sums)
                self.finish_epoch(epoch)
                sums = None
        self.end_run()

    def end_run(self):
        """What follows the last epoch's checkpoint; it is done again if the run was killed here."""
        if any(self.meet(self.best is None and self.unsaved is None)):
            self.evaluate(self.epoch)  # this epoch was not to be the last one when it ended
        self.log.draw_curves(force=True)
        self.keeper.check(LAST)
        if self.unsaved and self.unsaved['epoch'] == self.epoch:
            self.keep_best(self.unsaved)  # once more; the weights are in the checkpoint too
            self.keeper.check(BEST)
        best = self.best or self.unsaved
        finish(self.log, self.keeper.folder, best, f'best, epoch {best["epoch"]}')
        if self.unsaved and dist.is_master():
            raise InputError(f'{BEST}: got {place_of(self.best)}, expected the best evaluation\'s, '
                             f'{place_of(self.unsaved)}; they could not be written')

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
        self.recent.append((step, self.batches.recent_indices()))
        due = dist.is_master() and self.is_due(step)
        broken, self.due, *stops = self.agree(~paddle.isfinite(sums[0]), due,
                                              *flags_of(self.signals))
        self.stop = signal_of(stops)
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
            self.end(self.stop)

    def end(self, number):
        """Ends the run after the checkpoint that a signal has asked for, on all ranks."""
        where = f'epoch {self.epoch + 1}, step {self.step}'
        if self.unwritten:
            raise RunError(f'stopped by a signal at {where}, but the checkpoint could not be '
                           f'written{self.keeper.what_is_left()}')
        self.log.info(f'stopped by a signal at {where}; -resume={self.keeper.folder} goes on')
        raise Stopped(number)

    def save(self, sums):
        """A checkpoint of the present position; `sums` count for the next report on rank 0."""
        facts = {'epoch': self.epoch, 'step': self.step, 'sums': sums, 'best': self.best,
                 'unsaved': self.unsaved, 'bad_images': self.bad_images}
        self.keeper.save(LAST, save_checkpoint, self.bare_model, facts, ema=self.ema,
                         optimizer=self.optimizer, scaler=self.precision.scaler,
                         resumed=self.resumed)
        self.saved_at = time.monotonic()
        self.unwritten, = self.meet(LAST in self.keeper.failed)

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
            except Stopped as stopped:  # the epoch's evaluation is done again when the run goes on
                self.save([0.0, 0.0, 0.0])
                self.end(stopped.number)
        self.epoch, self.step = epoch, 0
        if epoch % config.SAVE_FREQ == 0 or last:
            self.save([0.0, 0.0, 0.0])
        self.log.draw_curves()
        self.meet()

    def evaluate(self, epoch):
        """Evaluates the model and its moving average; keeps the weights of the one that the key
        TRAIN.EMA.BEST names if they are the best so far."""
        result = self.evaluation.run(self.bare_model, epoch)
        if self.ema:
            with self.ema.in_place():
                averaged = self.evaluation.run(self.bare_model, epoch, averaged=True)
            if self.config.TRAIN.EMA.BEST:
                result = averaged
        if self.best is None or result['acc1'] > self.best['acc1']:
            self.keep_best(result)

    def keep_best(self, result):
        """Writes the present weights; their evaluation is better than that of best.pdparams."""
        averaged = self.ema and self.config.TRAIN.EMA.BEST
        with self.ema.in_place() if averaged else contextlib.nullcontext():
            self.keeper.save(BEST, save_weights, self.bare_model,
                             {'epoch': result['epoch'], 'best': result})
        written = BEST not in self.keeper.failed
        if written:
            self.best = result
            self.log.metric('best', at=result['epoch'], **result)
        if self.unsaved is None or result['acc1'] >= self.unsaved['acc1']:
            self.unsaved = None if written else result

    def rescue_best(self):
        """Writes the weights of the best evaluation if they are not on the disk, but still here."""
        if self.unsaved is None:
            return
        if (self.epoch, self.step) == (self.unsaved['epoch'], 0):
            self.keep_best(self.unsaved)
        else:
            self.log.warning(f'{BEST} holds {place_of(self.best)}; the best evaluation\'s, '
                             f'{place_of(self.unsaved)}, could not be written')
            if self.best is None:  # the next evaluation's will be the best that there are
                self.unsaved = None


def flags_of(signals):
    """For each of STOP_SIGNALS, whether it has come."""
    return [signals.number == number for number in STOP_SIGNALS]


def signal_of(flags):
    """The signal that all ranks stop by, when some have got one, or None."""
    return next((number for number, flag in zip(STOP_SIGNALS, flags, strict=True) if flag), None)


def place_of(result):
    """Whose weights they are."""
    return f'those of epoch {result["epoch"]} (acc@1 {result["acc1"]:.2%})' if result else 'none'


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

    Args:
        folder: the run's.
        facts: kept in each file: seed, config, class_names, data and data_sets.
        log: RunLog.

    Attributes:
        failed: {name of a file: why its last writing failed}.
    """

    def __init__(self, folder, facts, log):
        self.folder = folder
        self.facts = facts
        self.log = log
        self.failed = {}

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

    def what_is_left(self):
        """How the run can go on after a checkpoint that was not written."""
        if self.folder is None:
            return ''
        if any(os.path.exists(os.path.join(self.folder, name)) for name in (LAST, PREVIOUS)):
            return f'; -resume={self.folder} goes on from the one before'
        return '; there is none to go on with'

    def check(self, name):
        """Raises InputError if the last writing of a file failed."""
        if name in self.failed:
            raise InputError(self.failed[name])


class Evaluation:
    """Evaluates models on the validation set, with lines in the log. A signal to one rank stops all
    of them."""

    def __init__(self, config, dataset, normalize, precision, log, signals):
        self.batches = Batches(build_loader(config, dataset, is_train=False), normalize)
        self.num_classes = config.MODEL.NUM_CLASSES
        self.precision = precision
        self.log = log
        self.signals = signals
        self.meet = dist.Meeting('evaluation')
        self.real = read_real_labels(config.DATA.REAL_LABELS) if config.DATA.REAL_LABELS else None
        if self.real:  # before the first epoch, not after it
            self.real.check(map(dataset.images.name, range(len(dataset))), self.num_classes)

    def run(self, model, epoch, averaged=False):
        """One pass; the result has the epoch in it.

        Raises:
            Stopped: by a signal, on all ranks.
        """
        start = time.perf_counter()
        with self.log.progress(len(self.batches.loader), 'evaluate') as bar:
            result = evaluate(model, self.until_stopped(bar), self.precision,
                              self.real_mask if self.real else None)
        result = {'epoch': epoch, **result}
        self.log.metric('eval_ema' if averaged else 'eval', at=epoch, **result)
        what = 'averaged weights' if averaged else 'evaluation'
        self.log.info(f'{what}{f" after epoch {epoch}" if epoch else ""}: {figures_of(result)}, '
                      f'{time.perf_counter() - start:.1f} s')
        return result

    def until_stopped(self, bar):
        """This rank's batches. After them the ranks meet, and go on to their sum or stop together;
        at a signal to any of them they meet at once."""
        with contextlib.closing(iter(self.batches)) as batches:
            for batch in batches:
                yield batch
                bar.update()
                if self.meet.is_called(self.signals.number is not None):
                    break
        number = signal_of(self.meet(*flags_of(self.signals)))
        if number is not None:
            raise Stopped(number)

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
        write_result(folder, result)
        log.info(f'written to {folder}')
    log.info(f'{what}: {figures_of(result)}')
    log.close()
