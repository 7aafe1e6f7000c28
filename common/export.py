"""Writes a model as a graph that runs without this project's code, and checks the graph.

python -m common.export -cfg vit_digits -pretrained best.pdparams -format paddle|onnx -output FOLDER
    [-images IMAGE|FOLDER ...] [-o DATA.IMAGE_SIZE=384]
python -m common.export ... -int8 PHOTO|FOLDER ... [-data_path FOLDER] -output FOLDER

The folder gets the graph (input [B, 3, H, W], float32, normalised, any B; output logits [B, K]) and
export.json: preprocessing, class names, versions, and by how much the graph's logits differ from
the model's. A graph that differs by more than rounding is not written. With -int8 it is an ONNX
graph with products and convolutions in int8, calibrated on the photos; it is written if it gives
the model's classes, see docs/deploy.md. In Python:

    from common.export import export_model, runtime_of
    export_model(model, 'folder', 'onnx')
    classifier = runtime_of(model, 'paddle-bf16')      # through a temporary folder
"""
import os
from functools import partial

from common.apis import images_of_tool
from common.core.errors import InputError, complain, errors_of_a_tool, printable, say
from common.core.flags import add_flag, check_output_folder, tool_parser
from common.core.processes import set_up_cpu
from common.deploy.export import IMAGES, export_model, runtime_of
from common.deploy.export_int8 import export_int8
from common.deploy.folder import FORMATS, check_replaceable
from common.deploy.int8 import check_int8
from common.model_flags import add_model_flags, model_of

__all__ = ['export_model', 'export_int8', 'runtime_of', 'main']


def make_parser():
    parser = tool_parser('export', __doc__.splitlines()[0],
                         '-cfg vit_digits -pretrained runs/* -output digits_export')
    add_model_flags(parser)

    add = partial(add_flag, parser)
    add('format', 'paddle (the default) or onnx (that of -int8)', choices=FORMATS)
    add('output', 'folder; an earlier export in it is replaced', required=True, metavar='FOLDER')
    add('images', 'images or folders to check the graph with, beside random pictures',
        nargs='+', default=[], metavar='IMAGE')
    add('int8', 'products and convolutions in int8; some hundred images or a folder of them, '
        'without labels, to calibrate with', nargs='+', metavar='PHOTO')
    add('data_path', 'with -int8: a validation set, whose accuracy decides', metavar='FOLDER')
    add('dataset', 'of -data_path, as in training', metavar='NAME')
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_flags(args)
        set_up_cpu()
        check_output_folder('output', args.output)
        check_replaceable(os.path.abspath(args.output))
        images = images_of_tool(args.images)
        if args.int8 is None:
            metadata = export_model(model_of(args), args.output, args.format or 'paddle', images)
        else:
            check_int8()
            photos = images_of_tool(args.int8)
            metadata = export_int8(model_of(args), args.output, photos, images,
                                   data_path=args.data_path, dataset=args.dataset)
        report(args.output, metadata)


def check_flags(args):
    """Raises InputError for flags that do not go together."""
    if args.int8 is not None and args.format == 'paddle':
        raise InputError('-format: got paddle with -int8, expected onnx')
    for flag in ('data_path', 'dataset'):
        if args.int8 is None and getattr(args, flag):
            raise InputError(f'-{flag}: got it without -int8, which compares accuracies')


def report(folder, metadata):
    """Prints what was written, and how near its logits are to the model's."""
    size = sum(os.path.getsize(os.path.join(folder, name)) for name in metadata['files'])
    height, width = metadata['preprocessing']['image_size']
    say(f'{printable(folder)}: {metadata["model"]} as {metadata["format"]}'
        f'{" in int8" if "int8" in metadata else ""}, {size / 1e6:.1f} MB, '
        f'input [B, 3, {height}, {width}], {metadata["num_classes"]} classes')
    if 'int8' in metadata:
        report_int8(metadata)
        return
    check = dict(metadata['check'])
    tolerance, runtimes = check.pop('tolerance'), check.pop('runtimes')
    for kind, found in check.items():
        say(f'{found["count"]} {kind}: logits differ from the model\'s by {found["error"]:.1g} of '
            f'the largest (at most {tolerance:g})')
    report_runtimes(runtimes)


def report_runtimes(runtimes):
    """Prints in which runtimes the graph is right."""
    say(f'right in {", ".join(name for name, why in runtimes.items() if not why)}')
    for name, why in runtimes.items():
        if why:
            complain(f'WARNING: not in {name}: {why}')


def report_int8(metadata):
    """Prints what is int8, and what that costs."""
    facts, count = metadata['int8'], metadata['check'][IMAGES]['count']
    say(f'{facts["operators"] - len(facts["in float32"])} of {facts["operators"]} products and '
        f'convolutions in int8, calibrated on {facts["calibrated"]} images')
    for name, found in facts['runtimes'].items():
        if 'agreement' not in found:
            continue
        text = f'{name}: {found["agreement"]:.1%} of {count} images get the model\'s class'
        if found['accuracy'] is not None:
            text += f', accuracy {found["accuracy"]:.2%} (float32 {facts["float accuracy"]:.2%})'
        say(text)
    report_runtimes(metadata['check']['runtimes'])


if __name__ == '__main__':
    main()
