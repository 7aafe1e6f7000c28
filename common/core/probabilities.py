"""From a classifier's logits to probabilities, and to the classes that are predicted."""
import numpy as np

from common.core.errors import InputError

THRESHOLD = 0.5  # of a multi-label model's probabilities


def softmax(logits):
    """float [B, K] -> float32 [B, K]; each row sums to 1."""
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def sigmoid(logits):
    """float [B, K] -> float32 [B, K], each in [0, 1]."""
    return (0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64))).astype(np.float32)


def probabilities(logits, multi_label=False):
    """What a classifier's logits mean, float32 [B, K]: of a multi-label model each class has a
    sigmoid, else a softmax is over all of them."""
    return sigmoid(logits) if multi_label else softmax(logits)


def predicted(scores, count, threshold=None):
    """The numbers of the predicted classes, the most probable one first.

    Args:
        scores: probabilities, float [K].
        count: how many, where there is no threshold; all if there are fewer.
        threshold: takes the classes of this probability and more.
    """
    if threshold is not None:
        count = int((scores >= threshold).sum())
    return scores.argsort(kind='stable')[::-1][:count]


def check_threshold(name, threshold):
    """Raises InputError for a threshold, named `name`, that is no probability; None is fine."""
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise InputError(f'{name}: got {threshold}, expected a probability from 0 to 1')
