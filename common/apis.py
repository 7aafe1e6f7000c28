"""Trained models in Python: make one, and give it images.

    from common.apis import inference_model, init_model
    model = init_model('vit_base_patch16_224', 'vit_base_patch16_224.pdparams')
    inference_model(model, 'snake.jpg')
    # {'pred_label': 65, 'pred_score': 0.93, 'pred_scores': array([...]), 'pred_class': 'sea snake'}

The names and fields are MMClassification's. Different from it: an array is RGB, not BGR.
"""
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn
from PIL import Image

from common.config import ConfigNode
from common.core.class_names import check_class_names, imagenet_classes  # noqa: F401 - for users
from common.core.devices import set_device  # noqa: F401 - for users
from common.core.errors import InputError, printable
from common.core.parts import in_parts
from common.core.probabilities import (  # noqa: F401 - for users
    THRESHOLD,
    check_threshold,
    predicted,
    probabilities,
    softmax,
)
from common.core.sizes import to_pair
from common.data.batches import Normalize
from common.data.image_names import PassedOver
from common.data.input_images import (  # noqa: F401 - for users
    images_of_tool,
    list_images,
    pixel_batches,
    read_image,
)
from common.data.transforms import EvalTransform
from common.zoo import create_model

# What a user may give as one image: a path, a Pillow image, or a uint8 array [H, W, 3] (RGB).
ImageInput = str | os.PathLike | Image.Image | np.ndarray


class Preprocessing(NamedTuple):
    """From an image to a model's input; it goes with a model wherever the model goes.

    The shorter side is resized to image_size / crop_pct, the centre is cut out, and the pixels in
    0..1 are normalised by channel.

    Attributes:
        image_size: [height, width] of the model's input in pixels.
        crop_pct: fraction of the resized image's side that is cut out.
        interpolation: 'bicubic' or 'bilinear', Pillow's, antialiased.
        mean: of red, green and blue in 0..1.
        std: of red, green and blue in 0..1.
        exif_orientation: whether an image is turned as its EXIF says, so that a phone's photo
            stands upright; DATA.EXIF_ORIENTATION, where nothing is said True.

    Source: timm's `create_transform` for evaluation; it turns no image.

    Examples:
        >>> from PIL import Image
        >>> from common.apis import Preprocessing
        >>> from common.zoo import model_config
        >>> preprocessing = Preprocessing.of(model_config('vit_digits'))
        >>> preprocessing.image_size, preprocessing.interpolation
        ([32, 32], 'bicubic')
        >>> preprocessing.transform()(Image.new('RGB', (60, 40))).shape
        (32, 32, 3)
    """

    image_size: list[int]
    crop_pct: float
    interpolation: str
    mean: list[float]
    std: list[float]
    exif_orientation: bool = True

    @classmethod
    def of(cls, config: ConfigNode) -> 'Preprocessing':
        """The preprocessing that a model's config describes."""
        data = config.DATA
        return cls(list(to_pair(data.IMAGE_SIZE)), data.CROP_PCT, data.INTERPOLATION,
                   list(data.IMAGENET_MEAN), list(data.IMAGENET_STD),
                   data.EXIF_ORIENTATION is not False)

    def transform(self) -> EvalTransform:
        """The function from a Pillow RGB image to uint8 [H, W, 3], before the normalisation."""
        return EvalTransform(self.image_size, self.crop_pct, self.interpolation)


