"""Exported models: what `python -m common.export` writes, run without the model's code.

    from common.runtimes import load_exported
    classifier = load_exported('digits_onnx')
    logits = classifier(pixels)          # uint8 [B, 3, H, W] -> float32 [B, K]

They are Classifiers, so that `common.apis.inference_model(classifier, 'image.png')` takes them too.
A runtime serves one call at a time.
"""
import contextlib
import json
import os
import sys

import numpy as np
import paddle
from paddle import inference

from common.apis import Classifier, Preprocessing, check_class_names
from common.config import check_value
from common.core.errors import InputError, one_line
from common.core.files import sha256
from common.core.processes import CPU_INFO, LIBC, cpu_info
from common.core.sizes import to_pair

FACTS = 'export.json'
ONNX_FILE, PARAMETERS = 'model.onnx', 'model.pdiparams'
GRAPHS = ('model.json', 'model.pdmodel')  # of Paddle 3, of Paddle 2
# runtime -> format of the folder that it reads
FORMAT_OF = {'paddle': 'paddle', 'paddle-bf16': 'paddle', 'onnx': 'onnx'}
RUNTIMES = ('eager', *FORMAT_OF)
# field of Preprocessing -> the config's key, which says what it may be
KEY_OF = {'image_size': 'DATA.IMAGE_SIZE', 'crop_pct': 'DATA.CROP_PCT',
          'interpolation': 'DATA.INTERPOLATION', 'mean': 'DATA.IMAGENET_MEAN',
          'std': 'DATA.IMAGENET_STD'}


def load_exported(folder, runtime=None, threads=None):
    """The Classifier of an exported folder.

    Args:
        folder: that `python -m common.export` wrote.
        runtime: 'paddle', 'paddle-bf16' or 'onnx'; None is 'paddle' or 'onnx', by the format.
        threads: CPU cores; None is OMP_NUM_THREADS, else one, as in Paddle itself.

    Raises:
        InputError: the folder is not one, is damaged or has another format; the package that runs
            it is missing; for bfloat16, a CPU without it.
    """
    found = read_facts(folder)['format']
    runtime = runtime or found
    if FORMAT_OF.get(runtime) != found:
        fitting = ' or '.join(name for name, kind in FORMAT_OF.items() if kind == found)
        raise InputError(f'{folder}: runtime: got {runtime!r}, expected {fitting} for an export '
                         f'to {found}')
    if runtime == 'onnx':
        return OnnxRuntime(folder, threads)
    return PaddleInference(folder, 'bf16' if runtime == 'paddle-bf16' else 'fp32', threads)


def read_facts(folder):
    """The content of a folder's export.json, with `preprocessing` as a Preprocessing."""
    file = os.path.join(folder, FACTS)
    try:
        with open(file, encoding='utf-8') as stream:
            facts = json.load(stream)
    except FileNotFoundError:
        raise InputError(f'{folder}: got no {FACTS}, expected a folder that python -m '
                         f'common.export wrote') from None
    except (ValueError, RecursionError) as error:
        raise InputError(f'{file}: not JSON: {one_line(error)}') from None
    if not isinstance(facts, dict):
        raise InputError(f'{file}: got a {type(facts).__name__}, expected an object')
    for key, kind in (('format', str), ('preprocessing', dict), ('num_classes', int),
                      ('files', dict)):
        if not isinstance(facts.get(key), kind):
            raise InputError(f'{file}: {key}: got {facts.get(key)!r}, expected '
                             f'{"an object" if kind is dict else kind.__name__}')
    if facts['format'] not in FORMAT_OF:
        raise InputError(f'{file}: format: got {facts["format"]!r}, expected paddle or onnx')
    names = facts.get('class_names')
    if names is not None:
        check_class_names(names, facts['num_classes'], file)
    found = {field: check_value(key, facts['preprocessing'].get(field), file)
             for field, key in KEY_OF.items()}
    found['image_size'] = list(to_pair(found['image_size']))
    return {**facts, 'class_names': names, 'preprocessing': Preprocessing(**found)}


def check_file(folder, name, digests):
    """The path of a file of an export; InputError if it is missing or not as it was written."""
    file = os.path.join(folder, name)
    if not os.path.isfile(file):
        raise InputError(f'{file}: missing, expected it in an export')
    if digest_of(file) != digests.get(name):
        raise InputError(f'{file}: damaged or changed: its sha256 is not that of {FACTS}')
    return file


def file_names(folder, kind):
    """The graph's name and, if they are in a file of their own, the parameters'."""
    if kind == 'onnx':
        return [ONNX_FILE]
    there = [name for name in GRAPHS if os.path.exists(os.path.join(folder, name))]
    return [*(there or GRAPHS)[:1], PARAMETERS]


def digest_of(file):
    with open(file, 'rb') as stream:
        return sha256(stream, os.path.getsize(file)).hex()


class Exported(Classifier):
    """A folder's graph behind uint8 pixels; the base of the runtimes.

    Attributes:
        num_classes: K.
        files: paths of the graph and, if they are in a file of their own, the parameters.
        threads: CPU cores.
    """

    format = None

    def __init__(self, folder, threads=None):
        facts = read_facts(folder)
        if facts['format'] != self.format:
            raise InputError(f'{folder}: got an export to {facts["format"]}, expected one to '
                             f'{self.format}')
        self.files = [check_file(folder, name, facts['files'])
                      for name in file_names(folder, self.format)]
        super().__init__(facts['preprocessing'], facts['class_names'])
        self.num_classes = facts['num_classes']
        self.threads = core_count() if threads is None else threads
        if self.threads < 1:
            raise InputError(f'threads: got {self.threads}, expected at least 1')
        mean, std = (np.array(value).reshape(3, 1, 1) * 255
                     for value in (self.preprocessing.mean, self.preprocessing.std))
        # (x - mean) / std as one product and one sum
        self.scale, self.shift = (1 / std).astype(np.float32), (-mean / std).astype(np.float32)

    def __call__(self, pixels):
        height, width = self.preprocessing.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, height, width):
            raise InputError(f'pixels: got {pixels.dtype}{list(pixels.shape)}, expected uint8[B, '
                             f'3, {height}, {width}], for which the model was exported')
        images = pixels * self.scale
        images += self.shift
        return self.run(images)

    def run(self, images):
        """float32 [B, 3, H, W], normalised -> logits, float32 [B, K]"""
        raise NotImplementedError


