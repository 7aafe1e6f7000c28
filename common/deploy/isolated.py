"""The first run of a graph, in a process of its own: a converter or a runtime that crashes there
takes nothing with it."""
import json
import os
import subprocess
import sys

import numpy as np
import paddle

from common.core.errors import InputError, errors_of_a_tool
from common.core.processes import end_of, end_with_parent
from common.deploy.check import in_batches
from common.deploy.folder import ONNX_FILE, digest_of, graph_files, read_json, write_json
from common.deploy.graph import reason_in, save_onnx_graph
from common.deploy.load import is_installed, load_exported, runtimes_for

# The other process looks for modules where this one does, so that a folder `common` in the working
# directory is not taken for ours.
PROGRAM = 'import sys; sys.path[:] = {path!r}; from {module} import main; main(*sys.argv[1:])'
# What the two processes exchange.
PICTURES_FILE, LOGITS_FILE, FAILURES_FILE = 'pixels.npz', 'logits.npz', 'failures.json'


def logits_of_graph(folder, work, pictures):
    """Completes an export in another process, and runs it there in each runtime that is installed.

    Args:
        folder: of the export; it has export.json, and its graph if that is Paddle's or was made
            from an earlier export's.
        work: folder for temporary files, with Paddle's graph if that of the export is to be
            converted from it.
        pictures: {kind of picture: uint8 [N, 3, H, W]}.

    Returns:
        {runtime: {kind of picture: logits, float32 [N, K]}}, the first one that of the format; and
        {runtime: why it cannot run it}, of the others.

    Raises:
        InputError: the graph cannot be converted, or run by the format's own runtime.
    """
    np.savez(os.path.join(work, PICTURES_FILE), **pictures)
    program = PROGRAM.format(path=[str(place) for place in sys.path], module=__name__)
    child = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program, folder, work, paddle.get_device()],
        stdin=subprocess.DEVNULL, text=True, errors='replace', stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    result = os.path.join(work, LOGITS_FILE)
    if child.returncode == 0 and os.path.exists(result):
        found = {}
        with np.load(result) as logits:
            for name in logits:
                runtime, _, kind = name.partition(':')
                found.setdefault(runtime, {})[kind] = logits[name]
        with open(os.path.join(work, FAILURES_FILE), encoding='utf-8') as file:
            return found, json.load(file)
    step = 'running the graph' if 'files' in read_json(folder) else 'converting the graph'
    raise InputError(f'export: {step} failed with {end_of(child.returncode)}: '
                     f'{reason_in(child.stdout)}')


def main(folder, work, device):
    """What the other process does: it converts, writes the digests of the files, and runs."""
    end_with_parent()
    with errors_of_a_tool():
        paddle.set_device(device)
        metadata = read_json(folder)
        file = os.path.join(folder, ONNX_FILE)
        if metadata['format'] == 'onnx' and not os.path.exists(file):
            save_onnx_graph(work, file)
        metadata['files'] = {name: digest_of(os.path.join(folder, name))
                             for name in graph_files(folder, metadata['format'])}
        write_json(folder, metadata)
        with np.load(os.path.join(work, PICTURES_FILE)) as pictures:
            logits, failures = run_all(folder, metadata['format'], dict(pictures))
        np.savez(os.path.join(work, LOGITS_FILE), **logits)
        with open(os.path.join(work, FAILURES_FILE), 'w', encoding='utf-8') as file:
            json.dump(failures, file)


def run_all(folder, format, pictures):
    """Runs an export in the runtimes that are installed.

    Returns:
        {'runtime:kind of picture': logits}, and {runtime: why it cannot run it}.
    """
    logits, failures = {}, {}
    for runtime in filter(is_installed, runtimes_for(format)):
        try:
            classifier = load_exported(folder, runtime)
            logits |= {f'{runtime}:{kind}': in_batches(classifier, pixels)
                       for kind, pixels in pictures.items()}
        except InputError as error:
            if runtime == format:
                raise
            failures[runtime] = str(error).removeprefix(f'{folder}: ')
    return logits, failures
