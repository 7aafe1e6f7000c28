"""Random erasing: the boxes against timm's statistics, and what fills them."""
import numpy as np
import paddle
import pytest

from common.config import base_config
from common.core.errors import InputError
from common.data.erasing import MODES, RandomErasing, build_erasing
from tests.reference import Case, assert_distribution, assert_share

pytestmark = pytest.mark.smoke

STATISTICS = Case('recipe', 'crop_jitter_erasing').meta['random_erasing']


def noise(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def erase(images, boxes, mode='pixel', seed=0):
    paddle.seed(seed)
    result = RandomErasing(1.0, mode).erase(paddle.to_tensor(images), paddle.to_tensor(boxes))
    return result.numpy()


def mask_of(boxes, height, width):
    """[B, H, W]: what lies in one of the boxes [B, count, 4]."""
    mask = np.zeros((len(boxes), height, width), bool)
    for index, several in enumerate(boxes):
        for top, left, bottom, right in several:
            mask[index, top:bottom, left:right] = True
    return mask


# The boxes

@pytest.mark.parametrize('meta', STATISTICS, ids=lambda meta: f'count{meta["params"]["max_count"]}')
def test_boxes_are_distributed_as_timm_s(meta):
    (height, width), count = meta['image_h_w'], meta['draws']
    random, most = np.random.default_rng(0), meta['params']['max_count']
    erasing = RandomErasing(meta['params']['probability'], count=most)
    drawn = np.array([erasing.boxes(height, width, random) for _ in range(count)])
    assert drawn.dtype == np.int64 and drawn.shape == (count, most, 4)
    filled = drawn[:, :, 2] > 0
    erased = filled.any(axis=1)
    assert not drawn[~filled].any()
    assert_share(erased.mean(), count, meta['fraction_images_erased'], count)
    assert_distribution(filled.sum(axis=1)[erased], meta['boxes_per_erased_image'])
    top, left, bottom, right = drawn[filled].T
    h, w = bottom - top, right - left
    assert top.min() == left.min() == 0 and (bottom <= height).all() and (right <= width).all()
    # the boxes of one image share their number, and with it their size: count images, not boxes
    for key, values in (
            ('area_fraction_of_box', h * w / (height * width)), ('aspect_h_over_w', h / w),
            ('log_aspect', np.log(h / w)), ('top', top), ('left', left), ('height', h),
            ('width', w), ('rel_top', top / (height - h)), ('rel_left', left / (width - w))):
        assert_distribution(values, meta[key], erased.sum())
    for key, values in (('height', h), ('width', w)):
        assert abs(values.min() - meta[f'min_{key}']) <= 2
        assert 221 <= values.max() <= meta[f'max_{key}'] == 223  # never the whole side


@pytest.mark.parametrize('height, width', [(1, 1), (1, 9), (2, 2), (5, 40), (40, 5), (33, 64)])
@pytest.mark.parametrize('count', [1, 4])
def test_boxes_stay_inside(height, width, count):
    erasing, random = RandomErasing(1.0, count=count), np.random.default_rng(1)
    drawn = np.array([erasing.boxes(height, width, random) for _ in range(500)])
    top, left, bottom, right = drawn.reshape(-1, 4).T
    assert (drawn >= 0).all() and (bottom <= height).all() and (right <= width).all()
    assert (bottom - top < height).all() and (right - left < width).all()
    assert (bottom >= top).all() and (right >= left).all()
    # no box is as long as a side: of one pixel, there is nothing to erase
    covered = ((bottom - top) * (right - left)).any()
    assert covered == (height > 1 and width > 1)
    if covered:  # up to every edge
        assert top.min() == left.min() == 0
        assert bottom.max() == height and right.max() == width


def test_aspect_is_height_by_width():
    random = np.random.default_rng(0)
    for aspect in (0.25, 4.0):
        erasing = RandomErasing(1.0, area=(0.1, 0.1), aspect=(aspect, aspect))
        top, left, bottom, right = erasing.boxes(400, 400, random)[0]
        assert (bottom - top, right - left) == (round((16000 * aspect) ** 0.5),
                                                round((16000 / aspect) ** 0.5))


@pytest.mark.parametrize('probability', [0.0, 1.0])
def test_never_and_always(probability):
    erasing, random = RandomErasing(probability), np.random.default_rng(0)
    drawn = [erasing.boxes(32, 32, random).any() for _ in range(2000)]
    assert set(drawn) == {probability == 1.0}


def test_same_stream_same_boxes():
    erasing = RandomErasing(0.7, count=3)
    first, same, other = ([erasing.boxes(20, 30, random) for _ in range(10)]
                          for random in map(np.random.default_rng, (1, 1, 2)))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


# The fill

BOXES = np.array([[[2, 3, 9, 14], [0, 0, 0, 0]],       # one box
                  [[0, 0, 10, 8], [5, 4, 16, 20]],     # the second over the first, to the edges
                  [[0, 0, 0, 0], [0, 0, 0, 0]],        # none
                  [[4, 4, 12, 12], [6, 6, 7, 7]]])     # the second within the first


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('mode', MODES)
def test_only_boxes_are_filled(mode, dtype):
    images = noise((4, 3, 16, 20), dtype=dtype)
    before, boxes = images.copy(), BOXES.copy()
    result = erase(images, boxes, mode)
    inside = np.broadcast_to(mask_of(BOXES, 16, 20)[:, np.newaxis], images.shape)
    assert result.dtype == dtype and result.shape == images.shape
    assert np.array_equal(result[~inside], images[~inside])
    assert (result[inside] != images[inside]).all()
    assert np.array_equal(images, before) and np.array_equal(boxes, BOXES)
    if mode == 'const':
        assert not result[inside].any()


def test_channels_of_a_box_have_one_value_each_and_later_boxes_win():
    result = erase(noise((4, 3, 16, 20)), BOXES, 'rand')
    values = []
    for index, box in ((0, 0), (1, 1), (3, 1)):  # nothing lies over these
        top, left, bottom, right = BOXES[index, box]
        pixels = result[index, :, top:bottom, left:right].reshape(3, -1)
        assert (pixels == pixels[:, :1]).all()
        values += pixels[:, 0].tolist()
    for index in (1, 3):  # what is left of the box below
        rest = mask_of(BOXES[index:index + 1, :1], 16, 20) \
            & ~mask_of(BOXES[index:index + 1, 1:], 16, 20)
        pixels = result[index][:, rest[0]]
        assert (pixels == pixels[:, :1]).all()
        values += pixels[:, 0].tolist()
    assert len(set(values)) == 15


@pytest.mark.parametrize('mode, drawn', [('pixel', 3 * 24 * 24), ('rand', 3)])
def test_fill_is_standard_normal(mode, drawn):
    """`drawn`: numbers that differ in the one box of an image."""
    count = 64 if mode == 'pixel' else 8192
    side = 24 if mode == 'pixel' else 1
    boxes = np.tile(np.array([[0, 0, side, side]]), (count, 1, 1))
    values = erase(np.full((count, 3, side, side), 9.0, np.float32), boxes, mode)
    values = values.reshape(-1).astype(np.float64)
    assert len(set(values.tolist())) > 0.95 * count * drawn  # float32 has some twice
    assert abs(values.mean()) < 6 / len(values) ** 0.5
    assert abs(values.std() - 1) < 6 / (2 * len(values)) ** 0.5
    for least, share in ((1.0, 0.158655), (2.0, 0.022750)):
        assert_share((values > least).mean(), len(values), share)
        assert_share((values < -least).mean(), len(values), share)


@pytest.mark.parametrize('mode', ['pixel', 'rand'])
def test_noise_is_a_function_of_the_seed(mode):
    images = noise((4, 3, 16, 20))
    first = erase(images, BOXES, mode, seed=3)
    assert np.array_equal(first, erase(images, BOXES, mode, seed=3))
    assert not np.array_equal(first, erase(images, BOXES, mode, seed=4))


# The config

@pytest.mark.parametrize('arguments, text', [
    ({'probability': -0.1}, 'AUG.ERASING: got -0.1, '),
    ({'probability': 1.1}, 'AUG.ERASING: got 1.1, '),
    ({'probability': float('nan')}, 'AUG.ERASING: got nan, '),
    ({'probability': 0.5, 'mode': 'noise'},
     "AUG.ERASING_MODE: got 'noise', expected one of pixel, rand, const"),
    ({'probability': 0.5, 'count': 0}, 'AUG.ERASING_COUNT: got 0, expected at least 1'),
])
def test_wrong_arguments_are_an_error(arguments, text):
    with pytest.raises(InputError) as error:
        RandomErasing(**arguments)
    assert str(error.value).startswith(text)


def test_config():
    config = base_config()
    assert build_erasing(config) is None
    config.AUG.ERASING, config.AUG.ERASING_MODE, config.AUG.ERASING_COUNT = 0.25, 'rand', 3
    built = build_erasing(config)
    assert (built.probability, built.mode, built.count) == (0.25, 'rand', 3)
