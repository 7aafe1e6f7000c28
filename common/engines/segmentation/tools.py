"""What the command does beside training and evaluation: pictures, exports, tables, speed, data."""
import fnmatch
import os
import time

import numpy as np
import paddle
from PIL import Image

from common.core.errors import InputError, say
from common.core.files import replace_atomically
from common.core.flags import check_output_folder
from common.data.input_images import images_of_tool
from common.engines.device import set_up
from common.engines.segmentation.components import build_model, build_transforms
from common.engines.segmentation.config import list_recipes, read_config
from common.engines.segmentation.data import changed, read_pixels, way_of
from common.engines.segmentation.deploy import export_model
from common.engines.segmentation.evaluation import options_of, predict, write_prediction
from common.engines.segmentation.pictures import overlay, with_legend
from common.engines.segmentation.run import recipe_of, without_output
from common.engines.shapes import CLASSES, draw_pictures
from common.engines.shim import use_segmentation
from common.layers.macs import count_parameters
from common.train.precision import Precision
from common.train.run_folder import write_text
from common.weights.load import read_weights

WARM_UP = 2  # batches of `speed` before those that are timed


def prepared(args):
    """What a tool needs of its flags.

    Returns:
        (config, model in evaluation mode, changes of an image, names of the classes or None,
        device, the value of -output).
    """
    use_segmentation()
    args, output = without_output(args)
    check_output_folder('output', output)
    config = read_config(recipe_of(args, args.pretrained), args)
    device = set_up(config)
    weights = read_weights(args.pretrained)
    model, notes = build_model(config, weights=weights)
    for note in notes:
        say(note)
    model.eval()
    names = weights.metadata.get('class_names')
    if names is not None and len(names) != config.MODEL.NUM_CLASSES:
        names = None
    return config, model, build_transforms(config, is_train=False), names, device, output


def write_overlays(args) -> None:
    """Writes NAME.png, the classes, and NAME_overlay.png for each picture."""
    files = images_of_tool(args.images)
    config, model, changes, names, device, output = prepared(args)
    stems = [os.path.splitext(os.path.basename(file))[0] for file in files]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f'images: got two with the name {twice}, expected names that differ: they '
                         f'become those of the pictures')
    os.makedirs(output, exist_ok=True)
    options = options_of(config, args.multi_scale)
    precision = Precision(config.AMP, config.AMP_DTYPE, 'O1', device)
    for file, stem in zip(files, stems, strict=True):
        pixels = read_pixels(file)
        data = changed(pixels, changes)
        classes = predict(model, data['img'], way_of(data), options, precision)
        write_prediction(output, f'{stem}.png', classes, config.MODEL.NUM_CLASSES)
        picture = with_legend(overlay(pixels, classes, config.MODEL.NUM_CLASSES, names), names,
                              config.MODEL.NUM_CLASSES)
        write_picture(os.path.join(output, f'{stem}_overlay.png'), picture)
        shares = np.bincount(classes.reshape(-1), minlength=config.MODEL.NUM_CLASSES) / classes.size
        found = [f'{names[number] if names else number} {shares[number]:.1%}'
                 for number in np.argsort(-shares)[:4] if shares[number]]
        say(f'{file}: {", ".join(found)}')


def write_picture(path, picture):
    """Writes uint8 [H, W, 3] as PNG, whole or not at all."""
    with replace_atomically(path) as temporary:
        Image.fromarray(picture).save(temporary, format='PNG')


def write_export(args) -> None:
    """Writes a checked graph for images of one size."""
    pictures = [read_pixels(file) for file in images_of_tool(args.images)] if args.images else []
    config, model, changes, names, _, output = prepared(args)
    metadata = export_model(model, output, tuple(args.size), config, changes, names, pictures)
    check = metadata['check']
    say(f'{output}: checked on {check["images"]} images: {check["equal_classes"]:.4%} of the '
        f'classes are equal, logits differ by {check["error"]:.1e} of the largest')


def parameter_table(pattern: str = '*') -> str:
    """A markdown table of recipes: parameters counted here, and what was published.

    Args:
        pattern: shell pattern of their names.

    Raises:
        InputError: no recipe has such a name.
    """
    rows = ['| recipe | parameters | published | mIoU | multi-scale |', '|---|---|---|---|---|']
    for name in fnmatch.filter(list_recipes(), pattern):
        config = read_config(name)
        with paddle.LazyGuard():
            count = count_parameters(build_model(config)[0])
        zoo = config.ZOO
        published = f'{zoo.PARAMETERS:g}M' if zoo.PARAMETERS else '-'
        rows.append(f'| {name} | {count / 1e6:.1f}M | {published} | {zoo.MIOU or "-"} | '
                    f'{zoo.MIOU_MULTI_SCALE or "-"} |')
    if len(rows) == 2:
        raise InputError(f'pattern: got {pattern!r}, expected that of one of '
                         f'{", ".join(list_recipes())}')
    return '\n'.join(rows)


@paddle.no_grad()
def measure_speed(args) -> str:
    """How many images a model predicts in a second, with random weights, as a sentence."""
    batch, args.batch_size = args.batch_size, None  # which is not the config's here
    config = read_config(args.cfg, args)
    device = set_up(config)
    model, _ = build_model(config, is_new=True)
    model.eval()
    height, width = args.size or config.DATA.CROP
    precision = Precision(config.AMP, config.AMP_DTYPE, 'O1', device)
    image = paddle.randn([batch, 3, height, width])
    for number in range(WARM_UP + args.steps):
        if number == WARM_UP:
            start = time.perf_counter()
        with precision.autocast():
            model(image)[0].sum().item()  # waits for the device
    seconds = (time.perf_counter() - start) / args.steps
    return (f'{config.MODEL.NAME}: {batch / seconds:.2f} img/s, {seconds / batch * 1e3:.0f} ms an '
            f'image of {height}x{width}, batch {batch}, {device}, {precision}')


def write_shapes(folder: str, train: int, val: int, seed: int = 0) -> None:
    """Writes pictures of shapes with their masks: images/{train,val}, masks/{train,val} and
    classes.txt.

    Args:
        folder: a new one, or an empty one.
        train, val: how many pictures.
        seed: of the pictures.

    Raises:
        InputError: there is something in the folder.
    """
    if os.path.isdir(folder) and os.listdir(folder):
        raise InputError(f'{folder}: got a folder that is not empty, expected a new one')
    for split, count, first in (('train', train, 0), ('val', val, train)):
        for kind in ('images', 'masks'):
            os.makedirs(os.path.join(folder, kind, split), exist_ok=True)
        for number, picture in enumerate(draw_pictures(count, seed, first)):
            name = f'{split}/{number:04d}.png'
            Image.fromarray(picture.image).save(os.path.join(folder, 'images', name))
            Image.fromarray(picture.mask).save(os.path.join(folder, 'masks', name))
    write_text(os.path.join(folder, 'classes.txt'), '\n'.join(['background', *CLASSES]) + '\n')
    say(f'{folder}: {train} pictures to train on, {val} to evaluate on')
