"""What a run asks of its loader: images and bytes a second, and how many processes give them.

One process is measured on this machine, with the recipe's augmentation: the loader of
`paddle-vitae benchmark data`. Its images are the run's, or JPEG files of the size that ImageNet's
have in the mean, drawn for it.
"""
import contextlib
import math
import os
import tempfile
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.benchmarks.data import CORES, own_loader, speed_of, use_cores
from common.core.randomness import SAMPLE, generator
from common.data.archives.lists import read_image_list
from common.data.datasets import get_dataset
from common.data.recognise import recognise
from common.data.subset import Subset

BATCH, IMAGES = 16, 96                 # of the measurement
DRAWN = 12                             # different files of those that are drawn
IMAGENET_IMAGES = 1_281_167
WIDTH, HEIGHT, QUALITY = 500, 375, 92  # of a drawn file: 110 KB, ImageNet's mean


class LoaderSpeed(NamedTuple):
    """What one loader process gives.

    Attributes:
        images_per_s: it loads.
        bytes_per_image: of its file, in the mean; None where the system does not count them.
        images: of an epoch.
        source: a few words about the images that were measured.
    """
    images_per_s: float
    bytes_per_image: float | None
    images: int
    source: str


def measure_loader(config, data_path: str | None = None) -> LoaderSpeed:
    """Measures one loader process on one core of this machine.

    Args:
        config: of the run.
        data_path: its data set, whose path the config has, too; None draws images.

    Returns:
        LoaderSpeed.
    """
    with contextlib.ExitStack() as stack:
        if data_path is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            images, count = drawn_images(folder), IMAGENET_IMAGES
            images.backend = config.AUG.BACKEND
            source = f'drawn JPEG files of {WIDTH}x{HEIGHT}'
        else:
            images = get_dataset(recognise(config), is_train=True).images
            count, source = len(images), data_path
        images = Subset(images, range(min(IMAGES, len(images))))
        config = config.clone()
        config.defrost()
        config.DATA.BATCH_SIZE = min(BATCH, max(len(images) // 3, 1))
        size = bytes_read(images)
        use_cores(1)
        try:
            speed = speed_of(own_loader(images, config, 0), config.DATA.BATCH_SIZE, 0)
        finally:
            use_cores(len(CORES))
    return LoaderSpeed(speed, size, count, source)


def drawn_images(folder):
    """Images of smooth noise in a folder, as a source."""
    for number in range(DRAWN):
        random = generator(SAMPLE, 0, 1, number)
        small = random.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT)), np.float32)
        pixels = np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(os.path.join(folder, f'{number}.jpg'), quality=QUALITY)
    file = os.path.join(folder, 'train_list.txt')
    with open(file, 'w') as stream:
        stream.writelines(f'{number % DRAWN}.jpg 0\n' for number in range(IMAGES))
    return read_image_list(file)


def bytes_read(images):
    """The bytes that the system has read for an image in the mean (Linux), or None."""
    def count():
        with open('/proc/self/io') as stream:
            return int(stream.readline().split()[1])
    images.load(0)  # what is imported for it does not count
    try:
        before = count()
        for index in range(len(images)):
            images.load(index)
        return (count() - before) / len(images)
    except OSError:
        return None


def workers_for(images_per_s: float, speed: LoaderSpeed) -> int:
    """How many processes of a device give so many images a second."""
    return math.ceil(images_per_s / speed.images_per_s)