class Classifier:
    """What gives logits for pixels; the base of every runtime.

    Attributes:
        preprocessing: Preprocessing.
        class_names: list of K printable str, or None if they are not known.
        multi_label: whether each class is a yes-or-no question (a sigmoid), not one of them the
            answer (a softmax).
        notes: sentences about how it was made, such as which runtime was taken.
    """

    def __init__(self, preprocessing: Preprocessing, class_names: Sequence[str] | None = None,
                 multi_label: bool = False):
        self.preprocessing = preprocessing
        self.multi_label = multi_label
        self.notes = []
        self.class_names = class_names and [printable(name) for name in class_names]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [B, 3, H, W] -> logits, float32 [B, K], both of numpy."""
        raise NotImplementedError

    def class_name(self, label: int) -> str:
        """The name of a class, or its number as text where there are no names."""
        return self.class_names[label] if self.class_names else str(label)

    def predicted(self, scores, topk=5, threshold=THRESHOLD):
        """The predicted classes as dicts {label, name, score}, the most probable one first.

        Args:
            scores: probabilities of an image's classes, float [K] of numpy.
            topk: how many classes; all if there are fewer.
            threshold: of a multi-label model: classes of this probability and more are predicted,
                however many they are; topk has no effect.
        """
        labels = predicted(scores, topk, threshold if self.multi_label else None)
        return [{'label': int(label), 'name': self.class_name(label),
                 'score': float(scores[label])} for label in labels]


class Eager(Classifier):
    """A Layer as a Classifier, run operation by operation.

    Args:
        model: of init_model or create_model.

    Raises:
        InputError: the model has no classifier.
    """

    def __init__(self, model: nn.Layer):
        name = getattr(model, 'classifier_name', None)  # any Layer can be run, not ours alone
        if name and getattr(model, name) is None:
            raise InputError('model: got one without a classifier (MODEL.NUM_CLASSES 0), which '
                             'gives features, see paddle-vitae features; expected classes')
        super().__init__(Preprocessing.of(model.config), getattr(model, 'class_names', None),
                         model.config.DATA.MULTI_LABEL)
        self.model = model
        self.normalize = Normalize(self.preprocessing.mean, self.preprocessing.std)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [B, 3, H, W] -> logits, float32 [B, K]; puts the model into evaluation mode."""
        self.model.eval()
        images = self.normalize(paddle.to_tensor(pixels))
        logits = in_parts(self.model, self.model, images)
        return logits.astype('float32').numpy()


def init_model(config_or_name: str | None = None,
               checkpoint: str | os.PathLike | None = None,
               device: str | None = None, options: Sequence[str] = (), **keywords) -> nn.Layer:
    """A model that is ready to be used: create_model, with the same keywords, in evaluation mode.

    As there, on a CPU call `common.processes.set_up_cpu()` before: on AMD processors it
    decides a factor of 2 to 4 in speed, and no function of the Python API calls it.

    Args:
        config_or_name: name of a model, see common.zoo.list_models, or the path of a yaml; None
            takes the model that the weights are of: `init_model(checkpoint='RUN')`.
        checkpoint: weight file of any format, a run's folder, 'hub' for the model's published
            weights, or what common.zoo.fetch_weights takes; None leaves newly initialised weights.
            A checkpoint of this project also brings its number of classes, preprocessing and class
            names.
        device: 'cpu', 'gpu' or 'gpu:N'; it holds for the process. None leaves Paddle's.
        options: 'KEY=VALUE' strings for any keys of the config; they win over the checkpoint.
        keywords: the others of common.zoo.create_model: num_classes (0 gives features),
            image_size, pretrained (the same as checkpoint), and keys of MODEL, e.g. drop_path=0.1.

    Returns:
        A Layer in evaluation mode, with `.config`, `.class_names` (list or None; those of
        DATA.CLASS_NAMES go before the checkpoint's) and `.notes`, as create_model gives it.

    Raises:
        InputError: an unknown name, key or device, one key given twice, or weights that do not
            fit, or without a name do not tell which model they are of.

    Source: the function of this name in MMClassification.

    Examples:
        >>> from common.apis import init_model
        >>> model = init_model('vit_digits', device='cpu', options=['DATA.CROP_PCT=0.9'])
        >>> model.training, model.config.DATA.CROP_PCT
        (False, 0.9)
    """
    model = create_model(config_or_name, checkpoint=checkpoint, device=device, options=options,
                         **keywords)
    model.eval()
    return model


def as_classifier(model: nn.Layer | Classifier) -> Classifier:
    """The Classifier of a Layer, or what is one already."""
    return model if isinstance(model, Classifier) else Eager(model)


