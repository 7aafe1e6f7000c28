"""Exports to paddle, run by Paddle Inference."""
import sys

import numpy as np
import paddle
from paddle import inference

from common.core.compat import BFLOAT16_OPERATORS, WRONG_PASSES
from common.core.errors import InputError, one_line
from common.deploy.exported import Exported
from common.deploy.precision import check_cpu_bfloat16, check_precision
from common.deploy.silence import silenced

GPU_MEMORY_MB = 256  # that Paddle takes at the start


class PaddleInference(Exported):
    """Paddle's predictor, on Paddle's device; on a CPU with oneDNN, which fuses most operators.

    Args:
        folder: an export to paddle.
        precision: 'fp32', or 'bf16' for a CPU that multiplies bfloat16.
        threads: CPU cores; None is what set_up_cpu takes, else OMP_NUM_THREADS, else one.
    """

    format = 'paddle'

    def __init__(self, folder, precision='fp32', threads=None):
        check_precision(precision)
        if precision == 'bf16':
            check_bfloat16()
        super().__init__(folder, threads)
        graph, parameters = self.files
        if graph.endswith('.json') and paddle.__version__.startswith('2.'):
            raise InputError(f'{graph}: got a graph of Paddle 3, expected one of Paddle 2: this is '
                             f'{paddle.__version__}')
        settings = inference_settings(graph, parameters, precision, self.threads)
        try:
            # Paddle 3.3 prints remarks for its developers at the first run
            with silenced(sys.stdout):
                self.predictor = inference.create_predictor(settings)
                self.run(np.zeros([1, 3, *self.preprocessing.image_size], np.float32))
        except Exception as error:  # noqa: BLE001 - Paddle raises many kinds
            raise InputError(f'{folder}: Paddle {paddle.__version__} cannot run it: '
                             f'{one_line(error)}') from error

    def run(self, images):
        input_name, = self.predictor.get_input_names()
        output_name, = self.predictor.get_output_names()
        handle = self.predictor.get_input_handle(input_name)
        handle.reshape(images.shape)
        handle.copy_from_cpu(np.ascontiguousarray(images))
        self.predictor.run()
        return self.predictor.get_output_handle(output_name).copy_to_cpu()


class Predictor:
    """Paddle's predictor of a graph with several inputs or outputs, on a CPU without oneDNN.

    Args:
        folder: of the graph, for messages.
        graph, parameters: its files.
        threads: CPU cores.

    Raises:
        InputError: Paddle cannot run it.
    """

    def __init__(self, folder, graph, parameters, threads):
        settings = inference_settings(graph, parameters, 'fp32', threads,
                                      onednn=False)  # compat: onednn-resize
        try:
            with silenced(sys.stdout):
                self.predictor = inference.create_predictor(settings)
        except Exception as error:  # noqa: BLE001 - Paddle raises many kinds
            raise InputError(f'{folder}: Paddle {paddle.__version__} cannot run it: '
                             f'{one_line(error)}') from error

    def __call__(self, inputs):
        """{name of an input: array} -> list of arrays, in the order of the graph's outputs."""
        for name in self.predictor.get_input_names():
            handle = self.predictor.get_input_handle(name)
            handle.reshape(inputs[name].shape)
            handle.copy_from_cpu(np.ascontiguousarray(inputs[name]))
        with silenced(sys.stdout):
            self.predictor.run()
        return [self.predictor.get_output_handle(name).copy_to_cpu()
                for name in self.predictor.get_output_names()]


def inference_settings(graph, parameters, precision, threads, onednn=True):
    """The inference.Config for a graph's two files, on Paddle's device; on a CPU with oneDNN or
    without."""
    config = inference.Config(graph, parameters)
    config.disable_glog_info()
    kind, _, number = paddle.get_device().partition(':')
    if kind == 'gpu':
        config.enable_use_gpu(GPU_MEMORY_MB, int(number or 0))
        return config
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(threads)
    if not onednn:
        config.disable_mkldnn()
        return config
    config.enable_mkldnn()
    if graph.endswith('.json'):
        for name in WRONG_PASSES:  # compat: wrong-passes
            config.delete_pass(name)
    if precision == 'bf16':
        config.enable_mkldnn_bfloat16()
        if graph.endswith('.pdmodel'):
            config.set_bfloat16_op(BFLOAT16_OPERATORS)  # compat: bfloat16-operators
    return config


def check_bfloat16():
    """Raises InputError where bfloat16 would be slower than float32, or does not exist."""
    if not paddle.get_device().startswith('cpu'):
        raise InputError(f'bf16: got device {paddle.get_device()!r}, expected the CPU')
    check_cpu_bfloat16()
