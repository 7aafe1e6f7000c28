"""Writes a model as a graph that runs without this project's code, and checks the graph.

python -m common.export -cfg vit_digits -pretrained best.pdparams -format paddle|onnx -output FOLDER
    [-images IMAGE|FOLDER ...] [-o DATA.IMAGE_SIZE=384]

The folder gets the graph (input [B, 3, H, W], float32, normalised, any B; output logits [B, K]) and
export.json: preprocessing, class names, versions, and by how much the graph's logits differ from
the model's. A graph that differs by more than rounding is not written. In Python:

    from common.export import export_model, runtime_of
    export_model(model, 'folder', 'onnx')
    classifier = runtime_of(model, 'paddle-bf16')      # through a temporary folder
"""
import os
from functools import partial

from common.apis import images_of_tool
from common.core.errors import complain, errors_of_a_tool, printable, say
from common.core.flags import add_flag, check_output_folder, tool_parser
from common.core.processes import set_up_cpu
from common.deploy.export import export_model, runtime_of
from common.deploy.folder import FORMATS, check_replaceable
from common.model_flags import add_model_flags, model_of

__all__ = ['export_model', 'runtime_of', 'main']


def make_parser():
    parser = tool_parser('export', __doc__.splitlines()[0],
                         '-cfg vit_digits -pretrained runs/* -output digits_export')
    add_model_flags(parser)

    add = partial(add_flag, parser)
    add('format', 'paddle (the default) or onnx', choices=FORMATS, default='paddle')
    add('output', 'folder; an earlier export in it is replaced', required=True, metavar='FOLDER')
    add('images', 'images or folders to check the graph with, beside random pictures',
        nargs='+', default=[], metavar='IMAGE')
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        set_up_cpu()
        check_output_folder('output', args.output)
        check_replaceable(os.path.abspath(args.output))
        images = images_of_tool(args.images)
        report(args.output, export_model(model_of(args), args.output, args.format, images))


def report(folder, metadata):
    """Prints what was written, and how near its logits are to the model's."""
    size = sum(os.path.getsize(os.path.join(folder, name)) for name in metadata['files'])
    height, width = metadata['preprocessing']['image_size']
    say(f'{printable(folder)}: {metadata["model"]} as {metadata["format"]}, {size / 1e6:.1f} MB, '
        f'input [B, 3, {height}, {width}], {metadata["num_classes"]} classes')
    check = dict(metadata['check'])
    tolerance, runtimes = check.pop('tolerance'), check.pop('runtimes')
    for kind, found in check.items():
        say(f'{found["count"]} {kind}: logits differ from the model\'s by {found["error"]:.1g} of '
            f'the largest (at most {tolerance:g})')
    say(f'right in {", ".join(name for name, why in runtimes.items() if not why)}')
    for name, why in runtimes.items():
        if why:
            complain(f'WARNING: not in {name}: {why}')


if __name__ == '__main__':
    main()
