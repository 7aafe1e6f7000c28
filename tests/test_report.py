"""The report's figures against scikit-learn and plain loops on the logits themselves, its files,
and its command. test_report_page.py has the page."""
import csv
import gc
import io
import itertools
import json
import math
import weakref
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image
from sklearn import metrics

from common import report
from common.benchmarks.report import NoiseImages, drawn_predictions, noise_source
from common.core import fonts
from common.core.figures import save
from common.data.sources import ImageSource
from common.engines.segmentation.pictures import LETTERS, with_legend
from common.reporting import figures, tables
from common.reporting.analysis import DuplicatePairs, analyse, as_json
from common.reporting.comparison import compare, mcnemar
from common.reporting.duplicates import (
    SIMILAR,
    NearestImages,
    find_duplicates,
    vectors_of,
)
from common.reporting.findings import (
    least_confident_hits,
    most_confident_mistakes,
    suspicious_labels,
)
from common.reporting.predictions import Collector, top_classes
from common.reporting.report import Options, write_report
from common.reporting.source import predict
from tests.conftest import refusal, run_script

NONE = DuplicatePairs(None, [], [], 'nothing was searched')
CLASSES = ['a', 'b', 'c', 'd', 'e', 'f', 'g']


def drawn_logits(n=400, K=7, seed=0, empty=(5,)):
    """(labels [n] without the classes `empty`, logits float32 [n, K]) with mistakes and ties."""
    random = np.random.default_rng(seed)
    labels = random.choice([label for label in range(K) if label not in empty], n)
    logits = random.standard_normal((n, K)).astype(np.float32).round(1)  # round: some are equal
    logits[np.arange(n), labels] += 1.5
    logits[:, 6] -= 12  # a class that is never predicted
    return labels, logits


def predictions_of(labels, logits, topk=5, batch=32, names=CLASSES):
    collector = Collector(labels, topk)
    for start in range(0, len(labels), batch):
        indices = list(range(start, min(start + batch, len(labels))))
        collector.add(logits[indices], indices)
    return collector.predictions([f'val/{index}.jpg' for index in range(len(labels))], names)


def softmax(logits):
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(axis=1, keepdims=True)


def analysed(predictions, **options):
    return analyse(predictions, 'model', {'data': 'some images'}, 5, NONE, **options)


@pytest.mark.smoke
def test_figures_are_scikit_learn_s():
    labels, logits = drawn_logits()
    scores, predictions = softmax(logits), predictions_of(labels, logits)
    predicted, K = scores.argmax(axis=1), np.arange(7)
    assert (predictions.predicted == predicted).all()
    analysis = analysed(predictions)
    summary = analysis.summary
    assert summary['accuracy'] == metrics.accuracy_score(labels, predicted)
    assert summary['correct'] == (labels == predicted).sum()
    np.testing.assert_allclose(summary['loss'], metrics.log_loss(labels, scores, labels=K))
    np.testing.assert_allclose(summary['macro_recall'],
                               metrics.balanced_accuracy_score(labels, predicted))
    present = np.unique(labels)
    np.testing.assert_allclose(summary['macro_f1'], metrics.f1_score(
        labels, predicted, labels=present, average='macro', zero_division=0))
    np.testing.assert_allclose(summary['macro_precision'], metrics.precision_score(
        labels, predicted, labels=present, average='macro', zero_division=0))
    np.testing.assert_array_equal(analysis.matrix,
                                  metrics.confusion_matrix(labels, predicted, labels=K))
    for k in (1, 3, 5):  # scikit-learn takes of equal scores another class; none are equal here
        unequal = scores + np.arange(7)[::-1] * 1e-12
        assert summary['top'][str(k)] == metrics.top_k_accuracy_score(labels, unequal, k=k,
                                                                      labels=K)
    wanted = metrics.precision_recall_fscore_support(labels, predicted, labels=K,
                                                     zero_division=np.nan)
    for values, expected in zip((analysis.classes.precision, analysis.classes.recall,
                                 analysis.classes.f1, analysis.classes.images), wanted,
                                strict=True):
        np.testing.assert_array_equal(values, expected)
    assert np.isnan(analysis.classes.recall[5]) and np.isnan(analysis.classes.precision[6])
    assert 'class' in analysis.notes[0] and ': f' in analysis.notes[0]


