"""What the pictures share on paper: rows of panels, maps over images, tiles.

Figures do without pyplot, which belongs to the process: its backend and its open figures stay as
the user has them.
"""
import math

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from common.core.figures import literal

COLOURS = matplotlib.colormaps['inferno']
MAP_OPACITY = 0.6    # of a map over its picture, which is grey
INCH, MOST_INCHES = 1.7, 3  # width of a panel; the larger one where there are few
LEAST_WIDTH = 8      # inches, of a figure, for its title
LINE = 0.16          # inches, height of a line of text above a panel
TITLE_LINES = 2.5    # height of a figure's title
SHORTEST_SIDE = 224  # small pictures are enlarged, pixel by pixel, to about this
MOST_TICKS = 10
TINY = 1e-12         # instead of 0 where something is divided


def overlay(picture, weights):
    """Lays a map over a picture: yellow is its largest value, black its smallest.

    Args:
        picture: uint8 [H, W, 3].
        weights: float [h, w]; each covers H / h by W / w pixels, with sharp edges: that is what the
            model knows.

    Returns:
        uint8 [H', W', 3], H' = k H, for pictures of fewer than SHORTEST_SIDE pixels with k > 1.
    """
    picture = enlarge(picture)                                             # [H', W', 3]
    height, width = picture.shape[:2]
    weights = weights.astype(np.float32)
    weights = (weights - weights.min()) / max(float(np.ptp(weights)), TINY)
    weights = cv2.resize(weights, (width, height), interpolation=cv2.INTER_NEAREST)  # [H', W']
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., np.newaxis]      # [H', W', 1]
    colours = COLOURS(weights)[..., :3] * 255                              # [H', W', 3]
    mixed = (1 - MAP_OPACITY) * grey + MAP_OPACITY * colours
    return np.clip(mixed, 0, 255).astype(np.uint8)


def enlarge(picture):
    """Repeats the pixels of a small picture [H, W, ...]."""
    times = max(1, math.ceil(SHORTEST_SIDE / min(picture.shape[:2])))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def panels(groups, most_columns, height, lines, title):
    """A figure with rows of panels of one size, and their axes without ticks.

    Args:
        groups: how many panels there are in each group; each group starts a row of its own.
        most_columns: how many panels there may be in a row.
        height: of a panel, relative to its width.
        lines: how many lines of text there are above a panel.
        title: of the figure.

    Returns:
        The figure and a list of axes for each group.
    """
    widest = max(groups)
    count = math.ceil(widest / math.ceil(widest / most_columns))  # rows of about the same length
    rows = [math.ceil(group / count) for group in groups]
    inch = max(INCH, min(MOST_INCHES, LEAST_WIDTH / count))
    figure = Figure(layout='constrained', figsize=(
        max(count * inch, LEAST_WIDTH),
        sum(rows) * (inch * height + lines * LINE) + TITLE_LINES * LINE))
    axes = figure.subplots(sum(rows), count, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    figure.suptitle(literal(title), fontsize=10)
    axes_of_groups, start = [], 0
    for used, group in zip(rows, groups, strict=True):
        axes_of_groups.append(list(axes[start:start + used].flat)[:group])
        start += used
    return figure, axes_of_groups


def show(axes, picture, title, mark=None):
    """Puts a picture into a panel.

    Args:
        picture: uint8 [H, W, 3].
        mark: (row, column) of a cross, as fractions of the height and width, or None.
    """
    axes.imshow(picture, interpolation='nearest')
    axes.set_title(title, fontsize=8)
    if mark is None:
        return
    row, column = mark[0] * picture.shape[0] - 0.5, mark[1] * picture.shape[1] - 0.5
    for colour, width in (('black', 4), ('white', 2)):  # white with a black edge
        axes.plot(column, row, '+', color=colour, markersize=9, markeredgewidth=width)


def picture_of(pixels):
    """uint8 [1, 3, H, W] -> [H, W, 3]"""
    return np.ascontiguousarray(pixels[0].transpose(1, 2, 0))


def mosaic(tiles, gap):
    """Lays tiles side by side.

    Args:
        tiles: [rows, columns, h, w, ...].
        gap: value of the lines between them, which have a width of border_of(h) pixels.
    """
    rows, count, h, w, *rest = tiles.shape
    border = border_of(h)
    whole = np.full((rows, h + border, count, w + border, *rest), gap)
    whole[:, :h, :, :w] = np.moveaxis(tiles, 1, 2)                         # [rows, h, columns, w]
    whole = whole.reshape(rows * (h + border), count * (w + border), *rest)
    return whole[:-border, :-border]


def ticks(side):
    """Coordinates and labels of at most some MOST_TICKS tiles of a mosaic with tiles of `side`."""
    numbers = range(0, side, math.ceil(side / MOST_TICKS))
    border = border_of(side)
    return [number * (side + border) + (side - 1) / 2 for number in numbers], list(numbers)


def border_of(side):
    """Width of the lines between a mosaic's tiles."""
    return max(1, side // 5)
