"""RandAugment, AutoAugment and colour jitter, against timm's images, tables and statistics."""
import itertools
from collections import Counter
from random import Random

import numpy as np
import pytest
from PIL import Image

from common.core.errors import InputError
from common.data import augment
from common.data.augment import ColorJitter, build_auto_augment
from common.data.augment_ops import apply_op, level_to_arg, replay
from tests.reference import Case, assert_distribution, assert_share, photo, sha256

pytestmark = pytest.mark.smoke

CASE = Case('recipe', 'augment_ops')
META = CASE.meta
JITTER = Case('recipe', 'crop_jitter_erasing')
MEAN = (0.485, 0.456, 0.406)
FILL = (124, 116, 104)
TEXTS = ['rand-m9-mstd0.5-inc1', 'rand-m9-mstd0.5', 'rand', 'rand-m7-n5-w0', 'original',
         'originalr-mstd0.5', 'v0', 'v0r']


def source(name):
    meta = META['sources'][name]
    image = photo(meta['photo'], (meta['x'], meta['y'], meta['x'] + meta['w'],
                                  meta['y'] + meta['h']))
    assert sha256(image) == meta['sha256']  # a JPEG decoder that differs shows here
    return image


def transform(text, size=224, interpolation='random'):
    return build_auto_augment(text, size, MEAN, interpolation)


def draws(text, count, seed=0, **arguments):
    """The steps of `count` images."""
    random, drawn = np.random.default_rng(seed), transform(text, **arguments)
    return [drawn.draw(random) for _ in range(count)]


def level_of(name, argument):
    """The inverse of level_to_arg; None for an op whose argument does not tell it exactly."""
    op = augment.OPS[name]
    return None if op.whole or not op.span else abs(argument - op.start) * 10 / op.span


# Operations

@pytest.mark.parametrize('meta', META['ops'], ids=lambda meta: f'{meta["key"]}-{meta["op"]}')
def test_op_gives_timm_s_image(meta):
    argument, *none = meta['args'] or [None]
    assert not none
    result = apply_op(source(meta['source']), meta['op'], argument, meta['resample'], FILL)
    assert np.array_equal(np.asarray(result), CASE.arrays[meta['key']])


@pytest.mark.parametrize('name', augment.OPS)
def test_op_at_every_level_gives_timm_s_image(name):
    image = source('A')
    rows = [row for row in META['sha_table'] if row[0] == name]
    for _, level, sign, resample, argument, digest, _ in rows:
        own = level_to_arg(name, level, -1 if sign == '-' else 1, translate_const=100)
        assert own == pytest.approx(argument, rel=1e-12, abs=1e-15)
        assert sha256(apply_op(image, name, own, resample, FILL))[:16] == digest, (level, sign)
    # the ops without an argument are among the images above
    assert rows or level_to_arg(name, 5) is None


def test_tables_hold_the_same_ops():
    assert set(augment.OPS) == set(META['level_to_arg'])
    assert len(META['sha_table']) == 460
    assert {row[0] for row in META['sha_table']} == {
        name for name in augment.OPS if META['level_to_arg'][name]}


@pytest.mark.parametrize('name', augment.OPS)
def test_argument_of_a_level(name):
    table = META['level_to_arg'][name]
    if table is None:
        assert level_to_arg(name, 9) is None and not augment.OPS[name].signed
        return
    for level, plus, minus in table:
        for sign, expected in ((1, plus), (-1, minus)):
            own = level_to_arg(name, level, sign, translate_const=100)
            assert own == pytest.approx(expected, rel=1e-12, abs=1e-15)
            assert isinstance(own, int) == isinstance(expected, int)
    assert augment.OPS[name].signed == any(plus != minus for _, plus, minus in table)


@pytest.mark.parametrize('name, level', [('PosterizeIncreasing', 10), ('Posterize', 0)])
def test_posterize_of_no_bits_is_black(name, level):
    assert level_to_arg(name, level) == 0
    result = apply_op(source('B'), name, 0)
    assert result.mode == 'RGB' and result.size == (112, 72) and not np.asarray(result).any()


@pytest.mark.parametrize('meta', META['traces'], ids=lambda meta: meta['config'])
def test_replayed_steps_give_timm_s_image(meta):
    steps = [(step['op'], *(step['args'] or [None]), step['resample']) for step in meta['applied']]
    result = replay(source(meta['source']), steps, transform(meta['config']).fill)
    assert np.array_equal(np.asarray(result), CASE.arrays[meta['key']])
    assert sha256(result) == meta['sha256']


