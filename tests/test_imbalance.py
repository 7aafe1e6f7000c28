"""Classes of very different numbers of images: DATA.BALANCE and TRAIN.CLASS_WEIGHTS."""
import numpy as np
import paddle
import pytest
from sklearn.utils.class_weight import compute_class_weight

from common.config import base_config, set_options
from common.core.errors import InputError
from common.core.label_sets import LabelSets
from common.data.balance import BalancedPicker, build_picker
from common.data.samplers import TrainSampler
from common.train.class_weights import balanced_weights, class_weights
from common.train.losses import build_loss
from common.train.same_run import order_of_samples
from tests.conftest import refusal

pytestmark = pytest.mark.smoke
COUNTS = [97, 31, 7, 1]  # of classes 0, 1, 2, 5
LABELS = np.random.RandomState(0).permutation(np.repeat([0, 1, 2, 5], COUNTS))


def epoch_of(epoch, first_step=0, balance=1.0, repeats=1, batch=8, accum_iter=1, rank=0, ranks=1):
    """The numbers of an epoch, int64 [steps, batch]."""
    sampler = TrainSampler(len(LABELS), batch, accum_iter, 3, rank, ranks, repeats,
                           BalancedPicker(LABELS, balance))
    sampler.set_epoch(epoch, first_step)
    assert len(list(sampler)) == len(sampler)
    return np.array([number for keys in sampler for _, number in keys]).reshape(
        -1, batch * accum_iter)


# DATA.BALANCE

@pytest.mark.parametrize('balance', [0.3, 0.5, 1.0])
def test_classes_get_their_shares_and_images_are_even_within_a_class(balance):
    weights = np.array(COUNTS) ** (1 - balance)
    expected = weights / weights.sum() * len(LABELS)
    picker, sums = BalancedPicker(LABELS, balance), np.zeros(4)
    for seed in range(200):
        picked = picker.pick(len(LABELS), 1, np.random.default_rng(seed))
        assert len(picked) == len(LABELS) == len(set(picked.tolist()))  # repetitions have numbers
        times = np.bincount(picked % len(LABELS), minlength=len(LABELS))
        for index, label in enumerate((0, 1, 2, 5)):
            own = times[label == LABELS]
            assert abs(own.sum() - expected[index]) < 1 + 1e-9
            assert own.max() - own.min() <= 1
            sums[index] += own.sum()
    assert np.abs(sums / 200 - expected).max() < 0.3  # rounded without a bias


def test_ranks_and_micro_batches_share_the_steps_of_one_process_P5():
    whole = epoch_of(2)
    for ranks, accum_iter in ((2, 1), (4, 2), (1, 4)):
        parts = [epoch_of(2, batch=8 // ranks // accum_iter, accum_iter=accum_iter, rank=rank,
                          ranks=ranks) for rank in range(ranks)]
        assert np.array_equal(np.sort(np.concatenate(parts, axis=1)), np.sort(whole))


def test_order_is_a_function_of_seed_and_epoch_and_goes_on_in_the_middle_P5():
    first, second = epoch_of(1), epoch_of(2)
    assert not np.array_equal(first, second) and np.array_equal(first, epoch_of(1))
    for step in (0, 1, 9):
        assert np.array_equal(epoch_of(2, step), second[step:])


def test_augmentation_of_each_repetition_is_its_own():
    numbers = epoch_of(1, repeats=3)
    assert len(set(numbers.ravel().tolist())) == numbers.size
    images = numbers.ravel()[:135] % len(LABELS)
    assert (images[0::3] == images[1::3]).all() and (images[0::3] == images[2::3]).all()


