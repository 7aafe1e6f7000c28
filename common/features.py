"""Writes a model's features of images into one .npz file.

python -m common.features -cfg vit_base_patch16_224 -pretrained vit.pdparams IMAGE|FOLDER ...
    [-output features.npz] [-type cls_token] [-stage -1] [-batch_size 32] [-workers 0]

    features = numpy.load('features.npz')
    features['names'], features['cls_token']        # N strings, float32 [N, 768]
"""
import sys
from functools import partial

from common.apis import images_of_tool
from common.core.errors import errors_of_a_tool
from common.core.flags import add_flag, check_least, check_not_read, check_output, tool_parser
from common.core.processes import set_up_cpu
from common.inspection.features import write_features
from common.layers.classifier import FEATURE_TYPES, feature_type_of
from common.model_flags import add_model_flags, model_of, weights_of_flags


def make_parser():
    parser = tool_parser('features', __doc__.splitlines()[0],
                         '-cfg vit_digits -pretrained runs/* digits/val/7')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image file, or a folder')
    add_model_flags(parser, names=False)

    add = partial(add_flag, parser)
    add('output', 'default features.npz', default='features.npz', metavar='FILE')
    add('type', f'{", ".join(FEATURE_TYPES)}; several are possible; default what the classifier '
                f'gets: cls_token, or avg_featmap', action='append', choices=FEATURE_TYPES)
    add('stage', 'of a model of several stages, from 0, negative from the end; default -1',
        type=int, default=-1, metavar='N')
    add('batch_size', 'images at a time, default 32', type=int, default=32, metavar='N')
    add('workers', 'processes that read images, default 0', type=int, default=0, metavar='N')
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_least(args, batch_size=1, workers=0)
        check_output('output', args.output, ('.npz',))
        set_up_cpu()
        files = images_of_tool(args.images)
        check_not_read('output', args.output, weights_of_flags(args))
        model = model_of(args)
        types = list(dict.fromkeys(args.type or [feature_type_of(model)]))
        failed = write_features(model, files, args.output, types, args.stage, args.batch_size,
                                args.workers)
    if failed:
        sys.exit(f'error: {failed} of {len(files)} images could not be read')


if __name__ == '__main__':
    main()