class PythonsNumbers:
    """A generator that draws as timm does: from Python's, and RandAugment's ops from numpy's."""

    def __init__(self, seed):
        python, self.numpy = Random(seed), np.random.RandomState(seed)
        self.random, self.normal, self.choice = python.random, python.gauss, python.choice

    def integers(self, high, size=None):
        return self.choice(range(high)) if size is None else self.numpy.choice(high, size)


@pytest.mark.parametrize('meta', META['traces'], ids=lambda meta: meta['config'])
def test_timm_s_numbers_draw_timm_s_steps(meta):
    image = META['sources'][meta['source']]
    drawn = transform(meta['config'], (image['h'], image['w'])).draw(PythonsNumbers(meta['seed']))
    expected = [(step['op'], *(step['args'] or [None]), step['resample'])
                for step in meta['applied']]
    assert [(name, interpolation) for name, _, interpolation in drawn] == [
        (name, resample) for name, _, resample in expected]
    assert [argument for _, argument, _ in drawn] == [
        argument if argument is None else pytest.approx(argument, rel=1e-12)
        for _, argument, _ in expected]


# Policies

@pytest.mark.parametrize('name', META['policies'])
def test_policy_is_timm_s(name):
    own = [[list(step) for step in pair] for pair in augment.POLICIES[name]]
    assert own == META['policies'][name] and len(own) == 25


@pytest.mark.parametrize('text, expected', [
    ('rand', 'rand_ops'), ('rand-inc1', 'rand_increasing_ops'), ('rand-inc0', 'rand_increasing_ops')
])
def test_ops_of_randaugment(text, expected):
    assert [name for name, _, _ in transform(text).ops] == META[expected]


@pytest.mark.parametrize('size, const', [(224, 100), ((224, 160), 72), ((32, 64), 14)])
def test_fill_and_shift_come_from_mean_and_size(size, const):
    drawn = transform('original', size)
    assert drawn.fill == FILL == tuple(META['hparams']['img_mean'])
    assert drawn.translate_const == const
    assert drawn.draw_step('TranslateX', 10, np.random.default_rng(0))[1] in (const, -const)
    assert build_auto_augment('v0', 32, (1.0, 0.0, 0.5), 'bicubic').fill == (255, 0, 128)


# What is drawn

@pytest.mark.parametrize('meta', META['rand_statistics'], ids=lambda meta: meta['config'])
def test_randaugment_draws_as_often_as_timm(meta):
    images = meta['images']
    drawn = draws(meta['config'], images)
    counts = Counter(map(len, drawn))
    assert set(counts) == {0, 1, 2}
    for count, share in meta['ops_applied_per_image'].items():
        assert_share(counts[int(count)] / images, images, share, images)
    names = Counter(name for steps in drawn for name, _, _ in steps)
    assert set(names) == set(meta['op_frequency_per_image'])
    for name, share in meta['op_frequency_per_image'].items():
        assert_share(names[name] / images, images, share, images)
    # with replacement: both are drawn and fire as the same op in 1 / 4 / 15 of the images
    twice = sum(len(steps) == 2 and steps[0][0] == steps[1][0] for steps in drawn)
    assert_share(twice / images, images, 1 / 60)
    first = Counter(steps[0][0] for steps in drawn if len(steps) == 2)
    for name in names:  # of two, each is as often the first
        assert_share(first[name] / counts[2], counts[2], 1 / 15)


@pytest.mark.parametrize('meta', META['rand_statistics'], ids=lambda meta: meta['config'])
def test_randaugment_draws_levels_as_timm(meta):
    steps = [step for steps in draws(meta['config'], meta['images'], 1) for step in steps]
    levels = np.array([level for name, argument, _ in steps
                       if (level := level_of(name, argument)) is not None])
    count, expected, others = len(levels), meta['magnitude'], meta['images']
    assert count > 8000 and levels.max() <= 10 + 1e-9
    error = expected['std'] * np.sqrt(1 / count + 1 / others)
    assert abs(levels.mean() - expected['mean']) < 6 * error
    assert abs(levels.std() - expected['std']) < 6 * error / np.sqrt(2)
    assert_share((levels > 10 - 1e-9).mean(), count, expected['fraction_clipped_at_10'], others)
    # the noise is drawn for every op: no level but 10 comes twice
    assert len(set(levels[levels < 10 - 1e-9].round(12))) == (levels < 10 - 1e-9).sum()


