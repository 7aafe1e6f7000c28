"""Measures the loader beside the plain pipeline and decoding alone, on the same files.

Each row is read in batches by the same Loader, as in training, on as many cores as there are
workers (on one without workers); the rows differ in what happens to an image. `decode` gives a
label only; `plain` is the usual pipeline, Pillow and paddle.vision.transforms to normalised floats,
one image after the other; `loader` is this project's, by the AUG.BACKEND that a row ends in, else
by the default, cv2. An evaluation's images are always Pillow's. The rows take turns; a figure is
the best of the rounds, since other work on the machine only makes it lower.
"""
import os
import time

import numpy as np
import paddle.vision.transforms as T
from paddle.io import Dataset

from common.config import base_config
from common.core.errors import InputError, one_line
from common.core.randomness import SAMPLE, generator
from common.data.archives.lists import read_image_list
from common.data.augment import build_auto_augment
from common.data.batches import Batches, Normalize
from common.data.collate import Collate
from common.data.datasets import eval_transform, train_transform
from common.data.erasing import build_erasing
from common.data.image_dataset import ImageDataset
from common.data.loader import Loader
from common.data.mixup import build_mixup
from common.data.samplers import TrainSampler
from common.data.subset import Subset

RECIPE = {'AUTO_AUGMENT': 'rand-m9-mstd0.5-inc1', 'INTERPOLATION': 'random', 'ERASING': 0.25,
          'MIXUP': 0.8, 'CUTMIX': 1.0}
MIX = np.float32(0.3)  # the lambda of the plain mixup; any other takes the same time
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []


class Decoded(Dataset):
    """Decodes each image and gives its label."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.images.load(index)
        return self.images.labels[index]


class Plain(Dataset):
    """Float images [3, S, S] by Pillow and paddle.vision.transforms, one by one."""

    def __init__(self, images, config, augment=None, erasing=None, is_train=True):
        super().__init__()
        data, aug = config.DATA, config.AUG
        self.images = images
        self.crop = T.Compose([
            T.RandomResizedCrop(data.IMAGE_SIZE, aug.SCALE, aug.RATIO, interpolation='bicubic'),
            T.RandomHorizontalFlip(aug.HFLIP)] if is_train else [
            T.Resize(int(data.IMAGE_SIZE / data.CROP_PCT), interpolation='bicubic'),
            T.CenterCrop(data.IMAGE_SIZE)])
        self.to_float = T.Compose([
            T.ToTensor(), T.Normalize(data.IMAGENET_MEAN, data.IMAGENET_STD)])
        self.augment, self.erasing = augment, erasing

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        random = generator(SAMPLE, 0, 1, index)
        image = self.crop(self.images.load(index))
        if self.augment:
            image = self.augment(image, random)
        pixels = self.to_float(image).numpy()
        if self.erasing:
            for top, left, bottom, right in self.erasing.boxes(*pixels.shape[1:], random):
                pixels[:, top:bottom, left:right] = random.standard_normal(
                    (3, bottom - top, right - left))
        return pixels, self.images.labels[index]


def labels_of(samples):
    return (np.array(samples),)


def stack(samples):
    """The plain collate."""
    images, labels = zip(*samples, strict=True)
    return np.stack(images), np.array(labels)


def stack_and_mix(samples):
    """The plain collate with mixup, of the float batch."""
    images, labels = stack(samples)
    return images * MIX + images[::-1] * (1 - MIX), labels


def plain_loader(dataset, batch_size, workers, collate):
    order = np.arange(len(dataset) // batch_size * batch_size).reshape(-1, batch_size)
    return Loader(dataset, order.tolist(), workers, collate)


def own_loader(images, config, workers):
    """This project's loader, with what happens on the batch."""
    erasing = build_erasing(config)
    dataset = ImageDataset(images, train_transform(config), config.DATA.IMAGE_SIZE,
                           erasing=erasing)
    sampler = TrainSampler(len(images), config.DATA.BATCH_SIZE)
    return Batches(Loader(dataset, sampler, workers, Collate(build_mixup(config))),
                   Normalize(config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD), erasing)


def own_evaluation(images, config, workers):
    """The same of an evaluation."""
    dataset = ImageDataset(images, eval_transform(config), config.DATA.IMAGE_SIZE)
    return Batches(Loader(dataset, TrainSampler(len(images), config.DATA.BATCH_SIZE), workers),
                   Normalize(config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD))


