"""ReaL labels: the published file's form, images found by their number, and what is counted."""
import json

import numpy as np
import pytest

from common.data.real_labels import RealLabels, image_number, read_real_labels
from tests.conftest import refusal

pytestmark = pytest.mark.smoke

# The first six of the published file, and some that are made up.
PUBLISHED = [[], [970, 795], [230, 231], [809], [516, 850], [57]]


def write(folder, sets):
    file = folder / 'real.json'
    file.write_text(sets if isinstance(sets, str) else json.dumps(sets))
    return str(file)


def full(first=PUBLISHED):
    """50,000 sets: entry k beyond the first ones is [k % 1000], and [] for every 16th."""
    return [*first, *([k % 1000] if k % 16 else [] for k in range(len(first), 50_000))]


def name(number):
    return f'ILSVRC2012_val_{number:08d}.JPEG'


@pytest.fixture(scope='module')
def labels(tmp_path_factory):
    return read_real_labels(write(tmp_path_factory.mktemp('real'), full()))


def classes(mask):
    return [np.flatnonzero(row).tolist() for row in mask]


def test_images_are_found_by_the_number_in_their_name(labels):
    names = [name(2), f'val/n01440764/{name(6)}', name(1), f'a/b/{name(293)}', name(50_000),
             name(2), 'ILSVRC2012_val_00000004.png', 'val/ILSVRC2012_val_00000003']
    mask = labels.mask(names)
    assert mask.dtype == bool and mask.shape == (8, 1000)
    assert classes(mask) == [[795, 970], [57], [], [292], [999], [795, 970], [809], [230, 231]]


def test_every_image(labels):
    mask = labels.mask([name(number) for number in range(1, 50_001)])
    assert classes(mask) == [sorted(found) for found in full()]


def count_correct(mask, predictions):
    """(right, counted), as the evaluation counts them."""
    right = mask[np.arange(len(mask)), np.asarray(predictions, np.int64)]
    return int(right.sum()), int(mask.any(axis=1).sum())


def test_no_names(labels):
    assert labels.mask([]).shape == (0, 1000)
    assert count_correct(labels.mask([]), []) == (0, 0)


@pytest.mark.parametrize('wrong', ['a.jpg', 'ILSVRC2012_val_00000000.JPEG', name(50_001),
                                   'ILSVRC2012_val_0000001.JPEG', 'ILSVRC2012_val_000000001.JPEG',
                                   'ILSVRC2012_test_00000001.JPEG', 'n01440764_10026.JPEG',
                                   'ILSVRC2012_val_00000001.JPEG.txt', '', 'train/00017',
                                   'ILSVRC2012_val_0000000\u0661.JPEG',
                                   'ILSVRC2012_val_00000001/1.JPEG'])
def test_name_without_a_number_is_refused(labels, wrong):
    message = refusal(labels.mask, [name(1), wrong])
    assert message.startswith(f'{wrong}: got no number') and '00050000' in message


def test_number_of_a_name():
    assert [image_number(name(number)) for number in (1, 293, 50_000)] == [1, 293, 50_000]


@pytest.mark.parametrize('num_classes', [10, 999, 1001, 21841])
def test_model_of_other_classes_is_refused(labels, num_classes):
    assert f'got a model of {num_classes} classes' in refusal(labels.mask, [name(1)], num_classes)


def test_count_by_hand(labels):
    mask = labels.mask([name(number) for number in (1, 2, 2, 2, 3, 4)])
    predictions = np.array([0, 970, 795, 971, 229, 809])
    assert count_correct(mask, predictions) == (3, 5)  # image 1 has no label
    assert count_correct(mask, predictions.tolist()) == (3, 5)
    assert count_correct(mask[:1], predictions[:1]) == (0, 0)


def test_count_equals_the_published_code(labels):
    """The code in the README of the published file, in a shuffled order and in batches."""
    random = np.random.default_rng(0)
    order = random.permutation(50_000)[:20_000]
    predictions = np.where(random.random(20_000) < 0.5, order % 1000,
                           random.integers(0, 1000, 20_000))
    is_correct = [label in labels.sets[k] for k, label in zip(order, predictions, strict=True)
                  if labels.sets[k]]
    counts = np.zeros(2, int)
    for start in range(0, 20_000, 3000):
        part = slice(start, start + 3000)
        counts += count_correct(labels.mask([name(k + 1) for k in order[part]]), predictions[part])
    assert counts.tolist() == [sum(is_correct), len(is_correct)]
    assert 0.4 < np.mean(is_correct) < 0.6 and len(is_correct) < 20_000


@pytest.mark.parametrize('sets, text', [
    (full()[:-1], 'got a list of 49999, expected a list of 50000 lists'),
    (full() + [[]], 'got a list of 50001'),
    ({name(1): [1]}, 'got a dict'),
    ('7', 'got a int'),
    ('null', 'got a NoneType'),
    (full([[1000]]), 'entry 0: got [1000], expected a list of numbers from 0 to 999'),
    (full([[], [-1]]), 'entry 1: got [-1]'),
    (full([[], [], 3]), 'entry 2: got 3'),
    (full([[1.0]]), 'entry 0: got [1.0]'),
    (full([[True]]), 'entry 0: got [true]'),
    (full([['1']]), 'entry 0: got ["1"]'),
    (full([[[1]]]), 'entry 0: got [[1]]'),
    (full([None]), 'entry 0: got null'),
    ('', 'not json'),
    ('[[], [1', 'not json'),
    ('<html>', 'not json'),
    ('[' * 100_000, 'not json'),
    ('[' + '9' * 10_000 + ']', 'not json'),
], ids=range(18))
def test_file_of_another_form_is_refused(tmp_path, sets, text):
    file = write(tmp_path, sets)
    message = refusal(read_real_labels, file)
    assert message.startswith(f'{file}: ') and text in message


def test_missing_binary_and_huge_file(tmp_path):
    assert refusal(read_real_labels, str(tmp_path)).startswith(f'{tmp_path}: no such file')
    file = tmp_path / 'real.json'
    file.write_bytes(b'\xff\xfe\xfd')
    assert refusal(read_real_labels, str(file)).startswith(f'{file}: not json')
    with open(file, 'wb') as stream:
        stream.truncate(1 << 30)
    assert 'got 1073741824 bytes' in refusal(read_real_labels, str(file))


def test_duplicate_classes_count_once():
    mask = RealLabels([[3, 3]]).mask([name(1)])
    assert classes(mask) == [[3]] and count_correct(mask, [3]) == (1, 1)
