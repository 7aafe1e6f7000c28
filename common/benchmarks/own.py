"""A step of this project in a process of its own: the child of the benchmark's `rivals` and
`growth`. benchmarks/foreign.py has the protocol."""
import json
import sys

import numpy as np
import paddle

from common.benchmarks.foreign import answer
from common.benchmarks.steps import inference_step, training_step
from common.core.errors import set_up_output
from common.core.processes import end_with_parent, set_up_cpu
from common.layers.macs import count_parameters
from common.runtimes import load_exported
from common.zoo import create_model


def make_step(spec):
    """(function that runs one step, versions, number of parameters) of spec['kind']."""
    paddle.set_device('cpu')
    set_up_cpu()
    shape = [spec['batch'], 3, *spec['image_size']]
    if spec['kind'] != 'eager':
        classifier = load_exported(spec['folder'], spec['kind'], spec['threads'])
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        return lambda: classifier.run(images), version_of(spec['kind']), None
    model = create_model(spec['name'], image_size=spec['image_size'], dropout=0.0,
                         attention_dropout=0.0, droppath=0.0)
    make = training_step if spec['train'] else inference_step
    return (make(model, paddle.randn(shape)), version_of('eager'), count_parameters(model))


def version_of(kind):
    """The library that runs a kind of step, with its version."""
    if kind == 'onnx':
        import onnxruntime
        return f'ONNX Runtime {onnxruntime.__version__}'
    return f'Paddle {paddle.__version__}'


def main(spec):
    end_with_parent()
    set_up_output()
    answer(make_step, json.loads(spec))


if __name__ == '__main__':
    main(sys.argv[1])
