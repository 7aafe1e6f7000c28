"""The linear probe: features by the evaluation's path, kept only as long as they are right, and
classifiers against plain forms."""
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from common.apis import init_model
from common.data.digits_source import write_digits
from common.probing import cache, classifiers
from common.probing.cache import cached, digest_of_images, key_of
from common.probing.classifiers import (
    MAX_TUNED_ON,
    accuracy,
    linear_probe,
    nearest_neighbours,
    sample,
)
from common.probing.data import data_config, read_splits
from common.probing.features import features_of
from common.probing.linear_probe import chosen_text, probe, report_of
from tests.conftest import ROOT, refusal, run_script, write_image_list

pytestmark = pytest.mark.smoke


@pytest.fixture(scope='module')
def model():
    paddle.seed(0)
    return init_model('vit_digits')


@pytest.fixture
def folder(tmp_path):
    """12 training images and 6 of the validation, 3 classes, as lists."""
    return write_image_list(tmp_path / 'data', 12, 6, classes=3, size=(40, 36))


def splits_of(model, folder, **options):
    config = data_config(model.config, str(folder), **options)
    return config, read_splits(config)


def clusters(count=90, channels=6, classes=3, noise=1.0, seed=0):
    """Features of classes that lie apart, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(size=[classes, channels]) * 3
    return (centres[labels] + noise * random.normal(size=[count, channels])).astype(np.float32), \
        labels


# Features

@pytest.mark.parametrize('name', ['vit_digits', 'vitae_digits'])
def test_features_are_those_of_the_evaluation_s_images(name, folder):
    """Against the data set's items, one by one; batches, of which the last is short, by a worker
    process."""
    model = init_model(name)
    kind = 'cls_token' if name == 'vit_digits' else 'avg_featmap'
    workers = 1 if sys.platform == 'linux' else 0
    config, splits = splits_of(model, folder, batch_size=5, workers=workers)
    for dataset in splits.values():
        found = features_of(model, dataset, config, kind)
        with paddle.no_grad():
            expected = [model.extract_feat(paddle.to_tensor(dataset[index][0][None]), kind)[-1]
                        .numpy()[0] for index in range(len(dataset))]
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert found.dtype == np.float32 and len(found) == len(dataset)
    # nothing is augmented: the training images are seen as an evaluation would see them
    image = splits['train'].images.load(0)
    np.testing.assert_array_equal(splits['train'].sample(1, 0).image,
                                  splits['train'].transform(image))


def test_bad_image_is_named(model, folder):
    (folder / 'train' / '7.jpg').write_bytes(b'no image')
    config, splits = splits_of(model, folder)
    assert re.match('.*train_list.txt:8: cannot read train/7.jpg', refusal(
        features_of, model, splits['train'], config, 'cls_token'))


def test_layout_is_recognised_or_asked_for(tmp_path, folder, model):
    config = model.config
    assert data_config(config, str(folder)).DATA.DATASET == 'list'
    for split in ('train', 'val'):
        for name in 'ab':
            (tmp_path / 'own' / split / name).mkdir(parents=True)
            Image.new('RGB', (9, 9)).save(tmp_path / 'own' / split / name / '1.png')
    assert data_config(config, str(tmp_path / 'own')).DATA.DATASET == 'imagefolder'
    assert len(splits_of(model, tmp_path / 'own')[1]['train']) == 2
    assert 'no such folder or table' in refusal(data_config, config, str(tmp_path / 'none'))
    for dataset in (None, 'list'):
        assert refusal(data_config, config, None, dataset) == \
            'DATA: got none, expected the folder of a data set'
    assert data_config(config, None, 'digits').DATA.DATASET == 'digits'


# Kept features

def test_features_are_kept_while_nothing_changes(model, folder, tmp_path):
    for kept in (False, True):
        found = probe(model, folder, cache=tmp_path / 'cache', workers=0)
        assert [part['kept'] for part in found['splits'].values()] == [kept, kept]
    assert len(list((tmp_path / 'cache').iterdir())) == 2


def rewrite(path):
    """The file with other pixels of the same size in bytes, and its times set back."""
    before, content = os.stat(path), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    'the content of an image': lambda folder: rewrite(folder / 'train' / '3.jpg'),
    'another file under its name': lambda folder: os.replace(folder / 'val' / '0.jpg',
                                                             folder / 'train' / '3.jpg'),
    'a missing file': lambda folder: os.remove(folder / 'train' / '3.jpg'),
    'a label': lambda folder: (folder / 'train_list.txt').write_text(
        (folder / 'train_list.txt').read_text().replace('3.jpg 0', '3.jpg 1')),
    'the order': lambda folder: (folder / 'train_list.txt').write_text(''.join(
        sorted((folder / 'train_list.txt').read_text().splitlines(True), reverse=True))),
    'an image less': lambda folder: (folder / 'train_list.txt').write_text(''.join(
        (folder / 'train_list.txt').read_text().splitlines(True)[1:])),
}


@pytest.mark.parametrize('what', CHANGES)
def test_changed_data_have_another_key(what, model, folder):
    def key():
        return key_of(model, splits_of(model, folder)[1]['train'], 'cls_token')

    before = key()
    assert key() == before
    CHANGES[what](folder)
    assert key() != before


def test_all_else_that_features_depend_on_is_in_the_key(model, folder, monkeypatch, tmp_path):
    def key(model, kind='cls_token'):
        return key_of(model, splits_of(model, folder)[1]['train'], kind)

    keys = {key(model), key(model, 'avg_featmap')}
    for options in (['DATA.CROP_PCT=0.9'], ['DATA.INTERPOLATION=bilinear'],
                    ['DATA.IMAGENET_MEAN=[0.4,0.5,0.5]'], ['DATA.EXIF_ORIENTATION=True']):
        paddle.seed(0)
        keys.add(key(init_model('vit_digits', options=options)))
    paddle.seed(0)
    assert key(init_model('vit_digits')) in keys  # the same weights, made again
    paddle.seed(1)
    keys.add(key(init_model('vit_digits')))
    paddle.seed(0)
    changed = init_model('vit_digits')
    changed.classifier.bias.set_value(changed.classifier.bias + 1e-3)
    keys.add(key(changed))
    source = tmp_path / 'source.py'
    monkeypatch.setattr(cache, 'CODE', (str(source),))
    for text in ('a = 1', 'a = 2'):
        source.write_text(text)
        keys.add(key(model))
    assert len(keys) == 10


def test_pixels_in_memory_are_in_the_key(model):
    config = data_config(model.config, None, 'digits')
    images = read_splits(config)['val'].images
    before = digest_of_images(images)
    images.pixels = images.pixels.copy()
    images.pixels[5, 2, 2] += 1
    assert digest_of_images(images) != before


def test_damaged_file_is_made_anew(tmp_path, capsys):
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    key, other = 'a' * 64, 'a' * 63 + 'b'
    _, file, kept = cached(str(tmp_path), key, lambda: features)
    assert not kept
    content = Path(file).read_bytes()
    flipped = bytearray(content)
    flipped[content.index(features.tobytes()) + 9] ^= 4
    for damaged in (b'', content[:-30], content[:100], bytes(flipped), b'text'):
        with open(file, 'wb') as stream:
            stream.write(damaged)
        found, _, kept = cached(str(tmp_path), key, lambda: features)
        assert not kept and np.array_equal(found, features)
        assert 'is damaged, and made anew' in capsys.readouterr().err
        assert cached(str(tmp_path), key, None)[2]
    # its name is the begin of the key, so the whole key is compared
    found, _, kept = cached(str(tmp_path), other, lambda: features + 1)
    assert not kept and np.array_equal(found, features + 1)


def test_features_that_cannot_be_kept_are_used(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    features = np.zeros([3, 4], np.float32)
    assert cached(str(tmp_path / 'file' / 'x'), 'key', lambda: features) == (features, None, False)
    assert 'the features cannot be kept: Not a directory' in capsys.readouterr().err


# Classifiers

def test_logistic_regression_is_at_the_minimum_of_its_loss():
    """sum of cross entropies + |w|^2 / 2C over standardised features, whose gradient is 0 there."""
    train, labels = clusters(noise=3.0)
    fitted, chosen = linear_probe(train, labels, 0)
    wide = train.astype(np.float64)
    x = (wide - wide.mean(axis=0)) / wide.std(axis=0)                            # [N, C]
    w, b = fitted[-1].coef_.astype(np.float64), fitted[-1].intercept_            # [K, C], [K]
    logits = x @ w.T + b
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    error = p - np.eye(3)[labels]                                                # [N, K]
    gradient = error.T @ x + w / chosen['C']
    assert np.abs(gradient).max() < 0.02 * np.abs(error.T @ x).max() + 0.05
    assert np.abs(error.sum(axis=0)).max() < 0.05
    assert chosen['C'] in classifiers.CS and chosen['converged']


def test_nearest_neighbours_are_a_plain_loop_s():
    train, labels = clusters(noise=4.0)
    val, _ = clusters(40, noise=4.0, seed=1)
    fitted, chosen = nearest_neighbours(train, labels, 0, k=5)
    assert chosen == {'k': 5, 'tuned': None}
    mean, deviation = train.astype(np.float64).mean(axis=0), train.astype(np.float64).std(axis=0)
    near = (train - mean) / deviation
    expected = []
    for row in (val - mean) / deviation:
        cosine = near @ row / (np.linalg.norm(near, axis=1) * np.linalg.norm(row))
        expected.append(np.bincount(labels[np.argsort(-cosine)[:5]], minlength=3).argmax())
    assert np.array_equal(fitted.predict(val), expected)
    assert refusal(nearest_neighbours, train, labels, 0, 91) == \
        '-k: got 91, expected at most 90, the training images'


def test_choice_is_a_plain_cross_validation_s():
    """On folds of the same seed; the best of all C's, the smallest of equals."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    train, labels = clusters(noise=5.0)
    scores = []
    folds = list(StratifiedKFold(3, shuffle=True, random_state=4).split(train, labels))
    for C in classifiers.CS:
        right = []
        for fit, held in folds:
            mean, deviation = train[fit].mean(axis=0), train[fit].std(axis=0)
            one = LogisticRegression(C=C, max_iter=1000).fit((train[fit] - mean) / deviation,
                                                             labels[fit])
            right.append((one.predict((train[held] - mean) / deviation) == labels[held]).mean())
        scores.append(np.mean(right))
    _, chosen = linear_probe(train, labels, 4)
    assert chosen['tuned'] == pytest.approx(max(scores), abs=0.03)
    assert scores[classifiers.CS.index(chosen['C'])] >= max(scores) - 0.03