def inference_model(model: nn.Layer | Classifier, images: ImageInput | Sequence[ImageInput],
                    batch_size: int = 32, workers: int | None = None,
                    threshold: float = THRESHOLD) -> dict | list[dict]:
    """Classifies images.

    Args:
        model: of init_model or create_model, or a Classifier, e.g. of load_exported.
        images: path of an image or of a folder, Pillow image, uint8 array [H, W, 3] (RGB), a list
            of images, or a stack of them, uint8 [N, H, W, 3]. Files and Pillow images are turned
            as their EXIF says, unless the model's config has DATA.EXIF_ORIENTATION False.
        batch_size: images in a forward pass.
        workers: processes that read the files; None is up to four, of cores that are free, for
            more than two batches.
        threshold: the probability from which on a multi-label model's classes are predicted.

    Returns:
        A dict for one image; for a list, a stack or a folder a list of them, in the order of the
        list or of the names. pred_label is the number of the most probable class, pred_score its
        probability, pred_scores float32 [K] all probabilities, pred_class its name. Of a
        multi-label model pred_label, pred_score and pred_class are lists, of the classes from the
        threshold on, the most probable one first; they may be empty.

    Raises:
        InputError: an image cannot be read, or batch_size or workers are no such number.

    Source: the function of this name in MMClassification, whose fields these are.

    Examples:
        >>> import numpy as np
        >>> from common.apis import inference_model, init_model
        >>> model = init_model('vit_digits', num_classes=3)
        >>> image = np.zeros([20, 24, 3], np.uint8)
        >>> result = inference_model(model, image)
        >>> sorted(result), result['pred_scores'].shape
        (['pred_class', 'pred_label', 'pred_score', 'pred_scores'], (3,))
        >>> len(inference_model(model, [image, image]))
        2
    """
    classifier = as_classifier(model)
    check_threshold('threshold', threshold)
    if isinstance(images, (str, os.PathLike)) and os.path.isdir(images):
        passed_over = PassedOver()
        images = list_images([images], passed_over)
        if passed_over.count:
            warnings.warn(str(passed_over), stacklevel=2)
    elif isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    is_single = not isinstance(images, (list, tuple))
    results = []
    for scores, error in classify(classifier, [images] if is_single else images, batch_size,
                                  workers):
        if error:
            raise InputError(error)
        found = classifier.predicted(scores, 1, threshold)
        fields = {f'pred_{field}': [entry[key] for entry in found] for field, key in
                  (('label', 'label'), ('score', 'score'), ('class', 'name'))}
        if not classifier.multi_label:
            fields = {field: value for field, (value,) in fields.items()}
        results.append({**fields, 'pred_scores': scores})
    return results[0] if is_single else results


def classify(model: nn.Layer | Classifier, images: Sequence[ImageInput], batch_size: int = 32,
             workers: int | None = None) -> Iterator[tuple[np.ndarray | None, str | None]]:
    """Classifies images one after the other, where some may be bad.

    Args:
        model: see inference_model.
        images: list of paths of files, Pillow images, or uint8 arrays [H, W, 3] (RGB).
        batch_size, workers: see inference_model.

    Yields:
        For each image (probabilities, float32 [K], and None), or (None, why it cannot be read).

    Raises:
        InputError: batch_size or workers are no such number.

    Source: this project.

    Examples:
        >>> import numpy as np
        >>> from common.apis import classify, init_model
        >>> model = init_model('vit_digits')
        >>> for scores, error in classify(model, [np.zeros([20, 24, 3], np.uint8), 'missing.png']):
        ...     print(error or scores.shape)
        (10,)
        missing.png: cannot read the image: No such file or directory
    """
    classifier = as_classifier(model)
    for pixels, errors in pixel_batches(classifier.preprocessing, images, batch_size, workers):
        good = [not error for error in errors]
        if not all(good):
            pixels = pixels[good]
        scores = iter(())
        if any(good):
            scores = iter(probabilities(classifier(pixels), classifier.multi_label))
        for error in errors:
            yield (None, error) if error else (next(scores), None)


