"""Crop boxes, resizing and evaluation crops, against timm's boxes, images and statistics.

Properties for many sizes are in test_loader.py.
"""
import itertools
from random import Random

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

from common.data import transforms
from common.data.batches import Normalize
from common.data.transforms import EvalTransform, TrainTransform, random_crop_box, resize_by_cv2
from tests.reference import Case, assert_distribution, assert_share, photo, sha256

pytestmark = pytest.mark.smoke

CROPS = Case('recipe', 'crop_jitter_erasing')
EVAL = Case('recipe', 'eval_preprocess')
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
PHOTOS = ['china.jpg', 'flower.jpg']


class PythonsNumbers:
    """A generator that draws as timm does, from Python's; `tries` are pairs of area and aspect."""

    def __init__(self, seed):
        self.random, self.tries = Random(seed), 0.0

    def uniform(self, least, most):
        self.tries += 0.5
        return self.random.uniform(least, most)

    def integers(self, high):
        return self.random.randint(0, high - 1)


def train(backend='pillow', size=64, interpolation='bicubic', **arguments):
    return TrainTransform(size, SCALE, RATIO, interpolation, backend=backend, **arguments)


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


# The crop box

@pytest.mark.parametrize('meta', CROPS.meta['random_resized_crop'],
                         ids=lambda meta: 'x'.join(map(str, meta['image_w_h'])))
def test_first_boxes_are_timm_s(meta):
    random = PythonsNumbers(meta['python_random_seed'])
    for top, left, height, width in meta['first_20_i_j_h_w']:
        box = random_crop_box(*meta['image_w_h'], meta['scale'], meta['ratio'], random)
        assert box == (left, top, width, height)


@pytest.mark.parametrize('meta', CROPS.meta['random_resized_crop'],
                         ids=lambda meta: 'x'.join(map(str, meta['image_w_h'])))
def test_tries_and_areas_are_timm_s(meta):
    image_width, image_height = meta['image_w_h']
    random, count, tries, areas = PythonsNumbers(1), 20000, [], []
    for _ in range(count):
        random.tries = 0
        _, _, width, height = random_crop_box(image_width, image_height, SCALE, RATIO, random)
        tries.append(random.tries)
        areas.append(width * height / (image_width * image_height))
    expected, others, tries = meta['attempts'], meta['draws'], np.array(tries)
    assert_share((tries == 1).mean(), count, expected['fraction_1'], others)
    error = tries.std() * (1 / count + 1 / others) ** 0.5
    assert abs(tries.mean() - expected['mean']) < 6 * error and tries.max() <= 10
    shares, _ = np.histogram(areas, 10, (0, 1))
    for share, expected in zip(shares / count, meta['area_histogram_10_bins_0_to_1'],
                               strict=True):
        assert_share(share, count, expected, others)


@pytest.mark.parametrize('size, count', [((500, 375), 100000), ((900, 120), 20000)],
                         ids=['500x375', '900x120'])
def test_boxes_are_distributed_as_timm_s(size, count):
    meta, = (meta for meta in CROPS.meta['random_resized_crop'] if tuple(meta['image_w_h']) == size)
    random = np.random.default_rng(0)
    boxes = np.array([random_crop_box(*size, meta['scale'], meta['ratio'], random)
                      for _ in range(count)])
    left, top, width, height = boxes.T
    values = {'area_fraction': width * height / (size[0] * size[1]),
              'aspect_w_over_h': width / height, 'log_aspect': np.log(width / height),
              'height': height, 'width': width, 'top_i': top, 'left_j': left}
    for key, drawn in values.items():
        assert_distribution(drawn, meta[key])
    free = height < size[1]
    assert_distribution(top[free] / (size[1] - height[free]), meta['rel_top_i_over_H_minus_h'])
    correlation = np.corrcoef(values['area_fraction'], values['log_aspect'])[0, 1]
    error = (1 / count + 1 / meta['draws']) ** 0.5
    assert abs(correlation - meta['corr_area_logaspect']) < 6 * error


