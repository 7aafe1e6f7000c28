"""The families' datasets.py: what PaddleViT's users get by its names and arguments."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.io import Dataset

from common.core.errors import InputError
from common.data.image_dataset import REPLACEMENTS_TRIED
from common.data.loader import build_loader
from common.zoo import load_family_file, model_config
from tests.conftest import refusal, write_image_list

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).resolve().parent.parent
FAMILIES = 'vit', 'vitae', 'vitaev2_vsa'
PLAIN = {'AUTO_AUGMENT': None, 'ERASING': 0.0, 'MIXUP': 0.0, 'CUTMIX': 0.0}
RECIPE = {'AUTO_AUGMENT': 'rand-m9-mstd0.5-inc1', 'ERASING': 0.5, 'ERASING_COUNT': 2, 'MIXUP': 0.8,
          'CUTMIX': 1.0}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(params=FAMILIES)
def family(request):
    return load_family_file(request.param, 'datasets')


@pytest.fixture(scope='module')
def vit():
    return load_family_file('vit', 'datasets')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('images'))


def config_of(folder, aug=PLAIN, workers=0, **data):
    config = model_config('vit_digits').clone()
    config.defrost()
    config.DATA.DATASET, config.DATA.DATA_PATH = 'imagenet2012', str(folder)
    config.DATA.BATCH_SIZE, config.DATA.BATCH_SIZE_EVAL = 4, 5
    config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD = MEAN, STD
    config.DATA.NUM_WORKERS = workers
    for node, values in ((config.AUG, aug), (config.DATA, data)):
        for key, value in values.items():
            node[key] = value
    return config


def normalized(pixels):
    """uint8 [H, W, 3] -> float64 [3, H, W], by the plain formula."""
    return ((pixels / 255.0 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)


def same(batches, others):
    """Whether two lists of batches hold the same numbers."""
    return all(np.array_equal(a.numpy(), b.numpy()) for batch, other
               in zip(batches, others, strict=True) for a, b in zip(batch, other, strict=True))


@pytest.mark.parametrize('is_train', [True, False])
def test_item_is_a_normalised_image_and_a_label(family, folder, is_train):
    dataset = family.get_dataset(config_of(folder), is_train=is_train)
    assert isinstance(dataset, Dataset) and len(dataset) > 4
    for index in range(len(dataset)):
        image, label = dataset[index]
        assert image.dtype == np.float32 and image.shape == (3, 32, 32)
        assert type(label) is int and label == dataset.images.labels[index]
        expected = normalized(dataset[1, index].image)
        np.testing.assert_allclose(image, expected, rtol=0, atol=2e-6)


def test_item_by_any_integer_and_the_end_of_a_loop(vit, folder):
    dataset = vit.get_dataset(config_of(folder), is_train=False)
    assert np.array_equal(dataset[np.int64(2)][0], dataset[2][0])
    assert np.array_equal(dataset[-1][0], dataset[len(dataset) - 1][0])
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    assert [label for _, label in dataset] == dataset.images.labels.tolist()


@pytest.mark.parametrize('train, evaluation', [
    ({'is_train': True}, {'is_train': False}), ({'mode': 'train'}, {'mode': 'val'}),
    ({}, {'is_train': 'val'})])
def test_both_of_paddlevit_s_arguments(vit, folder, train, evaluation):
    config = config_of(folder)
    for arguments, split in ((train, 'train'), (evaluation, 'val')):
        dataset = vit.get_dataset(config, **arguments)
        assert dataset.images.file.endswith(f'{split}_list.txt')
        batches = list(vit.get_dataloader(config, dataset, **arguments))
        assert len(batches[0][1]) == (4 if split == 'train' else 5)
    assert refusal(vit.get_dataset, config, 'test') == \
        "mode: got 'test', expected one of train, val"


def test_training_items_are_drawn_by_seed_and_epoch(vit, folder):
    config = config_of(folder, RECIPE)
    first, again = (vit.get_dataset(config) for _ in range(2))
    images = [first[index][0] for index in range(len(first))]
    paddle.seed(99)
    np.random.seed(99)
    for index in reversed(range(len(again))):
        assert np.array_equal(again[index][0], images[index])
    again.set_epoch(2)
    config.SEED = 1
    for other in (again, vit.get_dataset(config)):
        assert not any(np.array_equal(other[index][0], image) for index, image in enumerate(images))


def test_erased_boxes_are_filled_and_nothing_else_changes(vit, folder):
    """rand fills a box with one value a channel, const with the mean, which is 0."""
    for mode in ('pixel', 'rand', 'const'):
        config = config_of(folder, {**PLAIN, 'ERASING': 1.0, 'ERASING_MODE': mode})
        dataset = vit.get_dataset(config)
        for index in range(4):
            image, sample = dataset[index][0], dataset[1, index]
            top, left, bottom, right = sample.boxes[0]
            box, rest = image[:, top:bottom, left:right], image - normalized(sample.image)
            rest[:, top:bottom, left:right] = 0
            assert box.size and abs(rest).max() < 2e-6
            assert len(np.unique(box)) == {'pixel': box.size, 'rand': 3, 'const': 1}[mode]


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('is_train', [True, False])
def test_batches_are_the_items_in_the_run_s_order(family, folder, is_train, workers):
    """In evaluation that is the data set's, in training the one of this project's loops."""
    config = config_of(folder, RECIPE, workers)
    dataset = family.get_dataset(config, is_train)
    loader = family.get_dataloader(config, dataset, is_train)
    sampler = build_loader(config, dataset, is_train).batch_sampler
    batches = list(loader)
    assert len(batches) == len(loader) == len(sampler)
    for (images, labels), keys in zip(batches, sampler, strict=True):
        assert isinstance(images, paddle.Tensor) and isinstance(labels, paddle.Tensor)
        assert images.dtype == paddle.float32 and images.shape == [len(keys), 3, 32, 32]
        assert labels.dtype == paddle.int64 and labels.shape == [len(keys)]
        for image, label, (_, index) in zip(images.numpy(), labels.tolist(), keys, strict=True):
            assert np.array_equal(image, dataset[index][0]) and label == dataset[index][1]
    if not is_train:
        assert np.concatenate([labels for _, labels in batches]).tolist() == \
            dataset.images.labels.tolist()


@pytest.mark.parametrize('workers', [0, 2])
def test_each_pass_is_the_next_epoch(vit, folder, workers):
    config = config_of(folder, RECIPE, workers)
    dataset = vit.get_dataset(config)
    loader = vit.get_dataloader(config, dataset)
    first, second = list(loader), list(loader)
    assert not same(first, second)
    loader.set_epoch(1)
    assert same(list(loader), first) and same(list(loader), second)
    assert same(list(vit.get_dataloader(config, dataset)), first)


def test_ranks_share_an_evaluation_set(vit, folder, monkeypatch):
    config = config_of(folder)
    dataset = vit.get_dataset(config, is_train=False)
    monkeypatch.setattr('common.core.dist.world_size', lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr('common.core.dist.rank', lambda rank=rank: rank)
        loader = vit.get_dataloader(config, dataset, is_train=False, use_dist_sampler=True)
        seen += [tuple(image.numpy().ravel()) for images, _ in loader for image in images]
    assert sorted(seen) == sorted(tuple(image.ravel()) for image, _ in dataset)


class Squares(Dataset):
    """A data set of a user's own."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return np.full((3, 2, 2), index ** 2, np.float32), index


