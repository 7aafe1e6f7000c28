"""The runtimes by their names."""
import os

from common.apis import Classifier
from common.core.errors import InputError
from common.deploy.folder import read_metadata
from common.deploy.onnx_runtime import OnnxRuntime
from common.deploy.paddle_inference import PaddleInference

# runtime -> format of the folder that it reads
FORMAT_OF = {'paddle': 'paddle', 'paddle-bf16': 'paddle', 'onnx': 'onnx'}
RUNTIMES = ('eager', *FORMAT_OF)


def load_exported(folder: str | os.PathLike, runtime: str | None = None,
                  threads: int | None = None) -> Classifier:
    """Loads an exported model.

    Args:
        folder: a folder that `python -m common.export` wrote.
        runtime: 'paddle', 'paddle-bf16' or 'onnx'; None is 'paddle' or 'onnx', by the format.
        threads: CPU cores; None is OMP_NUM_THREADS, else one, as in Paddle itself.

    Returns:
        A Classifier: uint8 [B, 3, H, W] -> logits, float32 [B, K], both of numpy.

    Raises:
        InputError: the folder is not one, is damaged or has another format; the package that runs
            it is missing; for bfloat16, a CPU without it.

    Source: this project; it runs graphs by Paddle Inference and ONNX Runtime.

    Example:
        >>> import numpy as np
        >>> from common.export import export_model
        >>> from common.runtimes import load_exported
        >>> from common.zoo import create_model
        >>> _ = export_model(create_model('vit_digits'), 'digits', 'paddle')
        >>> classifier = load_exported('digits', threads=2)
        >>> classifier(np.zeros([2, 3, 32, 32], np.uint8)).shape
        (2, 10)
    """
    format = read_metadata(folder)['format']
    runtime = runtime or format
    if FORMAT_OF.get(runtime) != format:
        expected = ' or '.join(name for name, read in FORMAT_OF.items() if read == format)
        raise InputError(f'{folder}: runtime: got {runtime!r}, expected {expected} for an export '
                         f'to {format}')
    if runtime == 'onnx':
        return OnnxRuntime(folder, threads)
    return PaddleInference(folder, 'bf16' if runtime == 'paddle-bf16' else 'fp32', threads)
