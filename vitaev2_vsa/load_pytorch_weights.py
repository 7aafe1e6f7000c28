"""Converts PyTorch weights of ViTAEv2, VSA and Swin to this project's .pdparams.

python load_pytorch_weights.py -cfg=./configs/vitaev2_s.yaml -src=ViTAEv2-S.pth.tar \
    -dst=vitaev2_s.pdparams -check

The same as `python -m common.convert`, from this folder. Not needed for -pretrained, which reads
all formats by itself.
"""
import os
import sys

# A bare clone works without an installation: the repository root holds `common`.
sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from common.convert import main  # noqa: E402

if __name__ == '__main__':
    main()