def test_data_set_of_one_s_own_in_the_loader(vit, folder):
    config = config_of(folder, {'REPEATS': 2})
    images, labels = zip(*vit.get_dataloader(config, Squares(), is_train=False), strict=True)
    assert np.concatenate(labels).tolist() == list(range(10))
    assert [float(image.max()) for image in images] == [16, 81]
    for images, labels in vit.get_dataloader(config, Squares()):
        assert images[:, 0, 0, 0].tolist() == (labels ** 2).astype('float32').tolist()
        assert len(set(labels.tolist())) == 2


IN_PADDLE = '''
import sys
import numpy as np
from paddle.io import DataLoader
sys.path.insert(1, 'tests')
from tests.test_datasets import PLAIN, config_of
from common.zoo import load_family_file
get_dataset = load_family_file('vit', 'datasets').get_dataset
config = config_of(sys.argv[1], PLAIN)
for is_train in (True, False):
    dataset = get_dataset(config, is_train)
    loader = DataLoader(dataset, batch_size=4, num_workers=int(sys.argv[2]), shuffle=False)
    batches = list(loader)
    assert [len(labels) for _, labels in batches[:2]] == [4, 4]
    assert str(batches[0][1].dtype).endswith('int64') and batches[0][1].ndim == 1
    images = np.concatenate([images.numpy() for images, _ in batches])
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    assert images.dtype == np.float32 and images.shape == (len(dataset), 3, 32, 32)
    for index in range(len(dataset)):
        image, label = dataset[index]
        assert np.array_equal(images[index], image) and labels[index] == label
print('done', flush=True)
'''


@pytest.mark.parametrize('workers', [0, 2])
def test_data_set_in_paddle_s_own_loader(folder, workers):
    """In a process of its own, with a time limit."""
    done = subprocess.run([sys.executable, '-c', IN_PADDLE, str(folder), str(workers)], cwd=ROOT,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout.endswith('done\n'), done.stderr


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('allowed', [0, 9])
def test_image_that_cannot_be_read_is_named_and_not_replaced(vit, tmp_path, workers, allowed):
    """DATA.MAX_BAD_IMAGES is for the training of this project, which counts them."""
    folder = write_image_list(tmp_path)
    (folder / 'val_list.txt').write_text((folder / 'val_list.txt').read_text() + 'gone.png 1\n')
    config = config_of(folder, workers=workers, MAX_BAD_IMAGES=allowed)
    dataset = vit.get_dataset(config, is_train=False)
    for call in (lambda: dataset[-1],
                 lambda: list(vit.get_dataloader(config, dataset, is_train=False))):
        with pytest.raises(InputError, match='val_list.txt:[0-9]+: cannot read gone.png: No such'):
            call()


def test_bad_images_all_around_are_given_up(vit, tmp_path):
    """A training sample is black when the image and all that would replace it are bad."""
    folder = write_image_list(tmp_path)
    names = [f'gone{number}.png 1' for number in range(REPLACEMENTS_TRIED + 1)]
    text = (folder / 'train_list.txt').read_text()
    (folder / 'train_list.txt').write_text('\n'.join(names) + '\n' + text)
    dataset = vit.get_dataset(config_of(folder, MAX_BAD_IMAGES=99))
    first, second = dataset[1, 0], dataset[1, 1]
    assert 'gone0' in first.error and first.index == 0 and not first.image.any()
    assert 'gone1' in second.error and second.index == len(names)
