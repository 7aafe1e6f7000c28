"""Downloads the archive of CIFAR-10 or CIFAR-100, which nothing else does.

paddle-vitae cifar cifar10 FOLDER
"""
from common.core.errors import errors_of_a_tool, printable, say
from common.core.flags import tool_parser
from common.data.cifar_download import download_cifar


def make_parser():
    parser = tool_parser('cifar', __doc__, 'cifar10 data')
    parser.add_argument('name', metavar='NAME', help='cifar10 or cifar100')
    parser.add_argument('folder', metavar='FOLDER', help='gets the archive')
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        say(printable(download_cifar(args.name, args.folder)))


if __name__ == '__main__':
    main()