def test_off_is_no_picker_and_labels_must_be_one_each():
    config = base_config()
    assert build_picker(config, None) is None
    set_options(config, ['DATA.BALANCE=0.5'])
    dataset = type('Dataset', (), {'images': type('Images', (), {'labels': LABELS})})
    assert build_picker(config, dataset).counts.tolist() == COUNTS
    dataset.images.labels = LabelSets(LABELS, np.arange(1, 1 + len(LABELS)))
    assert 'DATA.BALANCE: got 0.5' in refusal(build_picker, config, dataset)
    with pytest.raises(InputError, match='DATA.BALANCE: got 2.0, expected 0.0 to 1.0'):
        set_options(config, ['DATA.BALANCE=2'])


def test_run_of_an_older_version_had_no_balance():
    """Its checkpoints do not say so, and go on within an epoch where there is none now."""
    def order(**data):
        now = {'seed': 0, 'data': {'images': 9, 'global_batch': 3, 'repeats': 1, **data},
               'data_sets': {'train': {'sha256': 'a'}}}
        return order_of_samples(now, {**now, 'data': {**now['data'], 'balance': 0.5}})

    assert order() == order(balance=0.0) != order(balance=0.5)


# TRAIN.CLASS_WEIGHTS

WEIGHTS = np.array([0.25, 4.0, 1.0, 0.0, 2.5])


def loss_of(logits, target, *options, weights=WEIGHTS):
    config = base_config()
    set_options(config, options)
    return build_loss(config.TRAIN, weights)(paddle.to_tensor(logits),
                                             paddle.to_tensor(target)).item()


def draws(count=6):
    random = np.random.default_rng(1)
    soft = random.random((count, 5))
    return random.normal(size=(count, 5)) * 3, random.integers(0, 5, count), \
        soft / soft.sum(axis=1, keepdims=True)


