"""Multi-label data: the evaluation by mean average precision, and the keys that go with it.

n images, K classes. Scores of all images are needed at once for the ranks of an image among them:
5 n K bytes on each process.
"""
import numpy as np
import paddle
import paddle.nn.functional as F

from common.core import dist
from common.core.errors import InputError
from common.train.engine import logits_of


def check_keys(config):
    """Raises InputError for a config that trains multi-label data with another loss than bce."""
    if config.DATA.MULTI_LABEL and not config.EVAL and config.TRAIN.LOSS != 'bce':
        raise InputError(f'TRAIN.LOSS: got {config.TRAIN.LOSS}, expected bce with '
                         f'DATA.MULTI_LABEL (-o TRAIN.LOSS=bce), since an image may have several '
                         f'classes or none')


def check_same_labels(config, metadata, file):
    """Raises InputError where a file's model was trained on multi-label data, and the evaluation
    would ask it for the one class of an image.

    Args:
        config: of the evaluation.
        metadata: of the file.
        file: its path.
    """
    stated = metadata.get('config')
    stated = stated.get('DATA') if isinstance(stated, dict) else None
    if isinstance(stated, dict) and stated.get('MULTI_LABEL') is True \
            and not config.DATA.MULTI_LABEL:
        raise InputError(f'{file}: got a multi-label model, expected -o DATA.MULTI_LABEL=true '
                         f'beside it')


def average_precision(scores, is_positive):
    """The average precision of one class: the sum over the thresholds of (R[t] - R[t-1]) * P[t].

    Each score is a threshold, from the highest on; images of the same score come together.

    Args:
        scores: float [n].
        is_positive: bool [n], which images have the class.

    Returns:
        A float in [0, 1]; None if no image has the class.

    Source: average_precision_score of scikit-learn, which gives 0 where this is None.
    """
    if not is_positive.any():
        return None
    order = np.argsort(-scores, kind='stable')
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of runs of equal scores
    hits = np.cumsum(is_positive[order])[ends]
    return float((np.diff(hits, prepend=0) * (hits / (ends + 1))).sum() / hits[-1])


@paddle.no_grad()
def evaluate_multi_label(model, batches, precision, num_classes, observe=None):
    """Loss and average precision over the batches of all ranks; each image counts once.

    Args:
        model: a Layer (not its DataParallel: ranks may have different numbers of batches).
        batches: iterator of (images [B, 3, H, W], targets [B, K] of zeros and ones).
        precision: common.train.precision.Precision.
        num_classes: K.
        observe: called with the logits of each batch, float32 [B, K]; or None.

    Returns:
        dict: loss (binary cross entropy, mean over images and classes, without weights), mAP (the
        mean over the classes that some image has), AP (a list, an entry for each class, None where
        no image has it), as fractions of 1, and seen, the number of images.

    Raises:
        InputError: there is no image, or none that has a class.
    """
    model.eval()
    loss = paddle.zeros([1], 'float64')
    scores, positive = [np.zeros([0, num_classes], np.float32)], [np.zeros([0, num_classes], bool)]
    for images, target in batches:
        logits = logits_of(model, images, precision)                     # [B, K]
        if observe:
            observe(logits)
        loss += F.binary_cross_entropy_with_logits(logits, target, reduction='none') \
            .mean(axis=1).astype('float64').sum()
        scores.append(logits.numpy())
        positive.append(target.numpy() > 0)
    scores = dist.gather_rows(np.concatenate(scores))                    # [n, K]
    positive = dist.gather_rows(np.concatenate(positive))
    if not len(scores):
        raise InputError('evaluation: got no image')
    found = [average_precision(scores[:, k], positive[:, k]) for k in range(num_classes)]
    known = [value for value in found if value is not None]
    if not known:
        raise InputError('evaluation: got no image that has a label, expected some')
    return {'loss': dist.all_reduce_sum(loss).item() / len(scores), 'mAP': float(np.mean(known)),
            'AP': found, 'seen': len(scores)}
