"""Draws what a model looks at, what it has learned, and what it is trained on, as PNG files.

python -m common.visualize attention -cfg vit_digits -pretrained best.pdparams IMAGE ...
    [-layer -1] [-head N] [-query ROW,COLUMN]
python -m common.visualize windows -cfg NAME -pretrained FILE IMAGE ... [-layer N]
python -m common.visualize embedding -cfg NAME -pretrained FILE
python -m common.visualize augment -cfg NAME -data_path FOLDER [-batch_size 32] [-epoch 1]
python -m common.visualize curves RUN [RUN ...]
each with [-output FILE.png | FOLDER]
"""
import argparse
import os
import sys

import numpy as np
import paddle
from paddle import nn

from common.apis import (
    Preprocessing,
    add_model_flags,
    images_of_tool,
    model_of,
    pixel_batches,
)
from common.attention_maps import (
    attention_maps,
    check_query,
    first_share,
    layers_of_same_tokens,
    model_input,
    roll_out,
)
from common.config import update_config
from common.core.errors import InputError, complain, errors_of_a_tool, printable, say
from common.core.flags import (
    add_flag,
    check_least,
    check_not_read,
    check_output,
    check_output_folder,
)
from common.core.processes import set_up_cpu
from common.data.batches import train_batches
from common.data.datasets import get_dataset
from common.data.loader import build_loader
from common.inspection import drawing
from common.train.plot import METRICS, read_metrics, run_figure
from common.zoo import model_config

MOST_IMAGES = 16      # in one picture
MOST_COMPONENTS = 28  # of the filters, as figure 7 of arXiv 2010.11929


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    tools = parser.add_subparsers(dest='tool', required=True)

    def tool(name, help_text):
        found = tools.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        add_flag(found, 'output', f'PNG file, or a folder for it; default {name}.png',
                 default=f'{name}.png', metavar='PATH')
        return found

    attention = tool('attention', 'what a layer looks at in images, and the attention rollout')
    windows = tool('windows', 'the windows that each head has learned, over images')
    for one in (attention, windows):
        one.add_argument('images', nargs='+', metavar='IMAGE', help='image file, or a folder')
        add_model_flags(one)
        add_flag(one, 'query', 'row and column in pixels of what the model sees: for this place '
                 'only', metavar='ROW,COLUMN')
    add_flag(attention, 'layer', 'from 0, negative from the end; default -1', type=int, default=-1,
             metavar='N')
    add_flag(attention, 'head', 'one head only; default their mean, and each', type=int,
             metavar='N')
    add_flag(windows, 'layer', 'default the last one with several windows', type=int, metavar='N')

    add_model_flags(tool('embedding', 'filters of the first layer, and position embeddings'))

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


class Output:
    """Where pictures go: one PNG file, or a folder with a file for each name."""

    def __init__(self, path):
        self.path = path
        self.is_folder = os.path.isdir(path) or not os.path.splitext(path)[1]
        if self.is_folder:
            check_output_folder('output', path)
        elif path.lower().endswith('.png'):
            check_output('output', path)
        else:
            raise InputError(f'-output: got {path}, expected a name that ends with .png, or a '
                             f'folder')
        self.used = set()

    def file(self, name):
        """The file for a picture; with two pictures of one name the second is NAME_2."""
        if not self.is_folder:
            return self.path
        os.makedirs(self.path, exist_ok=True)
        number, own = 1, name
        while own in self.used:
            number += 1
            own = f'{name}_{number}'
        self.used.add(own)
        return os.path.join(self.path, f'{own}.png')

    def save(self, figure, name):
        file = self.file(name)
        drawing.save(figure, file)
        say(f'{printable(file)}: written')


def images_tool(args, look, figure):
    """A tool that draws images: a picture for all of them, or one for each in a folder.

    Args:
        look: (model, uint8 [1, 3, H, W], name) -> a row of `figure`.
        figure: (model, rows) -> figure.

    Returns:
        How many images could not be read.
    """
    output = Output(args.output)
    files = images_of_tool(args.images)
    if not output.is_folder:
        check_not_read('output', args.output, files)
    if not output.is_folder and len(files) > MOST_IMAGES:
        raise InputError(f'-output: got one file for {len(files)} images, expected a folder, or at '
                         f'most {MOST_IMAGES} images')
    model = model_of(args)
    rows, failed = [], 0
    for file, (pixels, errors) in zip(
            files, pixel_batches(Preprocessing.of(model.config), files, batch_size=1), strict=True):
        if errors[0]:
            complain(f'error: {errors[0]}')
            failed += 1
            continue
        name = os.path.basename(file)
        row = look(model, pixels, name)
        if output.is_folder:
            output.save(figure(model, [row]), f'{os.path.splitext(name)[0]}_{args.tool}')
        rows = [] if output.is_folder else [*rows, row]
    if rows:
        output.save(figure(model, rows), args.tool)
    if failed:
        sys.exit(f'error: {failed} of {len(files)} images could not be read')