def log_p_of(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_weighted_cross_entropy_is_pytorch_s():
    """With labels its reduction='none', with distributions its mean: sum over k of w[k] * t[k] *
    -log p[k], divided by B."""
    logits, labels, soft = draws()
    for target, distribution in ((labels, np.eye(5)[labels]), (soft, soft)):
        expected = -(WEIGHTS * distribution * log_p_of(logits)).sum() / len(logits)
        assert loss_of(logits, target) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_weight_of_an_image_is_how_often_it_is_there(smoothing):
    logits, labels, _ = draws()
    weights, option = np.array([1, 3, 2, 0, 4]), f'TRAIN.LABEL_SMOOTHING={smoothing}'
    times = weights[labels]
    expected = loss_of(logits.repeat(times, axis=0), labels.repeat(times), option, weights=None)
    assert loss_of(logits, labels, option, weights=weights) == pytest.approx(
        expected * times.sum() / len(labels), rel=1e-12)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_mixed_images_keep_their_own_weights(smoothing):
    """0.3 of each image and 0.7 of its partner are 0.3 and 0.7 of their weighted losses."""
    logits, labels, _ = draws()
    hard = np.eye(5)[labels] * (1 - smoothing) + smoothing / 5
    option = f'TRAIN.LABEL_SMOOTHING={smoothing}'
    expected = 0.3 * loss_of(logits, labels, option) + 0.7 * loss_of(logits, labels[::-1].copy(),
                                                                     option)
    got = loss_of(logits, 0.3 * hard + 0.7 * hard[::-1], option)
    assert got == pytest.approx(expected, rel=1e-7)  # Paddle 2.6 has float32 constants


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_weighted_bce_weighs_the_positive_answer(smoothing):
    """PyTorch's BCEWithLogitsLoss(pos_weight); what smoothing adds is not weighted."""
    logits, labels, soft = draws()
    p, spread = 1 / (1 + np.exp(-logits)), smoothing / 5
    for target, answers in ((labels, np.eye(5)[labels]), (soft, soft)):
        t = answers * (1 - smoothing) + spread
        terms = -((WEIGHTS * (t - spread) + spread) * np.log(p) + (1 - t) * np.log(1 - p))
        got = [loss_of(logits, labels if target is labels else t, 'TRAIN.LOSS=bce',
                       f'TRAIN.LABEL_SMOOTHING={smoothing}', f'TRAIN.BCE_SUM_CLASSES={summed}')
               for summed in (False, True)]
        assert got == pytest.approx([terms.mean(), terms.sum() / len(logits)], rel=1e-6)
    got = loss_of(logits, soft, 'TRAIN.LOSS=bce', 'TRAIN.BCE_THRESHOLD=0.2',
                  f'TRAIN.LABEL_SMOOTHING={smoothing}')
    terms = -np.where(soft > 0.2, WEIGHTS * np.log(p), np.log(1 - p))
    assert got == pytest.approx(terms.mean(), rel=1e-6)


@pytest.mark.parametrize('options', [[], ['TRAIN.LABEL_SMOOTHING=0.1'], ['TRAIN.LOSS=bce']])
def test_loss_does_not_depend_on_how_a_batch_is_split(options):
    logits, labels, _ = draws()
    parts = [loss_of(logits[part], labels[part], *options)
             for part in (slice(0, 2), slice(2, 4), slice(4, 6))]
    assert np.mean(parts) == pytest.approx(loss_of(logits, labels, *options), rel=1e-12)


@pytest.mark.parametrize('options', [[], ['TRAIN.LABEL_SMOOTHING=0.1'], ['TRAIN.LOSS=bce']])
def test_weights_of_one_change_nothing(options):
    logits, labels, soft = draws()
    for target in (labels, soft):
        assert loss_of(logits, target, *options, weights=np.ones(5)) == pytest.approx(
            loss_of(logits, target, *options, weights=None), rel=1e-7)


def test_balanced_is_scikit_learn_s():
    weights = balanced_weights(np.bincount(LABELS, minlength=8))
    expected = compute_class_weight('balanced', classes=np.unique(LABELS), y=LABELS)
    np.testing.assert_allclose(weights[[0, 1, 2, 5]], expected, rtol=1e-14)
    assert weights[[3, 4, 6, 7]].tolist() == [1] * 4  # without an image
    assert weights[LABELS].mean() == pytest.approx(1)


class Log:
    def info(self, text):
        self.text = text


@pytest.mark.parametrize('option, said', [
    ('[1, 2]', 'TRAIN.CLASS_WEIGHTS: got 2 numbers, expected 3, one for each class'),
    ('[0, 0, 0]', 'TRAIN.CLASS_WEIGHTS: got zeros only'),
    ('[1, -2, 1]', 'TRAIN.CLASS_WEIGHTS: got [1.0, -2.0, 1.0], expected at least 0.0'),
    ('[1, a, 1]', "TRAIN.CLASS_WEIGHTS[]: got 'a', expected a number"),
    ('equal', "TRAIN.CLASS_WEIGHTS: got 'equal', expected one of balanced or a list of numbers"),
    ('2', 'TRAIN.CLASS_WEIGHTS: got 2, expected one of balanced or a list of numbers'),
])
def test_wrong_weights_are_one_line(option, said):
    def weights():
        config = base_config()
        set_options(config, ['MODEL.NUM_CLASSES=3', f'TRAIN.CLASS_WEIGHTS={option}'])
        return class_weights(config, None, Log())

    assert said in refusal(weights)


def test_weights_of_a_config():
    config, log = base_config(), Log()
    images = type('Images', (), {'labels': np.array([0, 0, 0, 2])})
    config.MODEL.NUM_CLASSES = 3
    assert class_weights(config, images, log) is None
    set_options(config, ['TRAIN.CLASS_WEIGHTS=balanced'])
    np.testing.assert_allclose(class_weights(config, images, log), [2 / 3, 1, 2])
    assert log.text == 'class weights, balanced: 0.6667 (class 0) to 2 (class 2)'
    set_options(config, ['TRAIN.CLASS_WEIGHTS=[1, 2.5, 3]'])
    assert class_weights(config, images, log).tolist() == [1, 2.5, 3]
