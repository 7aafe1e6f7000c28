"""The first run of a graph, in a process of its own: a converter or a runtime that crashes there
takes nothing with it."""
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
from common.deploy.load import load_exported

# The other process looks for modules where this one does, so that a folder `common` in the working
# directory is not taken for ours.
PROGRAM = 'import sys; sys.path[:] = {path!r}; from {module} import main; main(*sys.argv[1:])'
PICTURES_FILE, LOGITS_FILE = 'pixels.npz', 'logits.npz'  # what the two processes exchange


def logits_of_graph(folder, work, pictures):
    """Completes an export in another process, and runs it there.

    Args:
        folder: of the export; it has export.json, and Paddle's graph if that is the format.
        work: folder for temporary files, with Paddle's graph if the format is another one.
        pictures: {kind of picture: uint8 [N, 3, H, W]}.

    Returns:
        {kind of picture: logits, float32 [N, K]}

    Raises:
        InputError: the graph cannot be converted or run.
    """
    np.savez(os.path.join(work, PICTURES_FILE), **pictures)
    program = PROGRAM.format(path=[str(place) for place in sys.path], module=__name__)
    child = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program, folder, work, paddle.get_device()],
        stdin=subprocess.DEVNULL, text=True, errors='replace', stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    result = os.path.join(work, LOGITS_FILE)
    if child.returncode == 0 and os.path.exists(result):
        with np.load(result) as logits:
            return dict(logits)
    step = 'running the graph' if 'files' in read_json(folder) else 'converting the graph'
    raise InputError(f'export: {step} failed with {end_of(child.returncode)}: '
                     f'{reason_in(child.stdout)}')


def main(folder, work, device):
    """What the other process does: it converts, writes the digests of the files, and runs."""
    end_with_parent()
    with errors_of_a_tool():
        paddle.set_device(device)
        metadata = read_json(folder)
        if metadata['format'] == 'onnx':
            save_onnx_graph(work, os.path.join(folder, ONNX_FILE))
        metadata['files'] = {name: digest_of(os.path.join(folder, name))
                             for name in graph_files(folder, metadata['format'])}
        write_json(folder, metadata)
        classifier = load_exported(folder)
        with np.load(os.path.join(work, PICTURES_FILE)) as pictures:
            logits = {kind: in_batches(classifier, pixels) for kind, pixels in pictures.items()}
        np.savez(os.path.join(work, LOGITS_FILE), **logits)