def draw_attention(args):
    query = place(args.query)

    def look(model, pixels, name):
        maps = attention_maps(model, pixels, args.layer, args.head, query)  # [n, h, w]
        found = rollout_panel(model, pixels, query)
        if args.head is not None:
            return name, picture_of(pixels), [(f'head {args.head}', maps[0]), *found]
        if len(maps) > 1:
            found = [(f'mean of {len(maps)} heads', maps.mean(axis=0)), *found]
        return name, picture_of(pixels), found + [(f'head {head}', one)
                                                  for head, one in enumerate(maps)]

    def figure(model, rows):
        count = len(model.cells())
        who = f'the place at {args.query} looks at' if query else \
            'the class token looks at' if model.reads_class_token else \
            'all places look at, in the mean'
        height, width = rows[0][1].shape[:2]
        mark = query and ((query[0] + 0.5) / height, (query[1] + 0.5) / width)
        return drawing.attention_figure(
            rows, f'{model.config.MODEL.NAME}, layer {args.layer % count} of 0 to {count - 1}: '
                  f'what {who}', mark)

    images_tool(args, look, figure)


def rollout_panel(model, pixels, query):
    """[(title, float [h, w])], or none and a line on the terminal where there is no rollout."""
    image = model_input(model, pixels)
    try:
        layers = layers_of_same_tokens(model, image)
    except InputError as error:
        complain(f'no rollout is drawn: {error}')
        return []
    count = len(model.cells())
    depth = f'all {count}' if len(layers) == count else f'last {len(layers)} of {count}'
    share = first_share(model, layers[-1], image.shape[2:], query)
    return [(f'rollout, {depth} layers', roll_out(layers, share))]


def draw_windows(args):
    query = place(args.query)

    def look(model, pixels, name):
        # what is chosen for the first image holds for the others
        windows, args.layer = windows_of(model, model_input(model, pixels), args.layer)
        nh, nw = windows.centre.shape[2:4]
        chosen = spread_out(nh, nw)
        if query:
            check_query(query, pixels.shape[2:])
            middle = (windows.centre - windows.offset)[0, 0].numpy()       # [nh, nw, 2]
            distance = np.abs(middle - [query[1] + 0.5, query[0] + 0.5]).max(axis=-1)
            chosen = [np.unravel_index(distance.argmin(), (nh, nw))]
        return name, picture_of(pixels), [window_frames(windows, at) for at in chosen]

    def figure(model, rows):
        count = len(model.cells())
        return drawing.windows_figure(
            rows, f'{model.config.MODEL.NAME}, layer {args.layer % count} of 0 to {count - 1}: '
                  f'where the queries of a default window look')

    images_tool(args, look, figure)


def windows_of(model, image, layer):
    """The learned windows of a layer, and its index; None is the last layer with several windows,
    or else with one."""
    layers = [index for index, cell in enumerate(model.cells()) if hasattr(cell.attn, 'windows')]
    if not layers:
        raise InputError(f'{model.config.MODEL.NAME}: got a model without learned windows')
    with paddle.no_grad():
        if layer is not None:
            return model.get_windows(image, layer), layer
        for index in reversed(layers):
            windows = model.get_windows(image, index)
            if windows.centre[0, 0].size > 2:
                return windows, index
        return model.get_windows(image, layers[-1]), layers[-1]


def window_frames(windows, at):
    """The default window (row, column) and what the heads have made of it, as (centre x, centre y,
    width, height) in pixels: float [4] and [n, 4]."""
    centre, size, offset, scale = (value.numpy()[0, :, at[0], at[1]] for value in windows)  # [n, 2]
    # the default side by the head with the largest scale: a scale may be near 0
    side = (size / np.maximum(np.abs(scale), 1e-12)).min(axis=0)
    default = np.concatenate([centre[0] - offset[0], side])
    return default, np.concatenate([centre, size], axis=1)


def spread_out(nh, nw):
    """Up to five (row, column) of a grid: the middle one, and those between it and the corners."""
    rows, columns = ([round((side - 1) * share) for share in (0.2, 0.5, 0.8)] for side in (nh, nw))
    chosen = [(rows[0], columns[0]), (rows[0], columns[2]), (rows[1], columns[1]),
              (rows[2], columns[0]), (rows[2], columns[2])]
    return list(dict.fromkeys(chosen))


def place(text):
    """'ROW,COLUMN' as two whole numbers; None is None."""
    if text is None:
        return None
    parts = text.split(',')
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise InputError(f'-query: got {text!r}, expected ROW,COLUMN in pixels, e.g. 100,60')
    return int(parts[0]), int(parts[1])


