"""A model's graph: Paddle's, and ONNX's made from it."""
import importlib.util
import os
import sys

import paddle

from common.apis import Preprocessing
from common.core.errors import InputError, one_line
from common.deploy.folder import PARAMETERS_INFO, graph_files
from common.deploy.silence import silenced

OPSET = 17
MOST_ONNX_BYTES = (1 << 31) - (1 << 20)  # a protobuf file is below 2 GiB
INPUT_NAME, OUTPUT_NAME, BATCH_AXIS = 'image', 'logits', 'batch'
CONVERTER_FAILED = 'Failed to convert'
# What marks the line of an output that says why a process failed, the surest mark first.
REASON_MARKS = ('error: ', CONVERTER_FAILED, '[ERROR]', 'Error: ')


def check_onnx(model):
    """Raises InputError if ONNX cannot be written here, or not for this model."""
    missing = [name for name in ('paddle2onnx', 'onnx', 'onnxruntime')
               if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"onnx: got no {', '.join(missing)}, expected it: pip install "
                         f"'paddle-vitae[export]' (for Paddle 2.6 with paddle2onnx==1.3.1)")
    size = sum(value.size * value.element_size() for value in model.state_dict().values())
    if size > MOST_ONNX_BYTES:
        raise InputError(f'onnx: got {size / 1e9:.1f} GB of weights, expected less than 2.1, '
                         f'which is what one file of this format holds; use paddle')


def save_paddle_graph(model, folder):
    """Writes model.json (Paddle 2.6: model.pdmodel) and model.pdiparams."""
    model.eval()
    height, width = Preprocessing.of(model.config).image_size
    spec = paddle.static.InputSpec([None, 3, height, width], 'float32', INPUT_NAME)
    try:
        with silenced(sys.stderr):  # a remark for Paddle's developers
            paddle.jit.save(model, os.path.join(folder, 'model'), [spec])
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the model's code does in a graph
        raise InputError(f'export: Paddle cannot make a graph: '
                         f'{reason_in(str(error))}') from error
    info = os.path.join(folder, PARAMETERS_INFO)
    if os.path.exists(info):
        os.remove(info)


def save_onnx_graph(source, file):
    """Writes an ONNX file, with the names image, logits and batch.

    Args:
        source: folder with the files of save_paddle_graph.
    """
    import onnx
    import paddle2onnx

    graph, parameters = (os.path.join(source, name) for name in graph_files(source, 'paddle'))
    # compat: pip-install
    # Not into a file: on the way to one, Paddle2ONNX folds constants with a package that installs
    # further ones by pip. ONNX Runtime folds them, too.
    content = paddle2onnx.export(graph, parameters, None, opset_version=OPSET,
                                 auto_upgrade_opset=False)
    model = onnx.load_model_from_string(content)
    output = model.graph.output[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == output.name:
                    names[index] = OUTPUT_NAME
    output.name = OUTPUT_NAME
    for value in (model.graph.input[0], output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH_AXIS
    onnx.checker.check_model(model)
    onnx.save(model, file)


def reason_in(output):
    """The line of a failed process's output that says most."""
    lines = [line for line in map(str.strip, output.splitlines()) if line]
    for mark in REASON_MARKS:
        for line in reversed(lines):
            if mark in line:
                # Paddle2ONNX puts its own file and line before what it says
                start = line.index(mark) if mark == CONVERTER_FAILED else 0
                return one_line(line[start:])
    return one_line(lines[-1]) if lines else 'it printed nothing'