def test_sign_and_filter_are_drawn_evenly():
    steps = [step for steps in draws('rand-m9-inc1', 10000) for step in steps]
    negative, bicubic = {}, {}
    for name, op in augment.OPS.items():
        drawn = [(argument, filter) for step, argument, filter in steps if step == name]
        if op.signed and drawn:
            least, most = level_to_arg(name, 9, -1), level_to_arg(name, 9)
            assert {argument for argument, _ in drawn} == {least, most}
            negative[name] = [argument == least for argument, _ in drawn]
        if op.geometric and drawn:
            assert {filter for _, filter in drawn} == {'bilinear', 'bicubic'}
            bicubic[name] = [filter == 'bicubic' for _, filter in drawn]
        elif drawn:
            assert {filter for _, filter in drawn} == {None}
    assert len(negative) == 9 and len(bicubic) == 5
    for drawn in (negative, bicubic):
        for values in (*drawn.values(), list(itertools.chain(*drawn.values()))):
            assert_share(np.mean(values), len(values), 0.5)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_filter_of_the_config_is_the_only_one(interpolation):
    steps = [step for steps in draws('rand', 300, interpolation=interpolation) for step in steps]
    assert {filter for name, _, filter in steps if augment.OPS[name].geometric} == {interpolation}


@pytest.mark.parametrize('text', ['rand', 'rand-m10'])
def test_level_without_noise_is_exact(text):
    for name, argument, _ in itertools.chain(*draws(text, 500)):
        assert argument in (level_to_arg(name, 10), level_to_arg(name, 10, -1))


def test_number_of_ops():
    assert {len(steps) for steps in draws('rand-n13', 3000)} >= set(range(3, 11))
    assert {len(steps) for steps in draws('rand-n1', 300)} == {0, 1}


def test_weighted_ops_are_drawn_without_replacement():
    random, drawn, count = np.random.default_rng(0), transform('rand-w0'), 20000
    plans = [[name for name, _, _ in drawn.plan(random)] for _ in range(count)]
    assert all(first != second for first, second in plans)
    weights = META['choice_weights_w0']
    for place in (0, 1):
        names = Counter(plan[place] for plan in plans)
        for name, weight in weights.items():
            # the second: of what the first has left, whose weights are made to sum to 1
            share = weight if place == 0 else sum(
                other * weight / (1 - other) for key, other in weights.items() if key != name)
            assert_share(names[name] / count, count, share)
    fired = [len(steps) for steps in draws('rand-w0', count)]
    assert_share(np.mean(fired) / 2, 2 * count, 0.5)


@pytest.mark.parametrize('name', META['policies'])
def test_autoaugment_draws_one_pair_and_fires_by_its_probabilities(name):
    count, policy = 20000, META['policies'][name]
    drawn = draws(name, count)
    arguments = {(step, sign * level_to_arg(step, level) if augment.OPS[step].geometric
                  else level_to_arg(step, level))
                 for pair in policy for step, _, level in pair
                 for sign in (1, -1)
                 if level_to_arg(step, level) is not None}
    for step, argument, _ in itertools.chain(*drawn):
        assert argument is None or (step, argument) in arguments
    pairs = {(first, second) for (first, _, _), (second, _, _) in policy}
    assert {tuple(step[0] for step in steps) for steps in drawn if len(steps) == 2} <= pairs
    for op in augment.OPS:  # the share of images where it fires at least once
        share = np.mean([1 - np.prod([1 - chance for step, chance, _ in pair if step == op])
                         for pair in policy])
        own = np.mean([any(step == op for step, _, _ in steps) for steps in drawn])
        assert_share(own, count, share)


@pytest.mark.parametrize('text, noisy', [('original', False), ('original-mstd0.5', True)])
def test_autoaugment_has_noise_only_where_asked_for(text, noisy):
    rotations = [argument for steps in draws(text, 3000) for step, argument, _ in steps
                 if step == 'Rotate']
    levels = {abs(argument) for argument in rotations}
    assert len(rotations) > 300
    if noisy:
        assert len(levels) > 0.8 * len(rotations) and max(levels) == 30.0
    else:
        assert levels == {9.0, 24.0, 27.0}


# The whole transform

@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize('size', [(72, 112), (96, 96), (1, 7)])
def test_same_stream_same_image_of_the_same_size(text, size):
    image = source('B').resize(size[::-1])
    before, drawn = sha256(image), transform(text, size)
    first, again = (([drawn(image, random) for _ in range(20)])
                    for random in (np.random.default_rng(5), np.random.default_rng(5)))
    for result, same in zip(first, again, strict=True):
        assert result.mode == 'RGB' and result.size == image.size
        assert sha256(result) == sha256(same)
    assert sha256(image) == before
    if size != (1, 7):
        assert len(set(map(sha256, first))) > 5


