"""Writes a model as a graph that runs without this project's code, and checks the graph.

python -m common.export -cfg vit_digits -pretrained best.pdparams -format paddle|onnx -output FOLDER
    [-images IMAGE|FOLDER ...] [-o DATA.IMAGE_SIZE=384]

The folder gets the graph (input [B, 3, H, W], float32, normalised, any B; output logits [B, K]) and
export.json: preprocessing, class names, versions, and by how much the graph's logits differ from
the model's. A graph that differs by more than rounding is not written. In Python:

    from common.export import export_model, runtime_of
    export_model(model, 'folder', 'onnx')
    classifier = runtime_of(model, 'paddle-bf16')      # through a temporary folder
"""
import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial

import numpy as np
import paddle
from PIL import Image

from common.apis import (
    Eager,
    Preprocessing,
    add_model_flags,
    images_of_tool,
    model_of,
    pixel_batches,
)
from common.core.errors import InputError, errors_of_a_tool, one_line, printable, say
from common.core.flags import add_flag, check_output_folder
from common.core.processes import end_of, end_with_parent, set_up_cpu
from common.runtimes import (
    FACTS,
    FORMAT_OF,
    GRAPHS,
    ONNX_FILE,
    PARAMETERS,
    RUNTIMES,
    check_bfloat16,
    digest_of,
    file_names,
    load_exported,
    quiet,
)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FORMATS = ('paddle', 'onnx')
OPSET = 17
# By how much logits may differ, relative to the largest one; rounding makes some 1e-6.
TOLERANCE = 1e-4
# The same for a model that samples at coordinates: rounding also moves the places.
SAMPLING_TOLERANCE = 1e-3
RANDOM_PICTURES, MOST_IMAGES = 4, 16
BATCHES = (1, 3)  # sizes in turn: the graph's batch must be open
MOST_ONNX_BYTES = (1 << 31) - (1 << 20)  # a protobuf file is below 2 GiB


def export_model(model, folder, format, images=()):
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
    """
    if format not in FORMATS:
        raise InputError(f'format: got {format!r}, expected paddle or onnx')
    folder = os.path.abspath(folder)
    check_replaceable(folder)
    if format == 'onnx':
        check_onnx(model)
    eager = Eager(model)
    pictures = {'random pictures': random_pictures(eager.preprocessing.image_size)}
    if images:
        pictures['images'] = read_pictures(eager.preprocessing, images)
    expected = {kind: in_batches(eager, pixels) for kind, pixels in pictures.items()}

    new = f'{folder}.tmp{os.getpid()}'
    os.makedirs(new)
    try:
        with tempfile.TemporaryDirectory() as work:
            save_graph(model, new if format == 'paddle' else work)
            write_facts(new, facts_of(eager, expected, format))
            np.savez(os.path.join(work, 'pixels.npz'), **pictures)
            got = in_another_process(new, work)
        facts = read_json(new)
        facts['check'] = check(expected, got, tolerance_of(model), format)
        write_facts(new, facts)
        put_in_place(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return facts


def runtime_of(model, runtime='eager'):
    """A model as a Classifier of a runtime; but for 'eager' it is exported first, and checked.

    Args:
        model: Layer of init_model or create_model.
        runtime: 'eager', 'paddle', 'paddle-bf16' or 'onnx'.
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