@pytest.mark.smoke
def test_most_confused_class_and_pairs_are_a_plain_count_s():
    labels, logits = drawn_logits()
    predicted = logits.argmax(axis=1)
    analysis = analysed(predictions_of(labels, logits))
    counts = {pair: int(((labels == pair[0]) & (predicted == pair[1])).sum())
              for pair in itertools.permutations(range(7), 2)}
    pairs = figures.confusions(analysis.matrix)
    assert {(label, other): count for label, other, count in pairs} == \
        {pair: count for pair, count in counts.items() if count}
    assert [count for *_, count in pairs] == sorted((count for *_, count in pairs), reverse=True)
    for label in range(7):
        most = max(counts[label, other] for other in range(7) if other != label)
        assert analysis.classes.confused[label] == most
        other = analysis.classes.confused_with[label]
        assert counts[label, other] == most if most else other == -1


@pytest.mark.smoke
def test_interval_calibration_and_coverage_are_those_of_plain_loops():
    labels, logits = drawn_logits(seed=1)
    predictions = predictions_of(labels, logits)
    scores = softmax(logits)
    confidence, correct = scores.max(axis=1), scores.argmax(axis=1) == labels
    analysis = analysed(predictions)

    # Wilson, E. B. (1927), as it is written
    n, p, z = len(labels), correct.mean(), 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    np.testing.assert_allclose(analysis.summary['interval'], [centre - half, centre + half])

    ece = largest = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        chosen = [index for index in range(n) if low < confidence[index] <= high]
        assert analysis.calibration.counts[number] == len(chosen)
        if chosen:
            gap = abs(correct[chosen].mean() - confidence[chosen].mean())
            ece += gap * len(chosen) / n
            largest = max(largest, gap)
    np.testing.assert_allclose(analysis.summary['ece'], ece)
    np.testing.assert_allclose(analysis.summary['largest_calibration_gap'], largest)

    # a confidence at the edge of two bins is in the lower one
    edges = np.linspace(0, 1, 16)[1:]
    some = predictions_of(labels[:15], logits[:15])
    some.scores[:, 0] = edges
    assert figures.calibration_of(some).counts.tolist() == [1] * 15

    thresholds, coverages, accuracies = analysis.curve
    np.testing.assert_allclose(thresholds, np.unique(predictions.confidences)[::-1])
    for threshold, coverage, accuracy in zip(thresholds, coverages, accuracies, strict=True):
        answered = predictions.confidences >= threshold
        np.testing.assert_allclose([coverage, accuracy],
                                   [answered.mean(), correct[answered].mean()])
    by_coverage, by_accuracy = figures.coverage_table(analysis.curve)
    for point in by_coverage:
        assert point['coverage'] == coverages[coverages >= point['asked'] - 1e-12].min()
    for point in by_accuracy:
        reached = coverages[accuracies >= point['asked']]
        assert point['coverage'] == (reached.max() if len(reached) else 0)


