"""Losses over logits [B, K]; all are computed in float32 at least, and are means over the batch."""
import paddle
import paddle.nn.functional as F


def soft_target_cross_entropy(logits, target):
    """Cross entropy with a distribution as target.

    Args:
        logits: [B, K].
        target: [B, K], rows sum to 1.
    """
    return -(target * F.log_softmax(at_least_float32(logits), axis=-1)).sum(axis=-1).mean()


class LabelSmoothingCrossEntropy:
    """Cross entropy with the share `smoothing` of the target spread evenly over all classes.

    (1 - s) * -log p[label] + s * mean over k of -log p[k] (arXiv 1512.00567, as timm).
    A target that is already a distribution [B, K] is used as it is.
    """

    def __init__(self, smoothing=0.0):
        self.smoothing = smoothing

    def __call__(self, logits, target):
        if target.ndim == 2:
            return soft_target_cross_entropy(logits, target)
        if self.smoothing == 0.0:
            return F.cross_entropy(at_least_float32(logits), target)
        log_p = F.log_softmax(at_least_float32(logits), axis=-1)          # [B, K]
        hit = paddle.take_along_axis(log_p, target.unsqueeze(1), axis=1)  # [B, 1]
        return -((1.0 - self.smoothing) * hit.mean() + self.smoothing * log_p.mean())


def at_least_float32(logits):
    return logits if logits.dtype == paddle.float64 else logits.astype('float32')
