"""The training loop of segmentation, with checkpoints that a run goes on from exactly.

PaddleSeg's own loop (core/train.py) starts the order of the images, the augmentation and dropout
anew when it resumes. Here each is a function of the seed and the step, so that a run that was
stopped anywhere has the same losses as one that was not.
"""
import hashlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import paddle

from common.config import ConfigNode, plain_config
from common.core import dist
from common.core.errors import InputError, RunError, first_few
from common.core.randomness import seed_step
from common.core.signals import Stopped
from common.data.loader import Loader
from common.engines.recipes import changed_keys
from common.engines.segmentation.config import FREE
from common.engines.segmentation.data import stack, train_order
from common.engines.segmentation.evaluation import evaluate
from common.train.checkpoint import resume, save_checkpoint, save_weights
from common.train.engine import average_statistics, update
from common.train.eta import duration_text
from common.train.log import RunLog
from common.train.optim import trainable_parameters
from common.train.precision import Precision
from common.train.saver import CheckpointSaver
from common.weights.load import BEST, LAST

ASKED_EVERY = 10  # steps


def rate_at(train: ConfigNode, step: int) -> float:
    """The learning rate of a step.

    Args:
        train: the TRAIN node of a config.
        step: counted from 0.

    Returns:
        END_LR + (BASE_LR - END_LR) * (1 - step / NUM_STEPS) ^ POWER; in the first WARMUP_STEPS
        times a factor that rises in a line from WARMUP_FACTOR to 1.

    Source: mmcv's PolyLrUpdaterHook with linear warm-up, which upstream used. (PaddleSeg's builder
    starts the decay only after the warm-up.)

    Examples:
        >>> from common.engines.segmentation.config import read_config
        >>> from common.engines.segmentation.training import rate_at
        >>> train = read_config('upernet_vitaev2_s_ade20k').TRAIN
        >>> [f'{rate_at(train, step):.3e}' for step in (0, 750, 1500, 80000)]
        ['6.000e-11', '2.986e-05', '5.944e-05', '3.000e-05']
    """
    rate = train.END_LR + (train.BASE_LR - train.END_LR) * \
        (1 - step / train.NUM_STEPS) ** train.POWER
    if step < train.WARMUP_STEPS:
        rate *= 1 - (1 - step / train.WARMUP_STEPS) * (1 - train.WARMUP_FACTOR)
    return rate


def build_optimizer(train, model):
    """AdamW over all parameters; those whose names have a word of NO_DECAY in them are not decayed,
    as in mmcv."""
    parameters = trainable_parameters(model)
    decayed = {parameter.name for name, parameter in parameters
               if not any(word in name for word in train.NO_DECAY)}
    return paddle.optimizer.AdamW(
        learning_rate=train.BASE_LR, parameters=[parameter for _, parameter in parameters],
        beta1=train.BETAS[0], beta2=train.BETAS[1], weight_decay=train.WEIGHT_DECAY,
        apply_decay_param_fun=lambda name: name in decayed)


def fingerprint(pairs):
    """What says whether two runs had the same data: how many images, and a hash of their names."""
    names = '\n'.join(pairs.name(index) for index in range(len(pairs.images)))
    return {'images': len(pairs.images),
            'sha256': hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest()}


