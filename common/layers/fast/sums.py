"""Sums, means and scales over axes for which Paddle's own operators are slow on a CPU."""
import paddle
import paddle.nn.functional as F

from common.layers.fast.base import Fast, is_fast


def sum_rows(x):
    """[M, C] -> [C], by a product with ones."""
    return paddle.matmul(paddle.ones([1, x.shape[0]], x.dtype), x).reshape([-1])


def mean_rows(x):
    """[B, M, C] -> [B, C], by a product; Paddle's mean takes ten times as long."""
    if not is_fast(Fast):
        return x.mean(axis=1)
    average = paddle.full([1, x.shape[1]], 1 / x.shape[1], x.dtype)
    return paddle.matmul(average, x).squeeze(1)


def scale_channels(x, mean=None, scale=None, shift=None):
    """(x - mean) * scale + shift for x [B, C, ...] and [C], by the operator of BatchNorm: Paddle
    has no fast product or sum over an axis that is not the last. Without gradients."""
    ones, zeros = (paddle.full([x.shape[1]], value, x.dtype) for value in (1.0, 0.0))
    epsilon = 1e-9  # Paddle's smallest; the variance and it are 1 together
    return F.batch_norm(x, zeros if mean is None else mean, ones - epsilon,
                        ones if scale is None else scale, zeros if shift is None else shift,
                        epsilon=epsilon)


def scale_rows(x, mean=None, scale=None):
    """(x - mean) * scale for x [M, C] and [M, 1]; see scale_channels."""
    mean, scale = (value if value is None else value.reshape([-1]) for value in (mean, scale))
    return scale_channels(x.unsqueeze(0), mean, scale).squeeze(0)
