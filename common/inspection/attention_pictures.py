"""What a layer looks at in images: a map for each head, their mean, and the attention rollout."""
from common.attention_maps import (
    attention_maps,
    layers_of_same_tokens,
    model_input,
    roll_out,
    row_of_query,
)
from common.core.errors import InputError, complain
from common.core.figures import literal
from common.inspection.drawing import enlarge, overlay, panels, picture_of, show

MOST_COLUMNS = 8
ONE_DECIMAL_FROM = 0.1  # smaller percentages have two decimals


class AttentionPictures:
    """Images beside their attention maps; an ImagePictures.

    Args:
        layer: index of `model.cells()`, negative from the end.
        head: one head only; None draws each, and their mean.
        query: (row, column) in pixels of what the model sees, whose attention is drawn; None is
            what the classifier reads.
    """

    def __init__(self, layer=-1, head=None, query=None):
        self.layer = layer
        self.head = head
        self.query = query

    def row(self, model, pixels, name):
        """(name, uint8 [H, W, 3], list of (title, float [h, w]))"""
        maps = attention_maps(model, pixels, self.layer, self.head, self.query)  # [n, h, w]
        rollout = rollout_map(model, pixels, self.query)
        if self.head is not None:
            titled = [(f'head {self.head}', maps[0]), *rollout]
        else:
            mean = [(f'mean of {len(maps)} heads', maps.mean(axis=0))] if len(maps) > 1 else []
            titled = [*mean, *rollout]
            titled += [(f'head {head}', weights) for head, weights in enumerate(maps)]
        return name, picture_of(pixels), titled

    def figure(self, model, rows):
        count = len(model.cells())
        mark = None
        if self.query:
            row, column = self.query
            height, width = rows[0][1].shape[:2]
            mark = (row + 0.5) / height, (column + 0.5) / width
            who = f'the place at {row},{column} looks at'
        elif model.reads_class_token:
            who = 'the class token looks at'
        else:
            who = 'all places look at, in the mean'
        return attention_figure(rows, f'{model.config.MODEL.NAME}, layer {self.layer % count} of '
                                      f'0 to {count - 1}: what {who}', mark)


def rollout_map(model, pixels, query):
    """[(title, float [h, w])], or none and a line on the terminal where there is no rollout."""
    image = model_input(model, pixels)
    try:
        layers = layers_of_same_tokens(model, image)
    except InputError as error:
        complain(f'no rollout is drawn: {error}')
        return []
    count = len(model.cells())
    depth = f'all {count}' if len(layers) == count else f'last {len(layers)} of {count}'
    start = row_of_query(model, layers[-1], image.shape[2:], query)
    return [(f'rollout, {depth} layers', roll_out(layers, start))]


def attention_figure(rows, title, mark=None):
    """Pictures beside their maps.

    Args:
        rows: for each picture (name, uint8 [H, W, 3], list of (title, float [h, w])).
        title: of the figure.
        mark: see `show`.
    """
    height, width = rows[0][1].shape[:2]
    figure, groups = panels([1 + len(maps) for _, _, maps in rows], MOST_COLUMNS, height / width,
                            2, title)
    for (name, picture, maps), axes in zip(rows, groups, strict=True):
        show(axes[0], enlarge(picture), literal(name), mark)
        for panel, (words, weights) in zip(axes[1:], maps, strict=True):
            show(panel, overlay(picture, weights), f'{words}\n{range_and_sum(weights)}', mark)
    return figure


def range_and_sum(weights):
    """The numbers of a map, for its title: each map has its own colours, and not all sum to 1."""
    low, high = percentage(float(weights.min())), percentage(float(weights.max()))
    return f'{low} to {high} %, sum {100 * float(weights.sum()):.0f} %'


def percentage(fraction):
    return f'{100 * fraction:.{1 if fraction >= ONE_DECIMAL_FROM else 2}f}'
