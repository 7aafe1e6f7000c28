"""Where a model looks: its attention weights as maps over an image.

    from common.attention_maps import attention_maps, rollout
    maps = attention_maps(model, pixels)      # [n, h, w], a map for each head
    whole = rollout(model, pixels)            # [h, w], several layers together

Every kind of attention is a weighted sum over the tokens of its layer: window attention over those
of a window (shifted and padded as the layer does it), attention in learned windows over samples,
each a bilinear mean of four tokens. So weights can be put back to the tokens exactly. What falls on
padding, or on samples outside the map, is not in a map.

Letters: N tokens (class token first, if there is one), h w map in tokens, n heads, s window side,
M = s * s, nW windows.
"""
from typing import NamedTuple

import numpy as np
import paddle

from common.apis import Preprocessing
from common.core.errors import InputError
from common.data.batches import Normalize
from common.layers.classifier import ImageClassifier
from common.layers.windows import pad_map, window_partition


def attention_maps(model: ImageClassifier, image: np.ndarray | paddle.Tensor, layer: int = -1,
                   head: int | None = None, query: tuple[int, int] | None = None) -> np.ndarray:
    """How much a layer's heads look at each part of an image.

    Args:
        model: of init_model or create_model; it is put into evaluation mode.
        image: one image: uint8 [1, 3, H, W] (pixels, as pixel_batches gives them; normalised here)
            or float [1, 3, H, W] (normalised already), numpy or tensor.
        layer: index of `model.cells()`, negative from the end.
        head: one head only, negative from the end; None is all.
        query: (row, column) of a pixel of the image: what its token looks at. None is what the
            classifier reads: the class token, or the mean over all tokens of the map.

    Returns:
        float32 [n, h, w] of numpy, [1, h, w] with `head`; h, w are the layer's map in tokens. A map
        sums to at most 1: the rest is the class token's own, and what falls outside the map.

    Raises:
        InputError: an image of another shape; a layer, head or query that is not there.

    Source: the maps of DINO (arXiv 2104.14294), for all models of this project.

    Examples:
        >>> import numpy as np
        >>> from common.apis import init_model
        >>> from common.attention_maps import attention_maps
        >>> image = np.zeros([1, 3, 32, 32], np.uint8)
        >>> attention_maps(init_model('vit_digits'), image).shape
        (4, 4, 4)
    """
    image = model_input(model, image)
    with paddle.no_grad():
        attention = read_layers(model, image, [layer])[0]
    row = row_of_query(model, attention, image.shape[2:], query)
    maps = attention.on_map(attention.spread(row))                         # [n, h, w]
    if head is None:
        return maps
    if not -len(maps) <= head < len(maps):
        raise InputError(f'head: got {head}, expected {-len(maps)} to {len(maps) - 1}')
    return maps[head][np.newaxis]


def rollout(model: ImageClassifier, image: np.ndarray | paddle.Tensor,
            query: tuple[int, int] | None = None) -> np.ndarray:
    """Attention rollout: how much of each part of the image reaches what the classifier reads.

    The product of (A + I) / 2 over the layers, A a layer's mean over the heads; rows of (A + I) are
    divided by their sum, which is 2 but where weights fall outside the map. It follows the tokens
    through attention and skip connections only, not through convolutions or MLPs.

    A product needs the same tokens in all layers: all layers of a model of one stage have them, and
    those of the last stage of other models.

    Args:
        model, image, query: see attention_maps.

    Returns:
        float32 [h, w] of numpy; without a class token it sums to 1.

    Raises:
        InputError: as attention_maps; or the last stage has no attention.

    Source: "Quantifying Attention Flow in Transformers" (arXiv 2005.00928).

    Examples:
        >>> import numpy as np
        >>> from common.apis import init_model
        >>> from common.attention_maps import rollout
        >>> rollout(init_model('vit_digits'), np.zeros([1, 3, 32, 32], np.uint8)).shape
        (4, 4)
    """
    image = model_input(model, image)
    layers = layers_of_same_tokens(model, image)
    return roll_out(layers, row_of_query(model, layers[-1], image.shape[2:], query))


