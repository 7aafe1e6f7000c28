"""Downloads the archive of CIFAR-10 or CIFAR-100, which nothing else does.

python -m common.cifar cifar10 FOLDER
"""
import sys

from common.core.errors import errors_of_a_tool, printable, say
from common.data.cifar_download import download_cifar


def main(argv):
    if len(argv) != 2:
        sys.exit(__doc__)
    with errors_of_a_tool():
        say(printable(download_cifar(*argv)))


if __name__ == '__main__':
    main(sys.argv[1:])