# Passes over a graph in which Paddle 3.3 with oneDNN makes mistakes. No time is lost without them.
WRONG_PASSES = (
    # merges a reshape into the transpose before it, also where that has more axes than the result
    'operator_reshape_onednn_fuse_pass',
    # applies the factor of a sum of integers to one of the terms only
    'operator_scale_onednn_fuse_pass',
    # overwrites what oneDNN computed, where another operator still needs it
    'inplace_pass',
)


class PaddleInference(Exported):
    """Paddle's predictor, on Paddle's device; on a CPU with oneDNN, which fuses most operators.

    Args:
        folder: an export to paddle.
        precision: 'fp32', or 'bf16' for a CPU that multiplies bfloat16.
        threads: CPU cores; None is OMP_NUM_THREADS, else one.
    """

    format = 'paddle'

    def __init__(self, folder, precision='fp32', threads=None):
        if precision not in ('fp32', 'bf16'):
            raise InputError(f"precision: got {precision!r}, expected 'fp32' or 'bf16'")
        if precision == 'bf16':
            check_bfloat16()
        super().__init__(folder, threads)
        graph, parameters = self.files
        if graph.endswith('.json') and paddle.__version__.startswith('2.'):
            raise InputError(f'{graph}: got a graph of Paddle 3, expected one of Paddle 2: this is '
                             f'{paddle.__version__}')
        settings = self.settings(graph, parameters, precision)
        try:
            # Paddle 3.3 prints remarks for its developers at the first run
            with quiet(sys.stdout):
                self.predictor = inference.create_predictor(settings)
                self.run(np.zeros([1, 3, *self.preprocessing.image_size], np.float32))
        except Exception as error:  # noqa: BLE001 - Paddle raises many kinds
            raise InputError(f'{folder}: Paddle {paddle.__version__} cannot run it: '
                             f'{one_line(error)}') from error

    def settings(self, graph, parameters, precision):
        config = inference.Config(graph, parameters)
        config.disable_glog_info()
        kind, _, number = paddle.get_device().partition(':')
        if kind == 'gpu':
            config.enable_use_gpu(256, int(number or 0))  # MB at the start
            return config
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(self.threads)
        config.enable_mkldnn()
        if graph.endswith('.json'):
            for name in WRONG_PASSES:
                config.delete_pass(name)
        if precision == 'bf16':
            config.enable_mkldnn_bfloat16()
            if graph.endswith('.pdmodel'):
                config.set_bfloat16_op({'fc'})  # Paddle 2.6 fails at some of the others
        return config

    def run(self, images):
        source, = self.predictor.get_input_names()
        target, = self.predictor.get_output_names()
        handle = self.predictor.get_input_handle(source)
        handle.reshape(images.shape)
        handle.copy_from_cpu(np.ascontiguousarray(images))
        self.predictor.run()
        return self.predictor.get_output_handle(target).copy_to_cpu()


class OnnxRuntime(Exported):
    """ONNX Runtime, on the CPU.

    Args:
        folder: an export to onnx.
        threads: CPU cores; None is OMP_NUM_THREADS, else one.
    """

    format = 'onnx'

    def __init__(self, folder, threads=None):
        try:
            import onnxruntime
        except ImportError:
            raise InputError("onnx: got no onnxruntime, expected it: pip install -e "
                             "'.[export]'") from None
        super().__init__(folder, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        try:
            self.session = onnxruntime.InferenceSession(
                self.files[0], options, providers=['CPUExecutionProvider'])
        except Exception as error:  # noqa: BLE001 - its exceptions have no common base
            raise InputError(f'{folder}: ONNX Runtime {onnxruntime.__version__} cannot run it: '
                             f'{one_line(error)}') from error
        self.input_name = self.session.get_inputs()[0].name

    def run(self, images):
        return self.session.run(None, {self.input_name: images})[0]


def core_count():
    """How many cores Paddle uses on a CPU."""
    return int(os.environ.get('OMP_NUM_THREADS', '1').partition(',')[0])


def check_bfloat16():
    """Raises InputError where bfloat16 would be slower than float32, or does not exist."""
    if not paddle.get_device().startswith('cpu'):
        raise InputError(f'bf16: got device {paddle.get_device()!r}, expected the CPU')
    if not {'avx512_bf16', 'amx_bf16'} & cpu_info():
        raise InputError('bf16: this CPU does not multiply bfloat16, expected avx512_bf16 or '
                         f'amx_bf16 in {CPU_INFO}; use fp32')


@contextlib.contextmanager
def quiet(stream):
    """Drops what is written to sys.stdout or sys.stderr, also by C++ code."""
    stream.flush()
    number = 1 if stream is sys.stdout else 2
    before, nothing = os.dup(number), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    try:
        yield
    finally:
        stream.flush()
        LIBC.fflush(None)  # what C++ holds back
        os.dup2(before, number)
        os.close(before)
        os.close(nothing)