@pytest.mark.smoke
def test_images_to_look_at_are_those_of_plain_loops():
    labels, logits = drawn_logits(seed=2)
    scores, predictions = softmax(logits), predictions_of(labels, logits)
    predicted, n = scores.argmax(axis=1), len(labels)
    confidence = scores.max(axis=1)
    own = scores[np.arange(n), labels]
    wrong = [index for index in range(n) if predicted[index] != labels[index]]
    right = [index for index in range(n) if predicted[index] == labels[index]]

    chosen = most_confident_mistakes(predictions, 7)
    assert set(chosen) <= set(wrong) and len(chosen) == 7
    np.testing.assert_allclose(confidence[chosen], np.sort(confidence[wrong])[::-1][:7])
    chosen = least_confident_hits(predictions, 7)
    assert set(chosen) <= set(right)
    np.testing.assert_allclose(confidence[chosen], np.sort(confidence[right])[:7])

    suspicious = suspicious_labels(predictions).tolist()
    expected = []
    for index in wrong:  # arXiv 1911.00068
        same = [other for other in range(n) if labels[other] == predicted[index]]
        if same and confidence[index] >= np.mean([scores[other, predicted[index]]
                                                  for other in same]):
            expected.append(index)
    assert sorted(suspicious) == expected and 0 < len(expected) < len(wrong)
    margins = (confidence - own)[suspicious]
    assert (np.diff(margins) <= 1e-12).all()


@pytest.mark.smoke
def test_what_is_kept_of_logits():
    """The k most probable classes, the label's place and the loss; on equal logits the class with
    the smaller number comes first, in `top` as in the place of the label."""
    random = np.random.default_rng(0)
    logits = random.integers(0, 6, (50, 40)).astype(np.float32)  # many are equal
    labels = random.integers(0, 40, 50)
    predictions = predictions_of(labels, logits, topk=6, names=[str(k) for k in range(40)])
    for index in range(50):
        order = sorted(range(40), key=lambda label: (-logits[index, label], label))
        assert predictions.top[index].tolist() == order[:6]
        assert predictions.ranks[index] == 1 + order.index(labels[index])
    scores = softmax(logits)
    np.testing.assert_allclose(predictions.scores,
                               np.take_along_axis(scores, predictions.top, axis=1))
    np.testing.assert_allclose(predictions.label_scores, scores[np.arange(50), labels])
    np.testing.assert_allclose(predictions.losses, -np.log(predictions.label_scores))
    unequal = random.standard_normal((50, 40))
    np.testing.assert_array_equal(top_classes(unequal, 5), (-unequal).argsort(axis=1)[:, :5])
    # logits so far apart that the probability of the label is 0: the loss is still a number
    far = predictions_of(np.array([1]), np.array([[1000.0, -1000.0]], np.float32), names=['a', 'b'])
    assert far.label_scores[0] == 0 and far.losses[0] == 2000


@pytest.mark.smoke
def test_what_is_kept_does_not_grow_with_the_classes():
    kept = []
    for K in (10, 1000):
        collector = Collector(np.zeros(64, np.int64), topk=5)
        collector.add(np.zeros((64, K), np.float32), list(range(64)))
        kept.append(collector.table.nbytes)
    assert kept[0] == kept[1]
    lacking = Collector(np.zeros(64, np.int64))
    lacking.add(np.zeros((63, 10), np.float32), list(range(63)))
    with pytest.raises(RuntimeError, match='not every image'):
        lacking.predictions([], [])


class Watched(NoiseImages):
    """Noise that knows how many of its images are alive."""

    def __init__(self, labels, side):
        super().__init__(labels, side)
        self.alive = self.most = 0

    def load(self, index):
        image = Image.fromarray(super().load(index))
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self.forget)
        return image

    def forget(self):
        self.alive -= 1


def test_images_do_not_pile_up(tmp_path):
    """At most one image of any size is in memory, while it is evaluated, compared and drawn."""
    source = noise_source(60, ['a', 'b', 'c'])
    images = Watched(source.dataset.images.labels, 96)
    source.dataset.images = images
    source.dataset.transform = source_transform(source)
    config = source.config.clone()
    config.defrost()
    config.DATA.NUM_WORKERS, config.DATA.BATCH_SIZE = 0, 20
    config.freeze()
    source.model.config = config
    gc.disable()
    try:
        predictions = predict(source, 5)
        write_report(str(tmp_path / 'report'), predictions, source, Options(8, duplicates=0))
        find_duplicates(images, images, config)
    finally:
        gc.enable()
    assert images.most <= 2  # the one that is made, while the one before is let go


