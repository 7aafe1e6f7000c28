"""The windows that each head has learned, over images."""
import matplotlib
import numpy as np
import paddle
from matplotlib.patches import Rectangle

from common.attention_maps import check_query, model_input
from common.core.errors import InputError
from common.core.figures import literal
from common.inspection.drawing import TINY, panels, picture_of

MOST_COLUMNS = 5
GRID_FRACTIONS = (0.2, 0.5, 0.8)  # of a side, where the windows that are drawn lie
# How far beyond the picture windows are drawn, relative to its side; farther ones are cut off.
BEYOND = 0.5
BORDER = 1 / 50  # around what is drawn, relative to its width
LEGEND_COLUMNS = 6


class WindowPictures:
    """Images with learned windows; an ImagePictures.

    Args:
        layer: index of `model.cells()`; None is the last one with several windows. What is chosen
            for the first image holds for the others.
        query: (row, column) in pixels of what the model sees: only the window there is drawn. None
            draws up to five.
    """

    def __init__(self, layer=None, query=None):
        self.layer = layer
        self.query = query

    def row(self, model, pixels, name):
        """(name, uint8 [H, W, 3], list of window_frames)"""
        windows, self.layer = windows_of(model, model_input(model, pixels), self.layer)
        nh, nw = windows.centre.shape[2:4]
        if self.query:
            check_query(self.query, pixels.shape[2:])
            chosen = [nearest_window(windows, self.query)]
        else:
            chosen = spread_out(nh, nw)
        return name, picture_of(pixels), [window_frames(windows, at) for at in chosen]

    def figure(self, model, rows):
        count = len(model.cells())
        return windows_figure(
            rows, f'{model.config.MODEL.NAME}, layer {self.layer % count} of 0 to {count - 1}: '
                  f'where the queries of a default window look')


def windows_of(model, image, layer):
    """The learned windows of a layer.

    Args:
        model: of init_model.
        image: of model_input.
        layer: index of `model.cells()`; None is the last one with several windows, or the last
            one if none has.

    Returns:
        What model.get_windows gives, and the layer's index.

    Raises:
        InputError: the model has no learned windows.
    """
    layers = [index for index, cell in enumerate(model.cells()) if hasattr(cell.attn, 'windows')]
    if not layers:
        raise InputError(f'{model.config.MODEL.NAME}: got a model without learned windows')
    with paddle.no_grad():
        if layer is not None:
            return model.get_windows(image, layer), layer
        for index in reversed(layers):
            windows = model.get_windows(image, index)
            nh, nw = windows.centre.shape[2:4]
            if nh * nw > 1:
                return windows, index
        return model.get_windows(image, layers[-1]), layers[-1]


def nearest_window(windows, query):
    """(row, column) of the default window whose centre is nearest to a query."""
    row, column = query
    centres = (windows.centre - windows.offset)[0, 0].numpy()              # [nh, nw, 2]
    distance = np.abs(centres - [column + 0.5, row + 0.5]).max(axis=-1)    # [nh, nw]
    return np.unravel_index(distance.argmin(), distance.shape)


def window_frames(windows, at):
    """The default window (row, column) and what the heads have made of it, as (centre x, centre y,
    width, height) in pixels: float [4] and [n, 4]."""
    centre, size, offset, scale = (value.numpy()[0, :, at[0], at[1]] for value in windows)  # [n, 2]
    # the default side by the head with the largest scale: a scale may be near 0
    side = (size / np.maximum(np.abs(scale), TINY)).min(axis=0)
    default = np.concatenate([centre[0] - offset[0], side])
    return default, np.concatenate([centre, size], axis=1)


def spread_out(nh, nw):
    """Up to five (row, column) of a grid: the middle one, and those between it and the corners."""
    rows, columns = ([round((side - 1) * fraction) for fraction in GRID_FRACTIONS]
                     for side in (nh, nw))
    chosen = [(rows[0], columns[0]), (rows[0], columns[2]), (rows[1], columns[1]),
              (rows[2], columns[0]), (rows[2], columns[2])]
    return list(dict.fromkeys(chosen))


def windows_figure(rows, title):
    """Learned windows over pictures, a colour for each head; default windows are white.

    Args:
        rows: for each picture (name, uint8 [H, W, 3], list of window_frames, one for each query
            window).
        title: of the figure.
    """
    height, width = rows[0][1].shape[:2]
    left, right, top, bottom = visible_area(rows, height, width)
    border = BORDER * (right - left)
    figure, groups = panels([len(queries) for _, _, queries in rows], MOST_COLUMNS,
                            (bottom - top) / (right - left), 1, title)
    for (name, picture, queries), axes in zip(rows, groups, strict=True):
        for index, (panel, (default, windows)) in enumerate(zip(axes, queries, strict=True)):
            panel.imshow(picture, extent=(0, width, height, 0), interpolation='nearest', alpha=0.75)
            panel.set_title(literal(name) if index == 0 else '', fontsize=8)
            add_windows(panel, default, windows)
            panel.set_xlim(left - border, right + border)
            panel.set_ylim(bottom + border, top - border)
    handles, labels = groups[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center',
                  ncols=min(len(labels), LEGEND_COLUMNS), fontsize=8, facecolor='lightgrey')
    return figure


def visible_area(rows, height, width):
    """left, right, top and bottom in pixels: the picture, and what windows reach beyond it."""
    picture = np.array([[width / 2, height / 2, width, height]])
    windows = np.concatenate([picture, *(
        windows for _, _, queries in rows for _, windows in queries)])     # [many, 4]
    centre, half = windows[:, :2], windows[:, 2:] / 2
    low, high = (centre - half).min(axis=0), (centre + half).max(axis=0)   # (x, y)
    left, right = np.clip([low[0], high[0]], -BEYOND * width, (1 + BEYOND) * width)
    top, bottom = np.clip([low[1], high[1]], -BEYOND * height, (1 + BEYOND) * height)
    return left, right, top, bottom


def add_windows(axes, default, windows):
    """Draws the frames of window_frames."""
    colours = matplotlib.colormaps['tab10' if len(windows) <= 10 else 'tab20'].colors
    axes.add_patch(rectangle(default, edgecolor='black', linewidth=2.4))  # an edge for the white
    axes.add_patch(rectangle(default, edgecolor='white', label='default window'))
    for head, window in enumerate(windows):
        axes.add_patch(rectangle(window, edgecolor=colours[head % len(colours)],
                                 label=f'head {head}'))


def rectangle(window, **style):
    """(centre x, centre y, width, height) as a frame."""
    x, y, width, height = window
    return Rectangle((x - width / 2, y - height / 2), width, height,
                     **{'fill': False, 'linewidth': 1.4, **style})