class AttentionWeights(NamedTuple):
    """The attention of one layer in one image, all of numpy.

    Tokens have the numbers 1 to N; 0 is what is not in the image.
    """

    weights: np.ndarray    # float [nW, n, M, M], rows of sum 1; one window if all see each other
    queries: np.ndarray    # int [nW, M]: the token of each row
    keys: np.ndarray       # int [nW, n, M, t]: the t tokens that each column is made of
    fractions: np.ndarray  # float [nW, n, M, t]: and which fraction of the column each is
    size: tuple            # (h, w)
    prefix: int            # tokens before those of the map

    def spread(self, row):
        """row [N], a weight for each token as a query -> what the tokens get of it by each head,
        [n, N]: the product of the row and each head's matrix."""
        row = np.append(0.0, row)
        got = np.einsum('wnqk,wq->wnk', self.weights, row[self.queries])    # [nW, n, M]
        got = got[..., np.newaxis] * self.fractions                         # [nW, n, M, t]
        return np.stack([
            np.bincount(self.keys[:, head].ravel(), got[:, head].ravel(), len(row))[1:]
            for head in range(got.shape[1])])

    def inside(self):
        """The sum of each token's weights on tokens, [N]; the mean over the heads."""
        kept = (self.fractions * (self.keys > 0)).sum(axis=-1)                 # [nW, n, M]
        sums = np.zeros(1 + self.prefix + self.size[0] * self.size[1])
        sums[self.queries] = np.einsum('wnqk,wnk->wq', self.weights, kept) / kept.shape[1]
        return sums[1:]

    def on_map(self, tokens):
        """[..., N] -> float32 [..., h, w]"""
        patches = tokens[..., self.prefix:]
        return patches.reshape(*patches.shape[:-1], *self.size).astype(np.float32)


def roll_out(layers, row):
    """Rollout of some AttentionWeights, in the order of the layers, from a row [N]: float32 [h, w].

    The row is multiplied with the last layer's matrix first: no product of matrices is needed.
    """
    for attention in reversed(layers):
        row = row / (1.0 + attention.inside())
        row = row + attention.spread(row).mean(axis=0)
    return layers[-1].on_map(row)


def row_of_query(model, attention, image_size, query):
    """The weight of each token as a query, float [N], of sum 1; see attention_maps."""
    h, w = attention.size
    row = np.zeros(attention.prefix + h * w)
    if query is None and model.reads_class_token:
        row[0] = 1.0
    elif query is None:
        row[attention.prefix:] = 1.0 / (h * w)
    else:
        check_query(query, image_size)
        (y, x), (height, width) = query, image_size
        row[attention.prefix + int(y * h / height) * w + int(x * w / width)] = 1.0
    return row


def check_query(query, image_size):
    """Raises InputError for a (row, column) that is not in an image of (height, width)."""
    (row, column), (height, width) = query, image_size
    if not (0 <= row < height and 0 <= column < width):
        raise InputError(f'query: got {row},{column}, expected a row below {height} and a column '
                         f'below {width}')


def model_input(model, image):
    """An image of attention_maps as the model's input; puts the model into evaluation mode."""
    model.eval()
    image = image if isinstance(image, paddle.Tensor) else paddle.to_tensor(image)
    if image.ndim != 4 or list(image.shape[:2]) != [1, 3]:
        raise InputError(f'image: got shape {list(image.shape)}, expected [1, 3, H, W]')
    if image.dtype == paddle.uint8:
        preprocessing = Preprocessing.of(model.config)
        image = Normalize(preprocessing.mean, preprocessing.std)(image)
    return image.astype(next(iter(model.parameters())).dtype)


