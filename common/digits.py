"""Writes the 1,797 handwritten digits of scikit-learn as an image data set with lists.

python -m common.digits FOLDER

FOLDER/train/3/0123.png ..., train_list.txt and val_list.txt: every fifth image of each class is
for validation. Needs the extra 'digits' (scikit-learn).
"""
import os
import sys

import numpy as np
from PIL import Image

from common.errors import InputError


def write_digits(folder):
    """Writes the data set; returns the number of training and validation images."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the digits come with scikit-learn: pip install -e '.[digits]'") from None
    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    lists = {'train': [], 'val': []}
    seen = [0] * 10
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        split = 'val' if seen[label] % 5 == 4 else 'train'
        seen[label] += 1
        name = f'{split}/{label}/{index:04d}.png'
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(image).save(path)
        lists[split].append(f'{name} {label}\n')
    for split, lines in lists.items():
        with open(os.path.join(folder, f'{split}_list.txt'), 'w') as stream:
            stream.writelines(lines)
    return len(lists['train']), len(lists['val'])


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print('{}: {} training and {} validation images'.format(
            sys.argv[1], *write_digits(sys.argv[1])))
    except (InputError, OSError) as error:
        sys.exit(f'error: {error}')
