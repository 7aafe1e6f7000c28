"""The pictures of a report: confusion matrix, reliability and coverage, each for light and dark
pages. As all pictures here they do without pyplot; see common/inspection/drawing.py.
"""
import math
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

from common.core.figures import literal

DPI = 110
COUNTS_UP_TO = 32    # classes for which each cell of a confusion matrix shows its number
NAMES_UP_TO = 128    # classes whose names stand beside it
NAME_LENGTH = 24     # characters of a name there
MOST_TICKS = 10      # numbers of classes beside a larger one
# A share is drawn as its square root, so that a few mistakes among many images are seen.
GAMMA = 0.5


class Theme(NamedTuple):
    """The colours of a picture."""

    back: str
    text: str
    line: str
    accent: str
    second: str
    cells: tuple    # of a matrix, from nothing to all


LIGHT = Theme('#ffffff', '#1d1a26', '#c9c5d3', '#7a2482', '#c96a12',
              ('#ffffff', '#e3c9e6', '#b26dba', '#7a2482', '#3a0840'))
DARK = Theme('#1d1a24', '#efedf4', '#4a4456', '#d58be0', '#f0a050',
             ('#1d1a24', '#4a2450', '#93429c', '#d58be0', '#fbeafd'))


def new_figure(theme, width, height):
    return Figure(layout='constrained', figsize=(width, height), facecolor=theme.back)


def dress(axes, theme, title, x, y):
    """Gives axes the theme's colours, and their words."""
    axes.set_facecolor(theme.back)
    axes.set_title(title, color=theme.text, fontsize=11)
    axes.set_xlabel(x, color=theme.text)
    axes.set_ylabel(y, color=theme.text)
    axes.tick_params(colors=theme.text)
    for spine in axes.spines.values():
        spine.set_color(theme.line)


def reliability_figure(calibration, theme):
    """Accuracy over confidence, with how many images there are below it."""
    figure = new_figure(theme, 5.4, 5.4)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges, filled = calibration.edges, calibration.counts > 0
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    curve.plot([0, 1], [0, 1], '--', color=theme.text, linewidth=1, label='calibrated')
    curve.bar(middle[filled], calibration.accuracies[filled], width * 0.92, color=theme.accent,
              alpha=0.35)
    curve.plot(calibration.confidences[filled], calibration.accuracies[filled], 'o-',
               color=theme.accent, label='this model, in bins', clip_on=False)
    curve.set_xlim(0, 1)
    curve.set_ylim(0, 1)
    curve.grid(color=theme.line, alpha=0.5)
    figure.legend(facecolor=theme.back, edgecolor=theme.line, labelcolor=theme.text, fontsize=9,
                  loc='outside upper center', ncols=2)
    dress(curve, theme, f'ECE {100 * calibration.ece:.2f} %', '', 'accuracy')
    counts.bar(middle, calibration.counts, width * 0.92, color=theme.second)
    counts.grid(color=theme.line, alpha=0.5, axis='y')
    dress(counts, theme, '', 'confidence of the prediction', 'images')
    return figure


def coverage_figure(curve, theme):
    """Accuracy over the share of the images that are answered, the most confident ones first."""
    _, coverages, accuracies = curve
    figure = new_figure(theme, 5.4, 4.0)
    axes = figure.subplots()
    axes.plot(100 * coverages, 100 * accuracies, color=theme.accent, linewidth=2,
              marker='o' if len(coverages) == 1 else None)
    axes.set_xlim(0, 100)
    # the first few images may all be wrong; what many have decides what is shown
    low = 100 * float(accuracies[coverages >= min(0.02, coverages.max())].min())
    axes.set_ylim(low - 0.05 * (100 - low) - 0.5, 100 + 0.03 * (100 - low) + 0.3)
    axes.grid(color=theme.line, alpha=0.5)
    dress(axes, theme, 'Accuracy where the model is confident', 'images answered (%)',
          'accuracy on these (%)')
    return figure


def confusion_figure(matrix, class_names, theme):
    """The share of each class's images that has each prediction.

    Up to COUNTS_UP_TO classes each cell has its count, up to NAMES_UP_TO each row and column its
    name. Beyond that a class is its number, and a mark off the diagonal is drawn larger than its
    cell.
    """
    K = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)     # [K, K]
    side = min(max(5.0, 0.45 * K if K <= COUNTS_UP_TO else 0.15 * K), 15.0)
    longest = max(len(name[:NAME_LENGTH]) for name in class_names) if K <= NAMES_UP_TO else 4
    margin = 0.7 + 0.085 * longest
    figure = new_figure(theme, side + margin + 0.9, side + margin)
    axes = figure.subplots()
    cells = LinearSegmentedColormap.from_list('cells', theme.cells)
    image = axes.imshow(shares if K <= NAMES_UP_TO else enlarged(shares), cmap=cells,
                        norm=PowerNorm(GAMMA, 0, 1), interpolation='nearest',
                        extent=(-0.5, K - 0.5, K - 0.5, -0.5))
    dress(axes, theme, 'Confusion matrix', 'prediction', 'label')
    bar = figure.colorbar(image, ax=axes, fraction=0.035, pad=0.02, aspect=35,
                          ticks=[0, .01, .1, .25, .5, 1])
    bar.ax.set_yticklabels(['0 %', '1 %', '10 %', '25 %', '50 %', '100 %'], color=theme.text)
    bar.ax.tick_params(colors=theme.text)
    bar.set_label("share of the label's images", color=theme.text)
    bar.outline.set_edgecolor(theme.line)
    label_classes(axes, class_names, theme)
    if K <= COUNTS_UP_TO:
        write_counts(axes, matrix, shares, theme)
    return figure


def enlarged(shares):
    """Shares off the diagonal of a large matrix, spread over the cells around them: what is a
    pixel or less would not be seen."""
    spread = cv2.dilate(shares - np.diag(np.diag(shares)), np.ones((3, 3), np.uint8))
    return np.maximum(spread, shares)


def label_classes(axes, class_names, theme):
    """Names beside the matrix, or some numbers where there are too many classes."""
    K = len(class_names)
    if K > NAMES_UP_TO:
        step = 10 ** math.ceil(math.log10(K / MOST_TICKS))
        axes.set_xticks(range(0, K, step))
        axes.set_yticks(range(0, K, step))
        return
    size = 9 if K <= COUNTS_UP_TO else 7
    words = [literal(name if len(name) <= NAME_LENGTH else f'{name[:NAME_LENGTH - 1]}…')
             for name in class_names]
    axes.set_xticks(range(K), words, rotation=90, fontsize=size)
    axes.set_yticks(range(K), words, fontsize=size)
    axes.set_xticks(np.arange(1, K) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, K) - 0.5, minor=True)
    axes.grid(which='minor', color=theme.line, linewidth=0.4, alpha=0.6)
    axes.tick_params(which='minor', length=0)


def write_counts(axes, matrix, shares, theme):
    """The number of images in each cell that has some."""
    for label, predicted in zip(*np.nonzero(matrix), strict=True):
        is_full = shares[label, predicted] ** GAMMA > 0.55
        colour = theme.back if is_full else theme.text
        count = int(matrix[label, predicted])
        axes.text(predicted, label, str(count), color=colour, ha='center', va='center',
                  fontsize=9 if count < 1000 else 7)
