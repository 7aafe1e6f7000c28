"""Mixup and CutMix, against timm's batches, boxes and statistics."""
import numpy as np
import pytest

from common.config import base_config
from common.core.errors import InputError
from common.data.mixup import MODES, Mixup, build_mixup, cutmix_box, mix_images, smooth_one_hot
from tests.reference import Case, assert_distribution, assert_share

pytestmark = pytest.mark.smoke

CASE = Case('recipe', 'mixup')
META, ARRAYS = CASE.meta, CASE.arrays
KEYS = {'AUG.MIXUP': 'mixup_alpha', 'AUG.CUTMIX': 'cutmix_alpha', 'AUG.MIXUP_PROB': 'prob',
        'AUG.MIXUP_SWITCH_PROB': 'switch_prob', 'TRAIN.LABEL_SMOOTHING': 'label_smoothing'}


class Drawn:
    """A generator whose draws are known: always mixed, with these lam, kinds and box centres."""

    def __init__(self, lam, use_cutmix, centers):
        # for each draw one number for whether it is mixed and one for whether by CutMix
        self.numbers = [number for cutmix in np.atleast_1d(use_cutmix)
                        for number in (0.0, 0.0 if cutmix else 0.999)]
        self.lam = list(np.atleast_1d(lam))
        self.centers = list(centers)

    def random(self):
        return self.numbers.pop(0)

    def beta(self, alpha, other):
        # the alpha is the one of the kind that was drawn last
        assert alpha == other and alpha in (0.8, 1.0)
        return float(self.lam.pop(0))

    def integers(self, high):
        assert high in (8, 6)
        return self.centers.pop(0)

    def is_used_up(self):
        return not (self.numbers or self.lam or self.centers)


def draw_many(count, height=224, width=224, batch=2, seed=0, **arguments):
    """lam [count, batch] and boxes [count, batch, 4]."""
    mixup, random = Mixup(**arguments), np.random.default_rng(seed)
    lam, boxes = zip(*(mixup.draw(batch, height, width, random) for _ in range(count)),
                     strict=True)
    return np.array(lam), np.array(boxes)


# The values

@pytest.mark.parametrize('meta', META['examples'],
                         ids=lambda meta: f'{meta["key"]}-{meta["mode"]}-{meta["kind"][:4]}')
def test_batch_is_mixed_as_by_timm(meta):
    images, labels = ARRAYS['input_uint8'].copy(), ARRAYS['target'].copy()
    random = Drawn(meta['lam'], meta['use_cutmix'], meta['box_centers_cy_cx'])
    mixup = Mixup(mode=meta['mode'], label_smoothing=meta['label_smoothing'],
                  num_classes=meta['num_classes'])
    mixed, target = mixup(images, labels, random)
    assert random.is_used_up()
    assert mixed.dtype == np.uint8 and target.dtype == np.float32
    expected = ARRAYS[f'{meta["key"]}_out']
    if expected.dtype == np.uint8:
        assert np.array_equal(mixed, expected)
    else:  # timm's Mixup of normalised images does not round
        np.testing.assert_allclose(mixed, expected, rtol=0, atol=0.5 + 1e-4)
    np.testing.assert_allclose(target, ARRAYS[f'{meta["key"]}_target'], rtol=0, atol=1e-7)
    assert np.array_equal(images, ARRAYS['input_uint8'])  # the input is left as it was
    assert np.array_equal(labels, ARRAYS['target'])


@pytest.mark.parametrize('row', META['bbox'],
                         ids=lambda row: '-'.join(map(str, row[:5])))
def test_box_is_timm_s(row):
    height, width, lam, center_y, center_x, top, bottom, left, right, share, *_ = row
    box, own = cutmix_box(height, width, lam, center_y, center_x)
    assert box == (top, left, bottom, right)
    assert own == pytest.approx(share, abs=1e-15)


def test_halves_are_rounded_to_even():
    images = np.zeros((2, 3, 1, 4), np.uint8)
    images[0] = [0, 1, 2, 255]
    images[1] = [1, 2, 3, 254]
    mixed = mix_images(images, np.full(2, 0.5), np.zeros((2, 4), np.int64))
    assert mixed[0, 0, 0].tolist() == mixed[1, 0, 0].tolist() == [0, 2, 2, 254]


