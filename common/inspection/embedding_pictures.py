"""Filters of the first layer, and similarities of position embeddings (figure 7 of the ViT paper,
arXiv 2010.11929)."""
import math

import numpy as np
from matplotlib.figure import Figure
from paddle import nn

from common.core.figures import literal
from common.inspection.drawing import TINY, mosaic, ticks

MOST_COMPONENTS = 28  # of the filters, as in the paper's figure
ASPECT = 7 / 4        # of their tiles: columns to rows


def embedding_picture(model):
    """The figure of a model's first filters and of its position embeddings, if it has any."""
    state = model.state_dict()
    similarities = {
        name: cosine_similarities(state[name][0, prefix:].astype('float32').numpy(), grid)
        for name, (prefix, grid) in model.position_embeddings().items()}
    note = '' if similarities else '; it has no position embedding'
    return embedding_figure(similarities, filter_components(model),
                            f'{model.config.MODEL.NAME}{note}')


def cosine_similarities(positions, grid):
    """[h * w, C] -> float [h, w, h, w]; grid: (h, w)"""
    lengths = np.linalg.norm(positions, axis=1, keepdims=True)
    unit = positions / np.maximum(lengths, TINY)
    return (unit @ unit.T).reshape(*grid, *grid)


def filter_components(model):
    """The principal components of the filters that read the image.

    They are of the convolution with the largest kernel among those that read the image.

    Returns:
        A title, and float [count, k, k, 3], the first component first.
    """
    layers = [(name, layer) for name, layer in model.named_sublayers()
              if isinstance(layer, nn.Conv2D) and layer.weight.shape[1] == 3]
    name, layer = max(layers, key=lambda pair: pair[1].weight.shape[2])
    weight = layer.weight.astype('float32').numpy()                       # [out, 3, k, k]
    filters = weight.reshape(len(weight), -1)                             # [out, 3 * k * k]
    _, sizes, components = np.linalg.svd(filters - filters.mean(axis=0), full_matrices=False)
    count = min(MOST_COMPONENTS, len(filters) - 1, filters.shape[1])
    explained = (sizes[:count] ** 2).sum() / (sizes ** 2).sum()
    components = components[:count].reshape(count, *weight.shape[1:])     # [count, 3, k, k]
    components = components.transpose(0, 2, 3, 1)                         # [count, k, k, 3]
    k = weight.shape[2]
    return (f'{name}: first {count} principal components\nof its {len(filters)} filters of '
            f'{k}x{k} ({explained:.0%} of their variance)'), components


def embedding_figure(similarities, filters, title):
    """Filters of the first layer, and similarities of position embeddings.

    Args:
        similarities: {name: float [h, w, h, w]}, of each position with all positions, -1 to 1; may
            be empty.
        filters: (title, float [count, k, k, 3], 0 is grey).
        title: of the figure.
    """
    figure = Figure(figsize=(5 + 5.6 * len(similarities), 4.4), layout='constrained')
    axes = figure.subplots(1, 1 + len(similarities), squeeze=False)
    figure.suptitle(literal(title), fontsize=10)
    words, components = filters
    axes[0, 0].imshow(filter_mosaic(components))
    axes[0, 0].set_title(words, fontsize=9)
    axes[0, 0].set_axis_off()
    for panel, (name, values) in zip(axes[0, 1:], similarities.items(), strict=True):
        h, w = values.shape[:2]
        image = panel.imshow(mosaic(values, np.nan), vmin=-1, vmax=1, interpolation='nearest')
        panel.set_title(f'{name}: cosine similarity of each of\n{h}x{w} positions with all '
                        f'positions', fontsize=9)
        panel.set_xticks(*ticks(w), fontsize=7)
        panel.set_yticks(*ticks(h), fontsize=7)
        panel.set_xlabel('column of the position', fontsize=8)
        panel.set_ylabel('row of the position', fontsize=8)
        figure.colorbar(image, ax=panel, shrink=0.8)
    return figure


def filter_mosaic(components):
    """[count, k, k, 3] -> filters side by side, float in 0..1, on white; each has its own range."""
    largest = np.abs(components).max(axis=(1, 2, 3), keepdims=True)
    tiles = 0.5 + 0.5 * components / np.maximum(largest, TINY)
    columns = math.ceil(math.sqrt(len(tiles) * ASPECT))
    white = np.ones((-len(tiles) % columns, *tiles.shape[1:]))            # fills the last row
    tiles = np.concatenate([tiles, white])
    return mosaic(tiles.reshape(-1, columns, *tiles.shape[1:]), 1.0)
