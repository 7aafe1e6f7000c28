"""Writes the 1,797 handwritten digits of scikit-learn as an image data set with lists.

python -m common.digits FOLDER

FOLDER/train/3/0123.png ..., train_list.txt and val_list.txt: every fifth image of each class is
for validation. Needs the extra 'digits' (scikit-learn).
"""
import sys

from common.core.errors import errors_of_a_tool, printable, say
from common.data.digits_source import write_digits


def main(argv):
    if len(argv) != 1:
        sys.exit(__doc__)
    with errors_of_a_tool():
        say('{}: {} training and {} validation images'.format(
            printable(argv[0]), *write_digits(argv[0])))


if __name__ == '__main__':
    main(sys.argv[1:])
