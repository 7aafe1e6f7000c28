"""The numbers of a report: of all images, of each class, of calibration and coverage.

They are scikit-learn's, and scipy's where it is statistics; both come with the extra 'report'. n
images, K classes.
"""
import importlib.util
from dataclasses import dataclass

import numpy as np

from common.core.errors import InputError

LEVEL = 0.95                    # of the confidence intervals
BINS = 15                       # of the reliability curve and the ECE, as in arXiv 1706.04599
MOST_CLASSES = 4096             # the confusion matrix takes 134 MB then
TOP_KS = (1, 3, 5)
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # for which the accuracy is said
TARGETS = (0.9, 0.95, 0.99)     # accuracies for which the coverage is said


@dataclass(frozen=True)
class Calibration:
    """How often predictions of some confidence are right.

    Attributes:
        edges: float [BINS + 1], the bins of the confidence; each has its upper edge.
        counts: int [BINS], images in each.
        accuracies, confidences: float [BINS], their means; NaN where there is no image.
        ece: the mean over the images of |accuracy - confidence| of their bin.
        largest: the largest of these gaps.
    """

    edges: np.ndarray
    counts: np.ndarray
    accuracies: np.ndarray
    confidences: np.ndarray
    ece: float
    largest: float


@dataclass(frozen=True)
class Classes:
    """Figures of each class, each an array [K].

    Attributes:
        images, predicted: int, how many images have the label, and how many the prediction.
        precision, recall, f1: float; NaN where they are not defined: without a prediction of the
            class, without an image of it, or without both.
        confused_with: int, the class that its images are most often taken for; -1 if never.
        confused: int, how many are.
    """

    images: np.ndarray
    predicted: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    confused_with: np.ndarray
    confused: np.ndarray


def check_extra():
    """Raises InputError if the packages of the extra 'report' are not installed."""
    missing = [name for name, package in (('scikit-learn', 'sklearn'), ('scipy', 'scipy'))
               if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"the report needs {' and '.join(missing)}: pip install "
                         "'paddle-vitae[report]'")


def check_classes(count):
    """Raises InputError for a model of more classes than a report can have."""
    if count > MOST_CLASSES:
        raise InputError(f'report: got a model of {count} classes, expected at most '
                         f'{MOST_CLASSES}')


def summary(predictions, matrix, classes, calibration):
    """The figures of all images together.

    Args:
        predictions: Predictions.
        matrix: of confusion_matrix.
        classes: Classes.
        calibration: Calibration.

    Returns:
        dict of numbers: accuracies are fractions of 1, `interval` is [low, high] of the accuracy,
        `top` {k: accuracy}, `macro_...` means over the classes that have images.
    """
    count, correct = len(predictions), int(predictions.correct.sum())
    present = classes.images > 0
    return {
        'images': count, 'classes': len(matrix), 'classes_with_images': int(present.sum()),
        'correct': correct, 'accuracy': correct / count, 'level': LEVEL,
        'interval': wilson_interval(correct, count),
        'top': {str(k): float((predictions.ranks <= k).mean())
                for k in TOP_KS if k == 1 or k < len(matrix)},
        'loss': float(predictions.losses.mean()),
        'macro_recall': float(classes.recall[present].mean()),
        # a class that is never predicted has no precision: it counts as 0
        'macro_precision': float(np.nan_to_num(classes.precision[present]).mean()),
        'macro_f1': float(classes.f1[present].mean()),
        'mean_confidence': float(predictions.confidences.mean()),
        'ece': calibration.ece, 'largest_calibration_gap': calibration.largest,
    }


def wilson_interval(correct, count):
    """Wilson's interval of a fraction, at LEVEL: [low, high]."""
    from scipy.stats import binomtest

    interval = binomtest(correct, count).proportion_ci(LEVEL, method='wilson')
    return [float(interval.low), float(interval.high)]


def confusion_matrix(predictions):
    """int64 [K, K]: how many images with the label of a row have the prediction of a column."""
    from sklearn import metrics

    return metrics.confusion_matrix(predictions.labels, predictions.predicted,
                                    labels=np.arange(len(predictions.class_names)))


def classes_of(predictions, matrix):
    """The Classes of some Predictions and their confusion matrix."""
    from sklearn import metrics

    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        predictions.labels, predictions.predicted, labels=np.arange(len(matrix)),
        zero_division=np.nan)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    confused = wrong.max(axis=1)
    return Classes(images.astype(np.int64), matrix.sum(axis=0), precision, recall, f1,
                   np.where(confused > 0, wrong.argmax(axis=1), -1), confused)


def confusions(matrix):
    """The pairs of classes that are confused, the most frequent first: a list of (label,
    prediction, count)."""
    rows, columns = np.nonzero(matrix)
    off = rows != columns
    rows, columns = rows[off], columns[off]
    counts = matrix[rows, columns]
    order = np.lexsort((columns, rows, -counts))
    return list(zip(rows[order].tolist(), columns[order].tolist(), counts[order].tolist(),
                    strict=True))


def calibration_of(predictions):
    """The Calibration of some Predictions."""
    from sklearn.calibration import calibration_curve

    correct, confidences = predictions.correct, np.minimum(predictions.confidences, 1.0)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    accuracies, means = np.full(BINS, np.nan), np.full(BINS, np.nan)
    # scikit-learn's bins: (low, high], the first one with 0
    counts = np.bincount(np.searchsorted(edges[1:-1], confidences), minlength=BINS)
    accuracies[counts > 0], means[counts > 0] = calibration_curve(
        correct, confidences, n_bins=BINS, strategy='uniform')
    gaps = np.abs(accuracies - means)
    return Calibration(edges, counts, accuracies, means,
                       float(np.nansum(gaps * counts) / len(predictions)), float(np.nanmax(gaps)))


def coverage_curve(predictions):
    """What the accuracy is if the model answers only where it is confident enough.

    Returns:
        thresholds, coverages, accuracies: float [m], for each confidence that occurs, from the
        largest on: how many of the images have at least this confidence, and how many of those are
        right, as fractions of 1.
    """
    order = np.argsort(-predictions.confidences, kind='stable')
    confidences, correct = predictions.confidences[order], predictions.correct[order]
    last = np.append(np.flatnonzero(np.diff(confidences)), len(order) - 1)  # of equal confidences
    answered = last + 1
    return (confidences[last], answered / len(order), np.cumsum(correct)[last] / answered)


def coverage_table(curve):
    """Some points of a coverage_curve: for each of COVERAGES the first point that reaches it, for
    each of TARGETS the largest coverage that has it: two lists of dicts."""
    thresholds, coverages, accuracies = curve

    def point(index, **asked):
        return {**asked, 'threshold': float(thresholds[index]),
                'coverage': float(coverages[index]), 'accuracy': float(accuracies[index])}

    by_coverage = [point(int(np.argmax(coverages >= coverage - 1e-12)), asked=coverage)
                   for coverage in COVERAGES]
    by_accuracy = []
    for target in TARGETS:
        reached = np.flatnonzero(accuracies >= target)
        by_accuracy.append(point(int(reached[-1]), asked=target) if len(reached) else
                           {'asked': target, 'threshold': None, 'coverage': 0.0, 'accuracy': None})
    return by_coverage, by_accuracy
