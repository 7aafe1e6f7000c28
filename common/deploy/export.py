"""From a model to a folder with its checked graph."""
import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial

import paddle
from paddle import nn

from common.apis import Classifier, Eager
from common.core.errors import InputError
from common.deploy.auto import measured, sentence
from common.deploy.check import (
    check,
    difference,
    in_batches,
    random_pictures,
    read_pictures,
    tolerance_of,
    wrong,
)
from common.deploy.folder import (
    FORMATS,
    check_replaceable,
    read_json,
    replace_folder,
    write_json,
)
from common.deploy.graph import check_onnx, save_paddle_graph
from common.deploy.isolated import logits_of_graph
from common.deploy.load import (
    AUTO,
    EAGER,
    RUNTIME_OF,
    check_runtime,
    is_installed,
    load_exported,
    runtimes_for,
)
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

    Examples:
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
            logits, failures = logits_of_graph(new, work, pictures)
        metadata = read_json(new)
        metadata['check'] = check_runtimes(expected, logits, failures, tolerance_of(model), format)
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


def check_runtimes(expected, logits, failures, tolerance, format):
    """Compares the logits of a graph in each runtime with the model's.

    Args:
        expected: {kind of picture: float [N, K]}, of the model.
        logits: {runtime: the same, of the graph}; the first one is the format's own.
        failures: {runtime: why it cannot run the graph}.
        tolerance, format: as for `check`.

    Returns:
        What `check` gives for the first runtime, with `runtimes`: {runtime: '', or what is wrong
        with the graph there}.

    Raises:
        InputError: the graph is wrong in the first runtime.
    """
    first, *others = logits
    result = check(expected, logits[first], tolerance, format)
    result['runtimes'] = {first: '', **failures}
    for name in others:
        error = max(difference(expected[kind], logits[name][kind]) for kind in expected)
        result['runtimes'][name] = '' if error <= tolerance else wrong(error, tolerance)
    return result


def runtime_of(model: nn.Layer, runtime: str = 'eager', batch_size: int = 1) -> Classifier:
    """Makes a Classifier of a model for a runtime, through an export to a temporary folder.

    Args:
        model: Layer of init_model or create_model.
        runtime: 'eager', which runs the model itself and needs no export; 'paddle', 'paddle-bf16',
            'onnx', 'openvino', 'openvino-bf16'; or 'auto', which measures those that are
            installed, in float32, and takes the fastest. It keeps no choice: that needs a folder.
        batch_size: images in a call, for which 'auto' measures.

    Returns:
        A Classifier, uint8 [B, 3, H, W] -> logits, float32 [B, K], both of numpy. Of 'auto' it has
        `notes`, what was found and taken.

    Raises:
        InputError: there is no such runtime, or what export_model and load_exported raise.

    Source: this project.

    Examples:
        >>> import numpy as np
        >>> from common.export import runtime_of
        >>> from common.zoo import create_model
        >>> classifier = runtime_of(create_model('vit_digits'), 'paddle')
        >>> classifier(np.zeros([2, 3, 32, 32], np.uint8)).shape
        (2, 10)
    """
    check_runtime(runtime)
    if runtime == EAGER:
        return Eager(model)
    if runtime == AUTO:
        return fastest_of(model, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, folder, RUNTIME_OF[runtime].format)
        return load_exported(folder, runtime)


def fastest_of(model, batch_size):
    """The model in the fastest float32 runtime, through exports in temporary folders."""
    makers, missing = {EAGER: lambda: Eager(model)}, []
    with contextlib.ExitStack() as folders:
        for format in FORMATS:
            installed = list(filter(is_installed, runtimes_for(format)))
            missing += [f'{name} is not installed' for name in runtimes_for(format)
                        if name not in installed]
            folder = folders.enter_context(tempfile.TemporaryDirectory())
            try:
                export_model(model, folder, format)
            except InputError as error:
                missing.append(f'{", ".join(installed)}: {error}')
                continue
            makers |= {name: partial(load_exported, folder, name) for name in installed}
        classifier, choice = measured(makers, batch_size, tolerance_of(model))
    classifier.notes = [sentence(choice, missing)]
    return classifier
