"""What is kept of each image while a model is evaluated: enough for every figure of a report, and
not its logits, which would take 200 MB for 50,000 images and 1,000 classes.

n images, K classes, k classes that are kept by name.
"""
from dataclasses import dataclass

import numpy as np
import paddle

from common.core import dist
from common.core.errors import RunError, printable

TOP = 5  # classes that are kept of each image, unless more are asked for


@dataclass(frozen=True)
class Predictions:
    """What a model says about the images of a data set.

    Attributes:
        names: list of n printable str, the images' names within the data set.
        class_names: list of K printable str.
        labels: int64 [n].
        top: int64 [n, k], the most probable classes, the first one first.
        scores: float64 [n, k], their probabilities.
        label_scores: float64 [n], the probability of the label.
        losses: float64 [n], the cross entropy.
        ranks: int64 [n], the place of the label among all classes, from 1.
    """

    names: list
    class_names: list
    labels: np.ndarray
    top: np.ndarray
    scores: np.ndarray
    label_scores: np.ndarray
    losses: np.ndarray
    ranks: np.ndarray

    def __len__(self):
        return len(self.labels)

    @property
    def predicted(self):
        """int64 [n], the most probable class."""
        return self.top[:, 0]

    @property
    def confidences(self):
        """float64 [n], its probability."""
        return self.scores[:, 0]

    @property
    def correct(self):
        """bool [n]"""
        return self.predicted == self.labels


class Collector:
    """Makes Predictions of the batches of an evaluation; on several ranks each adds its own.

    Args:
        labels: int64 [n], those of the data set.
        topk: how many classes are kept of each image; all if there are fewer.
    """

    # columns of the table before the classes and their probabilities
    SEEN, LABEL_SCORE, LOSS, RANK, FIRST = range(5)

    def __init__(self, labels, topk=TOP):
        self.labels = np.asarray(labels)
        self.topk = topk
        self.table = None  # float64 [n, FIRST + 2 k]; one sum over the ranks makes it whole

    def add(self, logits, indices):
        """Adds a batch.

        Args:
            logits: float [B, K] of numpy.
            indices: list of B, which images they are of.
        """
        B, K = logits.shape
        k = min(self.topk, K)
        if self.table is None:
            self.table = np.zeros((len(self.labels), self.FIRST + 2 * k))
        logits = logits.astype(np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)               # [B, K]
        log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))       # [B, 1]
        rows, labels = np.arange(B), self.labels[indices]
        loss = (log_sum - shifted[rows, labels, np.newaxis])[:, 0]         # [B]
        top = top_classes(shifted, k)                                      # [B, k]
        scores = np.exp(np.take_along_axis(shifted, top, axis=1) - log_sum)
        # of equal logits the class with the smaller number comes first, as in `top`
        own = shifted[rows, labels, np.newaxis]                            # [B, 1]
        before = np.arange(K) < labels[:, np.newaxis]                      # [B, K]
        rank = 1 + (shifted > own).sum(axis=1) + ((shifted == own) & before).sum(axis=1)
        self.table[indices] = np.column_stack(
            [np.ones(B), np.exp(-loss), loss, rank, top, scores])

    def predictions(self, names, class_names):
        """The Predictions of all ranks, on every rank.

        Args:
            names: iterable of n, the images' names.
            class_names: list of K.
        """
        table = self.table
        if dist.world_size() > 1:
            k = min(self.topk, len(class_names))
            own = np.zeros((len(self.labels), self.FIRST + 2 * k)) if table is None else table
            table = dist.all_reduce_sum(paddle.to_tensor(own, dtype='float64')).numpy()
        if table is None or not (table[:, self.SEEN] == 1).all():
            raise RunError('report: not every image of the data set was evaluated once')
        k = (table.shape[1] - self.FIRST) // 2
        return Predictions(
            [printable(name) for name in names], [printable(name) for name in class_names],
            self.labels.astype(np.int64), table[:, self.FIRST:self.FIRST + k].astype(np.int64),
            table[:, self.FIRST + k:], table[:, self.LABEL_SCORE], table[:, self.LOSS],
            table[:, self.RANK].astype(np.int64))


def top_classes(scores, k):
    """The columns of the k largest values of each row of float [B, K], the largest first: int
    [B, k]. Of equal values the smaller column comes first."""
    if 4 * k < scores.shape[1]:  # a full sort of 1,000 classes takes five times as long
        least = -np.partition(-scores, k - 1, axis=1)[:, k - 1:k]          # [B, 1]
        if ((scores >= least).sum(axis=1) == k).all():
            chosen = np.nonzero(scores >= least)[1].reshape(len(scores), k)
            order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind='stable')
            return np.take_along_axis(chosen, order, axis=1)
    return np.argsort(-scores, axis=1, kind='stable')[:, :k]
