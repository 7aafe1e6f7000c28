"""Small pictures of shapes, drawn from a seed: data that the demos and tests make from nothing.

A picture has one to four discs, squares and triangles, turned as they please, on a background with
a gradient and noise. Each kind has a third of the hues for itself, so that outline and colour tell
it: a tiny model learns it in minutes. Shapes do not touch, so a shape's polygon, box and mask say
the same.
"""
import colorsys
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from common.core.randomness import SAMPLE, generator

CLASSES = ('disc', 'square', 'triangle')
CORNERS = {'disc': 32, 'square': 4, 'triangle': 3}  # of the polygon
GAP = 2  # pixels between two shapes, and to the border
TRIALS = 50  # places that are tried for a shape; it is left out where all are taken


class Shape(NamedTuple):
    """One shape of a picture.

    Attributes:
        label: index in CLASSES.
        polygon: float [n, 2], x and y of the corners in pixels.
        box: float [4], x and y of the first pixel, x and y behind the last.
        mask: bool [H, W].
    """
    label: int
    polygon: np.ndarray
    box: np.ndarray
    mask: np.ndarray


class Picture(NamedTuple):
    """A picture with what is on it.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W]: 0 for the background, label + 1 for a shape.
        shapes: list of Shape.
    """
    image: np.ndarray
    mask: np.ndarray
    shapes: list


def draw_pictures(count: int, seed: int = 0, first: int = 0,
                  sides: tuple = (112, 144)) -> Iterator[Picture]:
    """Draws pictures; each depends on the seed and its number only.

    Args:
        count: how many.
        seed: in [0, 2^31).
        first: number of the first one; pictures of other numbers are others.
        sides: the least and the largest height and width in pixels.

    Yields:
        A Picture at a time.

    Source: this project.

    Examples:
        >>> from common.engines.shapes import CLASSES, draw_pictures
        >>> picture, = draw_pictures(1, seed=3)
        >>> picture.image.shape[:2] == picture.mask.shape
        True
        >>> all(CLASSES[shape.label] for shape in picture.shapes)
        True
    """
    for number in range(first, first + count):
        yield draw(generator(SAMPLE, seed, 0, number), sides)


def draw(random, sides):
    """One picture from a generator of random numbers."""
    height, width = random.integers(sides[0], sides[1] + 1, 2)
    image = background(random, height, width)                        # [H, W, 3]
    mask, shapes = np.zeros((height, width), np.uint8), []
    for _ in range(random.integers(1, 5)):
        taken = cv2.dilate(mask, np.ones((2 * GAP + 1,) * 2, np.uint8)) > 0
        shape = place(random, taken)
        if shape is None:
            continue
        image[shape.mask] = colour_of(random, shape.label, image[shape.mask].mean(0))
        mask[shape.mask] = shape.label + 1
        shapes.append(shape)
    image += random.normal(0, 8, image.shape)
    return Picture(image.round().clip(0, 255).astype(np.uint8), mask, shapes)


def background(random, height, width):
    """A dull colour that changes from one corner to another, float [H, W, 3]."""
    start = random.uniform(70, 180) + random.uniform(-20, 20, 3)
    down, right = random.uniform(-40, 40, (2, 1)) + random.uniform(-15, 15, (2, 3))
    rows, columns = np.linspace(0, 1, height), np.linspace(0, 1, width)
    return start + rows[:, None, None] * down + columns[None, :, None] * right


def colour_of(random, label, other):
    """A colour of a kind's hues that is far from another colour."""
    while True:
        hue = (label + random.uniform(0.1, 0.9)) / len(CLASSES)
        colour = np.array(colorsys.hsv_to_rgb(hue, random.uniform(0.4, 1), random.uniform(0.4, 1)))
        if np.abs(255 * colour - other).max() > 50:
            return 255 * colour


def place(random, taken):
    """A shape where nothing is taken, or None."""
    height, width = taken.shape
    for _ in range(TRIALS):
        label = int(random.integers(len(CLASSES)))
        radius = random.uniform(16, 28)
        centre = random.uniform(radius + GAP, [width - radius - GAP, height - radius - GAP])
        corners = CORNERS[CLASSES[label]]
        angles = random.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
        polygon = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)  # [n, 2]
        mask = fill(polygon, taken.shape)
        if not (mask & taken).any():
            rows, columns = np.nonzero(mask)
            box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
            return Shape(label, polygon, box, mask)
    return None


def fill(polygon, size):
    """Which pixels lie in a polygon: bool [H, W]."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [polygon.round().astype(np.int32)], 1)
    return mask > 0
