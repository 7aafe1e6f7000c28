"""All numbers of one report in one place, before anything of them is written or drawn."""
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.core.errors import printable
from common.reporting import figures, findings
from common.reporting.comparison import Comparison


@dataclass(frozen=True)
class DuplicatePairs:
    """What the search for near-duplicates has found.

    Attributes:
        pairs: list of Duplicate; None if nothing was searched.
        train_names, train_labels: printable str, file and class name of each pair's training image.
        note: a sentence: what was compared, or why nothing was.
        images: ImageSource of the training images, or None.
    """

    pairs: list | None
    train_names: list
    train_labels: list
    note: str
    images: Any = None


@dataclass(frozen=True)
class Analysis:
    """What a report says.

    Attributes:
        model: the model's name.
        facts: {what: text} about the model, its weights and the data.
        predictions: Predictions.
        matrix: confusion matrix, int64 [K, K].
        classes: Classes.
        calibration: Calibration.
        curve: of coverage_curve.
        summary: of figures.summary.
        mistakes, hits: lists of indices for the gallery.
        suspicious: int64 array of indices, the most suspicious first.
        duplicates: DuplicatePairs.
        comparison: Comparison, or None.
        classes_before: the Classes of the model that this one is compared with, or None.
        notes: sentences that a reader must know, e.g. about classes without images.
    """

    model: str
    facts: dict
    predictions: Any
    matrix: np.ndarray
    classes: figures.Classes
    calibration: figures.Calibration
    curve: tuple
    summary: dict
    mistakes: list
    hits: list
    suspicious: np.ndarray
    duplicates: DuplicatePairs
    comparison: Comparison | None = None
    classes_before: figures.Classes | None = None
    notes: list = field(default_factory=list)


def analyse(predictions, model, facts, images, duplicates, comparison=None, notes=()):
    """The Analysis of some Predictions.

    Args:
        predictions: Predictions.
        model, facts, duplicates, comparison: see Analysis.
        images: how many images each gallery shows at most.
        notes: sentences about the evaluation.
    """
    matrix = figures.confusion_matrix(predictions)
    classes = figures.classes_of(predictions, matrix)
    calibration = figures.calibration_of(predictions)
    before = None
    if comparison:
        # by the classes of this model: another one may number them in another way, but the labels
        # are the same by name, and so is what is right
        right = np.bincount(predictions.labels[comparison.other.correct],
                            minlength=len(matrix))
        undefined = np.full(len(matrix), np.nan)
        recall = np.divide(right, classes.images, out=undefined.copy(), where=classes.images > 0)
        before = figures.Classes(classes.images, right, undefined, recall, undefined, right, right)
    return Analysis(
        model, facts, predictions, matrix, classes, calibration,
        figures.coverage_curve(predictions),
        figures.summary(predictions, matrix, classes, calibration),
        findings.most_confident_mistakes(predictions, images),
        findings.least_confident_hits(predictions, images),
        findings.suspicious_labels(predictions), duplicates, comparison, before,
        [*map(printable, notes), *notes_on(predictions, classes)])


def notes_on(predictions, classes):
    """Sentences about what limits the figures."""
    notes, empty = [], np.flatnonzero(classes.images == 0)
    if len(empty):
        names = [predictions.class_names[index] for index in empty[:5]]
        notes.append(f'{len(empty)} of {len(classes.images)} classes have no image here, so '
                     f'nothing is known about them: {", ".join(names)}'
                     + (', ...' if len(empty) > 5 else ''))
    few = int(((classes.images > 0) & (classes.images < 10)).sum())
    if few:
        notes.append(f'{few} classes have fewer than 10 images: their precision and recall may '
                     f'be far from what more images would show')
    return notes


def as_json(analysis):
    """The numbers of an Analysis for figures.json."""
    by_coverage, by_accuracy = figures.coverage_table(analysis.curve)
    calibration, comparison = analysis.calibration, analysis.comparison
    bins = [{'above': low, 'up_to': high, 'images': count,
             'accuracy': None if count == 0 else accuracy,
             'confidence': None if count == 0 else confidence}
            for low, high, count, accuracy, confidence in zip(
                calibration.edges[:-1].tolist(), calibration.edges[1:].tolist(),
                calibration.counts.tolist(), calibration.accuracies.tolist(),
                calibration.confidences.tolist(), strict=True)]
    return {
        'model': analysis.model, **analysis.facts, **analysis.summary,
        'calibration': bins, 'coverage': by_coverage, 'coverage_for_accuracy': by_accuracy,
        'suspicious_labels': len(analysis.suspicious),
        'near_duplicates': None if analysis.duplicates.pairs is None
        else len(analysis.duplicates.pairs),
        'compared_with': None if comparison is None else {
            'name': comparison.name, 'accuracy': float(comparison.other.correct.mean()),
            'better': len(comparison.better), 'worse': len(comparison.worse),
            'both_right': comparison.both_right, 'both_wrong': comparison.both_wrong,
            'mcnemar_p': comparison.p_value},
        'notes': analysis.notes,
    }
