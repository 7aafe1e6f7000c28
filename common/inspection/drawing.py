"""Pictures from arrays: maps over images, learned windows, filters, position embeddings, batches.

A function `..._figure` gives a matplotlib figure; `save` writes it as a PNG file. They do without
pyplot, which belongs to the process: its backend and its open figures stay as the user has them.
"""
import math

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.core.figures import literal

COLOURS = matplotlib.colormaps['inferno']
INCH = 1.7           # width of a panel; up to 3 where there are few
LEAST_WIDTH = 8      # of a figure, for its title
LINE = 0.16          # height of a line of text above it
SHORTEST_SIDE = 224  # small pictures are enlarged, pixel by pixel, to about this


def overlay(picture, weights):
    """Lays a map over a picture: yellow is its largest value, black its smallest.

    Args:
        picture: uint8 [H, W, 3].
        weights: float [h, w]; each covers H / h by W / w pixels, with sharp edges: that is what the
            model knows.

    Returns:
        uint8 [H', W', 3], H' = k H, for pictures of fewer than SHORTEST_SIDE pixels with k > 1.
    """
    picture = enlarge(picture)
    height, width = picture.shape[:2]
    weights = weights.astype(np.float32)
    weights = (weights - weights.min()) / max(float(np.ptp(weights)), 1e-12)
    weights = cv2.resize(weights, (width, height), interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    colours = COLOURS(weights)[..., :3] * 255
    return np.clip(0.4 * grey + 0.6 * colours, 0, 255).astype(np.uint8)


def enlarge(picture):
    """Repeats the pixels of a small picture [H, W, ...]."""
    times = max(1, math.ceil(SHORTEST_SIDE / min(picture.shape[:2])))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def panels(groups, most_columns, height, lines, title):
    """A figure with rows of panels of one size, and their axes without ticks.

    Args:
        groups: how many panels there are in each group; each starts a row of its own.
        most_columns: of panels.
        height: of a panel, its width being 1.
        lines: of text above a panel.
        title: of the figure.

    Returns:
        The figure and a list of axes for each group.
    """
    widest = max(groups)
    count = math.ceil(widest / math.ceil(widest / most_columns))  # rows of about the same length
    rows = [math.ceil(group / count) for group in groups]
    inch = max(INCH, min(3, LEAST_WIDTH / count))
    figure = Figure(layout='constrained', figsize=(
        max(count * inch, LEAST_WIDTH), sum(rows) * (inch * height + lines * LINE) + 2.5 * LINE))
    axes = figure.subplots(sum(rows), count, squeeze=False)
    for one in axes.flat:
        one.set_axis_off()
    figure.suptitle(literal(title), fontsize=10)
    starts = np.cumsum([0, *rows])
    return figure, [list(axes[start:start + used].flat)[:group] for start, used, group
                    in zip(starts, rows, groups, strict=False)]


def show(axes, picture, title, mark=None):
    """Puts a picture into a panel. mark: (row, column), shares of the picture, or None."""
    axes.imshow(picture, interpolation='nearest')
    axes.set_title(title, fontsize=8)
    for colour, width in (('black', 4), ('white', 2)) if mark else ():
        axes.plot(mark[1] * picture.shape[1] - 0.5, mark[0] * picture.shape[0] - 0.5, '+',
                  color=colour, markersize=9, markeredgewidth=width)


def attention_figure(rows, title, mark=None):
    """Pictures beside their maps.

    Args:
        rows: for each picture (name, uint8 [H, W, 3], [(title, float [h, w])]).
        mark: see `show`.
    """
    height, width = rows[0][1].shape[:2]
    figure, groups = panels([1 + len(maps) for _, _, maps in rows], 8, height / width, 2, title)
    for (name, picture, maps), axes in zip(rows, groups, strict=True):
        show(axes[0], enlarge(picture), literal(name), mark)
        for one, (words, weights) in zip(axes[1:], maps, strict=True):
            show(one, overlay(picture, weights), f'{words}\n{range_and_sum(weights)}', mark)
    return figure


def range_and_sum(weights):
    """The numbers of a map, for its title: each has its own colours, and not all sum to 1."""
    low, high = (f'{100 * value:.{1 if value >= 0.1 else 2}f}'
                 for value in (float(weights.min()), float(weights.max())))
    return f'{low} to {high} %, sum {100 * float(weights.sum()):.0f} %'


def windows_figure(rows, title):
    """Learned windows over pictures, a colour for each head; default windows are white.

    Args:
        rows: for each picture (name, uint8 [H, W, 3], [(default, windows)]), a pair for each query
            window: (centre x, centre y, width, height) in pixels, float [4] and [n, 4].
    """
    height, width = rows[0][1].shape[:2]
    # windows may reach beyond the picture; far ones are cut off
    low, high = corners(np.concatenate([[[width / 2, height / 2, width, height]], *(
        windows for _, _, queries in rows for _, windows in queries)]))
    left, right = np.clip([low[0], high[0]], -width / 2, 1.5 * width)
    top, bottom = np.clip([low[1], high[1]], -height / 2, 1.5 * height)
    border = (right - left) / 50
    figure, groups = panels([len(queries) for _, _, queries in rows], 5,
                            (bottom - top) / (right - left), 1, title)
    heads = len(rows[0][2][0][1])
    colours = matplotlib.colormaps['tab10' if heads <= 10 else 'tab20'].colors
    for (name, picture, queries), axes in zip(rows, groups, strict=True):
        for index, (one, (default, windows)) in enumerate(zip(axes, queries, strict=True)):
            one.imshow(picture, extent=(0, width, height, 0), interpolation='nearest', alpha=0.75)
            one.set_title(literal(name) if index == 0 else '', fontsize=8)
            one.add_patch(rectangle(default, edgecolor='black', linewidth=2.4))
            one.add_patch(rectangle(default, edgecolor='white', label='default window'))
            for head, window in enumerate(windows):
                one.add_patch(rectangle(window, edgecolor=colours[head % len(colours)],
                                        label=f'head {head}'))
            one.set_xlim(left - border, right + border)
            one.set_ylim(bottom + border, top - border)
    handles, labels = groups[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(len(labels), 6),
                  fontsize=8, facecolor='lightgrey')
    return figure


def rectangle(window, **style):
    """(centre x, centre y, width, height) as a frame."""
    x, y, width, height = window
    return Rectangle((x - width / 2, y - height / 2), width, height,
                     **{'fill': False, 'linewidth': 1.4, **style})


def corners(windows):
    """The smallest and the largest (x, y) of windows [n, 4]."""
    centre, half = windows[:, :2], windows[:, 2:] / 2
    return (centre - half).min(axis=0), (centre + half).max(axis=0)


def embedding_figure(similarities, filters, title):
    """Filters of the first layer, and similarities of position embeddings.

    Args:
        similarities: {name: float [h, w, h, w]}, of each position with all positions, -1 to 1; may
            be empty.
        filters: (title, float [count, k, k, 3], 0 is grey).
    """
    figure = Figure(figsize=(5 + 5.6 * len(similarities), 4.4), layout='constrained')
    axes = figure.subplots(1, 1 + len(similarities), squeeze=False)
    figure.suptitle(literal(title), fontsize=10)
    words, components = filters
    largest = np.abs(components).max(axis=(1, 2, 3), keepdims=True)
    tiles = 0.5 + 0.5 * components / np.maximum(largest, 1e-12)            # each with its own range
    count = math.ceil(math.sqrt(len(tiles) * 7 / 4))
    missing = -len(tiles) % count
    tiles = np.concatenate([tiles, np.ones((missing, *tiles.shape[1:]))])
    axes[0, 0].imshow(mosaic(tiles.reshape(-1, count, *tiles.shape[1:]), 1.0))
    axes[0, 0].set_title(words, fontsize=9)
    axes[0, 0].set_axis_off()
    for one, (name, values) in zip(axes[0, 1:], similarities.items(), strict=True):
        h, w = values.shape[:2]
        image = one.imshow(mosaic(values, np.nan), vmin=-1, vmax=1, interpolation='nearest')
        one.set_title(f'{name}: cosine similarity of each of\n{h}x{w} positions with all positions',
                      fontsize=9)
        one.set_xticks(*ticks(w), fontsize=7)
        one.set_yticks(*ticks(h), fontsize=7)
        one.set_xlabel('column of the position', fontsize=8)
        one.set_ylabel('row of the position', fontsize=8)
        figure.colorbar(image, ax=one, shrink=0.8)
    return figure


def mosaic(tiles, gap):
    """[rows, columns, h, w, ...] -> tiles side by side, with lines of `gap` of a pixel or more."""
    rows, count, h, w, *rest = tiles.shape
    border = max(1, h // 5)
    whole = np.full((rows, h + border, count, w + border, *rest), gap)
    whole[:, :h, :, :w] = np.moveaxis(tiles, 1, 2)                         # [rows, h, columns, w]
    whole = whole.reshape(rows * (h + border), count * (w + border), *rest)
    return whole[:-border, :-border]


def ticks(side):
    """Places and labels of at most some ten tiles of a mosaic with tiles of `side`."""
    numbers = range(0, side, math.ceil(side / 10))
    border = max(1, side // 5)
    return [number * (side + border) + (side - 1) / 2 for number in numbers], list(numbers)


def batch_figure(pictures, words, title):
    """Samples of a batch, uint8 [B, H, W, 3], with a line of text each."""
    height, width = pictures.shape[1:3]
    figure, (axes,) = panels([len(pictures)], 8, height / width, 1, title)
    for one, picture, line in zip(axes, pictures, words, strict=True):
        show(one, picture, literal(line))
    return figure