def test_draws_do_not_depend_on_the_pixels():
    drawn = transform(TEXTS[0])
    streams = [np.random.default_rng(3) for _ in range(2)]
    for _ in range(20):
        drawn(source('A'), streams[0])
        drawn(Image.new('RGB', (7, 5)), streams[1])
        assert streams[0].bit_generator.state == streams[1].bit_generator.state


def test_call_replays_what_it_draws():
    drawn, image = transform(TEXTS[0]), source('B')
    for seed in range(20):
        steps = drawn.draw(np.random.default_rng(seed))
        assert sha256(drawn(image, np.random.default_rng(seed))) == sha256(
            replay(image, steps, FILL))


@pytest.mark.parametrize('text', [
    'augmix', 'Rand-m9', 'random', 'rand-', 'rand-m', 'rand-m11', 'rand-m-1', 'rand-m9.5',
    'rand-m9-m8', 'rand-n0', 'rand-n14', 'rand-n2.5', 'rand-mstd11', 'rand-mstdnan', 'rand-mstd',
    'rand-mstd.5', 'rand-inc2', 'rand-w1', 'rand-p1', 'rand m9', 'rand-m9\n', 'rand-m٩',
    'original-m9', 'v0-n2', 'v0-inc1', 'v1', 'v0-', '0', ' rand', 'original,v0'])
def test_wrong_text_is_named(text):
    with pytest.raises(InputError) as error:
        transform(text)
    assert str(error.value).startswith(f'AUG.AUTO_AUGMENT: got {text!r}')
    assert 'rand-m9-mstd0.5-inc1' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['', None])
def test_no_text_is_no_transform(text):
    assert transform(text) is None


# Colour jitter

@pytest.mark.parametrize('meta', JITTER.meta['color_jitter_examples'], ids=lambda meta: meta['key'])
def test_jitter_gives_torchvision_s_image(meta):
    ops = {'brightness': 'Brightness', 'contrast': 'Contrast', 'saturation': 'Color'}
    steps = [(ops[name], meta['factors'][name], None) for name in meta['order']]
    result = replay(Image.fromarray(JITTER.arrays['jitter_src']), steps)
    assert np.array_equal(np.asarray(result), JITTER.arrays[meta['key']])
    assert sha256(result) == meta['sha256']


def test_jitter_draws_factors_and_order_evenly():
    count, random, jitter = 20000, np.random.default_rng(0), ColorJitter(0.4, 0.2, 1.5)
    drawn = [jitter.draw(random) for _ in range(count)]
    orders = Counter(tuple(name for name, _, _ in steps) for steps in drawn)
    assert set(orders) == set(itertools.permutations(['Brightness', 'Contrast', 'Color']))
    for order in orders:
        assert_share(orders[order] / count, count, 1 / 6)
    for op, least, most in (('Brightness', 0.6, 1.4), ('Contrast', 0.8, 1.2), ('Color', 0.0, 2.5)):
        factors = np.array([factor for steps in drawn for name, factor, _ in steps if name == op])
        assert len(factors) == count and least <= factors.min() and factors.max() <= most
        shares = (0.05, 0.25, 0.5, 0.75, 0.95)
        std = (most - least) / 12 ** 0.5
        assert_distribution(factors, {
            'mean': (least + most) / 2, 'std': std, 'se_mean': std * 1e-9,
            'quantiles_5_25_50_75_95': [least + share * (most - least) for share in shares]})


def test_one_strength_is_for_all_three_and_0_leaves_an_op_out():
    assert ColorJitter(0.4).strengths == [('Brightness', 0.4), ('Contrast', 0.4), ('Color', 0.4)]
    random = np.random.default_rng(0)
    assert {step[0] for _ in range(20) for step in ColorJitter(0.4, 0.0).draw(random)} == {
        'Brightness', 'Color'}
    assert ColorJitter(0.0).draw(random) == []


@pytest.mark.parametrize('arguments', [(-0.1,), (0.4, -1.0), (0.4, 0.4, float('inf')),
                                       (float('nan'),)])
def test_wrong_strength_is_an_error(arguments):
    with pytest.raises(InputError, match='AUG.COLOR_JITTER: got (-|inf|nan)'):
        ColorJitter(*arguments)