@pytest.mark.parametrize('size, box', CROPS.meta['fallback_only_w_x_h_to_i_j_h_w'].items())
def test_fallback_is_timm_s(size, box):
    """An area of four images never fits."""
    top, left, height, width = box
    own = random_crop_box(*map(int, size.split('x')), (4.0, 5.0), RATIO, np.random.default_rng(0))
    assert own == (left, top, width, height)


# Training

@pytest.mark.parametrize('meta', CROPS.meta['resized_crop_examples'], ids=lambda meta: meta['key'])
def test_resized_crop_gives_torchvision_s_image(meta, monkeypatch):
    monkeypatch.setattr(transforms, 'random_crop_box',
                        lambda *_: (meta['j'], meta['i'], meta['w'], meta['h']))
    result = train(size=meta['size'], interpolation=meta['interpolation'], hflip=0.0)(
        photo(meta['photo']), np.random.default_rng(0))
    assert np.array_equal(result, CROPS.arrays[meta['key']])
    assert sha256(result) == meta['sha256']


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('size', [24, (16, 40), (40, 16), 1])
@pytest.mark.parametrize('image', [(30, 20), (1, 1), (1, 50), (300, 200)],
                         ids=lambda size: 'x'.join(map(str, size)))
def test_result_has_the_size_asked_for(image, size, backend):
    for seed in range(5):
        result = train(backend, size)(noise(*image), np.random.default_rng(seed))
        expected = (size, size) if isinstance(size, int) else size
        assert result.dtype == np.uint8 and result.shape == (*expected, 3)
        assert result.strides[2] == 1  # channels last, in whatever order the rows are


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_flip_is_the_mirror_image(backend):
    image = photo('china.jpg')
    for seed in range(10):
        plain, flipped = (train(backend, hflip=hflip)(image, np.random.default_rng(seed))
                          for hflip in (0.0, 1.0))
        assert np.array_equal(plain[:, ::-1], flipped) and not np.array_equal(plain, flipped)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_half_of_the_images_are_flipped(backend):
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None],
                                   (64, 1, 3)))
    random, transform = np.random.default_rng(0), train(backend, 16)
    flipped = np.mean([result[0, 0, 0] > result[0, -1, 0]
                       for result in (transform(ramp, random) for _ in range(2000))])
    assert_share(flipped, 2000, 0.5)


@pytest.mark.parametrize('name', PHOTOS)
def test_cv2_crops_and_flips_as_pillow_and_resizes_nearly_so(name):
    """A box or a flip that differs would make a mean difference of 10 and more."""
    image, differences = photo(name), []
    for seed in range(25):
        streams = [np.random.default_rng(seed) for _ in range(2)]
        expected = train('pillow', 224)(image, streams[0]).astype(int)
        result = train('cv2', 224)(np.asarray(image), streams[1])
        assert streams[0].bit_generator.state == streams[1].bit_generator.state
        assert result.shape == expected.shape and result.dtype == np.uint8
        differences.append(np.abs(result - expected).mean())
    assert np.mean(differences) <= 1.5 and max(differences) < 3


def test_cv2_takes_both_kinds_of_image():
    image = photo('flower.jpg')
    first, second = (train('cv2')(kind, np.random.default_rng(0))
                     for kind in (image, np.asarray(image)))
    assert np.array_equal(first, second)


@pytest.mark.parametrize('name', PHOTOS)
@pytest.mark.parametrize('shrink', [0.5, 0.8, 1.2, 1.25, 1.6, 2.0, 3.7])
def test_cv2_s_filter_is_the_nearest_to_pillow_s_at_every_scale(name, shrink):
    """To the bicubic one, at most 15 % behind the best of OpenCV's three."""
    size = round(400 / shrink), round(600 / shrink)
    image = photo(name, (20, 10, 620, 410))
    expected = np.asarray(image.resize(size[::-1], Image.BICUBIC)).astype(int)
    own, *others = (np.abs(pixels - expected).mean() for pixels in (
        resize_by_cv2(np.asarray(image), size),
        *(cv2.resize(np.asarray(image), size[::-1], interpolation=kind)
          for kind in (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA))))
    assert own <= 1.15 * min(others)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_augmentation_sees_the_flipped_crop_and_goes_on_in_the_stream(backend):
    seen = []

    def augment(image, random):
        seen.append((image, random.bit_generator.state['state']['state']))
        return image.transpose(Image.ROTATE_180)

    random, same = np.random.default_rng(1), np.random.default_rng(1)
    result = train(backend, (16, 24), augment=augment)(photo('china.jpg'), random)
    plain = train(backend, (16, 24))(photo('china.jpg'), same)
    (image, state), = seen
    assert isinstance(image, Image.Image) and image.mode == 'RGB' and image.size == (24, 16)
    assert np.array_equal(np.asarray(image), plain)
    assert state == same.bit_generator.state['state']['state']
    assert result.dtype == np.uint8 and np.array_equal(result, plain[::-1, ::-1])


