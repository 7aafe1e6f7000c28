"""A batch of training samples as the training sees them."""
import numpy as np

from common.core.figures import literal
from common.data.batches import train_batches
from common.data.datasets import get_dataset
from common.data.loader import build_loader
from common.inspection.drawing import panels, show

MOST_COLUMNS = 8
MOST_LABELS = 4  # of a multi-label sample that are named
LEAST_FRACTION = 0.005  # of a class in a mixed target that is named; less would be 0 %


def batch_picture(config, epoch):
    """The figure of the first batch of an epoch.

    Args:
        config: of a training.
        epoch: from 1.
    """
    dataset = get_dataset(config)
    pictures, target = training_batch(config, dataset, epoch)
    names = dataset.class_names or [str(label) for label in range(config.MODEL.NUM_CLASSES)]
    text_of = labels_of if config.DATA.MULTI_LABEL else label_of
    labels = [text_of(sample, names, config.TRAIN.LABEL_SMOOTHING) for sample in target]
    return batch_figure(
        pictures, labels, f'{config.MODEL.NAME}: {len(pictures)} of {len(dataset)} training '
                          f'images, epoch {epoch}, seed {config.SEED}')


def training_batch(config, dataset, epoch):
    """The first batch of an epoch on one device.

    Erased boxes are noise around the mean colour, cut off to what a picture can show.

    Returns:
        uint8 [B, H, W, 3], and the target, int [B] or float [B, K].
    """
    loader = build_loader(config, dataset)
    loader.num_workers = 0  # for one batch
    loader.batch_sampler.set_epoch(epoch)
    mean, std = config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD
    images, target = next(iter(train_batches(config, loader)))
    images = images.numpy().transpose(0, 2, 3, 1) * std + mean             # [B, H, W, 3] in 0..1
    return np.rint(images.clip(0, 1) * 255).astype(np.uint8), target.numpy()


def label_of(target, names, smoothing):
    """The target of a sample as text.

    Args:
        target: a label, or float [K], smoothed, with up to two classes mixed.
        names: of the K classes.
        smoothing: TRAIN.LABEL_SMOOTHING.
    """
    if target.ndim == 0:
        return names[int(target)]
    fractions = (target - smoothing / len(names)) / (1 - smoothing)        # before the smoothing
    first, second = np.argsort(-fractions, kind='stable')[:2]
    if fractions[second] < LEAST_FRACTION:
        return names[first]
    return f'{names[first]} {fractions[first]:.0%}, {names[second]} {fractions[second]:.0%}'


def labels_of(target, names, smoothing):
    """The target of a multi-label sample as text; the arguments are those of `label_of`."""
    fractions = (target - smoothing / len(names)) / (1 - smoothing)        # before the smoothing
    words = [names[k] if fractions[k] > 1 - LEAST_FRACTION else f'{names[k]} {fractions[k]:.0%}'
             for k in np.argsort(-fractions, kind='stable') if fractions[k] >= LEAST_FRACTION]
    return ', '.join(words[:MOST_LABELS]) + ', ...' * (len(words) > MOST_LABELS) or 'no class'


def batch_figure(pictures, labels, title):
    """Samples of a batch, uint8 [B, H, W, 3], with a line of text each."""
    height, width = pictures.shape[1:3]
    figure, (axes,) = panels([len(pictures)], MOST_COLUMNS, height / width, 1, title)
    for panel, picture, label in zip(axes, pictures, labels, strict=True):
        show(panel, picture, literal(label))
    return figure
