"""Writes what a trained model gets wrong, and why: a page that opens without a network, and tables.

python -m common.report RUN [-data_path FOLDER] [-compare OTHER_RUN] [-output FOLDER]
python -m common.report -cfg vit_digits -pretrained best.pdparams -data_path FOLDER

RUN is a run's folder. The page is RUN/report/report.html unless -output says another folder.
docs/report.md says what is in it. Needs the extra 'report'.
"""
import json
import os
from functools import partial

from common.core.errors import InputError, errors_of_a_tool, printable, say
from common.core.flags import add_flag, check_least, check_output_folder, tool_parser
from common.core.probabilities import THRESHOLD, check_threshold
from common.core.processes import set_up_cpu
from common.reporting.figures import check_extra
from common.reporting.predictions import TOP
from common.reporting.report import FOLDER, Options, write_report
from common.reporting.source import open_source, other_predictions, predict


def make_parser():
    parser = tool_parser('report', __doc__.splitlines()[0], 'runs/*')
    parser.add_argument('run', nargs='?', metavar='RUN', help="a run's folder")
    add = partial(add_flag, parser)
    add('cfg', "name of a model, or a yaml file; default the run's", metavar='NAME')
    add('pretrained', "weight file of any format; default the run's best", metavar='FILE')
    add('data_path', "folder of the data set; default the run's", metavar='FOLDER')
    add('dataset', 'as in training', metavar='NAME')
    add('class_names', 'file with the name of each class, one a line', metavar='FILE')
    add('compare', "a run's folder, or a report's: what got better, what got worse", metavar='RUN')
    add('output', 'folder of the report; default RUN/report, or FILE-report', metavar='FOLDER')
    add('images', 'images of each kind on the page, default 12', type=int,
        default=Options().images, metavar='N')
    add('topk', 'classes of each image in predictions.csv, default 5', type=int, metavar='N')
    add('threshold', f'of multi-label data: the least probability of a class that is predicted, '
        f'default {THRESHOLD}', type=float, metavar='X')
    add('duplicates', 'near-duplicates are searched if both sets have at most so many images, '
        'default 100000; 0: never', type=int, default=Options().duplicates, metavar='N')
    add('batch_size', 'images at a time', type=int, metavar='N')
    add('device', 'cpu, gpu or gpu:N; default a GPU if there is one')
    add('o', 'a key of the config; several are possible', action='append', metavar='KEY=VALUE')
    return parser


def default_folder(args):
    """Beside the weights: RUN/report for a run, FILE-report for a file."""
    where = args.run or args.pretrained
    if where is None or os.path.isdir(where):
        return os.path.join(where or '.', FOLDER)
    return f'{os.path.splitext(where)[0]}-{FOLDER}'


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_threshold('-threshold', args.threshold)
        check_least(args, images=0, topk=1, duplicates=0, batch_size=1)
        check_extra()
        folder = default_folder(args) if args.output is None else args.output
        check_output_folder('output', folder)
        if args.compare is not None and not os.path.exists(args.compare):
            raise InputError(f'-compare: no such file or folder: {args.compare}')
        set_up_cpu()
        source = open_source(
            args.run, args.cfg, args.pretrained, args.device, args.o or [],
            data_path=args.data_path, dataset=args.dataset, class_names=args.class_names,
            batch_size=args.batch_size)
        check_kind(args, source)
        predictions = predict(source, args.topk or TOP, THRESHOLD if args.threshold is None
                              else args.threshold)
        other = args.compare and (args.compare, other_predictions(
            args.compare, source.config, args.topk or TOP, args.batch_size, args.device))
        page = write_report(folder, predictions, source, Options(args.images, args.duplicates),
                            other)
        say(f'{score_of(folder, source)} on {len(predictions)} images')
        say(f'{printable(page)}: written')


def check_kind(args, source):
    """Raises InputError for a flag that is not for the labels of the data."""
    multi_label = source.config.DATA.MULTI_LABEL
    for flag in ('topk', 'compare') if multi_label else ('threshold',):
        if getattr(args, flag) is not None:
            data = 'multi-label data' if multi_label else 'data of one class for each image'
            raise InputError(f'-{flag}: got {getattr(args, flag)} for {data}, expected none')


def score_of(folder, source):
    """'accuracy 98.03%', or the mAP of multi-label data."""
    with open(os.path.join(folder, 'figures.json'), encoding='utf-8') as stream:
        figures = json.load(stream)
    name = 'mAP' if source.config.DATA.MULTI_LABEL else 'accuracy'
    return f'{name} {figures[name]:.2%}'


if __name__ == '__main__':
    main()
