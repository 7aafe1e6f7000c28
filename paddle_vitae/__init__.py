"""ViT, ViTAE, ViTAEv2 and VSA image classification in PaddlePaddle.

    from paddle_vitae import create_model, inference_model, init_model, list_models

    list_models('vit_*')
    model = init_model('vit_base_patch16_224', 'ViT-B_16-224.npz')
    inference_model(model, 'snake.jpg')

What these names need is imported with the first use of one of them, not by `import paddle_vitae`.
Everything else is in paddle_vitae.common, and in paddle_vitae.vit, .vitae and .vitaev2_vsa: the
folders of the repository. On the command line: paddle-vitae --help.
"""
import importlib
import os

from paddle_vitae.version import VERSION as __version__

# name -> its module in paddle_vitae.common
NAMES = {
    'create_model': 'zoo', 'list_models': 'zoo', 'model_config': 'zoo', 'build_model': 'zoo',
    'create_backbone': 'backbone',
    'init_model': 'apis', 'inference_model': 'apis', 'classify': 'apis', 'Preprocessing': 'apis',
    'set_device': 'apis', 'set_up_cpu': 'processes', 'load_pretrained': 'weights.load',
    'convert': 'convert', 'export_model': 'export', 'export_int8': 'export',
    'runtime_of': 'export',
    'load_exported': 'runtimes', 'attention_maps': 'attention_maps', 'rollout': 'attention_maps',
    'count_macs': 'layers.macs', 'count_parameters': 'layers.macs',
    'ImageClassifier': 'layers.classifier', 'InputError': 'core.errors',
}
__all__ = ['__version__', *NAMES]  # noqa: PLE0604 - names, all of them

if not os.path.isdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'common')):
    from paddle_vitae import checkout  # the folders lie beside this one: no wheel
    checkout.install()


def __getattr__(name):
    if name not in NAMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(f'{__name__}.common.{NAMES[name]}'), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *NAMES})