def test_random_interpolation_draws_both():
    image = photo('flower.jpg')
    kinds = []
    for seed in range(200):
        box = random_crop_box(*image.size, SCALE, RATIO, np.random.default_rng(seed))
        left, top, width, height = box
        crop = image.crop((left, top, left + width, top + height))
        result = train(size=16, interpolation='random', hflip=0.0)(
            image, np.random.default_rng(seed))
        equal = [np.array_equal(result, np.asarray(crop.resize((16, 16), kind)))
                 for kind in (Image.BILINEAR, Image.BICUBIC)]
        assert sum(equal) == 1
        kinds.append(equal[1])
    assert_share(np.mean(kinds), len(kinds), 0.5)


# Evaluation

def evaluation_image(meta):
    image = photo(meta['photo'], meta['photo_crop_box_x0_y0_x1_y1'])
    assert image.size == tuple(meta['image_size_w_h'])
    assert sha256(image) == meta['image_sha256']  # a JPEG decoder that differs shows here
    return image


@pytest.mark.parametrize('meta', EVAL.meta['cases'],
                         ids=lambda meta: f'{meta["image"]}-{meta["img_size"]}-{meta["crop_pct"]}'
                                          f'-{meta["interpolation"]}')
def test_evaluation_crop_is_timm_s(meta):
    size = meta['img_size']
    crop = EvalTransform(size, meta['crop_pct'], meta['interpolation'])(evaluation_image(meta))
    assert crop.shape == (size, size, 3) and crop.dtype == np.uint8
    assert sha256(crop) == meta['sha256']
    top, left = meta['window_top_left']
    side = meta['window_size']
    window = crop[top:top + side, left:left + side]
    assert np.array_equal(window, EVAL.arrays[meta['key']])
    np.testing.assert_allclose(crop.mean(axis=(0, 1)), meta['channel_mean'], rtol=1e-12)
    batch = paddle.to_tensor(crop.transpose(2, 0, 1)[np.newaxis].copy())
    normalised = Normalize(EVAL.meta['mean'], EVAL.meta['std'])(batch).numpy()[0]
    for name in ('corner_norm', 'corner_norm_prefetch'):
        np.testing.assert_allclose(normalised[:, :4, :4], EVAL.arrays[f'{meta["key"]}_{name}'],
                                   rtol=0, atol=5e-7)
    np.testing.assert_allclose(normalised.astype(np.float64).mean(axis=(1, 2)),
                               meta['normalised_mean'], rtol=0, atol=5e-7)


@pytest.mark.parametrize('image, size, crop_pct, resized, top_left', [
    ((300, 200), (64, 128), 0.5, (256, 170), (53, 64)),   # the width decides
    ((200, 300), (64, 128), 0.5, (256, 384), (160, 64)),
    ((300, 200), (128, 64), 0.5, (384, 256), (64, 160)),  # the height decides
    ((300, 200), (224, 160), 0.875, (384, 256), (16, 112)),
    ((20, 30), 64, 1.0, (64, 96), (16, 0)),               # a small picture grows
    ((3, 2), 48, 0.9, (79, 53), (2, 16)),                 # margins 5 and 31: 2.5 -> 2, 15.5 -> 16
    ((640, 427), 224, 0.95, (352, 235), (6, 64)),         # 11 and 128: 5.5 -> 6
])
def test_evaluation_resizes_and_cuts_out_the_centre(image, size, crop_pct, resized, top_left):
    image = noise(*image)
    top, left = top_left
    height, width = (size, size) if isinstance(size, int) else size
    whole = np.asarray(image.resize(resized, Image.BICUBIC))
    expected = whole[top:top + height, left:left + width]
    assert expected.shape == (height, width, 3)
    assert np.array_equal(EvalTransform(size, crop_pct)(image), expected)