def layers_of_same_tokens(model, image):
    """The AttentionWeights of the last stage, see rollout. image: of model_input."""
    with paddle.no_grad():
        last = [one for one in model.attention_passes(image) if one.in_last_stage]
        if not last:
            raise InputError('rollout: the last stage has no layer with attention')
        return [read_pass(one) for one in last]


def read_layers(model, image, layers):
    """The AttentionWeights of some layers. image: of model_input."""
    return [read_pass(one) for one in model.attention_passes(image, layers)]


def read_pass(one):
    """The AttentionWeights of an AttentionPass over the tokens [1, N, C]."""
    layer, h, w = one.layer, one.h, one.w
    if one.weights.ndim == 4:
        return full_attention(one.weights, h, w)
    weights = to_numpy(one.weights[0])                                     # [nW, n, M, M]
    numbers = paddle.arange(1, h * w + 1, dtype='float32').reshape([1, h * w, 1])
    if hasattr(layer, 'coordinates'):  # learned windows
        numbers = pad_map(numbers.reshape([1, h, w, 1]), *layer.padding(h, w))
        queries = to_numpy(window_partition(numbers, layer.window_size)[:, :, 0])  # [nW, M]
        keys, fractions = sampled_tokens(
            *layer.coordinates(one.tokens.reshape([1, h, w, -1])), h, w)
    else:
        # the layer itself says which tokens are in which window, and pads with zeros
        queries = to_numpy(layer.partition(numbers, h, w)[:, :, 0])
        keys = queries[:, np.newaxis, :, np.newaxis].repeat(weights.shape[1], axis=1)
        fractions = np.ones_like(keys)
    return AttentionWeights(weights, queries.astype(np.int64), keys.astype(np.int64), fractions,
                            (h, w), 0)


def full_attention(weights, h, w):
    """[1, n, N, N] -> AttentionWeights of tokens that all see each other."""
    weights = to_numpy(weights)
    _, heads, tokens, _ = weights.shape
    queries = np.arange(1, tokens + 1)[np.newaxis]                         # [1, N]
    keys = queries[:, np.newaxis, :, np.newaxis].repeat(heads, axis=1)     # [1, n, N, 1]
    return AttentionWeights(weights, queries, keys, np.ones(keys.shape), (h, w), tokens - h * w)


def sampled_tokens(columns, rows, h, w):
    """The four tokens around each sample, 0 outside the map, and their fractions
    of the sample.

    Args:
        columns, rows: tensors [1, nh, nw, n, s]; a window's samples are their grid.

    Returns:
        int and float [nW, n, M, 4].
    """
    x, fraction_x = adjacent_indices(to_numpy(columns), w)                          # [nW, n, s, 2]
    y, fraction_y = adjacent_indices(to_numpy(rows), h)
    x, fraction_x = x[:, :, None, :, None, :], fraction_x[:, :, None, :, None, :]
    y, fraction_y = y[:, :, :, None, :, None], fraction_y[:, :, :, None, :, None]
    keys = np.where((x >= 0) & (y >= 0), y * w + x + 1, 0)                 # [nW, n, s, s, 2, 2]
    shape = (*keys.shape[:2], -1, 4)
    return keys.reshape(shape), (fraction_y * fraction_x).reshape(shape)


def adjacent_indices(coordinates, side):
    """The two indices around coordinates [1, nh, nw, n, s], -1 outside [0, side), and the fraction
    that each has in a linear interpolation; both [nW, n, s, 2]."""
    coordinates = coordinates.reshape(-1, *coordinates.shape[3:])
    low = np.floor(coordinates)
    index = np.stack([low, low + 1], axis=-1)
    fraction = np.stack([1 - (coordinates - low), coordinates - low], axis=-1)
    return np.where((index >= 0) & (index < side), index, -1).astype(np.int64), fraction


def to_numpy(tensor):
    return tensor.astype('float32').numpy()
