"""From a model to a folder with its graph in int8, if that is good enough on images."""
import os
import shutil
import tempfile
from collections.abc import Sequence

from paddle import nn

from common.apis import Eager
from common.core.cores import core_count
from common.core.errors import InputError
from common.deploy.check import difference, in_batches, read_pictures
from common.deploy.evaluation import evaluate_exported
from common.deploy.export import IMAGES, export_model
from common.deploy.folder import (
    ONNX_FILE,
    check_replaceable,
    read_json,
    replace_folder,
    write_json,
)
from common.deploy.int8 import LIMITS, Quantizer, check_int8, choose
from common.deploy.isolated import logits_of_graph
from common.deploy.load import load_exported

MOST_IMAGES = 256       # of the user's, from all parts of the list, to calibrate and to compare
LEAST_AGREEMENT = 0.99  # of the classes of images, with the model's
MOST_LOSS = 0.003       # of the accuracy on a validation set
# By how much runtimes may differ from another: each rounds to int8 in its own way.
TOLERANCE = 0.15


def export_int8(model: nn.Layer, folder: str | os.PathLike, photos: Sequence,
                images: Sequence = (), **data) -> dict:
    """Writes a model's ONNX graph with int8 products and convolutions into a folder, if it is good
    enough.

    Args:
        model: Layer of init_model or create_model.
        folder: new, empty, or with an earlier export, which is replaced.
        photos: images to calibrate with, some hundred of the kind that the model will see: paths,
            Pillow images or arrays, without labels; of more than 256 some are chosen.
        images: others, on which 99 % of the classes must be the model's; without any it is the
            photos that are compared.
        data: data_path, dataset, class_names: a validation set, as the training program's flags.
            With one its accuracy decides: it may be 0.3 points below the model's.

    Returns:
        The content of export.json, a dict; `int8` in it says what was measured.

    Raises:
        InputError: what export_model raises; an image that cannot be read; or the graph is not
            good enough, even with the most sensitive operators in float32. Nothing is written then.

    Source: this project; ONNX Runtime's tools write the graph.

    Examples:
        >>> import numpy as np
        >>> from common.export import export_int8
        >>> from common.zoo import create_model
        >>> photos = list(np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3)).astype('uint8'))
        >>> model = create_model('vit_digits', depth=1)
        >>> export_int8(model, 'digits_int8', photos)['int8']['calibrated']
        4
    """
    check_int8()
    folder = os.path.abspath(folder)
    check_replaceable(folder)
    eager = Eager(model)
    if eager.multi_label:
        raise InputError('int8: got a model of several classes for an image, expected one of one')
    if not len(photos):
        raise InputError('int8: got no images to calibrate with, expected some hundred')
    new = f'{folder}.tmp{os.getpid()}'
    os.makedirs(new)
    try:
        with tempfile.TemporaryDirectory() as work:
            source = os.path.join(work, 'float32')
            export_model(model, source, 'onnx')
            pixels = read_pictures(eager.preprocessing, photos, MOST_IMAGES)
            exported = load_exported(source, 'onnx')
            quantizer = Quantizer(os.path.join(source, ONNX_FILE), exported.normalised(pixels),
                                  work, core_count())
            compared = read_pictures(eager.preprocessing, images, MOST_IMAGES) \
                if len(images) else pixels
            judge = Judge(work, compared, in_batches(eager, compared), exported, data)
            metadata = write_best(quantizer, judge, read_json(source), new)
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return metadata


class Judge:
    """Decides whether an int8 graph is good enough.

    Args:
        work: folder for temporary files.
        pixels: uint8 [N, 3, H, W].
        expected: the model's logits for them, float [N, K].
        exported: the float32 graph, an Exported.
        data: the validation set, as flags; without a data_path and dataset there is none.
    """

    def __init__(self, work, pixels, expected, exported, data):
        self.work, self.pixels, self.expected, self.data = work, pixels, expected, data
        self.has_set = bool(data.get('data_path') or data.get('dataset'))
        self.float_accuracy = self.accuracy(exported)

    def accuracy(self, exported):
        """The share of the validation set that is right, or None without one."""
        return evaluate_exported(exported, **self.data)['acc1'] if self.has_set else None

    def __call__(self, folder):
        """Runs a folder's graph in each installed runtime.

        Returns:
            {runtime: a dict with `problem` (why it is not good enough, or ''), `agreement`,
            `accuracy` and `error`, the largest difference of a logit relative to the largest one},
            ONNX Runtime first; and the same with nothing but `problem` for what cannot run it.
        """
        logits, failures = logits_of_graph(folder, self.work, {IMAGES: self.pixels})
        found = {runtime: self.judged(runtime, folder, got[IMAGES])
                 for runtime, got in logits.items()}
        return found | {runtime: {'problem': why} for runtime, why in failures.items()}

    def judged(self, runtime, folder, got):
        agreement = float((got.argmax(axis=1) == self.expected.argmax(axis=1)).mean())
        accuracy = self.accuracy(load_exported(folder, runtime))
        problem = ''
        if accuracy is not None and self.float_accuracy - accuracy > MOST_LOSS + 1e-9:
            problem = (f'the accuracy falls from {self.float_accuracy:.2%} to {accuracy:.2%}, '
                       f'expected at most {MOST_LOSS * 100:g} points')
        elif accuracy is None and agreement < LEAST_AGREEMENT:
            problem = (f'{agreement:.1%} of {len(got)} images get the class that the model gives '
                       f'them, expected at least {LEAST_AGREEMENT:.0%}')
        return {'problem': problem, 'agreement': agreement, 'accuracy': accuracy,
                'error': difference(self.expected, got)}


def write_best(quantizer, judge, metadata, folder):
    """Writes the graph with the fewest operators in float32 that is good enough, and export.json.

    Args:
        quantizer: Quantizer.
        judge: Judge.
        metadata: export.json of the float32 export.
        folder: of the new one.

    Returns:
        The content of export.json.

    Raises:
        InputError: none is good enough.
    """
    nodes = quantizer.measure()
    tried = []
    for share, enough in LIMITS:
        kept = choose(nodes, share, enough)
        if kept in tried:
            continue
        tried.append(kept)
        quantizer.quantise([node.name for node in nodes if node.name not in kept],
                           os.path.join(folder, ONNX_FILE))
        write_json(folder, {**metadata, 'check': None})
        found = judge(folder)
        if not found['onnx']['problem']:
            break
    else:
        raise InputError(
            f'int8: {found["onnx"]["problem"]}, with {len(kept)} of {len(nodes)} products and '
            f'convolutions in float32; nothing is written. More images to calibrate with '
            f'(there were {len(quantizer.images)}), of the kind that the model will see, may help; '
            f'bfloat16 loses less')
    compared = {'count': len(judge.pixels), 'error': found['onnx']['error']}
    metadata = {
        **read_json(folder), 'precision': 'int8',
        'int8': {'calibrated': len(quantizer.images), 'operators': len(nodes),
                 'in float32': kept, 'float accuracy': judge.float_accuracy,
                 'runtimes': found},
        'check': {'tolerance': TOLERANCE, IMAGES: compared,
                  'runtimes': {name: one['problem'] for name, one in found.items()}}}
    write_json(folder, metadata)
    return metadata
