"""Loss, learning rate and accuracy of a run as a picture.

python -m common.curves RUN_FOLDER    draws RUN_FOLDER/curves.png again
"""
import sys

from common.core.errors import complain, errors_of_a_tool
from common.train.plot import draw


def main(argv):
    if len(argv) != 1:
        sys.exit(__doc__)
    with errors_of_a_tool():
        note = draw(argv[0])
        if note:
            complain(f'WARNING: {note}')


if __name__ == '__main__':
    main(sys.argv[1:])