@pytest.mark.parametrize('use_cutmix', [False, True])
@pytest.mark.parametrize('mode', MODES)
def test_share_of_1_changes_nothing(mode, use_cutmix):
    count = {'batch': 1, 'pair': 2, 'elem': 4}[mode]
    random = Drawn([1.0] * count, [use_cutmix] * count, [3, 4] * count)
    images, labels = ARRAYS['input_uint8'], ARRAYS['target']
    mixed, target = Mixup(mode=mode, num_classes=7)(images, labels, random)
    assert np.array_equal(mixed, images) and not np.shares_memory(mixed, images)
    assert np.array_equal(target, smooth_one_hot(labels, 7, 0.1))


def test_share_of_the_target_is_that_of_the_pixels():
    """Of a white and a black image, by CutMix to the last bit, by Mixup to rounding."""
    images = np.zeros((2, 3, 24, 16), np.uint8)
    images[0] = 255
    for seed in range(50):
        for arguments, atol in (({'mixup_alpha': 0.0}, 1e-6), ({'cutmix_alpha': 0.0}, 0.5 / 255)):
            mixup = Mixup(mode='elem', label_smoothing=0.0, num_classes=2, **arguments)
            mixed, target = mixup(images, np.array([0, 1]), np.random.default_rng(seed))
            np.testing.assert_allclose(target[:, 0], mixed.mean(axis=(1, 2, 3)) / 255,
                                       rtol=0, atol=atol + 1e-6)
            np.testing.assert_allclose(target.sum(axis=1), 1.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 1.0])
def test_smooth_labels(smoothing):
    target = smooth_one_hot(np.array([2, 0, 2]), 4, smoothing)
    expected = (1 - smoothing) * np.eye(4)[[2, 0, 2]] + smoothing / 4
    assert target.dtype == np.float32
    np.testing.assert_allclose(target, expected, rtol=0, atol=1e-7)


# The draws

@pytest.mark.parametrize('alpha, arguments', [
    (0.8, {'mixup_alpha': 0.8, 'cutmix_alpha': 0.0}),
    (1.0, {'mixup_alpha': 1.0, 'cutmix_alpha': 0.0}),
])
def test_mixup_s_share_is_beta_distributed(alpha, arguments):
    lam, boxes = draw_many(20000, **arguments)
    expected, = (meta for meta in META['lam'] if meta['alpha'] == alpha)
    assert (lam[:, 0] == lam[:, 1]).all() and not boxes.any()
    assert_distribution(lam[:, 0], expected['moments'])
    assert_share((lam[:, 0] < 0.1).mean(), len(lam), expected['frac_below_0_1'], 100000)


@pytest.mark.parametrize('arguments', [{'mixup_alpha': 0.0}, {'switch_prob': 1.0}],
                         ids=['alone', 'always'])
def test_cutmix_s_share_is_what_the_box_leaves(arguments):
    lam, boxes = draw_many(20000, **arguments)
    assert_distribution(lam[:, 0], META['cutmix_corrected_lam'][0]['corrected'])
    top, left, bottom, right = boxes[:, 0].T
    assert (boxes >= 0).all() and (boxes <= 224).all()
    assert (top <= bottom).all() and (left <= right).all()
    np.testing.assert_allclose(1 - (bottom - top) * (right - left) / 224 ** 2, lam[:, 0],
                               rtol=0, atol=1e-12)


def test_box_s_centre_is_anywhere_in_an_oblong_image():
    """Boxes of one pixel's half side stand for their centres."""
    class Small(np.random.Generator):
        def beta(self, *alphas):
            return 1 - 0.1 ** 2  # a side of 6 and of 4 pixels

    mixup, random = Mixup(0.0), Small(np.random.PCG64(0))
    boxes = np.array([mixup.draw(2, 60, 40, random)[1][0] for _ in range(20000)])
    for top, bottom, side, half in ((boxes[:, 0], boxes[:, 2], 60, 3),
                                    (boxes[:, 1], boxes[:, 3], 40, 2)):
        centers = np.where(top > 0, top + half, bottom - half)
        for center in range(side):
            assert_share((centers == center).mean(), len(boxes), 1 / side)


def test_half_of_the_batches_are_cut():
    lam, boxes = draw_many(20000)
    expected, = META['batch_params']
    cut = boxes[:, 0].any(axis=1)
    assert_share(cut.mean(), len(cut), expected['fraction_cutmix'], 50000)
    assert_distribution(lam[~cut, 0], expected['lam_mixup'])
    assert_distribution(lam[cut, 0], META['cutmix_corrected_lam'][0]['corrected'])


