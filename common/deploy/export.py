"""From a model to a folder with its checked graph."""
import os
import shutil
import tempfile
from collections.abc import Sequence

import paddle
from paddle import nn

from common.apis import Classifier, Eager
from common.core.errors import InputError
from common.deploy.check import check, in_batches, random_pictures, read_pictures, tolerance_of
from common.deploy.folder import (
    FORMATS,
    check_replaceable,
    read_json,
    replace_folder,
    write_json,
)
from common.deploy.graph import check_onnx, save_paddle_graph
from common.deploy.isolated import logits_of_graph
from common.deploy.load import FORMAT_OF, RUNTIMES, load_exported
from common.deploy.paddle_inference import check_bfloat16
from paddle_vitae.version import VERSION

# The kinds of pictures that a graph is checked with, as export.json and the command name them.
RANDOM, IMAGES = 'random pictures', 'images'


def export_model(model: nn.Layer, folder: str | os.PathLike, format: str,
                 images: Sequence = ()) -> dict:
    """Writes a model's graph into a folder, if it computes what the model does.

    Args:
        model: Layer of init_model or create_model.
        folder: new, empty, or with an earlier export, which is replaced.
        format: 'paddle' or 'onnx'.
        images: paths, Pillow images or arrays to check the graph with, beside random pictures; of
            more than 16 some are chosen.

    Returns:
        The content of export.json, a dict.

    Raises:
        InputError: a format, folder or image that cannot be used, a package that is missing, a
            graph that cannot be made or run, or one that differs from the model.

    Source: this project; the graphs are those of `paddle.jit.save` and Paddle2ONNX.

    Example:
        >>> from common.export import export_model
        >>> from common.zoo import create_model
        >>> metadata = export_model(create_model('vit_digits'), 'digits', 'paddle')
        >>> metadata['num_classes'], metadata['check']['random pictures']['error'] < 1e-4
        (10, True)
    """
    if format not in FORMATS:
        raise InputError(f'format: got {format!r}, expected paddle or onnx')
    folder = os.path.abspath(folder)
    check_replaceable(folder)
    if format == 'onnx':
        check_onnx(model)
    eager = Eager(model)
    pictures = {RANDOM: random_pictures(eager.preprocessing.image_size)}
    if images:
        pictures[IMAGES] = read_pictures(eager.preprocessing, images)
    expected = {kind: in_batches(eager, pixels) for kind, pixels in pictures.items()}

    new = f'{folder}.tmp{os.getpid()}'
    os.makedirs(new)
    try:
        with tempfile.TemporaryDirectory() as work:
            save_paddle_graph(model, new if format == 'paddle' else work)
            write_json(new, metadata_of(eager, expected[RANDOM].shape[1], format))
            got = logits_of_graph(new, work, pictures)
        metadata = read_json(new)
        metadata['check'] = check(expected, got, tolerance_of(model), format)
        write_json(new, metadata)
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return metadata


def metadata_of(eager, num_classes, format):
    """What export.json says about a model before its graph was run."""
    return {'format': format, 'model': eager.model.config.MODEL.NAME,
            'num_classes': num_classes,
            'class_names': eager.class_names,
            'multi_label': eager.multi_label,
            'preprocessing': eager.preprocessing._asdict(),
            'input': 'float32 [B, 3, H, W], RGB, (value / 255 - mean) / std',
            'output': 'logits, float32 [B, K]',
            'versions': {'paddle': paddle.__version__, 'project': VERSION}}


def runtime_of(model: nn.Layer, runtime: str = 'eager') -> Classifier:
    """Makes a Classifier of a model for a runtime, through an export to a temporary folder.

    Args:
        model: Layer of init_model or create_model.
        runtime: 'eager', which runs the model itself and needs no export; 'paddle', 'paddle-bf16'
            or 'onnx'.

    Returns:
        A Classifier: uint8 [B, 3, H, W] -> logits, float32 [B, K], both of numpy.

    Raises:
        InputError: there is no such runtime, or what export_model and load_exported raise.

    Source: this project.

    Example:
        >>> import numpy as np
        >>> from common.export import runtime_of
        >>> from common.zoo import create_model
        >>> classifier = runtime_of(create_model('vit_digits'), 'paddle')
        >>> classifier(np.zeros([2, 3, 32, 32], np.uint8)).shape
        (2, 10)
    """
    if runtime not in RUNTIMES:
        raise InputError(f'runtime: got {runtime!r}, expected one of {", ".join(RUNTIMES)}')
    if runtime == 'eager':
        return Eager(model)
    if runtime == 'paddle-bf16':
        check_bfloat16()  # before the work
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, folder, FORMAT_OF[runtime])
        return load_exported(folder, runtime)