def source_transform(source):
    from common.data.datasets import eval_transform
    return eval_transform(source.config)


@pytest.mark.smoke
def test_mcnemar_is_the_binomial_distribution_s():
    for better, worse in ((0, 0), (1, 0), (3, 9), (9, 3), (7, 7), (40, 61), (200, 150)):
        n, less = better + worse, min(better, worse)
        tail = sum(Fraction(math.comb(n, k), 2 ** n) for k in range(less + 1))
        np.testing.assert_allclose(mcnemar(better, worse), float(min(Fraction(1), 2 * tail)),
                                   rtol=1e-9)


@pytest.mark.smoke
def test_two_models_are_compared_image_by_image(tmp_path):
    labels, logits = drawn_logits(seed=3)
    here = predictions_of(labels, logits)
    other_logits = logits + np.random.default_rng(4).standard_normal(logits.shape) * 0.8
    there = predictions_of(labels, other_logits.astype(np.float32))
    # the other one in another order, with its classes numbered in another way, and from a file
    order = np.random.default_rng(5).permutation(len(labels))
    moved = np.array([3, 0, 2, 1, 6, 5, 4])  # class k here is class moved[k] there
    file = tmp_path / 'predictions.csv'
    turned = np.empty_like(other_logits)
    turned[:, moved] = other_logits
    names = [CLASSES[np.flatnonzero(moved == k)[0]] for k in range(7)]
    shuffled = predictions_of(moved[labels][order], turned[order].astype(np.float32), names=names)
    shuffled = shuffled.__class__(**{**vars(shuffled),
                                     'names': [f'val/{index}.jpg' for index in order]})
    tables.write_predictions(file, shuffled)
    comparison = compare(here, tables.read_predictions(file), 'before')
    right, before = here.correct, there.correct
    assert sorted(comparison.better) == np.flatnonzero(right & ~before).tolist()
    assert sorted(comparison.worse) == np.flatnonzero(~right & before).tolist()
    assert comparison.both_right == (right & before).sum()
    assert comparison.both_wrong == (~right & ~before).sum()
    gains = (here.label_scores - there.label_scores)[comparison.better]
    assert (np.diff(gains) <= 1e-5).all()
    analysis = analysed(here, comparison=comparison)
    for label in set(labels.tolist()):
        np.testing.assert_allclose(analysis.classes_before.recall[label],
                                   before[labels == label].mean())
    found = as_json(analysis)['compared_with']
    assert found['better'] - found['worse'] == right.sum() - before.sum()

    fewer = predictions_of(labels[1:], logits[1:])
    assert "expected the same 400 images" in refusal(compare, here, fewer, 'other')
    relabelled = predictions_of(np.where(labels == 0, 1, labels), logits)
    assert "got the label 'b', expected 'a'" in refusal(compare, here, relabelled, 'other')


@pytest.mark.smoke
@pytest.mark.parametrize('text, words', [
    ('', 'got another table'), ('file,label\na,1\n', 'got another table'),
    (','.join(tables.COLUMNS) + '\n', 'no image'),
    (','.join(tables.COLUMNS) + ',label_1,name_1,score_1\nx,a,b,c,d,e,f,g,h,i,j,k,l\n', 'invalid'),
])
def test_other_tables_are_refused(tmp_path, text, words):
    file = tmp_path / 'table.csv'
    file.write_text(text)
    assert words in refusal(tables.read_predictions, str(file))
    assert 'cannot read it' in refusal(tables.read_predictions, str(tmp_path / 'none.csv'))


