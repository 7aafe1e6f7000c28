"""Draws what a model looks at, what it has learned, and what it is trained on, as PNG files.

python -m common.visualize attention -cfg vit_digits -pretrained best.pdparams IMAGE ...
    [-layer -1] [-head N] [-query ROW,COLUMN]
python -m common.visualize windows -cfg NAME -pretrained FILE IMAGE ... [-layer N]
python -m common.visualize embedding -cfg NAME -pretrained FILE
python -m common.visualize augment -cfg NAME -data_path FOLDER [-batch_size 32] [-epoch 1]
python -m common.visualize curves RUN [RUN ...]
each with [-output FILE.png | FOLDER]
"""
import sys

from common.apis import images_of_tool
from common.config import update_config
from common.core.errors import InputError, errors_of_a_tool
from common.core.flags import add_flag, check_least, tool_parser
from common.core.processes import set_up_cpu
from common.inspection.attention_pictures import AttentionPictures
from common.inspection.batch_pictures import batch_picture
from common.inspection.curve_pictures import curves_picture
from common.inspection.embedding_pictures import embedding_picture
from common.inspection.image_pictures import check_count, draw_images
from common.inspection.output import Output
from common.inspection.window_pictures import WindowPictures
from common.model_flags import add_model_flags, model_of
from common.zoo import model_config


def make_parser():
    parser = tool_parser('visualize', __doc__.splitlines()[0],
                         'attention -cfg vit_digits -pretrained runs/* digits/val/7/0044.png')
    tools = parser.add_subparsers(dest='tool', required=True)

    def tool(name, help_text):
        added = tools.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        add_flag(added, 'output', f'PNG file, or a folder for it; default {name}.png',
                 default=f'{name}.png', metavar='PATH')
        return added

    attention = tool('attention', 'what a layer looks at in images, and the attention rollout')
    windows = tool('windows', 'the windows that each head has learned, over images')
    for shows_images in (attention, windows):
        shows_images.add_argument('images', nargs='+', metavar='IMAGE',
                                  help='image file, or a folder')
        add_model_flags(shows_images, names=False)
        add_flag(shows_images, 'query', 'row and column in pixels of what the model sees: for '
                 'this place only', metavar='ROW,COLUMN')
    add_flag(attention, 'layer', 'from 0, negative from the end; default -1', type=int, default=-1,
             metavar='N')
    add_flag(attention, 'head', 'one head only; default their mean, and each', type=int,
             metavar='N')
    add_flag(windows, 'layer', 'default the last one with several windows', type=int, metavar='N')

    add_model_flags(tool('embedding', 'filters of the first layer, and position embeddings'),
                    names=False)

    augment = tool('augment', 'a batch of training samples as the training sees them')
    add_flag(augment, 'cfg', 'name of a model, or a yaml file', required=True, metavar='NAME')
    add_flag(augment, 'dataset', 'as in training', metavar='NAME')
    add_flag(augment, 'data_path', 'as in training', metavar='FOLDER')
    add_flag(augment, 'class_names', 'as in training', metavar='FILE')
    add_flag(augment, 'image_size', 'as in training', type=int, metavar='N')
    add_flag(augment, 'batch_size', 'images, default 32; the first batch of such a training',
             type=int, default=32, metavar='N')
    add_flag(augment, 'epoch', 'of the training, default 1', type=int, default=1, metavar='N')
    add_flag(augment, 'o', 'a key of the config, e.g. SEED=1; several are possible',
             action='append', metavar='KEY=VALUE')

    curves = tool('curves', 'loss and accuracy of a run, or of several runs in one picture')
    curves.add_argument('runs', nargs='+', metavar='RUN', help="a run's folder")
    return parser


def parse_query(text):
    """'ROW,COLUMN' as two whole numbers; None is None."""
    if text is None:
        return None
    parts = text.split(',')
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f'-query: got {text!r}, expected ROW,COLUMN in pixels, e.g. 100,60')
    return int(parts[0]), int(parts[1])


def draw_attention(args):
    draw(args, AttentionPictures(args.layer, args.head, parse_query(args.query)))


def draw_windows(args):
    draw(args, WindowPictures(args.layer, parse_query(args.query)))


def draw(args, kind):
    """Draws the images that the flags name, as ImagePictures."""
    output = Output(args.output)
    files = images_of_tool(args.images)
    check_count(output, files)
    failed = draw_images(kind, model_of(args), files, output, args.tool)
    if failed:
        sys.exit(f'error: {failed} of {len(files)} images could not be read')


def draw_embedding(args):
    output = Output(args.output)
    output.save(embedding_picture(model_of(args)), args.tool)


def draw_augment(args):
    output = Output(args.output)
    check_least(args, epoch=1)
    config = update_config(model_config(args.cfg), args)
    output.save(batch_picture(config, args.epoch), args.tool)


def draw_curves(args):
    output = Output(args.output)
    output.save(curves_picture(args.runs), args.tool)


DRAW = {'attention': draw_attention, 'windows': draw_windows, 'embedding': draw_embedding,
        'augment': draw_augment, 'curves': draw_curves}


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        set_up_cpu()
        DRAW[args.tool](args)


if __name__ == '__main__':
    main()