def test_same_seed_same_result_and_validation_images_choose_nothing(model, folder, tmp_path):
    def results():
        return probe(model, folder, cache=tmp_path / 'cache', workers=0)['results']

    first = results()
    assert results() == first
    (folder / 'val_list.txt').write_text('val/0.jpg 2\n')
    for name, chosen in (('linear', 'C'), ('knn', 'k')):
        assert results()[name][chosen] == first[name][chosen]
        assert results()[name]['tuned'] == first[name]['tuned']


def test_few_images_are_no_fault():
    """Of two classes with an image each nothing can be held back; a class with fewer images than
    folds is there in some of them."""
    train, labels = np.float32([[0, 1], [1, 0]]), np.array([3, 7])
    fitted, chosen = linear_probe(train, labels, 0)
    assert chosen['tuned'] is None and fitted.predict(train).tolist() == [3, 7]
    assert chosen_text({'acc1': 1, **chosen}).endswith('(not chosen)')
    assert nearest_neighbours(train, labels, 0)[1]['k'] == 1
    train, labels = clusters(20, classes=2)
    labels[0] = 5
    assert linear_probe(train, labels, 0)[1]['tuned'] > 0.5


def test_sample_has_each_class_in_its_share():
    labels = np.repeat([0, 1, 2], [3 * MAX_TUNED_ON, MAX_TUNED_ON, 1])
    chosen = sample(labels, 0)
    counts = np.bincount(labels[chosen])
    assert abs(len(chosen) - MAX_TUNED_ON) <= 3 and abs(counts[0] - 3 * counts[1]) <= 3
    assert counts[2] == 1 and len(set(chosen.tolist())) == len(chosen)
    assert np.array_equal(sample(labels, 0), chosen) and not np.array_equal(sample(labels, 1),
                                                                            chosen)
    assert np.array_equal(sample(labels[:50], 0), np.arange(50))


