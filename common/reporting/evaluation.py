"""The report of `-eval -report`: what the evaluation of the training program sees, on all ranks."""
import os

from common.core import dist
from common.core.errors import printable, say
from common.reporting.predictions import Collector
from common.reporting.report import FOLDER, write_report
from common.reporting.source import Source, class_names_for, predictions_of


class EvaluationReport:
    """Collects the predictions of a run's evaluation and writes their report into its folder; see
    Run in common/train/worker.py. Each rank has one."""

    def collector(self, val_set):
        """What the logits are given to."""
        return Collector(val_set.images.labels)

    def write(self, collector, model, config, folder, val_set, notes):
        """Writes the report on rank 0, of what all ranks have collected, and says so.

        Args:
            collector: of `collector`.
            model: a Layer.
            config: config of the run.
            folder: the run's.
            val_set: the validation set.
            notes: sentences about its labels.
        """
        class_names = class_names_for(
            val_set.class_names or getattr(model, 'class_names', None), config)
        predictions = predictions_of(collector, val_set, class_names)
        if not dist.is_master() or folder is None:
            return
        if not hasattr(model, 'config'):  # a family's own build function sets none
            model.config = config
        weights = config.MODEL.RESUME or config.MODEL.PRETRAINED
        page = write_report(os.path.join(folder, FOLDER), predictions,
                            Source(model, weights, val_set, class_names, list(notes)))
        say(f'{printable(page)}: written')
