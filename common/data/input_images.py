"""Images that a user gives: paths, folders, arrays and Pillow images become batches of pixels.

A bad image is reported in its place, and the others go on. (A training set is another matter: see
data/image_dataset.py.)
"""
import json
import math
import os
import reprlib
import sys

import numpy as np
from PIL import Image

from common.core.errors import InputError, one_line, printable
from common.data.image_names import READABLE, PassedOver, is_hidden, is_image
from common.data.images import as_rgb, load_image, upright_rgb
from common.data.loader import Loader
from common.data.samplers import EvalSampler


class InputImages:
    """The images to classify, as items (uint8 [H, W, 3], '' or why it cannot be read).

    Args:
        images: list of what `read_image` takes.
        preprocessing: common.apis.Preprocessing; [H, W] is its size.
    """

    def __init__(self, images, preprocessing):
        self.images = images
        self.transform, self.upright = preprocessing.transform(), preprocessing.exif_orientation
        self.black = np.zeros((*preprocessing.image_size, 3), np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        image = self.images[key[1]]
        try:
            return self.transform(read_image(image, self.upright)), ''
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
            reason = getattr(error, 'strerror', None) or one_line(error)
            name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f'image {key[1]}'
            return self.black, printable(f'{name}: cannot read the image: {reason}')


def read_image(image, upright=True):
    """Reads an image.

    Args:
        image: path, Pillow image, or uint8 array [H, W, 3] (RGB).
        upright: whether it is turned as its EXIF says; an array has none.

    Returns:
        A Pillow image in mode RGB.

    Raises:
        ValueError: it is none of these.
        OSError: the file cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return load_image(image, upright=upright)
    if isinstance(image, Image.Image):
        return upright_rgb(image) if upright else as_rgb(image)
    is_array = isinstance(image, np.ndarray)
    if not is_array or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        got = f'{image.dtype}{list(image.shape)}' if is_array else type(image).__name__
        raise ValueError(f'got {got}, expected a path, a Pillow image or a uint8 array [H, W, 3]')
    return Image.fromarray(image)


def pixel_batches(preprocessing, images, batch_size=32, workers=None):
    """Reads and preprocesses images, batch by batch.

    Args:
        preprocessing: common.apis.Preprocessing.
        images: list of what `read_image` takes.
        batch_size: images in a batch; the last one may have fewer.
        workers: processes that read the files, see common.apis.inference_model.

    Yields:
        (uint8 [B, 3, H, W], list of B texts: '', or why the image cannot be read); such an image is
        black.

    Raises:
        InputError: batch_size or workers are no such number.
    """
    check_number('batch_size', batch_size, 1)
    if workers is not None:
        check_number('workers', workers, 0)
    batches = math.ceil(len(images) / batch_size)
    if workers is None:
        workers = min(4, os.cpu_count() - 1) if batches > 2 and sys.platform == 'linux' else 0
    loader = Loader(InputImages(images, preprocessing), EvalSampler(len(images), batch_size),
                    min(workers, batches), stack_items)
    for pixels, errors in loader:
        yield pixels, json.loads(errors.tobytes())


def check_number(name, value, least):
    """Raises InputError for an argument that is no whole number, or below the least."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise InputError(f'{name}: got {reprlib.repr(value)}, expected a whole number of at least '
                         f'{least}')


def stack_items(items):
    """A batch of InputImages' items: uint8 [B, 3, H, W], and the texts as JSON in uint8 [bytes]."""
    pixels = np.stack([image for image, _ in items]).transpose(0, 3, 1, 2)
    errors = json.dumps([error for _, error in items]).encode()
    return np.ascontiguousarray(pixels), np.frombuffer(errors, np.uint8)


def list_images(paths, passed_over=None):
    """The files of some paths; a folder stands for all images in it, sorted by name.

    Args:
        paths: of images and folders.
        passed_over: PassedOver, which counts what is in a folder, neither hidden nor an image.

    Returns:
        List of paths.

    Raises:
        InputError: a folder cannot be read, or has no image.
    """
    files = []
    for path in map(os.fspath, paths):
        if os.path.isdir(path):
            inside = images_inside(path, passed_over or PassedOver())
            if not inside:
                raise InputError(f'{path}: got a folder without images, expected files with '
                                 f'{", ".join(READABLE)}')
            files += inside
        else:
            files.append(path)
    return files


def images_inside(path, passed_over):
    """The paths of the images in a folder and in those below it, sorted; see list_images."""
    def refuse(error):
        raise InputError(f'{error.filename}: cannot read the folder: {error.strerror}')

    files = []
    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                passed_over.add(f'{os.path.join(folder, name)} (a link to a folder)')
        for name in names:
            if is_image(name) and not is_hidden(name):
                files.append(os.path.join(folder, name))
            elif not is_hidden(name):
                passed_over.add(os.path.join(folder, name))
    return sorted(files)


def images_of_tool(paths):
    """list_images, with a line on standard error about what was passed over."""
    passed_over = PassedOver()
    files = list_images(paths, passed_over)
    passed_over.say()
    return files