def pipelines(images, batch_size, image_size, workers):
    """{name: loader}.

    Args:
        images: {AUG.BACKEND: ImageSource that is read by it}.
    """
    crop, recipe = base_config(), base_config()
    for key, value in RECIPE.items():
        recipe.AUG[key] = value
    for config in (crop, recipe):
        config.DATA.BATCH_SIZE, config.DATA.IMAGE_SIZE = batch_size, image_size

    def own(config, backend):
        config = config.clone()
        config.AUG.BACKEND = backend
        return own_loader(images[backend], config, workers)

    def plain(dataset, collate):
        return plain_loader(dataset, batch_size, workers, collate)

    slow = images['pillow']
    augment = build_auto_augment(recipe.AUG.AUTO_AUGMENT, image_size, crop.DATA.IMAGENET_MEAN,
                                 'random')
    return {
        'decode': plain(Decoded(images['cv2']), labels_of),
        'decode, pillow': plain(Decoded(slow), labels_of),
        'plain, crop and flip': plain(Plain(slow, crop), stack),
        'loader, crop and flip': own(crop, 'cv2'),
        'loader, crop and flip, cv2_reduced': own(crop, 'cv2_reduced'),
        'plain, recipe': plain(Plain(slow, recipe, augment, build_erasing(recipe)), stack_and_mix),
        'loader, recipe': own(recipe, 'cv2'),
        'loader, recipe, cv2_reduced': own(recipe, 'cv2_reduced'),
        'loader, recipe, pillow': own(recipe, 'pillow'),
        'plain, evaluation': plain(Plain(slow, crop, is_train=False), stack),
        'loader, evaluation': own_evaluation(slow, crop, workers),
    }


def first_images(data_path, count, backend):
    """The first `count` images of a folder's train_list.txt."""
    images = read_image_list(os.path.join(data_path, 'train_list.txt'))
    images.backend = backend
    return Subset(images, range(min(count, len(images))))


def use_cores(count):
    """Leaves this process and its workers so many cores (Linux), for figures that are of a core."""
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, CORES[:count])


def speed_of(loader, batch_size, workers):
    """Images a second of one pass, without its start: the first batch, and what the workers have
    made by then, do not count."""
    skipped = 1 + 2 * workers
    for number, _ in enumerate(loader, 1):
        if number == skipped:
            start = time.perf_counter()
    return (number - skipped) * batch_size / (time.perf_counter() - start)


def data_table(data_path, count, batch_size, image_size, worker_counts, rounds):
    """Measures the pipelines that `python -m common.benchmark data` compares.

    Args:
        data_path: folder with train_list.txt; its first `count` images are read.
        batch_size: images in a batch.
        image_size: pixels.
        worker_counts: numbers of loader processes, one after the other.
        rounds: epochs of each pipeline.

    Returns:
        A markdown table.
    """
    images = {backend: first_images(data_path, count, backend)
              for backend in ('cv2', 'cv2_reduced', 'pillow')}
    fast = images['cv2']
    least = batch_size * (2 + 2 * max(worker_counts))
    if len(fast) < least:
        raise InputError(f'{data_path}: got {len(fast)} images, expected at least {least} for '
                         f'-batch_size {batch_size} and -workers {max(worker_counts)}')
    for index in range(len(fast)):  # or it would count as fast
        try:
            fast.load(index)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
            raise InputError(f'{fast.where(index)}: cannot read {fast.name(index)}: '
                             f'{one_line(error)}') from None
    lines = ['| Pipeline | Workers | img/s | img/s of a core | To the plain one | To decoding |',
             '|---' * 6 + '|']
    for workers in worker_counts:
        use_cores(max(workers, 1))
        loaders, best = pipelines(images, batch_size, image_size, workers), {}
        for _ in range(rounds):
            for name, loader in loaders.items():
                best[name] = max(best.get(name, 0.0), speed_of(loader, batch_size, workers))
        for name, speed in best.items():
            kind = next((kind for kind in ('recipe', 'evaluation') if kind in name),
                        'crop and flip')
            plain = best[f'plain, {kind}']
            lines.append(f'| {name} | {workers} | {speed:.0f} | {speed / max(workers, 1):.0f} | '
                         f'{speed / plain:.2f} | {speed / best["decode"]:.2f} |')
    return '\n'.join(lines)
