"""Losses over logits [B, K]; all are computed in float32 at least, and are means over the batch.

Weights of the classes, w [K] (the key TRAIN.CLASS_WEIGHTS):

- Cross entropy: an image's loss times w[label], as if it were there w[label] times. Where a target
  mixes several images, each one's part has its own weight.
- Binary cross entropy: the answer "yes" of class k times w[k] (PyTorch's pos_weight).

The sum is divided by B, as without weights, and as PyTorch's CrossEntropyLoss(weight) does with
targets that are distributions. With labels PyTorch divides by the sum of the labels' weights, so
that a step would depend on how its batch is split into micro-batches and ranks; here it does not.
Label smoothing is different from PyTorch's, too, which weighs the spread part class by class: an
image of a frequent class would get most of its target from rare classes with their large weights.
Here the spread part has the image's own weight.
"""
from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F

from common.config import ConfigNode


def soft_target_cross_entropy(logits, target):
    """Cross entropy with a distribution as target.

    Args:
        logits: [B, K].
        target: [B, K], rows sum to 1.
    """
    return -(target * F.log_softmax(at_least_float32(logits), axis=-1)).sum(axis=-1).mean()


class LabelSmoothingCrossEntropy:
    """Cross entropy with the fraction s, `smoothing`, of the target spread evenly over all classes.

    (1 - s) * -log p[label] + s * mean over k of -log p[k], times w[label] (arXiv 1512.00567, as
    timm). A target that is already a distribution [B, K] has its smoothing, of Mixup, and is used
    as it is.

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
            if weights is not None:
                target = self.weighted(target, weights)
            return soft_target_cross_entropy(logits, target)
        if self.smoothing == 0.0 and weights is None:
            return F.cross_entropy(at_least_float32(logits), target)
        log_p = F.log_softmax(at_least_float32(logits), axis=-1)          # [B, K]
        if weights is not None:
            log_p = log_p * weights.index_select(target).unsqueeze(1)
        hit = paddle.take_along_axis(log_p, target.unsqueeze(1), axis=1)  # [B, 1]
        return -((1.0 - self.smoothing) * hit.mean() + self.smoothing * log_p.mean())

    def weighted(self, target, weights):
        """The target [B, K] of weights [K]; of what is spread each row keeps its own share."""
        s, K = self.smoothing, target.shape[1]
        parts = (target - s / K) * weights                                # [B, K], (1 - s) of them
        return parts + s / K / (1.0 - s) * parts.sum(axis=1, keepdim=True)


class BinaryCrossEntropy:
    """The mean over all classes of the cross entropy of K yes-or-no questions (arXiv 2110.00476).

    Args:
        smoothing: s, which makes a label the target on = 1 - s + s / K, off = s / K.
        threshold: a soft target above it counts as 1, else as 0; None leaves it as it is.
        sum_classes: whether to sum over the classes instead of averaging, as in DeiT III.
        weights: w, float [K], or None for 1.

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
        spread = self.smoothing / K
        if target.ndim == 1:
            target = F.label_smooth(F.one_hot(target, K), epsilon=self.smoothing)
        if self.threshold is not None:
            target, spread = target > self.threshold, 0.0
        target = target.astype(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction='none')  # [B, K]
        if self.weights is not None:
            more = (weights_like(self.weights, logits) - 1.0) * (target - spread)
            loss = loss - more * F.log_sigmoid(logits)
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

    Examples:
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
