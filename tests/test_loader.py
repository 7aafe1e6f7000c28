"""Samplers, data set, loader and transforms: which image goes where, and as what."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from common.core.errors import InputError
from common.core.randomness import BATCH, ORDER, SAMPLE, STEP, SUBSET, generator, seed_batch
from common.data.augment import build_auto_augment
from common.data.batches import Batches, Normalize
from common.data.collate import Collate
from common.data.erasing import RandomErasing
from common.data.image_dataset import ImageDataset
from common.data.lists import read_list
from common.data.loader import Loader
from common.data.mixup import Mixup
from common.data.samplers import EvalSampler, TrainSampler
from common.data.transforms import EvalTransform, TrainTransform, random_crop_box

ROOT = Path(__file__).resolve().parent.parent
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def data_folder(folder, count=12):
    """A list of `count` images of different sizes; the path of the list."""
    for index in range(count):
        picture(20 + index, 31 - index, index).save(folder / f'{index}.png')
    file = folder / 'train_list.txt'
    file.write_text(''.join(f'{index}.png {index % 10}\n' for index in range(count)))
    return str(file)


def train_set(file, seed=0):
    return ImageDataset(read_list(file), TrainTransform(16, SCALE, RATIO, 'random'), 16, seed)


# TrainSampler

def epoch_of(sampler, epoch=1, first_step=0):
    """The indices of an epoch, [steps, indices of one step on this rank]; the epoch is checked."""
    sampler.set_epoch(epoch, first_step)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(len(batch) == sampler.batch_size for batch in batches)
    assert {key[0] for batch in batches for key in batch} <= {epoch}
    indices = [index for batch in batches for _, index in batch]
    return np.array(indices, np.int64).reshape(-1, sampler.batch_size * sampler.accum_iter)


@pytest.mark.smoke
@pytest.mark.parametrize('world_size', [1, 2, 3])
@pytest.mark.parametrize('accum_iter', [1, 2])
@pytest.mark.parametrize('num_samples', [36, 41])
def test_step_has_the_same_samples_however_it_is_split_P5(world_size, accum_iter, num_samples):
    batch_size = 12 // world_size // accum_iter
    whole = epoch_of(TrainSampler(num_samples, 12, seed=5))
    parts = [epoch_of(TrainSampler(num_samples, batch_size, accum_iter, 5, rank, world_size))
             for rank in range(world_size)]
    together = np.concatenate(parts, axis=1)
    assert whole.shape == together.shape == (3, 12)
    for step in range(3):
        assert len(set(together[step])) == 12  # the ranks are disjoint
        assert set(together[step]) == set(whole[step])
    assert len(set(whole.ravel())) == 36 and set(whole.ravel()) <= set(range(num_samples))


@pytest.mark.smoke
def test_order_is_a_function_of_seed_and_epoch_P5():
    orders = {(seed, epoch): epoch_of(TrainSampler(64, 8, seed=seed), epoch).ravel().tolist()
              for seed in (0, 1, 2 ** 31 - 1) for epoch in (0, 1, 2, 300)}
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    assert all(sorted(order) == list(range(64)) != order for order in orders.values())
    sampler = TrainSampler(64, 8, seed=1)
    for epoch in (2, 1, 2):
        assert epoch_of(sampler, epoch).ravel().tolist() == orders[1, epoch]


@pytest.mark.smoke
@pytest.mark.parametrize('accum_iter, rank, world_size', [(1, 0, 1), (2, 1, 2)])
def test_first_step_goes_on_in_the_same_order_P5(accum_iter, rank, world_size):
    sampler = TrainSampler(50, 3, accum_iter, 0, rank, world_size)
    whole = epoch_of(sampler, 4)
    for first_step in range(sampler.steps_per_epoch + 1):
        assert np.array_equal(epoch_of(sampler, 4, first_step), whole[first_step:])
    assert np.array_equal(epoch_of(sampler, 4), whole)


@pytest.mark.smoke
@pytest.mark.parametrize('num_samples', [0, 1, 11])
def test_fewer_samples_than_one_step_are_refused_D9(num_samples):
    with pytest.raises(InputError, match=f'got {num_samples} images.* 12 '):
        TrainSampler(num_samples, 2, accum_iter=3, world_size=2)
    assert TrainSampler(12, 2, accum_iter=3, world_size=2).steps_per_epoch == 1


# EvalSampler

@pytest.mark.smoke
@pytest.mark.parametrize('num_samples', [97, 3, 1])
@pytest.mark.parametrize('world_size', [1, 2, 3, 4])
@pytest.mark.parametrize('batch_size', [1, 8, 200])
def test_evaluation_sees_every_sample_once_P4(num_samples, world_size, batch_size):
    seen = []
    for rank in range(world_size):
        sampler = EvalSampler(num_samples, batch_size, rank, world_size)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(0 < len(batch) <= batch_size for batch in batches)
        seen += [key for batch in batches for key in batch]
    assert sorted(seen) == [(0, index) for index in range(num_samples)]


# Streams

@pytest.mark.smoke
def test_every_place_has_a_stream_of_its_own():
    large = 2 ** 31 - 1
    uses = ORDER, SAMPLE, STEP, BATCH, SUBSET
    places = [(use, seed, epoch, position) for use in uses for seed in (0, 1, 2, large)
              for epoch in (0, 1, 2, large) for position in (0, 1, 2, 8, 2 ** 61 - 1)]
    draws = {place: tuple(generator(*place).integers(2 ** 62, size=2)) for place in places}
    assert len(set(draws.values())) == len(places)
    for place in places:
        assert tuple(generator(*place).integers(2 ** 62, size=2)) == draws[place]


# ImageDataset

def make_bad(folder, kind):
    """A file that is no image; its name."""
    file = folder / 'bad image.jpg'
    if kind == 'text':
        file.write_text('this is no image\n')
    elif kind == 'empty':
        file.write_bytes(b'')
    elif kind == 'folder':
        file.mkdir()
    elif kind == 'truncated':
        picture(64, 64).save(file, 'JPEG')
        file.write_bytes(file.read_bytes()[:-1500])
    elif kind == 'huge':  # a few bytes that claim to be 60,000 x 60,000 pixels
        file.write_bytes(b'GIF89a' + (60000).to_bytes(2, 'little') * 2 + b'\x80\0\0' + b'\0' * 6
                         + b',\0\0\0\0' + (60000).to_bytes(2, 'little') * 2 + b'\0\x02\0;')
    return file.name


BAD_KINDS = ['missing', 'text', 'empty', 'folder', 'truncated', 'huge']


@pytest.mark.smoke
@pytest.mark.parametrize('kind', BAD_KINDS)
def test_bad_image_is_an_error_text_and_no_exception_I2(tmp_path, kind):
    file = data_folder(tmp_path)
    name = make_bad(tmp_path, kind)
    with open(file, 'a') as stream:
        stream.write(f'\n{name} 3\n')
    sample = train_set(file)[1, 12]
    assert (sample.label, sample.index) == (3, 12)
    assert sample.error.startswith(f'{file}:14: cannot read {name}: ')
    assert '\n' not in sample.error and not sample.error.endswith(': ')
    image = sample.image
    assert image.dtype == np.uint8 and image.shape == (16, 16, 3) and not image.any()


@pytest.mark.smoke
@pytest.mark.parametrize('mode', ['RGB', 'L', '1', 'P', 'RGBA', 'LA', 'CMYK', 'I;16'])
def test_every_kind_of_pixel_becomes_rgb_I3(tmp_path, mode):
    name = 'a.tif' if mode == 'CMYK' else 'a.png'
    Image.new(mode, (20, 30), 1).save(tmp_path / name)
    file = tmp_path / 'list.txt'
    file.write_text(f'{name} 0\n')
    sample = train_set(str(file))[1, 0]
    assert sample.error == ''
    assert sample.image.dtype == np.uint8 and sample.image.shape == (16, 16, 3)


READ_ALL = '''
import sys
from common.data.image_dataset import ImageDataset
from common.core.errors import InputError
from common.data.lists import read_list
from common.data.batches import Batches, Normalize
from common.data.loader import Loader
from common.data.samplers import EvalSampler
from common.data.transforms import EvalTransform
dataset = ImageDataset(read_list(sys.argv[1]), EvalTransform(16, 1.0), 16)
loader = Loader(dataset, EvalSampler(len(dataset), 4), int(sys.argv[2]))
good = 0
try:
    for images, labels in Batches(loader, Normalize([0.5] * 3, [0.5] * 3)):
        good += len(labels)
except InputError as error:
    print(good, error, flush=True)
'''


@pytest.mark.parametrize('num_workers', [0, 1, 2])
def test_bad_image_stops_the_loop_with_its_line_and_path_I1(tmp_path, num_workers):
    """In a process of its own, with a time limit."""
    file = data_folder(tmp_path)
    text = Path(file).read_text().splitlines()
    name = make_bad(tmp_path, 'truncated')
    Path(file).write_text('\n'.join([*text[:5], f'{name} 1', f'gone/{name} 1', *text[5:]]))
    done = subprocess.run([sys.executable, '-c', READ_ALL, file, str(num_workers)], cwd=ROOT,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    result = done.stdout.splitlines()[-1]
    assert result.startswith(f'4 {file}:6: cannot read {name}: ')
    assert ' (and 1 more in this batch); paddle-vitae verify FOLDER -decode names all' in result


@pytest.mark.smoke
@pytest.mark.parametrize('num_workers', [0, 2])
def test_bad_images_are_replaced_up_to_a_number_I5(tmp_path, num_workers):
    """Images 5, 6 and 7 of 15 are bad: the next good one is 8, with its own label."""
    file = data_folder(tmp_path)
    text = Path(file).read_text().splitlines()
    Path(file).write_text('\n'.join([*text[:5], *(f'gone{n}.png 1' for n in range(3)), *text[5:]]))
    dataset = ImageDataset(read_list(file), EvalTransform(16, 1.0), 16, replace_bad=True)
    for bad in (5, 6, 7):
        sample = dataset[1, bad + 15]
        assert (sample.index, sample.label, sample.number) == (8, 5, bad + 15)
        assert np.array_equal(sample.image, dataset[1, 8].image)
        assert f'gone{bad - 5}' in sample.error
    loader = Loader(dataset, EvalSampler(15, 4), num_workers)
    batches = Batches(loader, Normalize([0.5] * 3, [0.5] * 3), max_bad=3)
    for _ in range(2):  # counted anew in each pass
        assert sum(len(labels) for _, labels in batches) == 15
        assert len(batches.bad) == 3 and f'{file}:7: cannot read gone1.png' in batches.bad[1]
    batches.max_bad = 2
    with pytest.raises(InputError, match='gone0.* 2 more in this.*than DATA.MAX_BAD'):
        list(batches)


def all_batches(loader, epoch):
    loader.batch_sampler.set_epoch(epoch)
    return [[part.copy() for part in batch] for batch in loader]


@pytest.mark.smoke
def test_workers_change_nothing_and_epochs_do_R2(tmp_path):
    file = data_folder(tmp_path)
    runs = {}
    for num_workers in (0, 2):
        loader = Loader(train_set(file, 7), TrainSampler(12, 4, seed=7), num_workers)
        for epoch in (1, 2, 1):
            runs.setdefault((num_workers, epoch), []).append(all_batches(loader, epoch))
    for epoch in (1, 2):
        first, *others = runs[0, epoch] + runs[2, epoch]
        assert [batch[0].shape for batch in first] == [(4, 3, 16, 16)] * 3
        for other in others:
            for batch, same in zip(first, other, strict=True):
                for part, same_part in zip(batch, same, strict=True):
                    assert part.dtype == same_part.dtype and np.array_equal(part, same_part)


@pytest.mark.smoke
def test_item_is_a_function_of_seed_epoch_and_index(tmp_path):
    file = data_folder(tmp_path)
    first = [train_set(file, 7)[1, index].image for index in range(12)]
    again = train_set(file, 7)
    for index in reversed(range(12)):
        assert np.array_equal(again[1, index].image, first[index])
    for seed, epoch in ((7, 2), (8, 1)):
        others = [train_set(file, seed)[epoch, index].image for index in range(12)]
        assert not any(map(np.array_equal, first, others))


@pytest.mark.smoke
def test_two_entries_of_one_file_are_cropped_differently(tmp_path):
    picture(40, 40).save(tmp_path / 'a.png')
    file = tmp_path / 'list.txt'
    file.write_text('a.png 0\n' * 4)
    items = [train_set(str(file))[1, index].image.tobytes() for index in range(4)]
    assert len(set(items)) == 4


@pytest.mark.smoke
def test_batch_holds_the_pixels_labels_and_indices_of_its_samples(tmp_path):
    file = data_folder(tmp_path)
    dataset = ImageDataset(read_list(file), EvalTransform(16, 1.0), 16)
    seen = []
    batches = Batches(Loader(dataset, EvalSampler(12, 5), 0), lambda images: images)
    for images, labels in batches:
        assert images.dtype == paddle.uint8
        for image, label, index in zip(images.numpy(), labels.tolist(), batches.indices,
                                       strict=True):
            assert np.array_equal(image.transpose(1, 2, 0), dataset[0, index].image)
            assert label == index % 10
            seen.append(index)
    assert seen == list(range(12))


# The whole recipe

def recipe_set(file, seed=7):
    augment = build_auto_augment('rand-m9-mstd0.5-inc1', 16, [0.5] * 3, 'random')
    transform = TrainTransform(16, SCALE, RATIO, 'random', augment=augment)
    return ImageDataset(read_list(file), transform, 16, seed, RandomErasing(0.5, count=2))


def recipe_batches(file, num_workers, epoch, seed=7, batch_size=4, last_epoch=None):
    """[(images, target)] of an epoch as the training loop gets them, as numpy arrays."""
    dataset = recipe_set(file, seed)
    collate = Collate(Mixup(num_classes=10, mode='elem'), last_epoch, seed)
    loader = Loader(dataset, TrainSampler(12, batch_size, seed=seed), num_workers, collate)
    loader.batch_sampler.set_epoch(epoch)
    batches = Batches(loader, Normalize([0.5] * 3, [0.5] * 3), dataset.erasing, seed)
    return [(images.numpy(), target.numpy()) for images, target in batches]


@pytest.mark.smoke
def test_recipe_is_a_function_of_seed_and_epoch(tmp_path):
    """Augmented, mixed and erased, with Paddle's generator used in between by others."""
    file = data_folder(tmp_path)
    first = recipe_batches(file, 0, epoch=3)
    paddle.seed(99)
    for again in (recipe_batches(file, 0, epoch=3), recipe_batches(file, 2, epoch=3)):
        for batch, other in zip(first, again, strict=True):
            assert all(map(np.array_equal, batch, other))
    for other in (recipe_batches(file, 0, epoch=4), recipe_batches(file, 0, epoch=3, seed=8)):
        assert not any(np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


@pytest.mark.smoke
def test_targets_are_soft_up_to_the_last_mixed_epoch(tmp_path):
    file = data_folder(tmp_path)
    for epoch, mixed in ((1, True), (2, True), (3, False)):
        for _, target in recipe_batches(file, 0, epoch, last_epoch=2):
            assert (target.shape, str(target.dtype)) == \
                (((4, 10), 'float32') if mixed else ((4,), 'int64'))


@pytest.mark.smoke
def test_batch_is_mixed_before_normalisation_and_erased_after(tmp_path):
    """Against the steps one by one, in upstream's order."""
    file = data_folder(tmp_path)
    dataset, normalize = recipe_set(file), Normalize([0.5] * 3, [0.5] * 3)
    sampler = TrainSampler(12, 4, seed=7)
    sampler.set_epoch(3)
    mixup = Mixup(num_classes=10, mode='elem')
    for keys, (images, target) in zip(sampler, recipe_batches(file, 0, epoch=3), strict=True):
        samples = [dataset[key] for key in keys]
        pixels = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)
        labels = np.array([sample.label for sample in samples])
        mixed, expected = mixup(pixels, labels, generator(BATCH, 7, 3, keys[0][1]))
        boxes = paddle.to_tensor(np.stack([sample.boxes for sample in samples]))
        seed_batch(7, 3, keys[0][1])
        erased = dataset.erasing.erase(normalize(paddle.to_tensor(mixed)), boxes)
        assert np.array_equal(images, erased.numpy()) and np.array_equal(target, expected)