@dataclass
class Training:
    """A training with all that it needs.

    Attributes:
        config: of read_config.
        model: a Layer of image -> list of logits.
        loss: what build_loss gives.
        train_data, val_data: SegmentationData.
        precision: Precision.
        log: RunLog.
        folder: of the run, or None on ranks that do not write.
        signals: StopSignal.
    """
    config: ConfigNode
    model: paddle.nn.Layer
    loss: Callable
    train_data: object
    val_data: object
    precision: Precision
    log: RunLog
    folder: str | None
    signals: object

    def __post_init__(self):
        self.optimizer = build_optimizer(self.config.TRAIN, self.model)
        self.step, self.best = 0, None
        self.one = paddle.ones([1], 'float64')
        self.reset_sums()
        data = fingerprint(self.train_data.pairs)
        names = self.train_data.pairs.class_names
        self.saver = CheckpointSaver(self.folder, {
            'config': plain_config(self.config), 'data': data, 'epoch': 0,
            'class_names': names}, self.log)

    def reset_sums(self, values=(0.0, 0.0)):
        """Sets the sum of the losses since the last report, and their number."""
        self.sums = paddle.to_tensor(values, 'float64')

    def resume(self, path):
        """Goes on where a checkpoint was written.

        Raises:
            InputError: it is none, or of another recipe or other data.
        """
        def check(content):
            changed = changed_keys(content['config'], self.saver.metadata['config'], FREE)
            if changed:
                raise InputError(f'{content["file"]}: got another recipe, expected the same: '
                                 f'{first_few(list(changed))} changed; -pretrained starts a new '
                                 f'run from weights')
            if content.get('data') != self.saver.metadata['data']:
                raise InputError(f'{content["file"]}: got other training images, expected those '
                                 f'that the run began with')

        content = resume(path, self.model, self.optimizer, self.precision.scaler, check=check)
        if content['note']:
            self.log.warning(content['note'])
        self.step = content['step']
        self.reset_sums(content['sums'][:2])
        self.best = content.get('best_miou')
        if self.step >= self.config.TRAIN.NUM_STEPS:
            raise InputError(f'{content["file"]}: this run has ended after {self.step} steps; '
                             f'-pretrained starts a new one from its weights')
        self.log.cut(0, self.step)
        self.log.info(f'goes on from {content["file"]} after step {self.step}')

    def run(self):
        """Trains to the end; returns the best mean IoU."""
        config, train = self.config, self.config.TRAIN
        model = dist.data_parallel(self.model)
        parameters = [parameter for _, parameter in trainable_parameters(self.model)]
        order = train_order(len(self.train_data), config.SEED, config.DATA.BATCH_SIZE, self.step,
                            train.NUM_STEPS, dist.rank(), dist.world_size())
        loader = Loader(self.train_data, order, config.DATA.NUM_WORKERS, collate=stack)
        agree = dist.Barrier('segmentation')
        self.model.train()
        started, first = time.perf_counter(), self.step
        with self.log.progress(train.NUM_STEPS, 'training', self.step) as bar:
            for batch in loader:
                rate = rate_at(train, self.step)
                self.optimizer.set_lr(rate)
                self.sums += self.backward(model, batch)
                update(self.optimizer, parameters, None, self.precision)
                self.step += 1
                bar.update()
                is_last = self.step == train.NUM_STEPS
                if self.step % config.REPORT_FREQ == 0 or is_last:
                    self.report(rate, (time.perf_counter() - started) / (self.step - first))
                is_due = self.step % train.EVAL_FREQ == 0 or is_last
                # several ranks ask each other about signals, which takes time: not at every step
                if is_due or dist.world_size() == 1 or self.step % ASKED_EVERY == 0:
                    self.pause(is_due, *agree(self.signals.number is not None))
        self.saver.check(LAST)
        return self.best

    def pause(self, is_due, is_stopped):
        """Evaluates and writes a checkpoint when it is due; ends the run if a signal has come."""
        if is_due and not is_stopped:
            self.evaluate()
        if is_due or is_stopped:
            self.save()
        if is_stopped:
            self.log.info(f'stopped after step {self.step}; -resume={self.folder} goes on')
            raise Stopped(self.signals.number or signal.SIGTERM)

    def backward(self, model, batch):
        """Forward and backward pass of one batch; returns [sum of the losses, 1] on the device, for
        which nobody waits."""
        seed_step(self.config.SEED, 0, self.step, dist.rank())
        images, classes = paddle.to_tensor(batch.image), paddle.to_tensor(batch.mask)
        with self.precision.autocast():
            outputs = model(images)                                    # each [B, K, H, W]
        loss = self.loss(outputs, classes)
        scaler = self.precision.scaler
        (scaler.scale(loss) if scaler else loss).backward()
        return paddle.concat([loss.detach().astype('float64').reshape([1]), self.one])

    def report(self, rate, seconds):
        """Writes the mean loss since the last report."""
        total, count = dist.all_reduce_sum(self.sums.clone()).tolist()
        loss = total / count
        if not loss < float('inf'):
            raise RunError(f'step {self.step}: the loss is {loss}; a lower '
                           f'TRAIN.BASE_LR may help{self.saver.what_is_left()}')
        steps = self.config.TRAIN.NUM_STEPS
        left = duration_text(seconds * (steps - self.step))
        images = self.config.DATA.BATCH_SIZE * dist.world_size() / seconds
        self.log.info(f'step {self.step}/{steps}: loss {loss:.4f}, lr {rate:.3g}, '
                      f'{images:.1f} img/s, {left} left')
        self.log.metric('train', self.step, epoch=1, step=self.step, loss=loss, lr=rate,
                        images_per_s=images)
        self.reset_sums()

    def evaluate(self):
        """Evaluates at one scale; keeps the weights if they are the best."""
        average_statistics(self.model)
        result = evaluate(self.model, self.val_data, self.config, self.precision)
        self.model.train()
        self.log.info(f'step {self.step}: {result}')
        self.log.metric('eval', self.step, epoch=1, step=self.step, miou=result.miou,
                        accuracy=result.accuracy)
        if self.best is None or result.miou > self.best:
            self.best = result.miou
            self.saver.save(BEST, save_weights, self.model,
                            {'step': self.step, 'miou': result.miou})

    def save(self):
        """Writes last.pdparams; the one before it stays as previous.pdparams."""
        self.saver.save(LAST, save_checkpoint, self.model,
                        {'step': self.step, 'sums': [*self.sums.tolist(), 0.0], 'best': None,
                         'best_miou': self.best},
                        optimizer=self.optimizer, scaler=self.precision.scaler)
