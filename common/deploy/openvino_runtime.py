"""Exports to onnx, run by OpenVINO."""
from common.core.errors import InputError, one_line
from common.deploy.exported import Exported
from common.deploy.precision import check_precision

TYPES = {'fp32': 'f32', 'bf16': 'bf16'}  # of a precision, as OpenVINO calls it


class OpenVino(Exported):
    """OpenVINO, on the CPU.

    Args:
        folder: an export to onnx.
        precision: of what is not int8 in the graph: 'fp32', or 'bf16' for a CPU that multiplies
            bfloat16. Without being told, OpenVINO takes bfloat16 wherever the CPU has it.
        threads: CPU cores; None is what set_up_cpu takes, else OMP_NUM_THREADS, else one.
    """

    format = 'onnx'

    def __init__(self, folder, precision='fp32', threads=None):
        check_precision(precision)
        try:
            import openvino
        except ImportError:
            raise InputError("openvino: got no openvino, expected it: pip install "
                             "'paddle-vitae[openvino]'") from None
        super().__init__(folder, threads)
        settings = {
            'INFERENCE_PRECISION_HINT': TYPES[precision],
            'INFERENCE_NUM_THREADS': self.threads,
            'NUM_STREAMS': 1,             # one picture after the other, all threads on each
            'ENABLE_CPU_PINNING': False,  # else two processes share a core while others are idle
        }
        try:
            self.model = openvino.Core().compile_model(self.files[0], 'CPU', settings)
        except Exception as error:  # noqa: BLE001 - it raises RuntimeError and others
            raise InputError(f'{folder}: OpenVINO {openvino.__version__} cannot run it: '
                             f'{one_line(error)}') from error

    def run(self, images):
        return self.model(images)[0].copy()  # its memory is used again
