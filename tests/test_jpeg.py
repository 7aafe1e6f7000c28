"""JPEG files of which a training crop decodes what it needs (AUG.BACKEND cv2_reduced): size, place,
draws and errors are those of cv2, and the pixels, too, where no scale is reduced."""
import io
import itertools
import tarfile

import cv2
import numpy as np
import pytest
from PIL import Image

from common.config import base_config
from common.data import jpeg
from common.data.datasets import get_dataset
from common.data.image_dataset import ImageDataset
from common.data.images import ORIENTATION, decode_for_crop, load_image
from common.data.jpeg import JpegFile, decode_by_opencv, reduction
from common.data.lists import read_list
from common.data.loader import build_loader
from common.data.resizing import resize_by_cv2, resize_part_by_cv2
from common.data.transforms import TrainTransform
from tests.reference import photo
from tests.test_images import BAD, EXACT

pytestmark = pytest.mark.smoke

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
KINDS = {
    'plain': {}, 'colours at full size': {'subsampling': '4:4:4'},
    'colours at half width': {'subsampling': '4:2:2'},
    'colours at a quarter': {'subsampling': '4:1:1'}, 'optimised': {'optimize': True},
    'not YCC': {'keep_rgb': True, 'subsampling': '4:4:4'}, 'grey': {},
    'comment': {'comment': b'\xff\xd9 \xff\xda a comment \xff\xc0'},
}
WHOLE = {'progressive': {'progressive': True}, 'restarts': {'restart_marker_blocks': 5}}


def jpeg_of(image, orientation=1, **options):
    stream, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(stream, 'JPEG', exif=exif, **{'quality': 92, **options})
    return stream.getvalue()


def content_of(kind, orientation=1, size=(203, 157)):
    """The bytes of a photograph of odd sides, so that the last blocks are not whole."""
    image = photo('flower.jpg', (100, 50, 100 + 2 * size[0], 50 + 2 * size[1])).resize(size)
    options = {**KINDS, **WHOLE}[kind]
    return jpeg_of(image.convert('L') if kind == 'grey' else image, orientation, **options)


def for_crop(content, upright=False):
    found = decode_for_crop(content, 'cv2_reduced', upright)
    assert isinstance(found, JpegFile)
    return found


def boxes_of(size, count=12, seed=0):
    """Boxes inside an image, the whole among them."""
    random = np.random.default_rng(seed)
    yield 0, 0, *size
    for _ in range(count):
        (left, right), (top, bottom) = (np.sort(random.choice(side + 1, 2, replace=False))
                                        for side in size)
        yield int(left), int(top), int(right - left), int(bottom - top)


def by_cv2(content, box, size, upright=False):
    """What AUG.BACKEND cv2 gives: the whole image is decoded, and a part of it resized."""
    left, top, width, height = box
    pixels = decode_for_crop(content, 'cv2', upright)
    return resize_by_cv2(pixels[top:top + height, left:left + width], size)


# Where no scale is reduced

@pytest.mark.parametrize('kind', [*KINDS, *WHOLE])
def test_crop_that_is_not_reduced_has_the_bits_of_cv2(kind):
    content = content_of(kind)
    image = for_crop(content)
    assert image.size == (203, 157)
    assert np.array_equal(image.pixels(), decode_for_crop(content, 'cv2'))
    for box in boxes_of(image.size):
        assert np.array_equal(image.crop(box, (250, 240)), by_cv2(content, box, (250, 240)))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_turned_crop_has_the_bits_of_cv2(orientation):
    content = content_of('plain', orientation)
    image = for_crop(content, upright=True)
    assert image.size == ((157, 203) if orientation >= 5 else (203, 157))
    assert for_crop(content).size == (203, 157)
    assert np.array_equal(image.pixels(), decode_for_crop(content, 'cv2', True))
    for box in boxes_of(image.size):
        expected = by_cv2(content, box, (230, 250), upright=True)
        assert np.array_equal(image.crop(box, (230, 250)), expected)


