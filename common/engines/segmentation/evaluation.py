"""Predictions, and how right they are: PaddleSeg predicts and counts, mean IoU is taken here."""
import os
from dataclasses import dataclass, field

import numpy as np
import paddle
from PIL import Image

from common.config import ConfigNode
from common.core import dist
from common.core.files import replace_atomically
from common.data.loader import Loader
from common.engines.segmentation.data import WAYS
from common.engines.segmentation.pictures import palette


@dataclass
class Result:
    """What an evaluation has counted.

    Attributes:
        common, predicted, labelled: int64 [K]: pixels of each class in both, in the predictions, in
            the masks; pixels without a label are not counted.
        images: how many.
        class_names: list of str, or None.
        class_iou: float [K]; NaN for a class that is nowhere.
        miou: the mean of the others, a fraction of 1.
        accuracy: share of the pixels with a label that are predicted rightly.
    """
    common: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray
    images: int
    class_names: list | None = None
    class_iou: np.ndarray = field(init=False)
    miou: float = field(init=False)
    accuracy: float = field(init=False)

    def __post_init__(self):
        either = self.predicted + self.labelled - self.common
        self.class_iou = np.where(either > 0, self.common / np.maximum(either, 1), np.nan)
        is_there = either > 0
        self.miou = float(self.class_iou[is_there].mean()) if is_there.any() else 0.0
        self.accuracy = float(self.common.sum() / max(self.labelled.sum(), 1))

    def __str__(self):
        return (f'mIoU {self.miou:.4f}, pixel accuracy {self.accuracy:.4f} of {self.images} images')

    def table(self):
        """A line for each class."""
        names = self.class_names or [str(number) for number in range(len(self.class_iou))]
        return [f'{iou:8.4f}  {name}' for iou, name in zip(self.class_iou, names, strict=True)]

    def as_json(self):
        """A dict that JSON can write."""
        return {'miou': self.miou, 'accuracy': self.accuracy, 'images': self.images,
                'class_iou': [None if np.isnan(iou) else float(iou) for iou in self.class_iou],
                'class_names': self.class_names}


def options_of(config, multi_scale):
    """The arguments of PaddleSeg's inference, or aug_inference, that a config asks for."""
    options, test = {}, config.TEST
    if all(test.WINDOW):
        options = {'is_slide': True, 'crop_size': test.WINDOW[::-1], 'stride': test.STRIDE[::-1]}
    if multi_scale:
        options |= {'scales': test.SCALES, 'flip_horizontal': test.FLIP}
    return options


@paddle.no_grad()
def predict(model, image, way, options, precision) -> np.ndarray:
    """The classes of one image.

    Args:
        model: in evaluation mode.
        image: float32 [3, H, W], after the changes of an evaluation.
        way: int64 [n, 3], see Item.
        options: of options_of.
        precision: Precision.

    Returns:
        uint8 [H', W'], in the size of the image's file.
    """
    from paddleseg.core import infer
    trans_info = [(WAYS[kind], (int(height), int(width))) for kind, height, width in way.tolist()]
    function = infer.aug_inference if 'scales' in options else infer.inference
    with precision.autocast():
        classes, _ = function(model, paddle.to_tensor(image[None]), trans_info=trans_info,
                              **options)                               # [1, 1, H', W']
    return classes.numpy()[0, 0].astype(np.uint8)


def evaluate(model, data, config: ConfigNode, precision, multi_scale: bool = False,
             folder: str | None = None) -> Result:
    """Predicts all images of a data set, one at a time, and counts.

    Args:
        model: what build_model gives.
        data: SegmentationData of an evaluation; each rank takes its share.
        config: of read_config.
        precision: Precision.
        multi_scale: whether the mean over several scales and both mirror images is predicted.
        folder: where the predictions are kept as PNG files of class numbers, or None.

    Returns:
        Result, of all ranks.

    Source: PaddleSeg's core/val.py. Different on purpose: a class that is neither predicted nor in
    a mask has no IoU (PaddleSeg counts 0), as in MMSegmentation.
    """
    from paddleseg.utils import metrics
    model.eval()
    options, classes = options_of(config, multi_scale), data.num_classes
    areas = np.zeros([3, classes])
    keys = [[(0, index)] for index in range(dist.rank(), len(data), dist.world_size())]
    loader = Loader(data, keys, config.DATA.NUM_WORKERS, collate=lambda items: items[0])
    for item in loader:
        predicted = predict(model, item.image, item.way, options, precision)
        counts = metrics.calculate_area(
            paddle.to_tensor(predicted.astype(np.int32)[None, None]),
            paddle.to_tensor(np.array(item.mask)[None, None]), classes)
        areas += np.stack([count.numpy() for count in counts])
        if folder:
            write_prediction(folder, data.pairs.name(int(item.index)), predicted, classes)
    areas = dist.all_reduce_sum(paddle.to_tensor(areas)).numpy().astype(np.int64)
    return Result(*areas, len(data), data.pairs.class_names)


def write_prediction(folder, name, classes, num_classes):
    """Writes FOLDER/NAME.png: class numbers, shown in colours."""
    path = prediction_file(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = Image.fromarray(classes)
    image.putpalette(palette(num_classes).reshape(-1).tolist())  # grey becomes a palette's numbers
    with replace_atomically(path) as temporary:
        image.save(temporary, format='PNG')


def prediction_file(folder, name):
    """Where the prediction of an image lies."""
    return os.path.join(folder, f'{os.path.splitext(name)[0]}.png')
