"""Bilinear sampling of a map, each head at coordinates of its own.

Letters: B batch, H W map, n heads, P parts (keys and values), d channels of a part of a head, nh nw
windows along H and W, nW = nh * nw, s samples along each side of a window.
"""
import paddle
import paddle.nn.functional as F

from common.core import compat

FORMS = ('auto', 'gather', 'grid_sample')
# How many numbers are gathered at a time: what fits a cache.
MOST_GATHERED = 1 << 20


def bilinear_sample(features, columns, rows, parts=1, form='auto'):
    """Samples a map bilinearly, zero outside of it; a coordinate that is NaN gives NaN.

    Args:
        features: [B, H, W, P * n * d].
        columns, rows: [B, nh, nw, n, s], in pixels: a window's samples are the grid of its columns
            and rows.
        parts: P.
        form: 'gather' is the fast one on a CPU, eager and exported (a third of the time of the
            other, forward and backward); 'grid_sample' is Paddle's operator, for a GPU. Both give
            the same up to rounding. 'auto' looks at Paddle's device.

    Returns:
        [B * nW, n, s * s, P * d], the parts of a head side by side.
    """
    _, H, W, channels = features.shape
    n, s = columns.shape[3:]
    d = channels // (parts * n)
    if form == 'gather' or form == 'auto' and paddle.get_device() == 'cpu':
        features = features.reshape([-1, parts, n, d]).transpose([0, 2, 1, 3])
        features = features.reshape([-1, parts * d])                       # [B * H * W * n, P d]
        samples = gather_samples(features, columns, rows, H, W)
    else:
        features = features.reshape([-1, H * W, parts, n, d]).transpose([0, 3, 2, 4, 1])
        features = features.reshape([-1, parts * d, H, W])                 # [B * n, P d, H, W]
        samples = grid_samples(features, columns, rows)
    return samples.reshape([-1, n, s * s, parts * d])


def gather_samples(features, columns, rows, H, W):
    """One gather of four rows for each sample, and a product with their weights.

    Args:
        features: [B * H * W * n, D], the head's index fastest.
        columns, rows: [B, nh, nw, n, s], in pixels.

    Returns:
        [B * nW * n * s * s, 1, D]
    """
    n, s = columns.shape[3:]
    head = paddle.arange(n, dtype='int32').reshape([n, 1, 1])
    image = paddle.arange(paddle.shape(columns)[0], dtype='int32').reshape([-1, 1, 1, 1, 1, 1])
    x, weight_x = linear_weights(columns, W)                               # [B, nh, nw, n, s, 2]
    y, weight_y = linear_weights(rows, H)
    # compat: integer-factor (each term has its own factor)
    y = (image * (H * W * n) + y * (W * n)).reshape([-1, 2 * s, 1])
    x = (x * n + head).reshape([-1, 1, 2 * s])
    weight = paddle.bmm(weight_y.reshape([-1, 2 * s, 1]), weight_x.reshape([-1, 1, 2 * s]))

    def corners(pairs):
        """[B nW n, 2 s, 2 s] -> [B nW n s s, 4], the four pixels around each sample together"""
        pairs = pairs.reshape([-1, s, 2, s, 2]).transpose([0, 1, 3, 2, 4])
        return pairs.reshape([-1, 4])

    index = corners(y + x).unsqueeze(2)                                    # [B nW n s s, 4, 1]
    weight = corners(weight).unsqueeze(1).astype(features.dtype)           # [B nW n s s, 1, 4]
    if not paddle.in_dynamic_mode():
        return paddle.bmm(weight, paddle.gather_nd(features, index))
    step = max(1, MOST_GATHERED // (4 * features.shape[1]))
    samples = [paddle.bmm(weight[i:i + step], paddle.gather_nd(features, index[i:i + step]))
               for i in range(0, len(weight), step)]
    return samples[0] if len(samples) == 1 else paddle.concat(samples)     # [B nW n s s, 1, D]


def linear_weights(coordinate, size):
    """The two pixels around each coordinate of an axis of `size` pixels, and their weights in a
    linear interpolation, on a new last axis of 2.

    A pixel outside [0, size) has weight 0 and an index inside.
    """
    low = paddle.floor(coordinate)  # compat: detach (it would be floor(coordinate.detach()))
    fraction = coordinate - low
    index = paddle.stack([low, low + 1], axis=-1)
    inside = paddle.logical_and(index >= 0, index <= size - 1)
    weight = paddle.stack([1 - fraction, fraction], axis=-1) * inside.astype(coordinate.dtype)
    # not a clip: a coordinate that is NaN must not become an index either
    return paddle.where(inside, index, paddle.zeros_like(index)).astype('int32'), weight


def grid_samples(features, columns, rows):
    """The same by grid_sample, which exports to ONNX (opset 16 and later).

    Args:
        features: [B * n, D, H, W].
        columns, rows: [B, nh, nw, n, s], in pixels.

    Returns:
        [B * nW, n, s * s, D]
    """
    _, D, H, W = features.shape
    _, nh, nw, n, s = columns.shape
    if H == 1 or W == 1:  # grid_sample would put every coordinate on the only pixel
        features = F.pad(features, [0, int(W == 1), 0, int(H == 1)])
        H, W = max(H, 2), max(W, 2)
    # grid_sample's coordinates are -1 at the first pixel's centre and 1 at the last one's
    columns = columns * (2 / (W - 1)) - 1
    rows = rows * (2 / (H - 1)) - 1
    columns = columns.transpose([0, 3, 1, 2, 4]).reshape([-1, nh, 1, nw, s])
    rows = rows.transpose([0, 3, 1, 4, 2]).reshape([-1, nh, s, nw, 1])
    samples = compat.grid_sample(features, columns, rows, (nh * s, nw * s))  # [B n, D, nh s, nw s]
    samples = samples.reshape([-1, s, nw, s]).transpose([0, 2, 1, 3])      # [B n D nh, nw, s, s]
    samples = samples.reshape([-1, n, D, nh * nw, s * s]).transpose([0, 3, 1, 4, 2])
    return samples.astype(features.dtype)
