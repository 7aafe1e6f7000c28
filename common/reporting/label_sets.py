"""Multi-label data in a report: what is kept of each image, and the figures, which are
scikit-learn's.

n images, K classes. A class is predicted where its probability (a sigmoid's) is the threshold or
more. All probabilities are kept, 8 n K bytes.
"""
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.core.errors import printable
from common.core.label_sets import LabelSets
from common.core.probabilities import THRESHOLD
from common.reporting.analysis import notes_on

THRESHOLDS = tuple(step / 10 for step in range(1, 10))  # of the table


@dataclass(frozen=True)
class SetPredictions:
    """What a multi-label model says about the images of a data set.

    Attributes:
        names: list of n printable str, the images' names within the data set.
        class_names: list of K printable str.
        labels: LabelSets of n images.
        scores: float64 [n, K], the probabilities.
        losses: float64 [n], the binary cross entropy, the mean over the classes.
        threshold: the probability from which on a class is predicted.
    """

    names: list
    class_names: list
    labels: LabelSets
    scores: np.ndarray
    losses: np.ndarray
    threshold: float = THRESHOLD

    def __len__(self):
        return len(self.labels)

    @property
    def targets(self):
        """bool [n, K], the classes of each image."""
        return self.labels.table()

    @property
    def predicted(self):
        """bool [n, K], the classes that are predicted."""
        return self.scores >= self.threshold


class SetCollector:
    """Makes SetPredictions of the batches of an evaluation.

    Args:
        labels: LabelSets of n images, with K classes.
    """

    def __init__(self, labels):
        self.labels = labels
        self.logits = np.full((len(labels), labels.num_classes), np.nan)

    def add(self, logits, indices):
        """Adds a batch: float [B, K] of numpy, and which images they are of, a list of B."""
        self.logits[indices] = logits

    def predictions(self, names, class_names, threshold=THRESHOLD):
        """The SetPredictions of all batches. names: iterable of n, the images' names."""
        targets = self.labels.table()
        # log(1 + exp(x)) - x * y, which neither overflows nor loses what is small
        losses = (np.logaddexp(0.0, self.logits) - self.logits * targets).mean(axis=1)
        return SetPredictions(
            [printable(name) for name in names], [printable(name) for name in class_names],
            self.labels, 0.5 + 0.5 * np.tanh(0.5 * self.logits), losses, threshold)


@dataclass(frozen=True)
class SetClasses:
    """Figures of each class, each an array [K].

    Attributes:
        images, predicted: int, how many images have the class, and of how many it is predicted.
        average_precision: float; NaN for a class that no image has.
        precision, recall, f1: float, at the threshold; NaN where they are not defined: without a
            prediction of the class, without an image of it, or without both.
    """

    images: np.ndarray
    predicted: np.ndarray
    average_precision: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


@dataclass(frozen=True)
class SetAnalysis:
    """What a report of multi-label data says.

    Attributes:
        model, facts, duplicates, notes: see common.reporting.analysis.Analysis.
        predictions: SetPredictions.
        classes: SetClasses.
        summary: of `summary_of`.
        by_threshold: list of dicts, of `threshold_table`.
        false_alarms, misses: lists of (index, class) for the gallery.
    """

    model: str
    facts: dict
    predictions: SetPredictions
    classes: SetClasses
    summary: dict
    by_threshold: list
    false_alarms: list
    misses: list
    duplicates: Any
    notes: list


def classes_of_sets(predictions):
    """The SetClasses of SetPredictions."""
    from sklearn import metrics

    targets, predicted, scores = predictions.targets, predictions.predicted, predictions.scores
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        targets, predicted, average=None, zero_division=np.nan)
    found = np.array([metrics.average_precision_score(targets[:, k], scores[:, k])
                      if images[k] else np.nan for k in range(targets.shape[1])])
    return SetClasses(images.astype(np.int64), predicted.sum(axis=0), found, precision, recall, f1)


def summary_of(predictions, classes):
    """The figures of all images together, as a dict of numbers: `micro_...` over all answers,
    `macro_...` the means over the classes that some image has, `exact` the share of the images of
    which all classes and no other are predicted."""
    targets, predicted = predictions.targets, predictions.predicted
    present = classes.images > 0
    return {
        'images': len(predictions), 'classes': len(present),
        'classes_with_images': int(present.sum()), 'labels': int(targets.sum()),
        'images_without_a_label': int((~targets.any(axis=1)).sum()),
        'threshold': predictions.threshold, 'mAP': mean_of(classes.average_precision[present]),
        **at_threshold(targets, predicted), 'exact': float((targets == predicted).all(1).mean()),
        'loss': float(predictions.losses.mean())}


def at_threshold(targets, predicted):
    """Precision, recall and F1 over all answers, and the mean F1 of the classes that some image
    has; what is not defined counts as 0, as in scikit-learn."""
    from sklearn import metrics

    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        targets, predicted, average='micro', zero_division=0)
    present = np.flatnonzero(targets.any(axis=0))
    macro = metrics.f1_score(targets, predicted, average='macro', labels=present,
                             zero_division=0) if len(present) else 0.0
    return {'micro_precision': float(precision), 'micro_recall': float(recall),
            'micro_f1': float(f1), 'macro_f1': float(macro)}


def mean_of(values):
    """The mean; None of nothing."""
    return float(values.mean()) if len(values) else None


def threshold_table(predictions):
    """What `at_threshold` gives for each of THRESHOLDS: a list of dicts."""
    targets = predictions.targets
    return [{'threshold': threshold, **at_threshold(targets, predictions.scores >= threshold)}
            for threshold in THRESHOLDS]


def false_alarms(predictions, count):
    """The images with the most confident prediction of a class that they have not: a list of
    (index, class), at most `count`, each image once."""
    scores = np.where(predictions.targets, -1.0, predictions.scores)
    return worst(scores, predictions.threshold, count)


def misses(predictions, count):
    """The images with the least probable of their own classes, where it is not predicted: a list of
    (index, class), at most `count`, each image once."""
    scores = np.where(predictions.targets & ~predictions.predicted, -predictions.scores, -2.0)
    return worst(scores, -1.0, count)


def worst(scores, least, count):
    """(row, column) of the largest of each row of float [n, K], if it is `least` or more; the
    largest rows first."""
    columns = scores.argmax(axis=1)
    values = scores[np.arange(len(scores)), columns]
    order = np.argsort(-values, kind='stable')
    order = order[values[order] >= least][:count]
    return list(zip(order.tolist(), columns[order].tolist(), strict=True))


def analyse_sets(predictions, model, facts, images, duplicates, notes=()):
    """The SetAnalysis of SetPredictions.

    Args:
        predictions: SetPredictions.
        model, facts, duplicates: see SetAnalysis.
        images: how many images each gallery shows at most.
        notes: sentences about the evaluation.
    """
    classes = classes_of_sets(predictions)
    return SetAnalysis(
        model, facts, predictions, classes, summary_of(predictions, classes),
        threshold_table(predictions), false_alarms(predictions, images),
        misses(predictions, images), duplicates,
        [*map(printable, notes), *notes_on(predictions, classes)])


def sets_as_json(analysis):
    """The numbers of a SetAnalysis for figures.json."""
    return {'model': analysis.model, **analysis.facts, **analysis.summary,
            'by_threshold': analysis.by_threshold,
            'near_duplicates': None if analysis.duplicates.pairs is None
            else len(analysis.duplicates.pairs),
            'notes': analysis.notes}