@pytest.mark.parametrize('correct, seen', [(0, 7), (7, 7), (90, 100), (1, 1)])
def test_interval_is_wilson_s(correct, seen):
    found = accuracy(np.array([1] * correct + [0] * (seen - correct)), np.ones(seen, int))
    z, p = 1.959963984540054, correct / seen
    centre = (p + z * z / (2 * seen)) / (1 + z * z / seen)
    half = z / (1 + z * z / seen) * np.sqrt(p * (1 - p) / seen + z * z / (4 * seen * seen))
    np.testing.assert_allclose(found['interval'], [max(centre - half, 0), min(centre + half, 1)],
                               atol=1e-9)
    assert (found['correct'], found['seen'], found['acc1']) == (correct, seen, p)


def test_classes_without_training_images_are_counted(model, folder, tmp_path):
    lines = [line for line in (folder / 'train_list.txt').read_text().splitlines(True)
             if not line.endswith(' 2\n')]
    (folder / 'train_list.txt').write_text(''.join(lines))
    found = probe(model, folder, cache=tmp_path / 'cache', workers=0)
    assert (found['classes'], found['unknown']) == (2, 2)
    assert '2 validation images are of classes without a training image' in report_of(found)
    (folder / 'train_list.txt').write_text('train/0.jpg 0\n')
    assert 'got training images of 1 class, expected at least 2' in refusal(
        lambda: probe(model, folder, cache=tmp_path / 'cache'))


def test_missing_extra_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    assert refusal(lambda: probe(model, dataset='digits')) == \
        "the probe needs scikit-learn: pip install 'paddle-vitae[probe]'"


def test_command(model, tmp_path):
    """As a user types it, twice: the features of the second time are the first's, and so is all
    that is said of them."""
    write_digits(str(tmp_path / 'digits'))
    paddle.save(model.state_dict(), str(tmp_path / 'w.pdparams'))
    tables = []
    for _ in range(2):
        code, out, error = run_script(
            ['-m', 'common.probe', '-pretrained', 'w.pdparams', 'digits', '-json', 'found.json'],
            folder=tmp_path, env={'PYTHONPATH': str(ROOT)})
        assert code == 0, error
        assert out.startswith('vit_digits: cls_token, 96 features, of 1442 training and 355 '
                              'validation images, 10 classes\n')
        tables.append(out[out.index('\n\n'):])
        found = json.loads((tmp_path / 'found.json').read_text())
    assert tables[0] == tables[1]
    assert out.count('read from output/features/') == 2
    results = found['results']
    assert results['linear']['acc1'] > 0.5 > results['majority']['acc1']  # random features, even
    for name in ('linear', 'knn', 'majority'):
        assert f'| {results[name]["acc1"]:.2%} |' in out
