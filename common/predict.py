"""Classifies images.

python -m common.predict -pretrained RUN|FILE [-cfg NAME] IMAGE|FOLDER ... [-topk 5]
    [-threshold 0.5] [-class_names FILE] [-json FILE] [-csv FILE] [-batch_size 32] [-workers 4]
    [-runtime auto]
python -m common.predict -exported FOLDER [-runtime auto] IMAGE|FOLDER ...
"""
import os
import sys
from functools import partial

from common.apis import images_of_tool
from common.core.errors import InputError, complain, errors_of_a_tool
from common.core.flags import add_flag, check_least, check_not_read, check_output, tool_parser
from common.core.probabilities import THRESHOLD, check_threshold
from common.core.processes import set_up_cpu
from common.data.image_names import is_image
from common.deploy.export import runtime_of
from common.deploy.load import exported_of_tool
from common.inspection.predictions import predict, print_predictions, write_csv, write_json
from common.model_flags import add_model_flags, check_pretrained, model_of, weights_of_flags
from common.runtimes import RUNTIMES

TOPK = 5  # classes of an image that are shown


def make_parser():
    parser = tool_parser('predict', __doc__.splitlines()[0],
                         '-cfg vit_digits -pretrained runs/* digits/val/7')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image file, or a folder')

    add = partial(add_flag, parser)
    add_model_flags(parser, needed=False)
    add('exported', 'folder of paddle-vitae export, in place of a model', metavar='FOLDER')
    add('runtime', f'what computes: {", ".join(RUNTIMES)}; default eager, or what -exported is '
        f'for', choices=RUNTIMES, metavar='NAME')
    add('topk', f'how many classes, default {TOPK}', type=int, metavar='N')
    add('threshold', f'of a multi-label model: the least probability of a class that is predicted, '
        f'default {THRESHOLD}', type=float, metavar='X')
    add('json', 'writes the predictions there, too', metavar='FILE')
    add('csv', 'the same, as a table', metavar='FILE')
    add('batch_size', 'images at a time, default 32', type=int, default=32, metavar='N')
    add('workers', 'processes that read images, default up to four', type=int, metavar='N')
    return parser


def classifier_of(args, count=1):
    """The model that the flags name, as a Classifier of their runtime, for so many images."""
    batch_size = min(args.batch_size, count)
    if not args.exported:
        check_pretrained(args)
        classifier = runtime_of(model_of(args), args.runtime or 'eager', batch_size)
        for note in classifier.notes:
            complain(note)
        return classifier
    return exported_of_tool(args, batch_size)


def limit_of(classifier, args):
    """How many classes are predicted: the arguments topk and threshold of `predict`, of which the
    model has one.

    Raises:
        InputError: the flag of the other one is given.
    """
    other, own = ('topk', 'threshold') if classifier.multi_label else ('threshold', 'topk')
    if getattr(args, other) is not None:
        kind = 'several classes or none' if classifier.multi_label else 'one class'
        raise InputError(f'-{other}: got {getattr(args, other)} for a model that gives {kind} for '
                         f'an image, expected -{own}')
    return {own: getattr(args, own)} if getattr(args, own) is not None else {}


def outputs_of(args):
    """{flag: path} of the files to be written."""
    return {flag: getattr(args, flag) for flag in ('json', 'csv')
            if getattr(args, flag) is not None}


def check_outputs(args):
    """Raises InputError for files that cannot be written, or should not be."""
    outputs = outputs_of(args)
    for flag, path in outputs.items():
        check_output(flag, path)
        if is_image(path):  # -json *.png
            raise InputError(f'-{flag}: got {path}, the name of an image, expected the name of a '
                             f'file to be written')
        check_not_read(flag, path, weights_of_flags(args))
    if len(set(map(os.path.realpath, outputs.values()))) < len(outputs):
        raise InputError(f'-json, -csv: got {args.csv} for both, expected two files')


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_least(args, topk=1, batch_size=1, workers=0)
        check_threshold('-threshold', args.threshold)
        check_outputs(args)
        set_up_cpu()
        files = images_of_tool(args.images)
        for flag, path in outputs_of(args).items():
            check_not_read(flag, path, files)
        classifier = classifier_of(args, len(files))
        predictions = print_predictions(
            predict(classifier, files, batch_size=args.batch_size, workers=args.workers,
                    **limit_of(classifier, args)),
            len(files), go_on=bool(outputs_of(args)))
        failed = sum('error' in prediction for prediction in predictions)
        classes = max(len(prediction.get('classes', [])) for prediction in predictions)
        if args.json:
            write_json(args.json, predictions)
        if args.csv:
            write_csv(args.csv, predictions, classes)
    if failed:
        sys.exit(f'error: {failed} of {len(files)} images could not be read')


if __name__ == '__main__':
    main()
