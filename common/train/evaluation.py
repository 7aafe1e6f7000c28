"""Evaluations within a run: passes over the validation set, and what is written of them."""
import contextlib
import time

from common.core import dist
from common.core.signals import STOP_SIGNALS, Stopped
from common.data.batches import Batches
from common.data.loader import build_loader
from common.data.real_labels import read_real_labels
from common.train.engine import evaluate
from common.train.multi_label import evaluate_multi_label
from common.train.results import classes_text, figures_of, result_text
from common.train.run_folder import write_result


class Evaluation:
    """Evaluates models on the validation set, with lines in the log. A signal to one rank stops all
    of them.

    Args:
        config: the run's config.
        dataset: the validation set.
        normalize: Normalize.
        precision: Precision.
        log: RunLog.
        signals: StopSignal.
    """

    def __init__(self, config, dataset, normalize, precision, log, signals):
        self.batches = Batches(build_loader(config, dataset, is_train=False), normalize)
        self.num_classes = config.MODEL.NUM_CLASSES
        self.multi_label = config.DATA.MULTI_LABEL
        self.class_names = dataset.class_names
        self.precision = precision
        self.log = log
        self.signals = signals
        self.barrier = dist.Barrier('evaluation')
        self.real = read_real_labels(config.DATA.REAL_LABELS) if config.DATA.REAL_LABELS else None
        if self.real:  # before the first epoch, not after it
            self.real.check(map(dataset.images.name, range(len(dataset))), self.num_classes)

    def run(self, model, epoch, averaged=False, collector=None):
        """Evaluates a model in one pass.

        Args:
            model: a Layer, not its DataParallel.
            epoch: how many epochs it was trained for; 0 if that is unknown.
            averaged: whether its weights are the moving average.
            collector: its `add` is called with the logits of each batch, float32 [B, K] of numpy,
                and the indices of the images that they are of, a list of B; or None.

        Returns:
            dict: the epoch, and the result of common.train.engine.evaluate or, of multi-label data,
            evaluate_multi_label.

        Raises:
            Stopped: by a signal, on all ranks.
        """
        start = time.perf_counter()
        with self.log.progress(len(self.batches.loader), 'evaluate') as bar:
            batches = self.until_stopped(bar)
            observe = collector and (
                lambda logits: collector.add(logits.numpy(), self.batches.indices))
            if self.multi_label:
                result = evaluate_multi_label(model, batches, self.precision, self.num_classes)
            else:
                result = evaluate(model, batches, self.precision,
                                  self.real_mask if self.real else None, observe)
        result = {'epoch': epoch, **result}
        self.log.metric('eval_ema' if averaged else 'eval', at=epoch, **figures_of(result))
        what = 'averaged weights' if averaged else 'evaluation'
        when = f' after epoch {epoch}' if epoch else ''
        self.log.info(f'{what}{when}: {result_text(result)}, {time.perf_counter() - start:.1f} s')
        return result

    def until_stopped(self, bar):
        """Yields this rank's batches. After them the ranks meet, and go on to their sum or stop
        together; at a signal to any of them they meet at once."""
        with contextlib.closing(iter(self.batches)) as batches:
            for batch in batches:
                yield batch
                bar.update()
                if self.barrier.is_requested(self.signals.number is not None):
                    break
        number = signal_of(self.barrier(*flags_of(self.signals)))
        if number is not None:
            raise Stopped(number)

    def real_mask(self):
        """The ReaL labels of the batch that was read last, bool [B, K]."""
        names = [self.batches.name(index) for index in self.batches.indices]
        return self.real.mask(names, self.num_classes)


def flags_of(signals):
    """For each of STOP_SIGNALS, whether it has come."""
    return [signals.number == number for number in STOP_SIGNALS]


def signal_of(flags):
    """The signal that all ranks stop by, when some have got one, or None."""
    return next((number for number, flag in zip(STOP_SIGNALS, flags, strict=True) if flag), None)


def write_final_result(log, folder, result, what, class_names=None):
    """Writes result.json and the last line of a run, and closes its log.

    Args:
        log: RunLog.
        folder: the run's, or None.
        result: dict of the evaluation that the run ends with.
        what: names the evaluation in the log's line.
        class_names: list of names for the classes of low AP, or None.
    """
    if folder is not None and dist.is_master():
        write_result(folder, result)
        log.info(f'written to {folder}')
    classes = classes_text(result, class_names)
    if classes:
        log.info(classes)
    log.info(f'{what}: {result_text(result)}')
    log.close()
