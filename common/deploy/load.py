"""The runtimes by their names."""
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from common.apis import Classifier
from common.core.class_names import class_names
from common.core.devices import set_device
from common.core.errors import InputError, complain, printable
from common.deploy import auto
from common.deploy.folder import found_by_check, read_metadata
from common.deploy.onnx_runtime import OnnxRuntime
from common.deploy.openvino_runtime import OpenVino
from common.deploy.paddle_inference import PaddleInference, check_bfloat16
from common.deploy.precision import check_cpu_bfloat16


class Runtime(NamedTuple):
    """One that runs exports.

    Attributes:
        format: of the folders that it reads.
        make: (folder, threads=None) -> Exported.
        package: the module that it needs beside Paddle, or None.
        extra: of this project, which has that package.
        check: raises InputError where this machine cannot run it; or None.
    """

    format: str
    make: Callable
    package: str | None = None
    extra: str | None = None
    check: Callable | None = None


# All that is to be known of a runtime stands here. Those without a check compute in float32, and
# `auto` chooses among them, in this order where two are equally fast.
RUNTIME_OF = {
    'paddle': Runtime('paddle', PaddleInference),
    'paddle-bf16': Runtime('paddle', partial(PaddleInference, precision='bf16'),
                           check=check_bfloat16),
    'onnx': Runtime('onnx', OnnxRuntime, 'onnxruntime', 'export'),
    'openvino': Runtime('onnx', OpenVino, 'openvino', 'openvino'),
    'openvino-bf16': Runtime('onnx', partial(OpenVino, precision='bf16'), 'openvino', 'openvino',
                             check=check_cpu_bfloat16),
}
AUTO, EAGER = 'auto', 'eager'
RUNTIMES = (EAGER, *RUNTIME_OF, AUTO)


def check_runtime(name):
    """Raises InputError for a runtime that there is not, or not here: before any work."""
    if name not in RUNTIMES:
        raise InputError(f'runtime: got {name!r}, expected one of {", ".join(RUNTIMES)}')
    runtime = RUNTIME_OF.get(name)
    if runtime is None:
        return
    if not is_installed(name):
        raise InputError(f"{name}: got no {runtime.package}, expected it: pip install "
                         f"'paddle-vitae[{runtime.extra}]'")
    if runtime.check:
        runtime.check()


def is_installed(name):
    """Whether the package of a runtime is there."""
    package = RUNTIME_OF[name].package
    return package is None or importlib.util.find_spec(package) is not None


def runtimes_for(format):
    """The names of the float32 runtimes that read a format, installed or not."""
    return [name for name, runtime in RUNTIME_OF.items()
            if runtime.format == format and not runtime.check]


def load_exported(folder: str | os.PathLike, runtime: str | None = None,
                  threads: int | None = None, batch_size: int = 1) -> Classifier:
    """Loads an exported model.

    Args:
        folder: a folder that `python -m common.export` wrote.
        runtime: 'paddle' or 'paddle-bf16'; 'onnx', 'openvino' or 'openvino-bf16'; or 'auto', which
            measures the installed ones that read the folder, in float32, takes the fastest, and
            keeps the choice in the folder's auto.json. None is 'paddle' or 'onnx', by the format.
        threads: CPU cores; None is what set_up_cpu takes, else OMP_NUM_THREADS, else one.
        batch_size: images in a call, for which 'auto' measures.

    Returns:
        A Classifier, uint8 [B, 3, H, W] -> logits, float32 [B, K], both of numpy. Its `notes` are
        the sentences of 'auto' about what it found and took, which also go to the log
        `paddle_vitae`.

    Raises:
        InputError: the folder is not one, is damaged or has another format; the package that runs
            it is missing; for bfloat16, a CPU without it.

    Source: this project; it runs graphs by Paddle Inference, ONNX Runtime and OpenVINO.

    Examples:
        >>> import numpy as np
        >>> from common.export import export_model
        >>> from common.runtimes import load_exported
        >>> from common.zoo import create_model
        >>> _ = export_model(create_model('vit_digits'), 'digits', 'paddle')
        >>> classifier = load_exported('digits', threads=2)
        >>> classifier(np.zeros([2, 3, 32, 32], np.uint8)).shape
        (2, 10)
    """
    metadata = read_metadata(folder)
    format = metadata['format']
    runtime = runtime or format
    if runtime == AUTO:
        makers = {name: partial(load_exported, folder, name, threads)
                  if is_installed(name) else None for name in runtimes_for(format)}
        return auto.load_fastest(folder, makers, batch_size, threads)
    if runtime not in RUNTIME_OF or RUNTIME_OF[runtime].format != format:
        expected = [name for name, one in RUNTIME_OF.items() if one.format == format]
        raise InputError(f'{folder}: runtime: got {runtime!r}, expected {", ".join(expected)} or '
                         f'{AUTO} for an export to {format}')
    check_runtime(runtime)
    why = found_by_check(metadata)[1].get(runtime.partition('-')[0])  # openvino-bf16 is openvino
    if why:
        raise InputError(f'{folder}: {runtime}: when this was exported, the check found: {why}; '
                         f'with another version of it export again')
    return RUNTIME_OF[runtime].make(folder, threads=threads)


def check_alone(args, *flags):
    """Raises InputError for a flag that names what an export already has, beside -exported."""
    for flag in flags:
        if getattr(args, flag):
            raise InputError(f'-exported: got -{flag} too, expected one of the two')


def exported_of_tool(args, batch_size=1):
    """The export that a tool's -exported names, with a line on standard error about `auto`.

    Args:
        args: with the flags of add_model_flags, and -exported and -runtime.
        batch_size: images in a call.

    Raises:
        InputError: there is another model among the flags, or what load_exported raises.
    """
    check_alone(args, 'cfg', 'pretrained', 'o')
    if args.device:
        set_device(args.device)
    classifier = load_exported(args.exported, args.runtime, batch_size=batch_size)
    if args.class_names:
        names = class_names(args.class_names, classifier.num_classes)
        classifier.class_names = [printable(name) for name in names]
    for note in classifier.notes:
        complain(note)
    return classifier
