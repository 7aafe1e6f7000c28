"""Tables of the recipes: parameters and published figures; and a detector's speed."""
import fnmatch
import time

import numpy as np
import paddle

from common.core.errors import InputError, say
from common.engines.detection.config import list_recipes, read_config
from common.engines.detection.data import to_tensors
from common.engines.detection.model import build_detector, in_evaluation
from common.engines.detection.optim import build_optimizer
from common.layers.macs import count_parameters

PUBLISHED = 'published'


def matching_recipes(patterns=()):
    """The names of the recipes that one of some shell patterns matches; of all without a pattern.

    Raises:
        InputError: a pattern matches none.
    """
    names = list_recipes()
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(f'recipe: got {pattern!r}, expected the name or a pattern of one of '
                             f'{", ".join(names)}')
    return [name for name in names
            if not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def parameter_rows(patterns=()):
    """Yields (name, parameters, published millions or None, box AP, mask AP) of recipes."""
    for name in matching_recipes(patterns):
        config = read_config(name)
        with paddle.LazyGuard():  # no weights are drawn
            count = count_parameters(build_detector(config))
        yield name, count, config.ZOO.PARAMETERS, config.ZOO.BOX_AP, config.ZOO.MASK_AP


def print_parameters(patterns=()):
    """Prints them as a table."""
    matching_recipes(patterns)
    say(f'| recipe | parameters | {PUBLISHED} | box AP, {PUBLISHED} | mask AP, {PUBLISHED} |')
    say('|---|---|---|---|---|')
    for name, count, *published in parameter_rows(patterns):
        millions, box, mask = ('' if value is None else f'{value:g}' for value in published)
        say(f'| {name} | {count / 1e6:.1f} M | {millions}{" M" * bool(millions)} | {box} | {mask} '
            f'|')


def measure(config, size, batch_size, steps):
    """Images a second of a detector with new weights, on noise with one object an image.

    Args:
        config: of read_config.
        size: (height, width), after the resizing.
        batch_size: images at a time.
        steps: that are timed, after one that is not.

    Returns:
        {'inference': img/s, 'training': img/s}: medians of the steps.
    """
    detector = build_detector(config)
    optimizer = build_optimizer(config.TRAIN, detector)
    random = np.random.default_rng(0)
    shape = np.array([size] * batch_size, np.float32)
    box = np.array([[size[1] / 4, size[0] / 4, size[1] / 2, size[0] / 2]], np.float32)
    x1, y1, x2, y2 = box[0]
    batch = to_tensors({
        'image': random.standard_normal([batch_size, 3, *size], np.float32), 'im_shape': shape,
        'scale_factor': np.ones_like(shape), 'im_id': np.zeros([batch_size, 1], np.int64),
        'gt_bbox': [box] * batch_size, 'gt_class': [np.zeros([1, 1], np.int32)] * batch_size,
        'gt_poly': [[[[x1, y1, x2, y1, x2, y2, x1, y2]]]] * batch_size})

    def train_step():
        detector.train()
        losses = detector.losses(batch)
        losses['loss'].backward()
        optimizer.step()
        optimizer.clear_grad()
        return losses['loss'].item()

    def infer_step():
        with in_evaluation(detector):
            return detector(*(batch[key] for key in ('image', 'im_shape', 'scale_factor')))[1] \
                .numpy()

    return {'inference': rate(infer_step, batch_size, steps),
            'training': rate(train_step, batch_size, steps)}


def rate(step, batch_size, steps):
    """Images a second of a function: the median of its calls."""
    step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        if paddle.get_device() != 'cpu':
            paddle.device.synchronize()
        times.append(time.perf_counter() - start)
    return batch_size / float(np.median(times))