@pytest.mark.smoke
@pytest.mark.parametrize('kind', ['one image', 'all right', 'all wrong', 'one class'])
def test_borders(tmp_path, kind):
    """What has no mistake, no hit, or only one image, has a whole report all the same."""
    K = 1 if kind == 'one class' else 3
    source = noise_source(1 if kind == 'one image' else 9, [str(k) for k in range(K)])
    labels = source.dataset.images.labels
    logits = np.full((len(labels), K), -2.0, np.float32)
    logits[np.arange(len(labels)), (labels + (kind == 'all wrong')) % K] = 2.0
    predictions = predictions_of(labels, logits, names=source.class_names)
    page = write_report(str(tmp_path / 'report'), predictions, source, Options(2, duplicates=0))
    figures_file = json.loads((tmp_path / 'report' / 'figures.json').read_text())
    assert figures_file['accuracy'] == (0.0 if kind == 'all wrong' else 1.0)
    with open(page, encoding='utf-8') as stream:
        assert 'There is none.' in stream.read()


# Near-duplicates

class Pictures(ImageSource):
    """Pillow images that are at hand."""

    def __init__(self, images):
        self.images = images
        self.labels = np.zeros(len(images), np.int64)

    def name(self, index):
        return f'{index}.jpg'

    def where(self, index):
        return self.name(index)

    def load(self, index):
        if self.images[index] is None:
            raise OSError('broken')
        return self.images[index]


def scene(seed, size=(160, 120)):
    """A picture of some rectangles."""
    random = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), random.integers(60, 200, 3), np.uint8)
    for _ in range(12):
        x, y = random.integers(0, size[0]), random.integers(0, size[1])
        pixels[y:y + random.integers(10, 60), x:x + random.integers(10, 60)] = \
            random.integers(0, 256, 3)
    return Image.fromarray(pixels)


def compressed(image):
    target = io.BytesIO()
    image.save(target, 'JPEG', quality=30)
    return Image.open(io.BytesIO(target.getvalue())).convert('RGB')


COPIES = {'the same': lambda image: image, 'compressed': compressed,
          'smaller': lambda image: image.resize((64, 48), Image.BILINEAR),
          'darker': lambda image: image.point(lambda value: value * 0.6),
          'grey': lambda image: image.convert('L').convert('RGB'),
          'mirrored': lambda image: compressed(image.transpose(Image.FLIP_LEFT_RIGHT))}


@pytest.mark.smoke
def test_copies_are_found_among_the_training_images():
    config = SimpleNamespace(DATA=SimpleNamespace(NUM_WORKERS=0, WORKER_TIMEOUT=60.0))
    train = [scene(seed) for seed in range(20)] + [None, Image.new('RGB', (40, 40), 'white')]
    val = [make(scene(3 * place)) for place, make in enumerate(COPIES.values())]
    strangers = [scene(100 + seed) for seed in range(20)] + [Image.new('RGB', (50, 50), 'white')]
    found, bad = find_duplicates(Pictures(train), Pictures(val + strangers), config)
    assert bad == 1
    assert {pair.index: pair.train_index for pair in found} == \
        {place: 3 * place for place in range(len(COPIES))}
    assert all(SIMILAR <= pair.similarity <= 1 for pair in found)
    assert {pair.index: pair.similarity for pair in found}[0] > 0.9999
    assert {place for place, make in enumerate(COPIES) if make == 'mirrored'} == \
        {pair.index for pair in found if pair.mirrored}


@pytest.mark.smoke
def test_nearest_images_are_those_of_all_pairs():
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (30, 3, 17, 17), np.uint8)
    vectors = vectors_of(pictures)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    nearest = NearestImages(vectors[:10])
    for start in range(10, 30, 7):
        nearest.show(vectors[start:start + 7], np.arange(start, min(start + 7, 30)))
    products = vectors[:10].astype(np.float64) @ vectors[10:].T.astype(np.float64)
    np.testing.assert_array_equal(nearest.nearest, 10 + products.argmax(axis=1))
    np.testing.assert_allclose(nearest.similarities, products.max(axis=1), rtol=1e-4, atol=1e-6)


# Pictures with Chinese names

