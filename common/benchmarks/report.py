"""Measures how long a report takes beside the evaluation of its model.

The images are noise that is made where it is asked for, the model has random weights, and the
logits are drawn: so what is measured is the report, with as many images and classes as asked, and
the attention of the model over the images that are shown.
"""
import os
import tempfile
import time

import numpy as np

from common.core.randomness import SAMPLE, generator
from common.data.image_dataset import ImageDataset
from common.data.sources import ImageSource
from common.reporting.predictions import Collector
from common.reporting.report import Options, write_report
from common.reporting.source import Source, predictions_of
from common.zoo import create_model

MODEL = 'vit_digits'
BATCH = 256


class NoiseImages(ImageSource):
    """Images of noise, each made when it is loaded: uint8 [side, side, 3]."""

    def __init__(self, labels, side=64):
        self.labels = np.asarray(labels, np.int64)
        self.side = side

    def name(self, index):
        return f'val/{index:06d}.jpg'

    def where(self, index):
        return self.name(index)

    def load(self, index):
        return generator(SAMPLE, 0, 1, index).integers(
            0, 256, (self.side, self.side, 3), dtype=np.uint8)


def noise_source(images, class_names, name=MODEL):
    """A Source of `images` images of noise, with about as many of each class, and of the model of a
    name."""
    labels = np.arange(images) % len(class_names)
    model = create_model(name, num_classes=len(class_names))
    model.eval()
    dataset = ImageDataset(NoiseImages(labels), None, model.config.DATA.IMAGE_SIZE,
                           class_names=class_names)
    return Source(model, 'no file', dataset, class_names, [])


def drawn_predictions(source, seed=0, strength=4.0):
    """Predictions of logits that are drawn: noise, more for the label, and some for its neighbour,
    with which a class is confused."""
    random, K = np.random.default_rng(seed), len(source.class_names)
    labels = source.dataset.images.labels
    collector = Collector(labels)
    for start in range(0, len(labels), BATCH):
        indices = np.arange(start, min(start + BATCH, len(labels)))
        rows, batch = np.arange(len(indices)), labels[indices]
        logits = random.standard_normal((len(indices), K), np.float32)     # [B, K]
        logits[rows, batch] += strength
        logits[rows, (batch + 1) % K] += strength * random.random(len(indices)) ** 2
        collector.add(logits, indices.tolist())
    return predictions_of(collector, source.dataset, source.class_names)


def report_table(name, images, classes):
    """Measures the two parts of a report: what is kept of each batch, and the rest.

    Args:
        name: of the model.
        images: how many predictions.
        classes: of the model.

    Returns:
        A markdown table.
    """
    source = noise_source(images, [f'class {number}' for number in range(classes)], name)
    start = time.perf_counter()
    predictions = drawn_predictions(source)
    kept = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        page = write_report(folder, predictions, source, Options(duplicates=0))
        written = time.perf_counter() - start
        size = os.path.getsize(page) / 1e6
    return '\n'.join([
        '| Model | Images | Classes | Drawing and keeping, s | Report, s | Page, MB |',
        '|---' * 6 + '|',
        f'| {name} | {images} | {classes} | {kept:.1f} | {written:.1f} | {size:.1f} |'])
