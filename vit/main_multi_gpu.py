"""Trains and evaluates ViT on a CPU, on all visible GPUs, or on several machines.

python main_multi_gpu.py -cfg=./configs/vit_base_patch16_224.yaml -data_path=/dataset/imagenet -amp
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
from vit import build_vit as build_model  # noqa: E402

if __name__ == '__main__':
    run(get_config, update_config, build_model, get_dataset)
