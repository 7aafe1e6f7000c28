"""The graph of a segmentation model for Paddle Inference, checked against the model."""
import os
import shutil
import sys

import numpy as np
import paddle
from paddle import nn

from common.config import ConfigNode
from common.core.errors import InputError, one_line
from common.deploy.folder import check_replaceable, graph_files, replace_folder, write_json
from common.deploy.graph import INPUT_NAME
from common.deploy.paddle_inference import Predictor
from common.deploy.silence import silenced
from common.engines.segmentation.data import changed

TOLERANCE = 1e-3  # of logits, relative to the largest; graphs fuse and order sums differently
LEAST_EQUAL = 0.999  # share of the pixels: where two classes are as likely, rounding decides


class Labels(nn.Layer):
    """image [B, 3, H, W] -> classes int32 [B, H, W] and logits [B, K, H, W]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        logits = self.model(image)[0]
        return logits.argmax(axis=1).astype('int32'), logits


class Graph:
    """An exported graph, run by Paddle Inference.

    Args:
        folder: what export_model wrote.
        threads: of a CPU.
    """

    def __init__(self, folder, threads=1):
        graph, parameters = (os.path.join(folder, name) for name in graph_files(folder, 'paddle'))
        self.predictor = Predictor(folder, graph, parameters, threads)

    def __call__(self, images):
        """float32 [B, 3, H, W], normalised -> (classes int32 [B, H, W], logits [B, K, H, W])."""
        return self.predictor({INPUT_NAME: images})


def export_model(model: nn.Layer, folder: str, size: tuple, config: ConfigNode, transforms: list,
                 class_names: list | None = None, pictures: list = ()) -> dict:
    """Writes a model's graph for images of one size, if it computes what the model does.

    Args:
        model: what build_model gives, with weights.
        folder: new, empty, or with an earlier export, which is replaced.
        size: (height, width) of the images.
        config: of read_config.
        transforms: the changes of an evaluation; those of colour are used here, sizes are not.
        class_names: list of str, or None.
        pictures: uint8 [H, W, 3] each, to check the graph with, beside random ones.

    Returns:
        The content of export.json, a dict.

    Raises:
        InputError: the folder cannot be replaced, there is no graph, or it computes something else.

    Source: this project.
    """
    folder = os.path.abspath(folder)
    check_replaceable(folder)
    model.eval()
    layer = Labels(model)
    layer.eval()
    colour = [change for change in transforms if type(change).__name__ == 'Normalize']
    images = check_images(size, colour, pictures)
    new = f'{folder}.tmp{os.getpid()}'
    os.makedirs(new)
    try:
        try:
            with silenced(sys.stderr):
                paddle.jit.save(layer, os.path.join(new, 'model'), [
                    paddle.static.InputSpec([None, 3, *size], 'float32', INPUT_NAME)])
        except Exception as error:  # noqa: BLE001 - whatever the model's code does in a graph
            raise InputError(f'export: Paddle cannot make a graph: {one_line(error)}') from error
        metadata = {'task': 'segmentation', 'name': config.MODEL.NAME, 'format': 'paddle',
                    'size': list(size), 'num_classes': model.num_classes,
                    'class_names': class_names,
                    'normalize': [{'mean': change.mean.tolist(), 'std': change.std.tolist()}
                                  for change in colour],
                    'input': 'float32 [B, 3, H, W], RGB, (value / 255 - mean) / std',
                    'output': 'classes, int32 [B, H, W]; logits, float32 [B, K, H, W]',
                    'check': compare(layer, Graph(new), images)}
        write_json(new, metadata)
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return metadata


def check_images(size, colour, pictures):
    """Two random images and the given ones as a model gets them: float32 [n, 3, H, W]."""
    random = np.random.RandomState(0)
    pixels = [random.randint(0, 256, (*size, 3)).astype(np.uint8) for _ in range(2)]
    for picture in pictures:
        rows = np.arange(size[0]) * picture.shape[0] // size[0]
        columns = np.arange(size[1]) * picture.shape[1] // size[1]
        pixels.append(picture[rows][:, columns])
    return np.stack([changed(image, colour)['img'] for image in pixels])


@paddle.no_grad()
def compare(layer, graph, images):
    """How far a graph is from a model: a dict; raises InputError if it is too far."""
    error, equal = 0.0, []
    for image in images:
        classes, logits = (x.numpy() for x in layer(paddle.to_tensor(image[None])))
        got, got_logits = graph(image[None])
        error = max(error, float(np.abs(logits - got_logits).max() / np.abs(logits).max()))
        equal.append(float((classes == got).mean()))
    if not error < TOLERANCE or min(equal) < LEAST_EQUAL:
        raise InputError(f'export: the graph computes something else: logits differ by {error:.2g} '
                         f'of the largest (expected below {TOLERANCE}), {min(equal):.4%} of the '
                         f'classes are equal; nothing was written')
    return {'images': len(images), 'error': error, 'equal_classes': min(equal)}
