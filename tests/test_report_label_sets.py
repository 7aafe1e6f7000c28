"""The report of multi-label data: its figures against scikit-learn and plain loops. Its command is
in test_multi_label.py, its page in a browser in test_report_page.py."""
import csv

import numpy as np
import pytest
from sklearn import metrics

from common.core.label_sets import LabelSets
from common.reporting import tables
from common.reporting.analysis import DuplicatePairs
from common.reporting.label_sets import (
    THRESHOLDS,
    SetCollector,
    analyse_sets,
    false_alarms,
    misses,
    sets_as_json,
)

pytestmark = pytest.mark.smoke
NAMES = ['a', 'b', 'c, d', 'no image', 'always', 'never']
K = len(NAMES)


def drawn(n=200, threshold=0.4, seed=0):
    """SetPredictions of drawn logits, given in batches in any order; some are equal, class 3 has no
    image, 4 is always predicted and 5 never, and some images have no class."""
    random = np.random.default_rng(seed)
    targets = random.random((n, K)) < 0.3
    targets[:, 3] = False
    logits = (random.standard_normal((n, K)) + 1.5 * targets).round(1)
    logits[:, 4] += 20
    logits[:, 5] -= 800  # a probability of 0, whose loss is 800
    ends = targets.sum(axis=1).cumsum()
    labels = LabelSets(np.nonzero(targets)[1], ends, K)
    collector, order = SetCollector(labels), random.permutation(n)
    for start in range(0, n, 33):
        collector.add(logits[order[start:start + 33]].astype(np.float32),
                      order[start:start + 33].tolist())
    made = collector.predictions([f'{index}.jpg' for index in range(n)], NAMES, threshold)
    return made, targets, logits.astype(np.float32).astype(np.float64)


def analysis_of(predictions, count=5):
    return analyse_sets(predictions, 'vit', {}, count, DuplicatePairs(None, [], [], 'none'), ['x'])


def test_what_is_kept_is_what_the_logits_say():
    predictions, targets, logits = drawn()
    np.testing.assert_array_equal(predictions.targets, targets)
    with np.errstate(over='ignore', divide='ignore'):
        probabilities = 1 / (1 + np.exp(-logits))
        losses = np.where(targets, np.logaddexp(0, -logits), np.logaddexp(0, logits)).mean(axis=1)
    np.testing.assert_allclose(predictions.scores, probabilities, atol=1e-12)
    np.testing.assert_allclose(predictions.losses, losses, rtol=1e-12)
    assert predictions.losses.max() > 100


def test_figures_of_classes_are_scikit_learn_s():
    predictions, targets, _ = drawn()
    classes, predicted = analysis_of(predictions).classes, predictions.scores >= 0.4
    for k in range(K):
        hits = int((targets[:, k] & predicted[:, k]).sum())
        assert classes.images[k] == targets[:, k].sum()
        assert classes.predicted[k] == predicted[:, k].sum()
        if k == 3:
            assert np.isnan(classes.average_precision[k]) and np.isnan(classes.recall[k])
            continue
        assert classes.average_precision[k] == metrics.average_precision_score(
            targets[:, k], predictions.scores[:, k])
        assert classes.recall[k] == hits / targets[:, k].sum()
        assert classes.f1[k] == pytest.approx(metrics.f1_score(targets[:, k], predicted[:, k]))
        if k != 5:
            assert classes.precision[k] == hits / predicted[:, k].sum()
    assert np.isnan(classes.precision[5]) and classes.predicted[5] == 0
    assert classes.predicted[4] == len(predictions)


def test_figures_of_all_images_are_scikit_learn_s():
    predictions, targets, _ = drawn()
    found = sets_as_json(analysis_of(predictions))
    some = [0, 1, 2, 4, 5]
    assert found['mAP'] == pytest.approx(metrics.average_precision_score(
        targets[:, some], predictions.scores[:, some], average='macro'))
    for threshold, point in zip((0.4, *THRESHOLDS), (found, *found['by_threshold']), strict=True):
        predicted = predictions.scores >= threshold
        for name, function in (('precision', metrics.precision_score),
                               ('recall', metrics.recall_score), ('f1', metrics.f1_score)):
            assert point[f'micro_{name}'] == pytest.approx(
                function(targets.ravel(), predicted.ravel()))
        assert point['macro_f1'] == pytest.approx(np.mean([
            metrics.f1_score(targets[:, k], predicted[:, k], zero_division=0) for k in some]))
    predicted = predictions.scores >= 0.4
    assert found['exact'] == metrics.accuracy_score(targets, predicted)
    assert found['labels'] == targets.sum() and found['classes_with_images'] == 5
    assert found['images_without_a_label'] == sum(not row.any() for row in targets)
    assert found['notes'][0] == 'x' and 'no image' in found['notes'][1]


def test_images_that_are_shown_are_the_worst_ones():
    predictions, targets, _ = drawn(60, threshold=0.6)
    alarms, missed = [], []
    for index in range(60):
        scores = predictions.scores[index]
        wrong = [(-scores[k], index, k) for k in range(K) if not targets[index, k]
                 and scores[k] >= 0.6]
        own = [(scores[k], index, k) for k in range(K) if targets[index, k] and scores[k] < 0.6]
        alarms += [min(wrong)] if wrong else []
        missed += [min(own)] if own else []
    for made, expected in ((false_alarms, alarms), (misses, missed)):
        pairs = made(predictions, 1000)
        assert len(pairs) == len(expected) > 10
        for (index, k), (score, _, _) in zip(pairs, sorted(expected), strict=True):
            assert abs(score) == pytest.approx(predictions.scores[index, k])
        assert made(predictions, 4) == pairs[:4]


def test_tables(tmp_path):
    predictions, targets, _ = drawn(40)
    tables.write_set_predictions(str(tmp_path / 'p.csv'), predictions)
    with open(tmp_path / 'p.csv', encoding='utf-8', newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert [row['file'] for row in rows] == predictions.names
    for index, row in enumerate(rows):
        labels, found = (set(map(int, filter(None, row[name].split(','))))
                         for name in ('labels', 'predictions'))
        assert labels == set(np.flatnonzero(targets[index]).tolist())
        assert found == set(np.flatnonzero(predictions.scores[index] >= 0.4).tolist())
        assert int(row['exact']) == (labels == found)
        assert row['label_names'] == ' | '.join(NAMES[k] for k in sorted(labels))
        np.testing.assert_allclose([float(row[f'p {name}']) for name in NAMES],
                                   predictions.scores[index], rtol=1e-5)
    tables.write_set_classes(str(tmp_path / 'c.csv'), NAMES, analysis_of(predictions).classes)
    with open(tmp_path / 'c.csv', encoding='utf-8', newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert [row['name'] for row in rows] == NAMES
    assert rows[3]['average_precision'] == '' and rows[5]['precision'] == ''


def test_without_any_label_nothing_is_divided_by_nothing():
    labels = LabelSets(np.zeros(0, np.int64), np.zeros(3, np.int64), 2)
    collector = SetCollector(labels)
    collector.add(np.zeros((3, 2), np.float32), [0, 1, 2])
    found = sets_as_json(analysis_of(collector.predictions('abc', ['x', 'y'])))
    assert found['mAP'] is None and found['micro_f1'] == 0 and found['exact'] == 0
