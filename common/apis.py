"""Trained models in Python: make one, and give it images.

    from common.apis import inference_model, init_model
    model = init_model('vit_base_patch16_224', 'vit_base_patch16_224.pdparams')
    inference_model(model, 'snake.jpg')
    # {'pred_label': 65, 'pred_score': 0.93, 'pred_scores': array([...]), 'pred_class': 'sea snake'}

The names and fields are MMClassification's. Different from it: an array is RGB, not BGR.
"""
import json
import os
import reprlib
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn
from PIL import Image

from common.core.class_names import check_class_names, imagenet_classes  # noqa: F401 - for users
from common.core.devices import set_device  # noqa: F401 - for users
from common.core.errors import InputError, one_line, printable
from common.core.flags import add_flag
from common.core.sizes import to_pair
from common.data.batches import Normalize
from common.data.image_names import READABLE, PassedOver, is_hidden, is_image
from common.data.images import as_rgb, load_image
from common.data.loader import Loader
from common.data.samplers import EvalSampler
from common.data.transforms import EvalTransform
from common.zoo import create_model


class Preprocessing(NamedTuple):
    """From an image to a model's input; it goes with a model wherever the model goes."""

    image_size: list        # [height, width] in pixels
    crop_pct: float         # the shorter side is resized to image_size / crop_pct, then cropped
    interpolation: str      # of Pillow, antialiased
    mean: list              # of red, green and blue in 0..1
    std: list

    @classmethod
    def of(cls, config):
        data = config.DATA
        return cls(list(to_pair(data.IMAGE_SIZE)), data.CROP_PCT, data.INTERPOLATION,
                   list(data.IMAGENET_MEAN), list(data.IMAGENET_STD))

    def transform(self):
        """Pillow RGB image -> uint8 [H, W, 3]."""
        return EvalTransform(self.image_size, self.crop_pct, self.interpolation)


class Classifier:
    """What gives logits for pixels; the base of every runtime.

    Attributes:
        preprocessing: Preprocessing.
        class_names: list of K printable str, or None if they are not known.
    """

    def __init__(self, preprocessing, class_names=None):
        self.preprocessing = preprocessing
        self.class_names = class_names and [printable(name) for name in class_names]

    def __call__(self, pixels):
        """uint8 [B, 3, H, W] -> logits, float32 [B, K], both of numpy."""
        raise NotImplementedError

    def class_name(self, label):
        return self.class_names[label] if self.class_names else str(label)


class Eager(Classifier):
    """A Layer, run operation by operation; without a classifier it is an error."""

    def __init__(self, model):
        if getattr(model, model.classifier_name) is None:
            raise InputError('model: got one without a classifier (MODEL.NUM_CLASSES 0), which '
                             'gives features, see common.features; expected classes')
        super().__init__(Preprocessing.of(model.config), model.class_names)
        self.model = model
        self.normalize = Normalize(self.preprocessing.mean, self.preprocessing.std)

    def __call__(self, pixels):
        self.model.eval()
        with paddle.no_grad():
            logits = self.model(self.normalize(paddle.to_tensor(pixels)))
        return logits.astype('float32').numpy()


def init_model(config_or_name: str, checkpoint: str | os.PathLike | None = None,
               device: str | None = None, options: Sequence[str] = (), **keywords) -> nn.Layer:
    """A model that is ready to be used: create_model, with the same keywords, in evaluation mode.

    As there, on a CPU call `common.core.processes.set_up_cpu()` before: on AMD processors it
    decides a factor of 2 to 4 in speed, and no function of the Python API calls it.

    Args:
        config_or_name: name of a model, see common.zoo.list_models, or the path of a yaml.
        checkpoint: weight file of any format, or a run's folder; None leaves newly initialised
            weights. A checkpoint of this project also brings its number of classes, preprocessing
            and class names.
        device: 'cpu', 'gpu' or 'gpu:N'; it holds for the process. None leaves Paddle's.
        options: 'KEY=VALUE' strings for any keys of the config; they win over the checkpoint.
        keywords: the others of common.zoo.create_model: num_classes (0 gives features),
            image_size, pretrained (the same as checkpoint), and keys of MODEL, e.g. drop_path=0.1.

    Returns:
        A Layer in evaluation mode, with `.config`, `.class_names` (list or None; those of
        DATA.CLASS_NAMES go before the checkpoint's) and `.notes`, as create_model gives it.

    Raises:
        InputError: an unknown name, key or device, one key given twice, or weights that do not
            fit.

    Source: the function of this name in MMClassification.

    Example:
        >>> from common.apis import init_model
        >>> model = init_model('vit_digits', device='cpu', options=['DATA.CROP_PCT=0.9'])
        >>> model.training, model.config.DATA.CROP_PCT
        (False, 0.9)
    """
    model = create_model(config_or_name, checkpoint=checkpoint, device=device, options=options,
                         **keywords)
    model.eval()
    return model


def as_classifier(model):
    """The Classifier of a Layer, or what is one already."""
    return model if isinstance(model, Classifier) else Eager(model)