def test_evaluation_draws_nothing():
    image, random = noise(40, 30), np.random.default_rng(0)
    state = random.bit_generator.state
    first, second = EvalTransform(16, 0.9)(image, random), EvalTransform(16, 0.9)(image)
    assert np.array_equal(first, second) and random.bit_generator.state == state


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_input_is_left_as_it_was(backend):
    image = noise(40, 30)
    pixels, before = np.asarray(image).copy(), sha256(image)
    for seed, kind in itertools.product(range(5), (image, pixels) if backend == 'cv2'
                                        else (image,)):
        result = train(backend, (30, 40))(kind, np.random.default_rng(seed)).copy()
        result[:] = 0
        assert sha256(kind) == before


# Images of which the resized whole would be huge

THIN = [(300, 200), (1000, 3), (3, 1000), (64, 1), (1, 64), (33, 77), (5000, 20)]


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('size, crop_pct', [(224, 0.875), ((64, 128), 0.5), (32, 1.0)])
@pytest.mark.parametrize('image', THIN, ids=lambda size: 'x'.join(map(str, size)))
def test_part_is_cut_out_of_the_whole_I8(image, size, crop_pct, interpolation, monkeypatch):
    """Within one step of rounding, where both ways can be gone."""
    image, transform = noise(*image), EvalTransform(size, crop_pct, interpolation)
    whole = transform(image).astype(int)
    monkeypatch.setattr(transforms, 'MAX_RESIZED', 0)
    difference = np.abs(transform(image) - whole)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.1


@pytest.mark.parametrize('turn', [False, True], ids=['wide', 'high'])
@pytest.mark.parametrize('length', [8192, 40_000, 2_000_000])
def test_thin_image_costs_its_pixels_and_the_result_s_I8(length, turn, monkeypatch):
    """All but the middle is out of sight, so that a short strip has the same result."""
    sizes, resize = [], Image.Image.resize
    image = noise(length, 1)
    short = image.crop((length // 2 - 100, 0, length // 2 + 100, 1))
    if turn:
        image, short = (one.transpose(Image.ROTATE_90) for one in (image, short))
    transform = EvalTransform(224, 0.875)
    expected = transform(short).astype(int)

    def seen(self, size, *args, **options):
        sizes.append((self.size, size))
        return resize(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, 'resize', seen)
    assert np.abs(transform(image) - expected).max() <= 1
    (before, after), = sizes
    assert before[0] * before[1] <= length and after == (224, 224)


def test_ordinary_image_is_resized_whole_I8():
    """To the bit as published: up to a side 250 times as long as the other at 224 pixels."""
    assert transforms.MAX_RESIZED > 256 * 256 * 250
    image = noise(500, 2)
    whole = np.asarray(image.resize((64_000, 256), Image.BICUBIC))
    assert np.array_equal(EvalTransform(224, 0.875)(image), whole[16:240, 31888:32112])


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('shape', [(1, 40_000), (40_000, 1)], ids=['wide', 'high'])
def test_thin_image_is_trained_with_I8(shape, backend):
    """A column or a row whose brightness grows along it: a crop shows a part of it, in order."""
    ramp = np.linspace(0, 255, 40_000).astype(np.uint8).reshape(shape)
    image = Image.fromarray(np.repeat(ramp[:, :, None], 3, axis=2))
    for ratio in (RATIO, (1e-3, 1e3)):
        transform = TrainTransform(224, SCALE, ratio, hflip=0.0, backend=backend)
        for seed in range(5):
            result = transform(image, np.random.default_rng(seed))
            line = result[0 if shape[0] == 1 else slice(None), slice(None) if shape[0] == 1 else 0]
            assert result.shape == (224, 224, 3)
            assert (np.diff(line[:, 0].astype(int)) >= -1).all()
