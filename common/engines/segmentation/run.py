"""A training, or an evaluation, from the command line's flags to its end."""
import json
import os

import numpy as np
from PIL import Image

from common.config import origin_of
from common.core import dist, processes
from common.core.errors import InputError, say
from common.core.files import replace_atomically
from common.core.flags import check_output_folder
from common.core.signals import Stopped
from common.core.yaml_files import read_yaml
from common.engines.device import set_up
from common.engines.segmentation.components import (
    build_loss,
    build_model,
    build_transforms,
    set_up_sync,
)
from common.engines.segmentation.config import read_config
from common.engines.segmentation.data import (
    CLASS_NAMES,
    CLASSES_OF,
    OWN,
    SegmentationData,
    check_pairs,
    find_pairs,
    read_mask,
    read_pixels,
)
from common.engines.segmentation.evaluation import evaluate, prediction_file
from common.engines.segmentation.pictures import beside, overlay, with_legend
from common.engines.segmentation.training import Training
from common.engines.shim import use_segmentation
from common.layers.macs import count_parameters
from common.train.log import RunLog
from common.train.precision import Precision
from common.train.run_folder import (
    discard,
    make_run_folder,
    sweep_temporary,
    write_result,
    write_text,
)

EXAMPLES, MOST_EXAMPLES = 'examples.png', 8  # of an evaluation


def data_of(config, split, is_train):
    """SegmentationData of one split, checked.

    Returns:
        The data, and the config with the number of classes of the user's own data.
    """
    pairs = find_pairs(config.DATA.DATA_PATH, split)
    config = with_classes(config, pairs)
    if dist.is_master():
        check_pairs(pairs, config.MODEL.NUM_CLASSES)
    return SegmentationData(pairs, build_transforms(config, is_train), config.MODEL.NUM_CLASSES,
                            is_train, config.SEED), config


def with_classes(config, pairs):
    """The config with the number of classes that the data have.

    ADE20K and Cityscapes say theirs; own data by the lines of classes.txt, or the user does.

    Raises:
        InputError: two of them differ, or the recipe is for other data and nobody says it.
    """
    origin = origin_of(config, 'MODEL.NUM_CLASSES') or ''
    by_user = origin.startswith('-')
    known = CLASSES_OF.get(pairs.layout) or (len(pairs.class_names) if pairs.class_names else None)
    number = config.MODEL.NUM_CLASSES
    if by_user and known not in (None, number):
        source = pairs.layout if pairs.layout in CLASSES_OF else CLASS_NAMES
        raise InputError(f'{origin}: got {number} classes, expected {known}, as {pairs.root} has '
                         f'({source})')
    if known is None and not by_user and config.DATA.DATASET in CLASSES_OF:
        raise InputError(f'MODEL.NUM_CLASSES: {pairs.root} is not {config.DATA.DATASET}; expected '
                         f'-num_classes K, or the names of the classes in '
                         f'{os.path.join(pairs.root, CLASS_NAMES)}, one a line')
    config = config.clone()
    config.defrost()
    config.MODEL.NUM_CLASSES = known or number
    config.DATA.DATASET = pairs.layout if pairs.layout in CLASSES_OF else OWN
    config.freeze()
    return config


def run_training(args, signals) -> None:
    """Trains, or goes on with -resume, and evaluates.

    Args:
        args: of command.py.
        signals: StopSignal.
    """
    use_segmentation()
    config = read_config(recipe_of(args, args.resume), args)
    if config.MODEL.RESUME and not os.path.isdir(config.MODEL.RESUME):
        raise InputError(f"-resume: no such folder: {config.MODEL.RESUME}; expected a run's, with "
                         f'last.pdparams in it')
    check_output_folder('output', config.SAVE)
    device = set_up(config)
    train_data, config = data_of(config, 'train', is_train=True)
    val_data, _ = data_of(config, 'val', is_train=False)
    folder = dist.from_master('folder', new_folder(config) if dist.is_master() else None)
    is_new = not config.MODEL.RESUME
    try:
        if dist.is_master():
            held = processes.lock(folder)  # noqa: F841 - as long as this process lives
        log = RunLog(folder, active=dist.is_master())
        precision = Precision(config.AMP, config.AMP_DTYPE, 'O1', device)
        model, notes = build_model(config, is_new=True)
        if dist.world_size() > 1:
            set_up_sync(model)
        training = Training(config, model, build_loss(config), train_data, val_data, precision, log,
                            folder, signals)
        describe(log, config, model, train_data, val_data, precision, device, notes)
        if not is_new:
            training.resume(folder)
    except (InputError, Stopped):
        if is_new and dist.is_master():
            discard(folder)
        raise
    with signals.noted():
        best = training.run()
    if dist.is_master():
        write_result(folder, {'best_miou': best, 'steps': config.TRAIN.NUM_STEPS})
    log.info(f'done: the best mIoU of {training.saver.folder} is {best:.4f}')


