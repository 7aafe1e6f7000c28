"""Exports to onnx, run by ONNX Runtime."""
from common.core.errors import InputError, one_line
from common.deploy.exported import Exported

ERRORS_ONLY = 3  # a severity level of ONNX Runtime's log


class OnnxRuntime(Exported):
    """ONNX Runtime, on the CPU.

    Args:
        folder: an export to onnx.
        threads: CPU cores; None is what set_up_cpu takes, else OMP_NUM_THREADS, else one.
    """

    format = 'onnx'

    def __init__(self, folder, threads=None):
        try:
            import onnxruntime
        except ImportError:
            raise InputError("onnx: got no onnxruntime, expected it: pip install "
                             "'paddle-vitae[export]'") from None
        super().__init__(folder, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        try:
            self.session = onnxruntime.InferenceSession(
                self.files[0], options, providers=['CPUExecutionProvider'])
        except Exception as error:  # noqa: BLE001 - its exceptions have no common base
            raise InputError(f'{folder}: ONNX Runtime {onnxruntime.__version__} cannot run it: '
                             f'{one_line(error)}') from error
        self.input_name = self.session.get_inputs()[0].name

    def run(self, images):
        return self.session.run(None, {self.input_name: images})[0]