@pytest.mark.parametrize('mode', MODES)
def test_who_shares_a_draw(mode):
    lam, boxes = draw_many(50, batch=6, mode=mode)
    distinct = {'batch': 1, 'pair': 3, 'elem': 6}[mode]
    assert lam.shape == (50, 6) and boxes.shape == (50, 6, 4)
    for row, row_boxes in zip(lam, boxes, strict=True):
        assert len(set(row)) == distinct
        if mode != 'elem':
            assert np.array_equal(row, row[::-1]) and np.array_equal(row_boxes, row_boxes[::-1])
    if mode != 'batch':  # both kinds within a batch
        cut = boxes.any(axis=2)
        assert (cut.any(axis=1) & ~cut.all(axis=1)).mean() > 0.5
        assert np.array_equal(lam, lam.astype(np.float32))  # as timm


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('prob', [0.0, 0.3, 1.0])
def test_probability_to_be_mixed(mode, prob):
    lam, boxes = draw_many(3000, batch=4, mode=mode, prob=prob, cutmix_alpha=0.0)
    drawn = lam[:, {'batch': [0], 'pair': [0, 1], 'elem': [0, 1, 2, 3]}[mode]]
    assert_share((drawn < 1.0).mean(), drawn.size, prob)
    assert not boxes.any()


def test_switch_probability():
    for switch_prob in (0.0, 0.25, 1.0):
        _, boxes = draw_many(10000, switch_prob=switch_prob)
        # less than one box in 10,000 is empty
        assert_share(boxes[:, 0].any(axis=1).mean(), len(boxes), min(switch_prob, 0.9999))


@pytest.mark.parametrize('mode', MODES)
def test_same_stream_same_batch(mode):
    images, labels = ARRAYS['input_uint8'], ARRAYS['target']
    mixup = Mixup(mode=mode, num_classes=7)
    results = [mixup(images, labels, np.random.default_rng(seed)) for seed in (4, 4, 5)]
    for first, same, other in zip(*results, strict=True):
        assert np.array_equal(first, same) and not np.array_equal(first, other)


# Errors and the config

@pytest.mark.parametrize('mode', MODES)
def test_odd_batch_is_an_error(mode):
    with pytest.raises(InputError, match='DATA.BATCH_SIZE: got 3, expected an even number'):
        Mixup(mode=mode)(ARRAYS['input_uint8'][:3], ARRAYS['target'][:3],
                         np.random.default_rng(0))


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('value', [-0.1, float('nan'), float('inf')])
def test_wrong_number_is_an_error(key, value):
    with pytest.raises(InputError, match=f'{key}: got {value}, expected a number from 0 to 1'):
        Mixup(**{KEYS[key]: value})


@pytest.mark.parametrize('arguments, text', [
    ({'prob': 1.1}, 'AUG.MIXUP_PROB: got 1.1, '),
    ({'mode': 'half'}, "AUG.MIXUP_MODE: got 'half', expected one of batch, pair, elem"),
    ({'mixup_alpha': 0.0, 'cutmix_alpha': 0.0}, 'AUG.MIXUP: got 0, '),
])
def test_wrong_arguments_are_an_error(arguments, text):
    with pytest.raises(InputError) as error:
        Mixup(**arguments)
    assert str(error.value).startswith(text)


@pytest.mark.parametrize('mixup, cutmix, switch_prob', [(0.8, 1.0, 0.3), (0.8, 0.0, 0.0),
                                                        (0.0, 1.0, 1.0)])
def test_config(mixup, cutmix, switch_prob):
    config = base_config()
    assert build_mixup(config) is None
    config.AUG.MIXUP, config.AUG.CUTMIX = mixup, cutmix
    config.AUG.MIXUP_PROB, config.AUG.MIXUP_SWITCH_PROB = 0.7, 0.3
    config.AUG.MIXUP_MODE = 'pair'
    config.TRAIN.LABEL_SMOOTHING, config.MODEL.NUM_CLASSES = 0.2, 12
    built = build_mixup(config)
    assert built.alphas == (mixup, cutmix) and built.switch_prob == switch_prob
    assert (built.prob, built.mode, built.label_smoothing) == (0.7, 'pair', 0.2)
    assert built.num_classes == 12