def new_folder(config):
    """The folder of a run: a new one with the whole config, or the one that it goes on in."""
    if config.MODEL.RESUME:
        sweep_temporary(config.MODEL.RESUME)
        return config.MODEL.RESUME
    return make_run_folder(config)


def describe(log, config, model, train_data, val_data, precision, device, notes):
    """The first lines of a log: what is trained, and the arithmetic of batch and rate."""
    for note in notes:
        log.info(note)
    ranks, batch = dist.world_size(), config.DATA.BATCH_SIZE
    log.info(f'{config.MODEL.NAME}: {config.MODEL.BACKBONE}, {count_parameters(model) / 1e6:.1f}M '
             f'parameters, {config.MODEL.NUM_CLASSES} classes, {device}, {precision}')
    log.info(f'{len(train_data)} images to train on, {len(val_data)} to evaluate on '
             f'({train_data.pairs.layout} in {train_data.pairs.root})')
    log.info(f'batch {batch} x {ranks} = {batch * ranks}, {config.TRAIN.NUM_STEPS} steps = '
             f'{config.TRAIN.NUM_STEPS * batch * ranks / len(train_data):.1f} epochs, '
             f'lr {config.TRAIN.BASE_LR:g}')


def run_evaluation(args) -> None:
    """Evaluates weights, prints the result, and writes it and the predictions if -output is given.

    Args:
        args: of command.py.
    """
    use_segmentation()
    args, output = without_output(args)
    config = read_config(recipe_of(args, args.pretrained), args)
    if output:
        check_output_folder('output', output)
        if os.path.isdir(output) and os.listdir(output):
            raise InputError(f'-output: got {output}, which is not empty, expected a new folder')
    device = set_up(config)
    data, config = data_of(config, 'val', is_train=False)
    model, notes = build_model(config)
    for note in notes:
        say(note)
    precision = Precision(config.AMP, config.AMP_DTYPE, 'O1', device)
    result = evaluate(model, data, config, precision, args.multi_scale, output)
    if not dist.is_master():
        return
    for line in result.table():
        say(line)
    say(f'{"several scales" if args.multi_scale else "one scale"}: {result}')
    if output:
        write_text(os.path.join(output, 'result.json'), json.dumps(
            {**result.as_json(), 'multi_scale': args.multi_scale}, indent=1))
        write_examples(data, output)


def write_examples(data, folder):
    """Writes examples.png: some images, their masks, and the predictions in the folder."""
    pairs, names = data.pairs, data.pairs.class_names
    columns = []
    step = -(-len(data) // MOST_EXAMPLES)
    for index in range(0, len(data), step):
        pixels = read_pixels(pairs.images[index])
        predicted = np.asarray(Image.open(prediction_file(folder, pairs.name(index))))
        truth = read_mask(pairs.masks[index], pairs.layout, data.num_classes)
        columns.append([pixels, *(overlay(pixels, classes, data.num_classes, names)
                                  for classes in (truth, predicted))])
    # one height, so that a column is of one width
    picture = with_legend(beside(list(zip(*columns, strict=True))), names, data.num_classes)
    with replace_atomically(os.path.join(folder, EXAMPLES)) as temporary:
        Image.fromarray(picture).save(temporary, format='PNG', optimize=True)


def without_output(args):
    """The flags without -output, which is not the config's there; and its value."""
    output, args.output = args.output, None
    return args, output


def recipe_of(args, run):
    """The value of -cfg, or else the config.yaml of a run's folder, which may be None."""
    own = os.path.join(run or '', 'config.yaml')
    if args.cfg is None and (run is None or not os.path.isfile(own)):
        missing = f': {own} is missing' if run else ''
        raise InputError(f"-cfg: got none, expected a recipe, or a run's folder as -resume or "
                         f'-pretrained{missing}')
    if args.cfg is None and {'MODEL.DETECTOR', 'MODEL.TYPE'} & {
            key for key, _, _ in read_yaml(own)}:
        raise InputError(f'{run}: is a run of a detector or a classifier, expected one of '
                         f'segmentation')
    return args.cfg or own
