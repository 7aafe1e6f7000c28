"""The epochs of a run: training, evaluation, checkpoints, and how a run ends."""
import contextlib
import time
from collections import deque

import paddle
from paddle.profiler import RecordEvent

from common.core import dist
from common.core.errors import InputError, RunError, first_few
from common.core.signals import Stopped
from common.train.checkpoint import checkpoint_content, save_checkpoint, save_weights
from common.train.engine import average_statistics, train_one_epoch
from common.train.eta import Eta, duration_text, evaluations_left
from common.train.evaluation import flags_of, signal_of, write_final_result
from common.train.optim import states_on_master
from common.train.patience import Patience
from common.train.profiling import StepProfile
from common.train.results import (
    AVERAGE,
    MODEL,
    NAMES_OF_WEIGHTS,
    better_weights,
    figures_of,
    is_better,
    score_of,
    weights_text,
)
from common.train.split_model import whole
from common.train.state import Callbacks, EpochSteps, LoopOptions
from common.weights.load import BEST, LAST

SHOWN_SAMPLES = 8  # of those whose loss is not finite
NO_SUMS = [0.0, 0.0, 0.0]  # loss, correct, seen at the start of an epoch


class Trainer(Callbacks):
    """Trains a model over the epochs of its schedule.

    Checkpoints are written after SAVE_STEPS steps, SAVE_MINUTES minutes and SAVE_FREQ epochs, and
    when a signal ends the run. They tell how many epochs are done, with their evaluation, and how
    many steps of the next one.

    Args:
        config: the run's config.
        state: TrainState, whose schedule is a Schedule.
        batches: Batches of the training set.
        evaluation: Evaluation.
        saver: CheckpointSaver.
        log: RunLog.
        signals: StopSignal.
        profile: StepProfile, or None.
    """

    def __init__(self, config, state, batches, evaluation, saver, log, signals, profile=None):
        self.config, self.options = config, LoopOptions.from_config(config)
        self.state, self.schedule, self.ema = state, state.schedule, state.ema
        self.bare_model = dist.unwrap(state.model)
        self.batches, self.sampler = batches, batches.loader.batch_sampler
        self.evaluation, self.saver, self.log = evaluation, saver, log
        self.signals, self.profile = signals, profile or StepProfile()
        self.any_rank, self.barrier = dist.AnyReduce(), dist.Barrier('training')
        self.recent = deque(maxlen=2)  # the samples of this step and of the one before it
        self.stop, self.due = None, False  # the signal that all ranks stop by
        self.prepared = False  # whether the saver knows how large a checkpoint is
        self.saved_at = time.monotonic()

    def run(self, start):
        """Trains to the end of the schedule.

        Args:
            start: dict that says where the run starts, as `resume` gives it: epoch, step, sums,
                best, unsaved, patience, and the optimiser's state.
        """
        epochs, steps_per_epoch = self.schedule.num_epochs, self.sampler.steps_per_epoch
        self.epoch, self.step = start['epoch'], start['step']
        # The evaluation whose weights best.pdparams holds, and a better one whose weights could
        # not be written, or None.
        self.best, self.unsaved = start['best'], start.get('unsaved')
        self.patience = Patience(self.config.TRAIN.PATIENCE, start.get('patience'))
        self.resumed = start['optimizer']
        self.bad_images = start.get('bad_images', 0)  # replaced in the epochs that are done
        sums = start['sums'] if dist.is_master() else None
        first = self.epoch + 1
        if self.step >= self.schedule.steps_of(first):  # only its evaluation is missing
            self.sampler.set_epoch(first + 1, 0, epochs)
        else:
            self.sampler.set_epoch(first, self.step, epochs)
        batches = iter(self.batches)
        done = self.reported = self.epoch * steps_per_epoch + self.step
        self.eta = Eta()
        # closing ends the loader's workers, and the saver writes its last checkpoint, also when a
        # signal or an error ends the run
        with self.saver, contextlib.closing(batches), contextlib.closing(self.profile), \
                self.log.progress(self.schedule.num_steps, 'train', done) as self.bar:
            self.rescue_best()
            for epoch in range(first, epochs + 1):
                if self.patience.is_over:
                    break
                self.bar.set_description(f'epoch {epoch}/{epochs}')
                self.train(epoch, batches, sums)
                self.finish_epoch(epoch)
                sums = None
        self.end_run()

    def end_run(self):
        """Does what follows the last epoch's checkpoint, again if the run was killed here."""
        if self.patience.is_over:
            self.log.info(f'TRAIN.PATIENCE {self.patience.limit}: {self.patience.count} '
                          f'evaluations in a row were no better than {self.patience.best:.2%}; the '
                          f'run ends after epoch {self.epoch} of {self.schedule.num_epochs}')
        if any(self.barrier(self.best is None and self.unsaved is None)):
            self.evaluate(self.epoch)  # this epoch was not to be the last one when it ended
        self.log.draw_curves(force=True)
        self.saver.check(LAST)
        again = bool(self.unsaved) and self.unsaved['epoch'] == self.epoch
        if any(self.barrier(again)):
            with whole(self.state):
                if again:
                    self.keep_best(self.unsaved)  # the weights are in the checkpoint too
                    self.saver.check(BEST)
        best = self.best or self.unsaved
        write_final_result(self.log, self.saver.folder, best, f'best, epoch {best["epoch"]}',
                           self.evaluation.class_names)
        if self.unsaved and dist.is_master():
            raise InputError(f'{BEST}: got {weights_text(self.best)}, expected the best '
                             f'evaluation\'s, {weights_text(self.unsaved)}; they could not be '
                             f'written')

    def train(self, epoch, batches, sums):
        """Trains over what is left of an epoch's steps."""
        last_step = self.schedule.steps_of(epoch)
        if self.step >= last_step:
            return
        steps = EpochSteps(epoch, self.sampler.steps_per_epoch, self.step, last_step)
        self.profile.begin_epoch(self.schedule.num_steps - steps.step_of_run(self.step))
        train_one_epoch(self.state, batches, self.options, steps, self, sums)
        average_statistics(self.bare_model, self.ema)
        self.bad_images += count_bad_images(self.batches, self.log, epoch)

    def after_update(self, step, sums):
        """Agrees with all ranks on what follows from this step: an error, the end, a checkpoint."""
        self.recent.append((step, self.batches.recent_indices()))
        due = dist.is_master() and self.is_due(step)
        broken, self.due, *stops = self.any_rank(~paddle.isfinite(sums[0]), due,
                                                 *flags_of(self.signals))
        self.stop = signal_of(stops)
        if broken:
            self.saver.wait()
            self.barrier()  # Paddle's launcher ends rank 0 three seconds after another one
            self.stop_at_broken_loss(sums)

    def stop_at_broken_loss(self, sums):
        """Raises InputError, which names the samples on the rank whose loss is not finite."""
        step, indices = self.recent[0 if self.any_rank.delayed else -1]
        where = f'epoch {self.epoch + 1}, step {step}: the training loss is not finite'
        if bool(paddle.isfinite(sums[0])):
            raise InputError(f'{where} in another process')
        names = [self.batches.name(index) for index in indices]
        raise InputError(
            f'{where}; its samples: {first_few(names, SHOWN_SAMPLES)}. The last checkpoint is from '
            f'before. A lower TRAIN.BASE_LR, a TRAIN.GRAD_CLIP or TRAIN.MAX_SKIPPED may help')

    def is_due(self, step):
        """Whether a checkpoint is to be written after this step of the epoch."""
        done = self.epoch * self.sampler.steps_per_epoch + step
        return bool(self.config.SAVE_STEPS and done % self.config.SAVE_STEPS == 0) \
            or time.monotonic() - self.saved_at > 60 * self.config.SAVE_MINUTES

    def after_step(self, step, sums):
        """Writes a checkpoint, if one is due, and ends the run after a signal."""
        self.step, self.resumed = step, None
        self.profile.step_done(bool(self.stop) or step == self.schedule.steps_of(self.epoch + 1))
        self.bar.update()
        self.saver.check_error()
        if not self.prepared:  # what a step takes is taken now, and the optimiser has its state
            self.saver.prepare(self.content)
            self.prepared = True
        if self.stop or self.due:
            self.save(dist.all_reduce_sum(sums.clone()).tolist(), beside=not self.stop)
        if self.stop:
            self.end(self.stop)

    def end(self, number):
        """Ends the run after the checkpoint that a signal has asked for, on all ranks."""
        where = f'epoch {self.epoch + 1}, step {self.step}'
        if self.unwritten:
            raise RunError(f'stopped by a signal at {where}, but the checkpoint could not be '
                           f'written{self.saver.what_is_left()}')
        self.log.info(f'stopped by a signal at {where}; -resume={self.saver.folder} goes on')
        raise Stopped(number)

    def content(self):
        """What a checkpoint holds that takes memory."""
        return checkpoint_content(self.bare_model, self.state.optimizer, None, {}, self.ema)

    def save(self, sums, beside=False):
        """Writes a checkpoint of what is done so far.

        Args:
            sums: [loss, correct, seen] of all ranks, which count for the next report on rank 0.
            beside: whether training goes on while it is written.
        """
        metadata = {'epoch': self.epoch, 'step': self.step, 'sums': sums, 'best': self.best,
                    'unsaved': self.unsaved, 'bad_images': self.bad_images}
        if self.patience.limit is not None:
            metadata['patience'] = self.patience.state()
        with RecordEvent('checkpoint'), whole(self.state), \
                states_on_master(self.state.optimizer, self.bare_model):
            self.saver.save(LAST, save_checkpoint, self.bare_model, metadata, beside, ema=self.ema,
                            optimizer=self.state.optimizer, scaler=self.state.precision.scaler,
                            resumed=self.resumed)
        self.saved_at = time.monotonic()
        self.unwritten, = self.barrier(LAST in self.saver.failed)

    def report(self, figures):
        """Writes the figures of the last steps into the log."""
        steps_per_epoch = self.sampler.steps_per_epoch
        done = (figures['epoch'] - 1) * steps_per_epoch + figures['step']
        self.log.metric('train', at=done, epoch_share=done / steps_per_epoch, **figures)
        self.bar.set_postfix(loss=f'{figures["loss"]:.3f}')
        hit = 'hit@1' if self.state.multi_label else 'acc@1'
        self.log.info(f'epoch {figures["epoch"]}/{self.schedule.num_epochs} '
                      f'step {figures["step"]}/{steps_per_epoch}  loss {figures["loss"]:.4f}  '
                      f'{hit} {figures["acc1"]:.2%}  lr {figures["lr"]:.3e}  '
                      f'{figures["images_per_s"]:.0f} img/s  data {figures["data_share"]:.0%}  '
                      f'ETA {self.time_left(figures["epoch"], done)}')

    def time_left(self, epoch, done):
        """How long the rest of the run will take, in words.

        Args:
            epoch: the present one.
            done: optimiser steps of the whole run that are done.
        """
        self.eta.steps_done(done - self.reported)
        self.reported = done
        seconds = self.eta.left(
            self.schedule.num_steps - done,
            evaluations_left(epoch, self.schedule.num_epochs, self.config.VALIDATE_FREQ))
        return ('at most ' if self.patience.limit else '') + duration_text(seconds)

    def finish_epoch(self, epoch):
        """Evaluates the model and writes a checkpoint at the end of an epoch, if they are due."""
        config, last = self.config, epoch == self.schedule.num_epochs
        if epoch % config.VALIDATE_FREQ == 0 or last:
            try:
                self.evaluate(epoch)
            except Stopped as stopped:  # the epoch's evaluation is done again when the run goes on
                self.save(NO_SUMS)
                self.end(stopped.number)
            self.eta.evaluation_done()
        self.epoch, self.step = epoch, 0
        last = last or self.patience.is_over
        if epoch % config.SAVE_FREQ == 0 or last:
            self.save(NO_SUMS, beside=not last)
        self.log.draw_curves()
        self.barrier()

    def evaluate(self, epoch):
        """Evaluates the model and its moving average; keeps the weights of the model, or with
        TRAIN.EMA.BEST of the better one of both, if they are the best so far. An average that is
        mostly the first weights is not kept, whatever it reaches."""
        with whole(self.state):
            self.evaluate_whole(epoch)

    def evaluate_whole(self, epoch):
        """Does the work of `evaluate` on a model that has all its weights."""
        result = self.evaluation.run(self.bare_model, epoch)
        if self.ema:
            with self.ema.in_place():
                averaged = self.evaluation.run(self.bare_model, epoch, averaged=True)
            if self.config.TRAIN.EMA.BEST:
                result = better_weights(result, None if self.ema.is_untrained else averaged)
        self.patience.update(score_of(result))
        if is_better(result, self.best):
            self.keep_best(result)

    def keep_best(self, result):
        """Writes the present weights; their evaluation is better than that of best.pdparams."""
        # A checkpoint of an older version does not say which; it was always what the key names.
        averaged = self.ema and self.config.TRAIN.EMA.BEST
        averaged = averaged and result.get('weights', AVERAGE) == AVERAGE
        with self.ema.in_place() if averaged else contextlib.nullcontext():
            self.saver.save(BEST, save_weights, self.bare_model,
                            {'epoch': result['epoch'], 'best': result})
        written = BEST not in self.saver.failed
        if written:
            self.best = result
            self.log.metric('best', at=result['epoch'], **figures_of(result))
            if result.get('weights') == MODEL:
                reason = 'of the average more than half is still the first weights' \
                    if self.ema.is_untrained else 'which are better than the average'
                self.log.info(f'{BEST} has {NAMES_OF_WEIGHTS[MODEL]}; {reason}')
        if self.unsaved is None or not is_better(self.unsaved, result):
            self.unsaved = None if written else result

    def rescue_best(self):
        """Writes the weights of the best evaluation if they are not on the disk, but still here."""
        if self.unsaved is None:
            return
        if (self.epoch, self.step) == (self.unsaved['epoch'], 0):
            with whole(self.state):
                self.keep_best(self.unsaved)
        else:
            self.log.warning(f'{BEST} holds {weights_text(self.best)}; the best evaluation\'s, '
                             f'{weights_text(self.unsaved)}, could not be written')
            if self.best is None:  # the next evaluation's will be the best that there are
                self.unsaved = None


def count_bad_images(batches, log, epoch):
    """Says in the log how many images were replaced in an epoch, and returns the number.

    Raises:
        InputError: on all ranks together they were more than is allowed.
    """
    count = int(dist.all_reduce_sum(paddle.to_tensor(float(len(batches.bad)), 'float64')))
    if count:
        log.metric('bad_images', at=epoch, epoch=epoch, count=count)
        example = f'; one of them: {batches.bad[0]}' if batches.bad else ''
        log.warning(f'epoch {epoch}: {count} bad images were replaced by others{example}')
    if count > batches.max_bad:
        raise InputError(f'epoch {epoch}: got {count} bad images, expected at most '
                         f'DATA.MAX_BAD_IMAGES {batches.max_bad}')
    return count