def check_replaceable(folder):
    """Raises InputError for a folder that holds other things than an export."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f'{folder}: got a file, expected a folder')
    names = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    others = names - {FACTS, ONNX_FILE, PARAMETERS, f'{PARAMETERS}.info', *GRAPHS}
    if others or (names and FACTS not in names):
        raise InputError(f'{folder}: got a folder with {min(others or names)}, expected a new '
                         f'one, an empty one or one that holds an export and nothing else')


def put_in_place(new, folder):
    """Gives a complete folder its name, which an earlier export may have."""
    old = f'{folder}.old{os.getpid()}'
    check_replaceable(folder)
    if os.path.isdir(folder):
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def check_onnx(model):
    """Raises InputError if ONNX cannot be written here, or not for this model."""
    missing = [name for name in ('paddle2onnx', 'onnx', 'onnxruntime')
               if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"onnx: got no {', '.join(missing)}, expected it: pip install -e "
                         f"'.[export]' (for Paddle 2.6 with paddle2onnx==1.3.1)")
    size = sum(value.size * value.element_size() for value in model.state_dict().values())
    if size > MOST_ONNX_BYTES:
        raise InputError(f'onnx: got {size / 1e9:.1f} GB of weights, expected less than 2.1, '
                         f'which is what one file of this format holds; use paddle')


def save_graph(model, folder):
    """Writes model.json (Paddle 2.6: model.pdmodel) and model.pdiparams."""
    model.eval()
    height, width = Preprocessing.of(model.config).image_size
    spec = paddle.static.InputSpec([None, 3, height, width], 'float32', 'image')
    try:
        with quiet(sys.stderr):  # a remark for Paddle's developers
            paddle.jit.save(model, os.path.join(folder, 'model'), [spec])
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the model's code does in a graph
        raise InputError(f'export: Paddle cannot make a graph: '
                         f'{reason_in(str(error))}') from error
    info = os.path.join(folder, f'{PARAMETERS}.info')  # Paddle 2.6's, not needed to run the graph
    if os.path.exists(info):
        os.remove(info)


def facts_of(eager, expected, format):
    with open(os.path.join(ROOT, 'pyproject.toml'), encoding='utf-8') as stream:
        version = re.search(r'^version = "(.+)"$', stream.read(), re.MULTILINE)
    return {'format': format, 'model': eager.model.config.MODEL.NAME,
            'num_classes': expected['random pictures'].shape[1],
            'class_names': eager.class_names,
            'preprocessing': eager.preprocessing._asdict(),
            'input': 'float32 [B, 3, H, W], RGB, (value / 255 - mean) / std',
            'output': 'logits, float32 [B, K]',
            'versions': {'paddle': paddle.__version__, 'project': version and version[1]}}


def write_facts(folder, facts):
    with open(os.path.join(folder, FACTS), 'w', encoding='utf-8') as stream:
        json.dump(facts, stream, indent=1, ensure_ascii=False)


def read_json(folder):
    with open(os.path.join(folder, FACTS), encoding='utf-8') as stream:
        return json.load(stream)


def random_pictures(image_size):
    """Smooth coloured noise, uint8 [N, 3, H, W], always the same."""
    random, (height, width) = np.random.RandomState(0), image_size
    spots = random.randint(0, 256, (RANDOM_PICTURES, 5, 5, 3)).astype(np.uint8)
    pictures = [np.array(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC))
                for one in spots]
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def read_pictures(preprocessing, images):
    """Some images, uint8 [N, 3, H, W], N at most MOST_IMAGES, from all parts of the list."""
    step = max(1, -(-len(images) // MOST_IMAGES))
    pixels = []
    for batch, errors in pixel_batches(preprocessing, list(images)[::step]):
        if any(errors):
            raise InputError(next(error for error in errors if error))
        pixels.append(batch.copy())  # its memory is used again
    return np.concatenate(pixels)


def in_batches(classifier, pixels):
    """The logits of pictures, in batches of BATCHES."""
    logits, first, turn = [], 0, 0
    while first < len(pixels):
        size = BATCHES[turn % len(BATCHES)]
        logits.append(classifier(pixels[first:first + size]))
        first, turn = first + size, turn + 1
    return np.concatenate(logits)


def in_another_process(folder, work):
    """Converts (if the format is not Paddle's) and runs the graph where a crash does no harm.

    Returns:
        {kind of picture: logits}
    """
    program = 'import sys; from common.export import finish; finish(*sys.argv[1:])'
    path = os.pathsep.join([ROOT, *filter(None, [os.environ.get('PYTHONPATH')])])
    child = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program, folder, work, paddle.get_device()],
        env={**os.environ, 'PYTHONPATH': path}, stdin=subprocess.DEVNULL, text=True,
        errors='replace', stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    result = os.path.join(work, 'logits.npz')
    if child.returncode == 0 and os.path.exists(result):
        with np.load(result) as logits:
            return dict(logits)
    step = 'running the graph' if 'files' in read_json(folder) else 'converting the graph'
    raise InputError(f'export: {step} failed with {end_of(child.returncode)}: '
                     f'{reason_in(child.stdout)}')


def reason_in(output):
    """The line of a failed process's output that says most."""
    lines = [line for line in map(str.strip, output.splitlines()) if line]
    for mark in ('error: ', 'Failed to convert', '[ERROR]', 'Error: '):
        for line in reversed(lines):
            if mark in line:
                return one_line(line[line.index(mark):] if mark[0] == 'F' else line)
    return one_line(lines[-1]) if lines else 'it printed nothing'


def finish(folder, work, device):
    """What runs in the other process: conversion, digests of the files, a run."""
    end_with_parent()
    with errors_of_a_tool():
        paddle.set_device(device)
        facts = read_json(folder)
        if facts['format'] == 'onnx':
            convert(work, os.path.join(folder, ONNX_FILE))
        facts['files'] = {name: digest_of(os.path.join(folder, name))
                          for name in file_names(folder, facts['format'])}
        write_facts(folder, facts)
        classifier = load_exported(folder)
        with np.load(os.path.join(work, 'pixels.npz')) as pictures:
            logits = {kind: in_batches(classifier, pixels) for kind, pixels in pictures.items()}
        np.savez(os.path.join(work, 'logits.npz'), **logits)


def convert(work, file):
    """Paddle's graph in a folder as an ONNX file, with the names image, logits and batch."""
    import onnx
    import paddle2onnx

    graph, parameters = (os.path.join(work, name) for name in file_names(work, 'paddle'))
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
                    names[index] = 'logits'
    output.name = 'logits'
    for value in (model.graph.input[0], output):
        value.type.tensor_type.shape.dim[0].dim_param = 'batch'
    onnx.checker.check_model(model)
    onnx.save(model, file)


def tolerance_of(model):
    samples = any(hasattr(layer, 'coordinates') for layer in model.sublayers())
    return SAMPLING_TOLERANCE if samples else TOLERANCE


def check(expected, got, tolerance, format):
    """Compares logits; what export.json says about it, or InputError."""
    found = {'tolerance': tolerance}
    for kind, logits in expected.items():
        if got[kind].shape != logits.shape:
            raise InputError(f'export: the graph gives logits {list(got[kind].shape)} for '
                             f'{len(logits)} {kind}, expected {list(logits.shape)}')
        error = float(np.abs(got[kind] - logits).max() / (np.abs(logits).max() or 1.0))
        if not error <= tolerance:  # a NaN is not
            raise InputError(f'export: the {format} graph is wrong: on {len(logits)} {kind} its '
                             f'logits differ by {error:.2g} of the largest, expected at most '
                             f'{tolerance:g}; nothing is written')
        found[kind] = {'count': len(logits), 'error': error}
    return found


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_model_flags(parser)

    add = partial(add_flag, parser)
    add('format', 'paddle (the default) or onnx', choices=FORMATS, default='paddle')
    add('output', 'folder; an earlier export in it is replaced', required=True, metavar='FOLDER')
    add('images', 'images or folders to check the graph with, beside random pictures',
        nargs='+', default=[], metavar='IMAGE')
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        set_up_cpu()
        check_output_folder('output', args.output)
        check_replaceable(os.path.abspath(args.output))
        images = images_of_tool(args.images)
        facts = export_model(model_of(args), args.output, args.format, images)
        size = sum(os.path.getsize(os.path.join(args.output, name)) for name in facts['files'])
        height, width = facts['preprocessing']['image_size']
        say(f'{printable(args.output)}: {facts["model"]} as {args.format}, {size / 1e6:.1f} MB, '
            f'input [B, 3, {height}, {width}], {facts["num_classes"]} classes')
        for kind in facts['check']:
            if kind != 'tolerance':
                found = facts['check'][kind]
                say(f'{found["count"]} {kind}: logits differ from the model\'s by '
                    f'{found["error"]:.1g} of the largest (at most '
                    f'{facts["check"]["tolerance"]:g})')


if __name__ == '__main__':
    main()
