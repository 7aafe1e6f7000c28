"""Writes the 1,797 handwritten digits of scikit-learn as an image data set with lists.

paddle-vitae digits FOLDER

FOLDER/train/3/0123.png ..., train_list.txt and val_list.txt: every fifth image of each class is
for validation. Needs the extra 'digits' (scikit-learn).
"""
from common.core.errors import errors_of_a_tool, printable, say
from common.core.flags import tool_parser
from common.data.digits_source import write_digits


def main(argv=None):
    parser = tool_parser('digits', __doc__, 'digits')
    parser.add_argument('folder', metavar='FOLDER', help='new, or an earlier one of this tool')
    folder = parser.parse_args(argv).folder
    with errors_of_a_tool():
        say('{}: {} training and {} validation images'.format(
            printable(folder), *write_digits(folder)))


if __name__ == '__main__':
    main()
