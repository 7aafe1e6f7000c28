"""Exported models: what `python -m common.export` writes, run without the model's code.

    from common.runtimes import load_exported
    classifier = load_exported('digits_onnx')
    logits = classifier(pixels)          # uint8 [B, 3, H, W] -> float32 [B, K]

They are Classifiers, so that `common.apis.inference_model(classifier, 'image.png')` takes them too.
A runtime serves one call at a time. The work is in common/deploy/.
"""
from common.deploy.exported import Exported
from common.deploy.load import RUNTIMES, load_exported
from common.deploy.onnx_runtime import OnnxRuntime
from common.deploy.openvino_runtime import OpenVino
from common.deploy.paddle_inference import PaddleInference, check_bfloat16

__all__ = ['RUNTIMES', 'Exported', 'OnnxRuntime', 'OpenVino', 'PaddleInference', 'check_bfloat16',
           'load_exported']
