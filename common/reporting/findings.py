"""Which images to look at: mistakes, hits by a narrow margin, labels that may be wrong."""
import numpy as np


def most_confident_mistakes(predictions, count):
    """The indices of the wrong images with the most confident predictions, at most `count`."""
    wrong = np.flatnonzero(~predictions.correct)
    order = np.argsort(-predictions.confidences[wrong], kind='stable')
    return wrong[order][:count].tolist()


def least_confident_hits(predictions, count):
    """The indices of the right images with the least confident predictions, at most `count`."""
    right = np.flatnonzero(predictions.correct)
    order = np.argsort(predictions.confidences[right], kind='stable')
    return right[order][:count].tolist()


def suspicious_labels(predictions):
    """The images whose labels may be wrong, the most suspicious first.

    An image is suspicious if another class than its label is predicted with at least the mean
    probability that this class has on its own images. That is the rule of confident learning
    (arXiv 1911.00068) for the most probable class; images of both classes' kinds and hard images
    are among them, too, so they are to be looked at, not to be thrown away. They are ordered by how
    much more probable the prediction is than the label.

    Returns:
        int64 array of indices.
    """
    K = len(predictions.class_names)
    counts = np.bincount(predictions.labels, minlength=K)
    sums = np.bincount(predictions.labels, predictions.label_scores, K)
    # a class without images has no confidence of its own: nothing is suspected to be of it
    threshold = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)   # [K]
    found = np.flatnonzero(~predictions.correct &
                           (predictions.confidences >= threshold[predictions.predicted]))
    margin = predictions.confidences[found] - predictions.label_scores[found]
    return found[np.argsort(-margin, kind='stable')]
