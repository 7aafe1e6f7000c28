"""A step of another library, in a process of its own: the child of the benchmark's `rivals`.

It is run by its path, by a Python that need not have Paddle or anything of this project; so it
imports the standard library alone, and PyTorch, timm or OpenVINO where a step needs them.

The protocol, which our own children speak too (benchmarks/own.py): one object of JSON a line. The
child says first what it is, {"versions": text, "parameters": N}, or why it cannot be,
{"missing": text}. It then answers each {"seconds": X} with
{"seconds": of a step, "steps": how many, "peak_mb": X}, and ends when its input does.
"""
import importlib
import json
import os
import re
import resource
import sys
import time
import warnings

LEARNING_RATE = 1e-4  # as in benchmarks/steps.py
MOST_TEXT = 200  # characters of another library's message


class Missing(Exception):
    """What this environment does not have; the message is for the table."""


def answer(make_step, spec):
    """Speaks the child's part of the protocol, until the input ends.

    Args:
        make_step: spec -> (function that runs one step, versions, number of parameters or None); it
            may raise.
        spec: dict.
    """
    # What libraries print must not get between the lines of the protocol.
    out = os.fdopen(os.dup(1), 'w', buffering=1, encoding='utf-8')
    os.dup2(2, 1)
    try:
        step, versions, parameters = make_step(spec)
        step()
    except Missing as error:
        first = {'missing': str(error)}
    except ImportError as error:
        first = {'missing': f'got no {error.name or error}'}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the row's text
        first = {'missing': f'{type(error).__name__}: {" ".join(str(error).split())}'[:MOST_TEXT]}
    else:
        first = {'versions': versions, 'parameters': parameters}
    print(json.dumps(first), file=out)
    if 'missing' in first:
        return
    for line in sys.stdin:
        print(json.dumps(turn(step, json.loads(line)['seconds'])), file=out)


def turn(step, least):
    """Runs steps for `least` seconds or more; the answer's dict.

    The first step of a turn finds the caches as another process left them: it counts only where it
    is the only one.
    """
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    if first >= least:
        return {'seconds': first, 'steps': 1, 'peak_mb': peak_mb()}
    start, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - start < least:
        step()
        steps += 1
    return {'seconds': (time.perf_counter() - start) / steps, 'steps': steps, 'peak_mb': peak_mb()}


def peak_mb():
    """The most memory in MB that this process has had (Linux; elsewhere it may be the parent's)."""
    try:
        with open('/proc/self/status') as stream:
            return int(re.search(r'VmHWM:\s*(\d+)', stream.read())[1]) / 1024
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def upstream_function(folder, names):
    """The function of the authors' code that makes a model: found by its name in the files, so that
    any of its folders can be given.

    Returns:
        The function, or None.
    """
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith('.'))
        for file in sorted(name for name in files if name.endswith('.py')):
            with open(os.path.join(place, file), encoding='utf-8', errors='replace') as stream:
                found = set(re.findall(r'^def (\w+)\(', stream.read(), re.MULTILINE))
            for name in names:
                if name in found:
                    return imported(place, file[:-3], name)
    return None


def imported(place, module, name):
    """A function of a file, whose folder may be a package with relative imports."""
    parts = [module]
    while os.path.isfile(os.path.join(place, '__init__.py')):
        place, package = os.path.split(place)
        parts.insert(0, package)
    sys.path.insert(0, place)
    return getattr(importlib.import_module('.'.join(parts)), name)


def torch_model(spec):
    """(PyTorch's model of the spec, where it is from)."""
    import torch
    torch.set_num_threads(spec['threads'])
    torch.manual_seed(0)
    if not torch.cuda.is_available():  # the authors' code moves some tensors there
        torch.Tensor.cuda = lambda self, *args, **options: self
    height, width = spec['image_size']
    size = height if height == width else (height, width)
    options = {'num_classes': spec['classes'], 'img_size': size}
    if spec['upstream']:
        function = upstream_function(spec['upstream'], spec['names'])
        if function:
            return function(**options), 'upstream'
    import timm
    for name in spec['names']:
        if timm.is_model(name):
            return timm.create_model(name, pretrained=False, **options), f'timm {timm.__version__}'
    where = ' nor in -upstream' if spec['upstream'] else '; -upstream names the authors\' code'
    raise Missing(f'no {" or ".join(spec["names"])} in timm {timm.__version__}{where}')


def torch_step(spec):
    """PyTorch, operation by operation, or compiled."""
    import torch
    model, source = torch_model(spec)
    parameters = sum(p.numel() for p in model.parameters())
    images = torch.randn(spec['batch'], 3, *spec['image_size'])
    forward = torch.compile(model) if spec['kind'] == 'torch.compile' else model

    def autocast():
        return torch.autocast('cpu', dtype=torch.bfloat16, enabled=spec['bf16'])

    def infer():
        with torch.inference_mode(), autocast():
            forward(images)

    if not spec['train']:
        model.eval()
        return infer, f'PyTorch {torch.__version__}, {source}', parameters
    model.train()
    labels = torch.arange(spec['batch']) % spec['classes']
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def train():
        with autocast():
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return train, f'PyTorch {torch.__version__}, {source}', parameters


def openvino_step(spec):
    """OpenVINO on PyTorch's model, or on a file of ONNX."""
    import numpy
    import openvino
    shape = [spec['batch'], 3, *spec['image_size']]
    versions, parameters = f'OpenVINO {openvino.__version__.partition("-")[0]}', None
    if spec['kind'] == 'openvino-export':
        graph = openvino.Core().read_model(spec['file'])
    else:
        import torch
        model, source = torch_model(spec)
        parameters = sum(p.numel() for p in model.parameters())
        versions = f'{versions}, PyTorch {torch.__version__}, {source}'
        with torch.no_grad():
            graph = openvino.convert_model(model.eval(), example_input=torch.randn(shape))
    graph.reshape(shape)
    # It takes bfloat16 by itself where the processor has it.
    settings = {'INFERENCE_PRECISION_HINT': 'bf16' if spec['bf16'] else 'f32',
                'INFERENCE_NUM_THREADS': spec['threads'], 'NUM_STREAMS': 1}
    compiled = openvino.compile_model(graph, 'CPU', settings)
    images = numpy.random.default_rng(0).standard_normal(shape, numpy.float32)
    return lambda: compiled([images]), versions, parameters


def make_step(spec):
    """The step of spec['kind']."""
    return (torch_step if spec['kind'].startswith('torch') else openvino_step)(spec)


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    answer(make_step, json.loads(sys.argv[1]))
