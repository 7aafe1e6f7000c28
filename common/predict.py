"""Classifies images.

python -m common.predict -cfg vit_digits -pretrained best.pdparams IMAGE [IMAGE ...] [-topk 5]
"""
import argparse
import sys

import numpy as np
import paddle
import paddle.nn.functional as F

from common.datasets import eval_transform
from common.errors import InputError
from common.images import load_image
from common.loader import Normalize
from common.weights import load_pretrained
from common.zoo import build_model, model_config


def predict(model, files, topk=5):
    """The most probable classes of some images.

    Args:
        model: of common.zoo; its config gives the preprocessing.
        files: list of image paths.
        topk: how many classes; at most as many as there are.

    Returns:
        A list of (labels, probabilities), most probable first, one for each file.
    """
    config = model.config
    transform = eval_transform(config)
    normalize = Normalize(config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD)
    images = np.stack([transform(read(file)) for file in files]).transpose(0, 3, 1, 2)
    model.eval()
    with paddle.no_grad():
        scores = F.softmax(model(normalize(paddle.to_tensor(images))), axis=-1)  # [B, K]
        values, labels = scores.topk(min(topk, scores.shape[1]), axis=1)
    return list(zip(labels.tolist(), values.tolist(), strict=True))


def read(file):
    try:
        return load_image(file)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
        raise InputError(f'{file}: cannot read the image: {error}') from None


def main(argv=None):
    parser = argparse.ArgumentParser(description='Classifies images.', allow_abbrev=False)
    parser.add_argument('images', nargs='+', metavar='IMAGE')
    parser.add_argument('-cfg', required=True, help='name of a model, or a yaml file')
    parser.add_argument('-pretrained', required=True, help='weight file', metavar='FILE')
    parser.add_argument('-topk', type=int, default=5, metavar='N')
    args = parser.parse_args(argv)
    try:
        if args.topk < 1:
            raise InputError(f'-topk: got {args.topk}, expected at least 1')
        model = build_model(model_config(args.cfg))
        load_pretrained(model, args.pretrained)
        for file, (labels, scores) in zip(args.images, predict(model, args.images, args.topk),
                                          strict=True):
            found = '  '.join(f'{label}: {score:.1%}' for label, score in
                              zip(labels, scores, strict=True))
            print(f'{file}  class {found}')
    except InputError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