@pytest.mark.smoke
@pytest.mark.parametrize('repeats', [2, 3])
def test_repeated_augmentation_gives_an_image_several_times_in_a_step(tmp_path, repeats):
    """Differently augmented each time (arXiv 1901.09335), and the epoch is as long as without."""
    sampler = TrainSampler(36, 12, seed=3, repeats=repeats)
    numbers = epoch_of(sampler)
    assert numbers.shape == (3, 12) and len(set(numbers.ravel())) == 36
    for step in numbers:
        assert sorted(np.bincount(step % 36, minlength=36)) == \
            [0] * (36 - 12 // repeats) + [repeats] * (12 // repeats)
    dataset = recipe_set(data_folder(tmp_path))
    once, again = dataset[1, 5], dataset[1, 5 + 12]
    assert (once.index, once.label) == (again.index, again.label) == (5, 5)
    assert not np.array_equal(once.image, again.image)


# Transforms

@pytest.mark.smoke
@pytest.mark.parametrize('width, height', [(1, 1), (1, 30), (30, 1), (2, 3), (7, 5), (13, 400),
                                           (401, 11), (211, 157), (157, 211)])
def test_crop_box_stays_inside(width, height):
    random = np.random.default_rng(0)
    for _ in range(2000):
        left, top, box_width, box_height = random_crop_box(width, height, SCALE, RATIO, random)
        assert left >= 0 and top >= 0 and box_width >= 1 and box_height >= 1
        assert left + box_width <= width and top + box_height <= height


@pytest.mark.smoke
@pytest.mark.parametrize('width, height', [(211, 157), (157, 211), (501, 499)])
@pytest.mark.parametrize('scale', [(0.08, 1.0), (0.25, 0.5)])
def test_crop_box_has_area_and_aspect_in_range(width, height, scale):
    """Sides are rounded, so each may be half a pixel off."""
    random = np.random.default_rng(1)
    areas = []
    for _ in range(2000):
        left, top, w, h = random_crop_box(width, height, scale, RATIO, random)
        area = width * height
        assert (w + 0.5) * (h + 0.5) >= scale[0] * area
        assert (w - 0.5) * (h - 0.5) <= scale[1] * area
        assert (w + 0.5) / (h - 0.5) >= RATIO[0] and (w - 0.5) / (h + 0.5) <= RATIO[1]
        areas.append(w * h / area)
    span = scale[1] - scale[0]  # the draws reach both ends
    assert min(areas) < scale[0] + 0.05 * span and max(areas) > scale[1] - 0.15 * span


@pytest.mark.smoke
@pytest.mark.parametrize('width, height, box', [
    (1, 30, (0, 14, 1, 1)),
    (400, 100, (133, 0, 133, 100)),
    (100, 400, (0, 133, 100, 133)),
    (50, 40, (0, 0, 50, 40)),
])
def test_crop_box_that_never_fits_is_the_centre(width, height, box):
    """More than the image's area never fits; then the aspect ratio is cut to the range."""
    assert random_crop_box(width, height, (4.0, 5.0), RATIO, np.random.default_rng(0)) == box


@pytest.mark.smoke
@pytest.mark.parametrize('hflip, flipped', [(0.0, False), (1.0, True)])
def test_train_transform_crops_resizes_and_flips(hflip, flipped):
    image = picture(40, 30)
    left, top, width, height = random_crop_box(40, 30, SCALE, RATIO, np.random.default_rng(3))
    expected = image.crop((left, top, left + width, top + height)).resize((24, 16), Image.BILINEAR)
    if flipped:
        expected = expected.transpose(Image.FLIP_LEFT_RIGHT)
    result = TrainTransform((16, 24), SCALE, RATIO, 'bilinear', hflip)(
        image, np.random.default_rng(3))
    assert result.dtype == np.uint8 and np.array_equal(result, np.asarray(expected))


@pytest.mark.smoke
@pytest.mark.parametrize('width, height', [(300, 200), (200, 300), (256, 256), (17, 11), (1, 1),
                                           (1, 30), (30, 1), (333, 101)])
@pytest.mark.parametrize('size', [64, (64, 32), (32, 96), 1])
@pytest.mark.parametrize('crop_pct', [1.0, 0.875, 0.5])
def test_evaluation_crop_has_the_size_asked_for(width, height, size, crop_pct):
    """And lies inside the image: what is outside would be black."""
    result = EvalTransform(size, crop_pct)(Image.new('RGB', (width, height), 'white'))
    expected = (size, size) if isinstance(size, int) else size
    assert result.dtype == np.uint8 and result.shape == (*expected, 3) and result.min() == 255


@pytest.mark.smoke
@pytest.mark.parametrize('interpolation, pillow', [('bicubic', Image.BICUBIC),
                                                   ('bilinear', Image.BILINEAR)])
def test_evaluation_crop_equals_pillow(interpolation, pillow):
    """224 / 0.875 = 256; a 500 x 375 image becomes 341 x 256, and (341 - 224) / 2 = 58.5 -> 58."""
    image = picture(500, 375)
    expected = np.asarray(image.resize((341, 256), pillow))[16:240, 58:282]
    assert np.array_equal(EvalTransform(224, 0.875, interpolation)(image), expected)


@pytest.mark.smoke
def test_evaluation_crop_of_a_fitting_image_is_the_image():
    image = picture(64, 64)
    assert np.array_equal(EvalTransform(64, 1.0)(image), np.asarray(image))


@pytest.mark.smoke
@pytest.mark.parametrize('mean, std', [([0.5] * 3, [0.5] * 3),
                                       ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
def test_normalize_against_float64(mean, std):
    images = np.arange(2 * 3 * 16 * 8).reshape(2, 3, 16, 8).astype(np.uint8)
    assert len(np.unique(images)) == 256
    result = Normalize(mean, std)(paddle.to_tensor(images))
    expected = (images / 255 - np.reshape(mean, [3, 1, 1])) / np.reshape(std, [3, 1, 1])
    assert result.dtype == paddle.float32
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-6)