def made_font(folder):
    """A font with two characters, each a filled square; its name is that of a known one."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for step, corner in enumerate(((0, 0), (0, 1000), (1000, 1000), (1000, 0))):
        pen.lineTo(corner) if step else pen.moveTo(corner)
    pen.closePath()
    square, names = pen.glyph(), ['.notdef', 'square']
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): 'square' for character in fonts.PROBES})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({'familyName': 'Made', 'styleName': 'Regular'})
    builder.setupOS2()
    builder.setupPost()
    file = folder / 'NotoSansCJK-Regular.ttf'
    builder.save(file)
    return str(file)


@pytest.mark.smoke
@pytest.mark.parametrize('has_font', [True, False])
def test_chinese_names_in_pictures(tmp_path, monkeypatch, capsys, has_font):
    """They are drawn by a font that has them; without one a line names the package, once, and the
    picture is drawn all the same."""
    from matplotlib import font_manager
    from matplotlib.figure import Figure
    found = [made_font(tmp_path)] if has_font else []
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: found)
    fonts.east_asian_font.cache_clear()
    dark = []
    try:
        for words in ('火箭', 'ab'):
            figure = Figure(figsize=(4, 3), layout='constrained')
            axes = figure.subplots()
            axes.set_xticks([0.5], [words], fontsize=40)
            axes.set_yticks([])
            save(figure, tmp_path / 'picture.png')
            dark.append((np.asarray(Image.open(tmp_path / 'picture.png').convert('L')) < 64).sum())
    finally:
        fonts.east_asian_font.cache_clear()
    side = 40 / 72 * 110
    assert (dark[0] > 1.8 * side ** 2) == has_font  # two filled squares, or two frames
    said = capsys.readouterr().err
    assert said.count('fonts-noto-cjk') == (0 if has_font else 1)


@pytest.mark.smoke
def test_chinese_names_in_a_legend(tmp_path, monkeypatch):
    """Of segmentation: by the same font; it had a question mark for each character."""
    from matplotlib import font_manager
    found = [made_font(tmp_path)]
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: found)
    fonts.east_asian_font.cache_clear()
    try:
        picture = with_legend(np.full([8, 8, 3], 255, np.uint8), ['火箭'], 1)
    finally:
        fonts.east_asian_font.cache_clear()
    dark = (picture == 40).all(axis=2)
    assert dark.sum() > 0.9 * 2 * LETTERS ** 2  # two filled squares


# The command

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The folder of an evaluation with -report of a model with random weights, on two ranks."""
    folder = tmp_path_factory.mktemp('runs')
    paddle.seed(3)
    model = noise_source(1, [str(k) for k in range(10)]).model
    paddle.save(model.state_dict(), str(folder / 'weights.pdparams'))
    code, out, err = run_script(
        ['main_multi_gpu.py', '-cfg=./configs/vit_digits.yaml', '-dataset=digits', '-eval',
         '-report', '-nprocs=2', f'-pretrained={folder}/weights.pdparams', f'-output={folder}/runs',
         '-o', 'DATA.NUM_WORKERS=0'])
    assert code == 0, err
    run, = (folder / 'runs').iterdir()
    assert f'{run}/report/report.html: written' in out
    return folder, run


def test_report_of_an_evaluation_on_two_ranks_has_its_figures(runs):
    _, run = runs
    result = json.loads((run / 'result.json').read_text())
    found = json.loads((run / 'report' / 'figures.json').read_text())
    assert found['images'] == result['seen'] == 355
    assert found['accuracy'] == result['acc1'] and found['top']['5'] == result['acc5']
    np.testing.assert_allclose(found['loss'], result['loss'], rtol=1e-6)


