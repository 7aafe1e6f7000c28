"""Images of the validation set that are in the training set, too, or almost.

Each image is made small and grey, and described by the differences of neighbouring pixels, across
and down, as a vector of length 1. The product of two such vectors is 1 for the same picture; a copy
that was resized, compressed again, or made lighter has more than SIMILAR, another photograph less.
Each training image is compared as it is and mirrored. Only the vectors of the validation set are
kept; the training images pass by, batch by batch.
"""
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.data.image_dataset import ImageDataset
from common.data.loader import Loader
from common.data.samplers import EvalSampler

SIDE = 16       # differences on a side
SIMILAR = 0.9   # docs/report.md says what copies and other pictures have
DIGITS = 4      # of a similarity
BATCH = 256     # images that are compared at once
FLAT = 1.0      # mean absolute difference of 255 below which a picture is of one colour


class Duplicate(NamedTuple):
    """A validation image, and the training image that is most similar to it, or its mirror image
    is."""

    index: int
    train_index: int
    similarity: float
    mirrored: bool


class Small:
    """The transform that makes a picture small and grey: uint8 [SIDE + 1, SIDE + 1, 3], in which
    all channels are the same."""

    def __call__(self, image, random=None):
        if not isinstance(image, Image.Image):
            image = Image.fromarray(image)
        small = image.convert('L').resize((SIDE + 1, SIDE + 1), Image.BICUBIC)
        return np.asarray(small)[..., np.newaxis].repeat(3, axis=2)


def vectors_of(pictures):
    """uint8 [B, 3, SIDE + 1, SIDE + 1] -> float32 [B, 2 SIDE^2] of length 1, and 0 for pictures of
    one colour, which all look the same."""
    grey = pictures[:, 0].astype(np.float32)                               # [B, SIDE+1, SIDE+1]
    across = grey[:, :-1, 1:] - grey[:, :-1, :-1]                          # [B, SIDE, SIDE]
    down = grey[:, 1:, :-1] - grey[:, :-1, :-1]
    vectors = np.concatenate([across.reshape(len(grey), -1), down.reshape(len(grey), -1)], axis=1)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    is_flat = np.abs(vectors).mean(axis=1, keepdims=True) < FLAT
    return np.where(is_flat, np.float32(0), vectors / np.maximum(length, np.float32(1e-6)))


class NearestImages:
    """For each validation image the most similar training image of those that were shown.

    Args:
        vectors: float32 [n, d] of the validation images.
    """

    def __init__(self, vectors):
        self.vectors = vectors
        self.nearest = np.full(len(vectors), -1, np.int64)
        self.similarities = np.zeros(len(vectors), np.float32)
        self.mirrored = np.zeros(len(vectors), bool)

    def show(self, vectors, indices, mirrored=False):
        """Compares all validation images with some training images.

        Args:
            vectors: float32 [B, d].
            indices: int [B], which training images they are.
            mirrored: whether the vectors are of their mirror images.
        """
        products = self.vectors @ vectors.T                                # [n, B]
        best = products.argmax(axis=1)
        values = products[np.arange(len(products)), best]
        closer = values > self.similarities
        self.similarities[closer] = values[closer]
        self.nearest[closer] = np.asarray(indices)[best[closer]]
        self.mirrored[closer] = mirrored

    def duplicates(self):
        """The Duplicates, the most similar first."""
        similarities = self.similarities.round(DIGITS)  # the same order on every processor
        found = np.flatnonzero(similarities >= SIMILAR)
        found = found[np.argsort(-similarities[found], kind='stable')]
        return [Duplicate(int(index), int(self.nearest[index]),
                          min(float(similarities[index]), 1.0), bool(self.mirrored[index]))
                for index in found]


def find_duplicates(train, val, config):
    """The validation images that are in the training set, too.

    Args:
        train, val: ImageSource.
        config: its DATA.NUM_WORKERS says how many processes read the images.

    Returns:
        List of Duplicate, and how many images could not be read.
    """
    vectors, bad = np.zeros((len(val), 2 * SIDE * SIDE), np.float32), 0
    with tqdm(total=len(val) + len(train), desc='duplicates', unit='img', disable=None,
              leave=False) as bar:
        for pictures, indices, errors in small_batches(val, config):
            vectors[indices] = vectors_of(pictures)
            bad += errors
            bar.update(len(indices))
        nearest = NearestImages(vectors)
        for pictures, indices, errors in small_batches(train, config):
            nearest.show(vectors_of(pictures), indices)
            nearest.show(vectors_of(pictures[..., ::-1]), indices, mirrored=True)
            bad += errors
            bar.update(len(indices))
    return nearest.duplicates(), bad


def small_batches(images, config):
    """Yields (uint8 [B, 3, SIDE + 1, SIDE + 1], list of B indices, how many of them could not be
    read: they are black, and their vectors 0) over an ImageSource."""
    dataset = ImageDataset(images, Small(), SIDE + 1)
    loader = Loader(dataset, EvalSampler(len(images), BATCH), config.DATA.NUM_WORKERS,
                    timeout=config.DATA.WORKER_TIMEOUT)
    for batch in loader:
        yield batch.images, batch.indices.tolist(), len(batch.errors.tolist())
