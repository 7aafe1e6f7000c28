"""Loss, learning rate and accuracy of a run as a picture.

paddle-vitae curves RUN    draws RUN/curves.png again
"""
from common.core.errors import complain, errors_of_a_tool
from common.core.flags import tool_parser
from common.train.plot import draw


def main(argv=None):
    parser = tool_parser('curves', __doc__, 'runs/*')
    parser.add_argument('run', metavar='RUN', help="a run's folder")
    args = parser.parse_args(argv)
    with errors_of_a_tool():
        note = draw(args.run)
        if note:
            complain(f'WARNING: {note}')


if __name__ == '__main__':
    main()