def picture_of(pixels):
    """uint8 [1, 3, H, W] -> [H, W, 3]"""
    return np.ascontiguousarray(pixels[0].transpose(1, 2, 0))


def draw_embedding(args):
    output = Output(args.output)
    model = model_of(args)
    state = model.state_dict()
    similarities = {
        name: cosine_similarities(state[name][0, prefix:].astype('float32').numpy(), grid)
        for name, (prefix, grid) in model.position_embeddings().items()}
    note = '' if similarities else '; it has no position embedding'
    output.save(drawing.embedding_figure(similarities, filter_components(model),
                                         f'{model.config.MODEL.NAME}{note}'), args.tool)


def cosine_similarities(positions, grid):
    """[h * w, C] -> float [h, w, h, w]"""
    lengths = np.linalg.norm(positions, axis=1, keepdims=True)
    unit = positions / np.maximum(lengths, 1e-12)
    return (unit @ unit.T).reshape(*grid, *grid)


def filter_components(model):
    """The principal components of the filters that read the image.

    They are of the convolution with the largest kernel among those that read the image.

    Returns:
        A title, and float [count, k, k, 3], the first component first.
    """
    found = [(name, layer) for name, layer in model.named_sublayers()
             if isinstance(layer, nn.Conv2D) and layer.weight.shape[1] == 3]
    name, layer = max(found, key=lambda pair: pair[1].weight.shape[2])
    weight = layer.weight.astype('float32').numpy()                       # [out, 3, k, k]
    filters = weight.reshape(len(weight), -1)
    _, sizes, components = np.linalg.svd(filters - filters.mean(axis=0), full_matrices=False)
    count = min(MOST_COMPONENTS, len(filters) - 1, filters.shape[1])
    share = (sizes[:count] ** 2).sum() / (sizes ** 2).sum()
    components = components[:count].reshape(count, *weight.shape[1:]).transpose(0, 2, 3, 1)
    k = weight.shape[2]
    return (f'{name}: first {count} principal components\nof its {len(filters)} filters of '
            f'{k}x{k} ({share:.0%} of their variance)'), components


def draw_augment(args):
    output = Output(args.output)
    check_least(args, epoch=1)
    config = model_config(args.cfg)
    config = update_config(config, args)
    dataset = get_dataset(config)
    pictures, target = training_batch(config, dataset, args.epoch)
    names = dataset.class_names or [str(label) for label in range(config.MODEL.NUM_CLASSES)]
    words = [label_of(one, names, config.TRAIN.LABEL_SMOOTHING) for one in target]
    output.save(drawing.batch_figure(
        pictures, words, f'{config.MODEL.NAME}: {len(pictures)} of {len(dataset)} training images, '
                         f'epoch {args.epoch}, seed {config.SEED}'), args.tool)


def training_batch(config, dataset, epoch):
    """The first batch of an epoch on one device: uint8 [B, H, W, 3], and the target [B] or [B, K].

    Erased boxes are noise around the mean colour, cut off to what a picture can show.
    """
    loader = build_loader(config, dataset)
    loader.num_workers = 0  # for one batch
    loader.batch_sampler.set_epoch(epoch)
    mean, std = config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD
    images, target = next(iter(train_batches(config, loader)))
    images = images.numpy().transpose(0, 2, 3, 1) * std + mean             # [B, H, W, 3] in 0..1
    return np.rint(images.clip(0, 1) * 255).astype(np.uint8), target.numpy()


def label_of(target, names, smoothing):
    """A label, or the shares of a mixed target [K] before the smoothing, as text."""
    if target.ndim == 0:
        return names[int(target)]
    shares = (target - smoothing / len(names)) / (1 - smoothing)
    first, second = np.argsort(-shares, kind='stable')[:2]
    if shares[second] < 0.005:
        return names[first]
    return f'{names[first]} {shares[first]:.0%}, {names[second]} {shares[second]:.0%}'


def draw_curves(args):
    output = Output(args.output)
    runs = {os.path.normpath(run): read_lines(run) for run in args.runs}
    if len(runs) == 1:
        figure = run_figure(*runs.values())
    else:
        names = {run: os.path.basename(run) for run in runs}
        if len(set(names.values())) == len(runs):
            runs = {names[run]: lines for run, lines in runs.items()}
        figure = drawing.runs_figure(runs)
    output.save(figure, args.tool)


def read_lines(run):
    """The figures of a run's folder; a note about what cannot be read goes to standard error."""
    lines, note = read_metrics(os.path.join(run, METRICS))
    if note:
        complain(f'WARNING: {note}')
    return lines


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        set_up_cpu()
        {'attention': draw_attention, 'windows': draw_windows, 'embedding': draw_embedding,
         'augment': draw_augment, 'curves': draw_curves}[args.tool](args)


if __name__ == '__main__':
    main()
