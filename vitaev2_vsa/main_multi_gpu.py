"""Trains and evaluates ViTAEv2, VSA and Swin on a CPU, on all visible GPUs, or on several machines.

python main_multi_gpu.py -cfg=./configs/vitaev2_vsa_s.yaml -data_path=/dataset/imagenet -amp
python main_multi_gpu.py -h
"""
import os
import sys

# A bare clone works without an installation: the repository root holds `common`.
sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from common.core.signals import end_on_signal  # noqa: E402

if __name__ == '__main__':
    end_on_signal()  # the imports below take seconds

from common.runner import run  # noqa: E402

from config import get_config, update_config  # noqa: E402
from datasets import get_dataset  # noqa: E402
from swin import build_swin  # noqa: E402
from vitaev2_vsa import build_vitaev2_vsa  # noqa: E402


def build_model(config):
    return build_swin(config) if config.MODEL.TYPE == 'swin' else build_vitaev2_vsa(config)


if __name__ == '__main__':
    run(get_config, update_config, build_model, get_dataset)
