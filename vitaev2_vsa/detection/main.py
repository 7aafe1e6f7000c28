"""Trains, evaluates and runs the detectors of this folder, on a CPU, on one GPU, or on several:

python main.py train -cfg mask_rcnn_vitaev2_vsa_s_1x -data_path COCO -pretrained FILE -amp
python -m paddle.distributed.launch main.py train ...
python main.py -h
"""
import os
import sys

# A bare clone works without an installation: the repository root holds `common`.
sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from common.core.signals import end_on_signal  # noqa: E402

if __name__ == '__main__':
    end_on_signal()  # the imports below take seconds

from common.detection import main  # noqa: E402

if __name__ == '__main__':
    main()