def test_report_of_a_run_is_that_of_its_evaluation(runs, tmp_path, monkeypatch, capsys):
    """The command on the run's folder, in one process and compared with the report of two; all
    images and no others are in its table."""
    _, run = runs
    monkeypatch.setattr(report, 'set_up_cpu', lambda: None)  # not in the tests' process
    output = tmp_path / 'new'
    report.main([str(run), '-output', str(output), '-compare', str(run / 'report'), '-images', '3',
                 '-batch_size', '50', '-o', 'DATA.NUM_WORKERS=0'])
    assert f'{output}/report.html: written' in capsys.readouterr().out
    found = json.loads((output / 'figures.json').read_text())
    compared = found['compared_with']
    assert compared['better'] == compared['worse'] == 0 and compared['mcnemar_p'] == 1
    assert found['accuracy'] == compared['accuracy']
    with open(output / 'predictions.csv', encoding='utf-8', newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert len({row['file'] for row in rows}) == len(rows) == found['images'] == 355
    assert sum(row['correct'] == '1' for row in rows) == found['correct']
    assert all(row['prediction'] == row['label_1'] and row['confidence'] == row['score_1']
               for row in rows)
    assert {file.name for file in output.iterdir()} == {
        'report.html', 'figures.json', 'predictions.csv', 'classes.csv', 'confusion_matrix.csv',
        'confusion_matrix.png', 'confusions.csv', 'reliability.png', 'coverage.png',
        'suspicious.csv', 'duplicates.csv', 'comparison.csv'}
    # again, without a comparison: what this report has not is not left from the one before
    report.main([str(run), '-output', str(output), '-duplicates', '0', '-images', '0'])
    assert not {'comparison.csv', 'duplicates.csv'} & {file.name for file in output.iterdir()}
    assert 'were not searched' in (output / 'report.html').read_text()


def test_report_by_flags_lies_beside_the_weights(runs, monkeypatch, capsys):
    folder, run = runs
    monkeypatch.setattr(report, 'set_up_cpu', lambda: None)
    report.main(['-cfg', 'vit_digits', '-pretrained', f'{folder}/weights.pdparams', '-dataset',
                 'digits', '-compare', str(run), '-images', '1'])
    assert f'{folder}/weights-report/report.html: written' in capsys.readouterr().out
    assert json.loads((folder / 'weights-report' / 'figures.json').read_text())[
        'compared_with']['better'] == 0


@pytest.mark.smoke
@pytest.mark.parametrize('arguments, words', [
    ([], "expected a run's folder, or -cfg and -pretrained"),
    (['.'], "got no config.yaml in it, expected a run's folder"),
    (['-cfg', 'vit_digits', '-pretrained', 'x', '-compare', 'none'], 'no such file or folder'),
    (['.', '-images', '-1'], '-images: got -1'), (['.', '-topk', '0'], '-topk: got 0'),
    (['.', '-output', '/dev/null/x'], '-output: got /dev/null/x'),
])
def test_wrong_flags_are_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, 'set_up_cpu', lambda: None)
    with pytest.raises(SystemExit) as end:
        report.main(arguments)
    assert words in str(end.value) and '\n' not in str(end.value)


@pytest.mark.smoke
def test_what_is_missing_is_named(monkeypatch):
    from common.config import base_config
    from common.runner import check_report
    assert "expected -eval" in refusal(check_report, base_config())
    config = base_config()
    config.EVAL = config.DATA.MULTI_LABEL = True
    assert refusal(check_report, config).startswith('-report: got it with DATA.MULTI_LABEL')
    assert 'got a model of 21843 classes' in refusal(figures.check_classes, 21843)
    monkeypatch.setattr(figures.importlib.util, 'find_spec', lambda name: None)
    assert refusal(figures.check_extra) == \
        "the report needs scikit-learn and scipy: pip install 'paddle-vitae[report]'"


def test_benchmark_has_a_line(monkeypatch, capsys):
    from common import benchmark
    monkeypatch.setattr(benchmark, 'set_up_cpu', lambda: None)
    benchmark.main(['report', 'vit_digits', '-images', '60', '-classes', '4'])
    assert '| vit_digits | 60 | 4 | ' in capsys.readouterr().out
    assert drawn_predictions(noise_source(60, list('abcd'))).correct.mean() > 0.5
