"""Parts of a training set: how many of each class, which ones, and the source made of them."""
import hashlib

import numpy as np
import pytest
from PIL import Image

from common.core.errors import InputError
from common.data.samplers import TrainSampler
from common.data.subset import Subset, take_fraction

pytestmark = pytest.mark.smoke

SIZES = [1, 2, 10, 49, 50, 51, 1300]  # of the classes


def labels_of(sizes=SIZES, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


@pytest.mark.parametrize('fraction, counts', [
    (0.01, [1, 1, 1, 1, 1, 1, 13]),
    (0.03, [1, 1, 1, 1, 2, 2, 39]),      # 1.5 rounds up
    (0.1, [1, 1, 1, 5, 5, 5, 130]),
    (0.29, [1, 1, 3, 14, 14, 15, 377]),
    (0.5, [1, 1, 5, 25, 25, 26, 650]),
    (1.0, SIZES),
    (1, SIZES),
    (1e-9, [1] * 7),
])
def test_count_of_each_class(fraction, counts):
    labels = labels_of()
    taken = take_fraction(labels, fraction)
    assert taken.dtype == np.int64 and np.all(np.diff(taken) > 0)
    assert taken[0] >= 0 and taken[-1] < len(labels)
    assert np.bincount(labels[taken]).tolist() == counts


@pytest.mark.parametrize('fraction', [0, -0.1, 1.1, float('nan'), float('inf')])
def test_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(InputError, match='fraction of the training set: got .*expected more than'):
        take_fraction(labels_of(), fraction)


def test_choice_is_a_function_of_seed_and_class():
    labels = labels_of()
    choices = {seed: take_fraction(labels, 0.1, seed).tolist() for seed in (0, 1, 2 ** 31 - 1)}
    assert len({tuple(choice) for choice in choices.values()}) == 3
    for seed, choice in choices.items():
        np.random.default_rng().random()  # no generator has a part in it
        assert take_fraction(labels, 0.1, seed).tolist() == choice
    same = np.repeat([0, 1], 100)  # two classes of the same size
    taken = take_fraction(same, 0.1)
    assert (taken[same[taken] == 0] + 100).tolist() != taken[same[taken] == 1].tolist()


def test_smaller_part_lies_in_a_larger_one():
    labels = labels_of()
    parts = [set(take_fraction(labels, fraction, 5).tolist())
             for fraction in (0.001, 0.01, 0.1, 0.5, 1)]
    for small, large in zip(parts, parts[1:], strict=False):
        assert small < large


def places_in_their_class(labels, fraction):
    """For each class which of its members, counted in the list's order, are taken."""
    taken = take_fraction(labels, fraction, 3)
    return {label: np.searchsorted(np.flatnonzero(labels == label), taken[labels[taken] == label]
                                   ).tolist() for label in np.unique(labels).tolist()}


def test_order_of_the_classes_in_the_list_does_not_matter():
    expected = places_in_their_class(np.sort(labels_of()), 0.1)
    for seed in range(3):
        assert places_in_their_class(labels_of(seed=seed), 0.1) == expected


def test_other_classes_do_not_matter():
    labels = labels_of()
    whole = places_in_their_class(labels, 0.1)
    assert places_in_their_class(labels[labels != 4], 0.1) == {
        label: places for label, places in whole.items() if label != 4}


def test_choice_is_even():
    """Each of 20 images is taken about as often as the others: 1000 draws of 5."""
    counts = np.zeros(20)
    for seed in range(1000):
        counts[take_fraction(np.zeros(20, np.int64), 0.25, seed)] += 1
    assert counts.sum() == 5000 and counts.min() > 190 and counts.max() < 310


def test_labels_of_one_class_and_none():
    assert take_fraction(np.array([7]), 0.01).tolist() == [0]
    empty = take_fraction(np.zeros(0, np.int64), 0.5)
    assert empty.dtype == np.int64 and empty.shape == (0,)


def test_choice_is_the_same_in_every_process_and_for_ever():
    """The digest was made with numpy 2.4; numpy 1.26 gives the same."""
    taken = take_fraction(np.arange(10_000) * 7919 % 10_007 % 100, 0.1, 42)
    assert len(taken) == 1000
    assert hashlib.sha256(taken.astype('<i8').tobytes()).hexdigest()[:16] == '5d91a3e1a8eafff7'


class Source:
    """Images of one colour, the sample's index."""

    labels = np.array([0, 1, 2, 0, 1, 2, 0, 9], np.int64)

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        assert type(index) is int
        return f'{index}.png'

    def where(self, index):
        return f'list.txt:{index + 1}'

    def load(self, index):
        if index == 5:
            raise OSError('image file is truncated')
        return Image.new('RGB', (2, 2), (index, 0, 0))

    def check_labels(self, num_classes):
        if self.labels.max() >= num_classes:
            raise InputError('list.txt:8: label')


def test_subset_is_a_source():
    subset = Subset(Source(), np.array([1, 3, 5, 6]))
    assert len(subset) == 4
    assert subset.labels.tolist() == [1, 0, 2, 0] and subset.labels.dtype == np.int64
    assert [subset.name(i) for i in range(4)] == ['1.png', '3.png', '5.png', '6.png']
    assert subset.where(np.int64(3)) == 'list.txt:7'
    assert subset.load(1).getpixel((0, 0)) == (3, 0, 0)
    with pytest.raises(OSError, match='truncated'):
        subset.load(2)
    with pytest.raises(IndexError):
        subset.load(4)
    subset.check_labels(10)
    with pytest.raises(InputError, match='list.txt:8'):
        subset.check_labels(9)


def test_subset_of_a_subset():
    subset = Subset(Subset(Source(), [1, 3, 5, 6]), [0, 3])
    assert [subset.name(i) for i in range(2)] == ['1.png', '6.png']
    assert subset.labels.tolist() == [1, 0]


def test_sampler_takes_the_subset_as_any_other_source():
    subset = Subset(Source(), take_fraction(Source.labels, 0.6))
    assert len(subset) == 2 + 1 + 1 + 1
    sampler = TrainSampler(len(subset), 5)
    assert sorted(index for batch in sampler for _, index in batch) == list(range(5))
