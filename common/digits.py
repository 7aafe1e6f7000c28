"""Writes the 1,797 handwritten digits of scikit-learn as an image data set with lists.

python -m common.digits FOLDER

FOLDER/train/3/0123.png ..., train_list.txt and val_list.txt: every fifth image of each class is
for validation. Needs the extra 'digits' (scikit-learn).
"""
import os
import sys

from PIL import Image

from common.core.errors import errors_of_a_tool, printable, say
from common.data.digits_source import load_digits


def write_digits(folder):
    """Writes the data set; returns the number of training and validation images."""
    lists = {'train': [], 'val': []}
    for index, (image, label, is_val) in enumerate(zip(*load_digits(), strict=True)):
        split = 'val' if is_val else 'train'
        name = f'{split}/{label}/{index:04d}.png'
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(image).save(path)
        lists[split].append(f'{name} {label}\n')
    for split, lines in lists.items():
        with open(os.path.join(folder, f'{split}_list.txt'), 'w') as stream:
            stream.writelines(lines)
    return len(lists['train']), len(lists['val'])


def main(argv):
    if len(argv) != 1:
        sys.exit(__doc__)
    with errors_of_a_tool():
        say('{}: {} training and {} validation images'.format(
            printable(argv[0]), *write_digits(argv[0])))


if __name__ == '__main__':
    main(sys.argv[1:])
