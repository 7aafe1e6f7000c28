"""A page, for one user or a few, to try a model on pictures, and the same as JSON for programs.

python -m common.serve -cfg vit_digits -pretrained best.pdparams [-host 127.0.0.1] [-port 8000]
python -m common.serve -exported FOLDER [-runtime auto]

GET / is the page, common/serving/page.html. POST /api/predict and /api/attention take a picture as
the field `file` of multipart/form-data, GET /api/model says what there is; /docs describes them.

What comes in is not trusted: see common/serving/guard.py for connections and bodies, pictures.py
for pictures. One thread runs the model; who comes when the queue is full gets 503. Needs the extra
'serve'.
"""
import ipaddress
import sys
from functools import partial

from common.core.errors import InputError, errors_of_a_tool
from common.core.flags import add_flag, tool_parser
from common.core.processes import set_up_cpu
from common.deploy.load import exported_of_tool
from common.model_flags import add_model_flags, check_pretrained, model_of
from common.serving.server import check_extra, listen, serve
from common.serving.service import Service


def make_parser():
    parser = tool_parser('serve', __doc__.splitlines()[0],
                         '-cfg vit_digits -pretrained runs/*')
    add_model_flags(parser, needed=False)

    add = partial(add_flag, parser)
    add('exported', 'folder of paddle-vitae export, in place of a model; it shows no attention',
        metavar='FOLDER')
    add('runtime', 'what runs the export, see paddle-vitae predict -h', metavar='NAME')
    add('host', 'address to listen on, default 127.0.0.1: this machine only', default='127.0.0.1',
        metavar='ADDRESS')
    add('port', 'default 8000; 0 takes a free one', type=int, default=8000, metavar='N')
    return parser


def model_or_export(args):
    """The model, or the export as a Classifier, that the flags name."""
    if not args.exported:
        check_pretrained(args)
        if args.runtime:
            raise InputError('-runtime: got it without -exported: attention is shown by the model')
        return model_of(args)
    return exported_of_tool(args)


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_extra()
        listener = listen(args.host, args.port)
        if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            print(f'WARNING: -host {args.host}: anyone who reaches this machine can use the page; '
                  f'there is no password and no encryption', file=sys.stderr, flush=True)
        set_up_cpu()
        serve(Service(model_or_export(args)), listener, args.host)


if __name__ == '__main__':
    main()