@pytest.mark.parametrize('factor', [1, 2, 4, 8])
@pytest.mark.parametrize('kind', [*KINDS, *WHOLE])
def test_rows_below_change_no_bit_of_those_above(kind, factor, capfd):
    content = content_of(kind)
    image, expected = for_crop(content), decode_by_opencv(content, factor)
    for bottom in (1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 143, 144, 156, 157):
        rows = image.rows(bottom, factor)
        wanted = -(-bottom // factor)
        assert rows.shape[0] >= wanted and np.array_equal(rows[:wanted], expected[:wanted])
        least = len(expected) if kind in WHOLE else -(-(bottom + 16) // factor)
        assert rows.shape[0] <= min(least, len(expected)) and rows.shape[1:] == expected.shape[1:]
    assert capfd.readouterr() == ('', '')  # libjpeg reports what is left over


# Where it is

@pytest.mark.parametrize('box, size, factor', [
    ((0, 0, 447, 900), (224, 224), 1), ((0, 0, 448, 448), (224, 224), 2),
    ((9, 9, 895, 900), (224, 224), 2), ((9, 9, 896, 896), (224, 224), 4),
    ((0, 0, 1792, 1792), (224, 224), 8), ((0, 0, 9999, 9999), (224, 224), 8),
    ((0, 0, 400, 100), (50, 200), 2), ((0, 0, 100, 400), (50, 200), 1)])
def test_reduction_leaves_at_least_the_size_asked_for(box, size, factor):
    assert reduction(box, size) == factor
    assert factor == 1 or box[2] / factor >= size[1] and box[3] / factor >= size[0]


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('factor', [2, 4, 8])
def test_reduced_crop_lies_where_it_was_drawn(factor, orientation):
    """On a ramp a shift shows as another colour: a box rounded to the pixels of the reduced picture
    is off by half of one, `factor` / 2."""
    width, height = 243, 245
    rows, columns = np.mgrid[:height, :width]
    ramp = np.stack([columns, rows, 255 - columns], axis=2).astype(np.uint8)
    stored = Image.fromarray(ramp)
    content = jpeg_of(stored, orientation, quality=100, subsampling='4:4:4')
    image = for_crop(content, upright=True)
    upright = jpeg.turned(ramp, orientation).astype(int)
    for left, top in itertools.product(range(11, 19, 3), range(21, 29, 3)):
        part = (min(20 * factor + 3, image.size[0] - left), min(15 * factor + 5,
                                                                 image.size[1] - top))
        size = part[1] // factor, part[0] // factor
        assert reduction((left, top, *part), size) == factor
        result = image.crop((left, top, *part), size)
        x, y = (at + (np.arange(count) + 0.5) * side / count - 0.5
                for at, side, count in zip((left, top), part, size[::-1], strict=True))
        corner, across, down = upright[0, 0], upright[0, 1] - upright[0, 0], \
            upright[1, 0] - upright[0, 0]
        expected = corner + across * x[None, :, None] + down * y[:, None, None]
        assert result.shape == expected.shape and result.dtype == np.uint8
        difference = result - expected
        assert np.abs(difference.mean(axis=(0, 1))).max() < 0.2 + factor / 8
        assert np.abs(difference).max() < 4


@pytest.mark.parametrize('name', ['china.jpg', 'flower.jpg'])
@pytest.mark.parametrize('factor', [2, 4, 8])
def test_reduced_crop_of_a_photograph_is_near_to_the_exact_one(name, factor):
    """To Pillow's bicubic filter on the whole picture."""
    image = photo(name)
    content, side = jpeg_of(image), int(350 / factor)
    random, differences = np.random.default_rng(0), []
    for _ in range(10):
        width, height = random.integers(factor * side, min(427, 2 * factor * side), 2)
        left, top = (int(random.integers(whole - part + 1))
                     for whole, part in zip(image.size, (width, height), strict=True))
        box = left, top, int(width), int(height)
        assert reduction(box, (side, side)) == factor
        expected = image.crop((left, top, left + width, top + height)).resize((side, side),
                                                                             Image.BICUBIC)
        result = for_crop(content).crop(box, (side, side))
        differences.append(np.abs(result - np.asarray(expected).astype(int)).mean())
    assert np.mean(differences) < 4.5


def plain_part(pixels, box, size):
    """What resize_part_by_cv2 computes, in float64."""
    height, width, _ = pixels.shape
    steps = box[2] / size[1], box[3] / size[0]
    count = [max(round(step), 1) for step in steps]
    wide = np.pad(pixels.astype(float), ((0, count[1] - 1), (0, count[0] - 1), (0, 0)), 'edge')
    means = sum(wide[y:y + height, x:x + width]
                for y in range(count[1]) for x in range(count[0])) / (count[0] * count[1])
    for axis, side in ((0, height), (1, width)):
        step = steps[1 - axis]
        places = box[1 - axis] + (np.arange(size[axis]) + 0.5) * step - 0.5
        places = np.clip(places - (count[1 - axis] - 1) / 2, 0, side - 1)
        first = np.minimum(places.astype(int), side - 2)
        share = (places - first).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        means = means.take(first, axis) * (1 - share) + means.take(first + 1, axis) * share
    return means


@pytest.mark.parametrize('count', itertools.product((1, 2, 3), repeat=2))
def test_part_is_the_plain_computation_s(count):
    """Of black and white noise: OpenCV's places are multiples of 1/32 of a pixel."""
    random = np.random.default_rng(0)
    for _ in range(10):
        size = tuple(int(side) for side in random.integers(10, 30, 2))
        width, height = (side * (number - 0.4 * random.random() * (number > 1))
                         for side, number in zip(size[::-1], count, strict=True))
        pixels = random.integers(0, 2, (int(height) + 9, int(width) + 9, 3), np.uint8) * 255
        box = *random.uniform(0, 8, 2), width, height
        result = resize_part_by_cv2(pixels[:, :], box, size)
        assert result.shape == (*size, 3) and result.dtype == np.uint8
        assert np.abs(result - plain_part(pixels, box, size)).max() < 255 * 2 / 32


# The training's transform and its data set

@pytest.mark.parametrize('size', [24, (60, 20)])
def test_draws_are_those_of_cv2(size):
    content = content_of('plain')
    for seed in range(20):
        streams = [np.random.default_rng(seed) for _ in range(3)]
        results = [TrainTransform(size, SCALE, RATIO, backend=backend)(image, stream)
                   for backend, image, stream in (
                       ('cv2_reduced', for_crop(content), streams[0]),
                       ('cv2', decode_for_crop(content, 'cv2'), streams[1]),
                       ('pillow', decode_for_crop(content), streams[2]))]
        states = [stream.bit_generator.state for stream in streams]
        assert states[0] == states[1] == states[2]
        assert results[0].shape == results[1].shape
        # another box, or the other way round, is a difference of 20 and more
        assert np.abs(results[0].astype(int) - results[1]).mean() < 7


@pytest.mark.parametrize('name', EXACT)
def test_other_files_are_decoded_as_ever(tmp_path, name):
    EXACT[name](tmp_path / name)
    found = load_image(tmp_path / name, 'cv2_reduced')
    assert np.array_equal(found, load_image(tmp_path / name, 'cv2'))
    assert not isinstance(decode_for_crop((tmp_path / name).read_bytes(), 'cv2_reduced'), JpegFile)


@pytest.mark.parametrize('kind', BAD)
def test_bad_file_has_the_message_of_cv2(tmp_path, kind):
    BAD[kind](tmp_path / 'a.jpg')
    (tmp_path / 'train_list.txt').write_text('a.jpg 0\n')
    errors = []
    for backend in ('cv2', 'cv2_reduced'):
        images = read_list(str(tmp_path / 'train_list.txt'))
        images.backend = backend
        transform = TrainTransform(16, SCALE, RATIO, backend=backend)
        errors.append(ImageDataset(images, transform, 16)[1, 0].error)
    assert errors[0] == errors[1] and errors[0].startswith(f'{images.file}:1: cannot read a.jpg: ')


def test_damaged_file_is_filled_up_as_by_cv2():
    """Cut in the middle, with an end mark: OpenCV makes the rest grey. What lies above is there."""
    content = content_of('plain')
    content = content[:len(content) // 2] + b'\xff\xd9'
    for box in ((0, 0, 203, 157), (10, 100, 100, 40), (10, 3, 100, 20)):
        assert np.array_equal(for_crop(content).crop(box, (200, 200)),
                              by_cv2(content, box, (200, 200)))


def test_what_opencv_cannot_decode_is_pillow_s_work(monkeypatch):
    for orientation in (1, 6):
        content = content_of('plain', orientation)
        upright = decode_for_crop(content, 'pillow', True)
        monkeypatch.setattr(jpeg, 'decode_by_opencv', lambda *_: None)
        image = for_crop(content, upright=True)
        assert np.array_equal(image.pixels(), np.asarray(upright))
        expected = resize_by_cv2(np.asarray(upright)[30:80, 20:70], (10, 10))
        assert np.array_equal(image.crop((20, 30, 50, 50), (10, 10)), expected)
        monkeypatch.undo()


def test_older_opencv_reads_blue_first(monkeypatch):
    expected = for_crop(content_of('plain')).crop((3, 5, 99, 98), (20, 20))
    monkeypatch.setattr(jpeg, 'READ_RGB', False)
    monkeypatch.setattr(jpeg, 'READ_COLOR', cv2.IMREAD_COLOR)
    assert np.array_equal(for_crop(content_of('plain')).crop((3, 5, 99, 98), (20, 20)), expected)


def test_files_archives_and_workers_give_the_same(tmp_path):
    """As a run's config names them; with OpenCV at a whole scale the images are others."""
    for kind in ('files', 'archive'):
        (tmp_path / kind).mkdir()
    for number in range(8):
        photo('china.jpg', (number, 0, 300 + 9 * number, 280)).save(
            tmp_path / 'files' / f'{number}.jpg')
    for kind, prefix in (('files', ''), ('archive', 'a.tar/')):
        (tmp_path / kind / 'train_list.txt').write_text(
            ''.join(f'{prefix}{number}.jpg {number % 2}\n' for number in range(8)))
    with tarfile.open(tmp_path / 'archive' / 'a.tar', 'w') as archive:
        for number in range(8):
            archive.add(tmp_path / 'files' / f'{number}.jpg', f'{number}.jpg')
    batches = {}
    for kind, backend, workers in (('files', 'cv2_reduced', 0), ('files', 'cv2_reduced', 1),
                                   ('archive', 'cv2_reduced', 0), ('files', 'cv2', 0)):
        config = base_config()
        config.MODEL.NUM_CLASSES, config.AUG.BACKEND = 2, backend
        config.DATA.DATASET, config.DATA.DATA_PATH = 'list', str(tmp_path / kind)
        config.DATA.IMAGE_SIZE, config.DATA.BATCH_SIZE, config.DATA.NUM_WORKERS = 32, 4, workers
        loader = build_loader(config, get_dataset(config))
        loader.batch_sampler.set_epoch(1)
        batches[kind, backend, workers] = [batch.images.copy() for batch in loader]
    first, second, archived, whole = batches.values()
    assert np.array_equal(first, second) and np.array_equal(first, archived)
    assert not np.array_equal(first, whole)
