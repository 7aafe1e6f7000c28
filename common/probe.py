"""How well a model's features tell the classes of a data set: a baseline without training.

python -m common.probe -pretrained RUN|FILE [-cfg NAME] DATA [-dataset imagefolder] [-k 10]
    [-seed 0] [-cache output/features] [-json FILE] [-batch_size 32] [-workers 2]

Logistic regression and k nearest neighbours (scikit-learn, the extra 'probe') on the features of
DATA's training images, with the accuracy on its validation images and a 95 % interval. Features are
computed once; see docs/probe.md.
"""
import json
from functools import partial

from common.core.errors import errors_of_a_tool
from common.core.files import replace_atomically
from common.core.flags import (
    add_flag,
    check_least,
    check_not_read,
    check_output,
    check_output_folder,
    tool_parser,
)
from common.core.processes import set_up_cpu
from common.model_flags import add_model_flags, model_of, weights_of_flags
from common.probing.classifiers import check_extra
from common.probing.linear_probe import CACHE, probe, report_of


def make_parser():
    parser = tool_parser('probe', __doc__.splitlines()[0], '-pretrained runs/* digits')
    parser.add_argument('data', nargs='?', metavar='DATA', help='folder of the data set')
    add_model_flags(parser, names=False)

    add = partial(add_flag, parser)
    add('dataset', 'list | imagefolder | cifar10 | cifar100 | digits (needs no DATA); default: by '
        'what is in DATA', metavar='NAME')
    add('k', 'neighbours that vote; default: chosen by cross-validation', type=int, metavar='N')
    add('seed', 'of the folds of the cross-validation, default 0', type=int, default=0,
        metavar='N')
    add('cache', f'folder that keeps the features, default {CACHE}', default=CACHE,
        metavar='FOLDER')
    add('json', 'writes the figures there, too', metavar='FILE')
    add('batch_size', 'images at a time, default 32', type=int, default=32, metavar='N')
    add('workers', 'processes that read images, default 2', type=int, metavar='N')
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_least(args, k=1, seed=0, batch_size=1, workers=0)
        check_extra()
        check_output_folder('cache', args.cache)
        if args.json is not None:
            check_output('json', args.json)
            check_not_read('json', args.json, weights_of_flags(args))
        set_up_cpu()
        found = probe(model_of(args), args.data, args.dataset, args.cache, args.k, args.seed,
                      args.batch_size, args.workers)
        if args.json is not None:
            with replace_atomically(args.json) as temporary, open(temporary, 'w') as stream:
                json.dump(found, stream, indent=1)
        print(report_of(found))


if __name__ == '__main__':
    main()