def inference_model(model, images, batch_size=32, workers=None):
    """Classifies images.

    Args:
        model: of init_model or create_model, or a Classifier.
        images: path of an image or of a folder, Pillow image, uint8 array [H, W, 3] (RGB), a list
            of images, or a stack of them, uint8 [N, H, W, 3].
        batch_size: images in a forward pass.
        workers: processes that read the files; None is up to four, of cores that are free, for
            more than two batches.

    Returns:
        A dict for one image; for a list, a stack or a folder a list of them, in the order of the
        list or of the names. pred_label is the number of the most probable class, pred_score its
        probability, pred_scores float32 [K] all probabilities, pred_class its name.

    Raises:
        InputError: an image cannot be read, or batch_size or workers are no such number.
    """
    classifier = as_classifier(model)
    if isinstance(images, (str, os.PathLike)) and os.path.isdir(images):
        passed_over = PassedOver()
        images = list_images([images], passed_over)
        if passed_over.count:
            warnings.warn(str(passed_over), stacklevel=2)
    elif isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    one = not isinstance(images, (list, tuple))
    found = []
    for scores, error in classify(classifier, [images] if one else images, batch_size, workers):
        if error:
            raise InputError(error)
        label = int(scores.argmax())
        found.append({'pred_label': label, 'pred_score': float(scores[label]),
                      'pred_scores': scores, 'pred_class': classifier.class_name(label)})
    return found[0] if one else found


def classify(model, images, batch_size=32, workers=None):
    """Yields (probabilities float32 [K], None), or (None, why it cannot be read), for each image.

    Args:
        see inference_model.
    """
    classifier = as_classifier(model)
    for pixels, errors in pixel_batches(classifier.preprocessing, images, batch_size, workers):
        good = [not error for error in errors]
        scores = iter(softmax(classifier(pixels[good] if not all(good) else pixels))
                      if any(good) else ())
        for error in errors:
            yield (None, error) if error else (next(scores), None)


def softmax(logits):
    """float [B, K] -> float32 [B, K]; each row sums to 1."""
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


class Pictures:
    """Images as items (uint8 [H, W, 3], '' or why it cannot be read)."""

    def __init__(self, images, preprocessing):
        self.images = images
        self.transform = preprocessing.transform()
        self.nothing = np.zeros((*preprocessing.image_size, 3), np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        image = self.images[key[1]]
        try:
            return self.transform(read_image(image)), ''
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
            reason = getattr(error, 'strerror', None) or one_line(error)
            name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f'image {key[1]}'
            return self.nothing, printable(f'{name}: cannot read the image: {reason}')


def read_image(image):
    """A path, an array or a Pillow image as a Pillow RGB image."""
    if isinstance(image, (str, os.PathLike)):
        return load_image(image)
    if isinstance(image, Image.Image):
        return as_rgb(image)
    is_array = isinstance(image, np.ndarray)
    if not is_array or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        got = f'{image.dtype}{list(image.shape)}' if is_array else type(image).__name__
        raise ValueError(f'got {got}, expected a path, a Pillow image or a uint8 array [H, W, 3]')
    return Image.fromarray(image)


def pixel_batches(preprocessing, images, batch_size=32, workers=None):
    """Yields (uint8 [B, 3, H, W], list of B: '' or why it cannot be read); black if it cannot."""
    check_number('batch_size', batch_size, 1)
    if workers is not None:
        check_number('workers', workers, 0)
    batches = -(-len(images) // batch_size)
    if workers is None:
        workers = min(4, os.cpu_count() - 1) if batches > 2 and sys.platform == 'linux' else 0
    loader = Loader(Pictures(images, preprocessing), EvalSampler(len(images), batch_size),
                    min(workers, batches), stack_pictures)
    for pixels, errors in loader:
        yield pixels, json.loads(errors.tobytes())


def check_number(name, value, least):
    """Raises InputError for an argument that is no whole number, or below the least."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise InputError(f'{name}: got {reprlib.repr(value)}, expected a whole number of at least '
                         f'{least}')


def stack_pictures(items):
    pixels = np.stack([image for image, _ in items]).transpose(0, 3, 1, 2)
    errors = json.dumps([error for _, error in items]).encode()
    return np.ascontiguousarray(pixels), np.frombuffer(errors, np.uint8)


def list_images(paths, passed_over=None):
    """The files of some paths; a folder stands for all images in it, sorted by name.

    Args:
        paths: of images and folders.
        passed_over: PassedOver, which counts what is in a folder, neither hidden nor an image.

    Raises:
        InputError: a folder cannot be read, or has no image.
    """
    found = []
    for path in map(os.fspath, paths):
        if os.path.isdir(path):
            inside = images_inside(path, passed_over or PassedOver())
            if not inside:
                raise InputError(f'{path}: got a folder without images, expected files with '
                                 f'{", ".join(READABLE)}')
            found += inside
        else:
            found.append(path)
    return found


def images_inside(path, passed_over):
    """The images in a folder and in those below it, sorted; see list_images."""
    def refuse(error):
        raise InputError(f'{error.filename}: cannot read the folder: {error.strerror}')

    found = []
    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                passed_over.add(f'{os.path.join(folder, name)} (a link to a folder)')
        for name in names:
            if is_image(name) and not is_hidden(name):
                found.append(os.path.join(folder, name))
            elif not is_hidden(name):
                passed_over.add(os.path.join(folder, name))
    return sorted(found)


def images_of_tool(paths):
    """list_images, with a line on standard error about what was passed over."""
    passed_over = PassedOver()
    files = list_images(paths, passed_over)
    passed_over.say()
    return files


def add_model_flags(parser, needed=True):
    """The flags of the tools that say which model, for `model_of`."""
    add = partial(add_flag, parser)
    add('cfg', 'name of a model, or a yaml file', required=needed, metavar='NAME')
    add('pretrained', 'weight file of any format', required=needed, metavar='FILE')
    add('device', 'cpu, gpu or gpu:N; default a GPU if there is one')
    add('o', 'a key of the config; several are possible', action='append', metavar='KEY=VALUE')


def model_of(args):
    return init_model(args.cfg, args.pretrained, args.device, args.o or [])
