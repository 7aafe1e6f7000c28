"""Measures the training loader beside the plain pipeline and decoding alone, on the same files.

Each row is read through paddle.io.DataLoader in batches, as in training: `decode` gives a label
only; `plain` is the usual pipeline, Pillow and paddle.vision.transforms to normalised floats, one
image after the other; `loader` is this project's. The rows take turns; a figure is the best of
the rounds, since other work on the machine only makes it lower.
"""
import os
import time

import numpy as np
import paddle.vision.transforms as T
from paddle.io import DataLoader, Dataset

from common.augment import build_auto_augment
from common.config import base_config
from common.datasets import ImageDataset, train_transform
from common.erasing import build_erasing
from common.errors import InputError
from common.lists import read_list
from common.loader import Batches, Collate, Normalize, TrainSampler, make_loader
from common.mixup import build_mixup
from common.randomness import SAMPLE, stream
from common.subset import Subset

RECIPE = {'AUTO_AUGMENT': 'rand-m9-mstd0.5-inc1', 'INTERPOLATION': 'random', 'ERASING': 0.25,
          'MIXUP': 0.8, 'CUTMIX': 1.0}


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

    def __init__(self, images, config, augment=None, erasing=None):
        super().__init__()
        data, aug = config.DATA, config.AUG
        self.images = images
        self.crop = T.Compose([
            T.RandomResizedCrop(data.IMAGE_SIZE, aug.SCALE, aug.RATIO, interpolation='bicubic'),
            T.RandomHorizontalFlip(aug.HFLIP)])
        self.to_float = T.Compose([
            T.ToTensor(), T.Normalize(data.IMAGENET_MEAN, data.IMAGENET_STD)])
        self.augment, self.erasing = augment, erasing

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        random = stream(SAMPLE, 0, 1, index)
        image = self.crop(self.images.load(index))
        if self.augment:
            image = self.augment(image, random)
        pixels = self.to_float(image).numpy()
        if self.erasing:
            for top, left, bottom, right in self.erasing.boxes(*pixels.shape[1:], random):
                pixels[:, top:bottom, left:right] = random.standard_normal(
                    (3, bottom - top, right - left))
        return pixels, self.images.labels[index]


def mix_floats(samples):
    """The plain collate: stack, and mixup of the float batch."""
    images = np.stack([image for image, _ in samples])
    share = np.float32(0.3)
    return images * share + images[::-1] * (1 - share), np.array([label for _, label in samples])


def plain_epochs(dataset, batch_size, workers, collate=None):
    """Yields once for each epoch that has been read."""
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, drop_last=True,
                        collate_fn=collate, persistent_workers=workers > 0, shuffle=True)
    while True:
        for _ in loader:
            pass
        yield


def own_epochs(images, config, workers):
    """The same for this project's loader, with what happens on the batch."""
    erasing = build_erasing(config)
    dataset = ImageDataset(images, train_transform(config), config.DATA.IMAGE_SIZE,
                           erasing=erasing)
    sampler = TrainSampler(len(images), config.DATA.BATCH_SIZE)
    batches = Batches(make_loader(dataset, sampler, workers, Collate(build_mixup(config))),
                      Normalize(config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD), erasing)
    epoch = 0
    while True:
        epoch += 1
        sampler.set_epoch(epoch)
        for _ in batches:
            pass
        yield


def pipelines(fast, slow, batch_size, image_size, workers):
    """{name: iterator that reads an epoch at each step}; images by OpenCV, and by Pillow."""
    crop, recipe = base_config(), base_config()
    for key, value in RECIPE.items():
        recipe.AUG[key] = value
    for config in (crop, recipe):
        config.DATA.BATCH_SIZE, config.DATA.IMAGE_SIZE = batch_size, image_size
    pillow = recipe.clone()
    pillow.AUG.BACKEND = 'pillow'
    augment = build_auto_augment(recipe.AUG.AUTO_AUGMENT, image_size, crop.DATA.IMAGENET_MEAN,
                                 'random')
    return {
        'decode': plain_epochs(Decoded(fast), batch_size, workers),
        'decode, Pillow': plain_epochs(Decoded(slow), batch_size, workers),
        'plain, crop and flip': plain_epochs(Plain(slow, crop), batch_size, workers),
        'loader, crop and flip': own_epochs(fast, crop, workers),
        'plain, recipe': plain_epochs(Plain(slow, recipe, augment, build_erasing(recipe)),
                                      batch_size, workers, mix_floats),
        'loader, recipe': own_epochs(fast, recipe, workers),
        'loader, recipe, Pillow': own_epochs(slow, pillow, workers),
    }


def first_images(data_path, count, backend):
    """The first `count` images of a folder's train_list.txt."""
    images = read_list(os.path.join(data_path, 'train_list.txt'))
    images.backend = backend
    return Subset(images, range(min(count, len(images))))


def data_table(data_path, count, batch_size, image_size, worker_counts, rounds):
    """The measurements of `python -m common.benchmark data` as a markdown table.

    Args:
        data_path: folder with train_list.txt; its first `count` images are read.
    """
    fast, slow = (first_images(data_path, count, backend) for backend in ('cv2', 'pillow'))
    count = len(fast) // batch_size * batch_size
    if count == 0:
        raise InputError(f'-batch_size: got {batch_size}, expected at most the {len(fast)} '
                         f'images of {data_path}')
    lines = ['| Pipeline | Workers | img/s | img/s of a core | To the plain one | To decoding |',
             '|---' * 6 + '|']
    for workers in worker_counts:
        epochs, best = pipelines(fast, slow, batch_size, image_size, workers), {}
        for epoch in epochs.values():
            next(epoch)
        for _ in range(rounds):
            for name, epoch in epochs.items():
                start = time.perf_counter()
                next(epoch)
                speed = count / (time.perf_counter() - start)
                best[name] = max(best.get(name, 0), speed)
        for name, speed in best.items():
            plain = best['plain, recipe' if 'recipe' in name else 'plain, crop and flip']
            lines.append(f'| {name} | {workers} | {speed:.0f} | {speed / max(workers, 1):.0f} | '
                         f'{speed / plain:.2f} | {speed / best["decode"]:.2f} |')
    return '\n'.join(lines)
