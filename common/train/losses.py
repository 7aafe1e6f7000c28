"""Losses over logits [B, K]; all are computed in float32 at least, and are means over the batch.

With weights of the classes, [K], each term of a class is multiplied by the class's weight, and the
sum is divided by B as without. That is PyTorch's CrossEntropyLoss(weight) with targets that are
distributions. With labels PyTorch divides by the sum of the labels' weights instead, so that a step
would depend on how its batch is split into micro-batches and ranks; here it does not.
"""
from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F

from common.config import ConfigNode


def soft_target_cross_entropy(logits, target, weights=None):
    """Cross entropy with a distribution as target.

    Args:
        logits: [B, K].
        target: [B, K], rows sum to 1.
        weights: [K], or None for 1.
    """
    if weights is not None:
        target = target * weights
    return -(target * F.log_softmax(at_least_float32(logits), axis=-1)).sum(axis=-1).mean()


class LabelSmoothingCrossEntropy:
    """Cross entropy with the fraction s, `smoothing`, of the target spread evenly over all classes.

    (1 - s) * w[label] * -log p[label] + s * mean over k of w[k] * -log p[k] (arXiv 1512.00567, as
    timm). A target that is already a distribution [B, K] is used as it is.

    Args:
        smoothing: s.
        weights: w, float [K], or None for 1.
    """

    def __init__(self, smoothing=0.0, weights=None):
        self.smoothing = smoothing
        self.weights = as_tensor(weights)

    def __call__(self, logits, target):
        weights = weights_like(self.weights, logits)
        if target.ndim == 2:
            return soft_target_cross_entropy(logits, target, weights)
        if self.smoothing == 0.0 and weights is None:
            return F.cross_entropy(at_least_float32(logits), target)
        log_p = F.log_softmax(at_least_float32(logits), axis=-1)          # [B, K]
        if weights is not None:
            log_p = log_p * weights
        hit = paddle.take_along_axis(log_p, target.unsqueeze(1), axis=1)  # [B, 1]
        return -((1.0 - self.smoothing) * hit.mean() + self.smoothing * log_p.mean())


class BinaryCrossEntropy:
    """The mean over all classes of the cross entropy of K yes-or-no questions (arXiv 2110.00476).

    Args:
        smoothing: s, which makes a label the target on = 1 - s + s / K, off = s / K.
        threshold: a soft target above it counts as 1, else as 0; None leaves it as it is.
        sum_classes: whether to sum over the classes instead of averaging, as in DeiT III.
        weights: float [K], of each class's question whatever its answer (`weight` of PyTorch's
            BCEWithLogitsLoss), or None for 1.

    Source: BinaryCrossEntropy of timm 1.0.
    """

    def __init__(self, smoothing=0.0, threshold=None, sum_classes=False, weights=None):
        self.smoothing = smoothing
        self.threshold = threshold
        self.sum_classes = sum_classes
        self.weights = as_tensor(weights)

    def __call__(self, logits, target):
        logits = at_least_float32(logits)
        K = logits.shape[1]
        if target.ndim == 1:
            target = F.label_smooth(F.one_hot(target, K), epsilon=self.smoothing)
        if self.threshold is not None:
            target = target > self.threshold
        loss = F.binary_cross_entropy_with_logits(logits, target.astype(logits.dtype),
                                                  reduction='none')         # [B, K]
        if self.weights is not None:
            loss = loss * weights_like(self.weights, logits)
        return loss.sum(axis=-1).mean() if self.sum_classes else loss.mean()


def build_loss(train: ConfigNode, weights: np.ndarray | None = None
               ) -> Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]:
    """Builds the loss that a config's TRAIN node names.

    Args:
        train: the node; LOSS, LABEL_SMOOTHING and the keys of BCE count.
        weights: float [K], of the classes (common.train.class_weights), or None for 1.

    Returns:
        A function of logits [B, K] and targets, labels [B] or distributions [B, K], that gives the
        mean over the batch.

    Source: the losses of timm, see the classes above.

    Example:
        >>> import math
        >>> import paddle
        >>> from common.config import base_config
        >>> from common.train.losses import build_loss
        >>> loss = build_loss(base_config().TRAIN)
        >>> abs(loss(paddle.zeros([2, 10]), paddle.to_tensor([3, 4])).item() - math.log(10)) < 1e-6
        True
    """
    if train.LOSS == 'bce':
        return BinaryCrossEntropy(train.LABEL_SMOOTHING, train.BCE_THRESHOLD,
                                  train.BCE_SUM_CLASSES, weights)
    return LabelSmoothingCrossEntropy(train.LABEL_SMOOTHING, weights)


def as_tensor(weights):
    """Weights of classes as float64 [K] on the device; None stays None."""
    return None if weights is None else paddle.to_tensor(weights, dtype='float64')


def weights_like(weights, logits):
    """The same in the type in which the loss of some logits is computed."""
    return None if weights is None else weights.astype(at_least_float32(logits).dtype)


def at_least_float32(logits):
    return logits if logits.dtype == paddle.float64 else logits.astype('float32')
