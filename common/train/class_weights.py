"""Weights of the classes in the training loss, for classes of very different numbers of images.

The key TRAIN.CLASS_WEIGHTS is None, a list of one number for each class, which is used as it is, or
'balanced': class k, with n[k] of the n labels of the training set, gets n / (K * n[k]), as
scikit-learn's compute_class_weight, so that each class's weights have the same sum, and the mean
over the labels is 1. K counts the classes that have a label; one that has none keeps 1.

What a loss does with them stands in losses.py. Figures of evaluations are without weights.
"""
import numpy as np

from common.core.errors import InputError
from common.core.label_sets import class_counts


def class_weights(config, images, log):
    """The weights that a config asks for.

    Args:
        config: the run's config.
        images: ImageSource of the training set.
        log: RunLog.

    Returns:
        float64 [K], or None where TRAIN.CLASS_WEIGHTS is None.

    Raises:
        InputError: a list that has not one number for each class, or zeros only.
    """
    wanted, classes = config.TRAIN.CLASS_WEIGHTS, config.MODEL.NUM_CLASSES
    if wanted is None:
        return None
    if wanted == 'balanced':
        weights, text = balanced_weights(class_counts(images.labels, classes)), 'balanced'
    else:
        if len(wanted) != classes:
            raise InputError(f'TRAIN.CLASS_WEIGHTS: got {len(wanted)} numbers, expected '
                             f'{classes}, one for each class (MODEL.NUM_CLASSES)')
        weights, text = np.array(wanted, np.float64), 'as given'
        if not weights.any():
            raise InputError('TRAIN.CLASS_WEIGHTS: got zeros only, expected a number above 0')
    log.info(f'class weights, {text}: {weights.min():.4g} (class {weights.argmin()}) to '
             f'{weights.max():.4g} (class {weights.argmax()})')
    return weights


def balanced_weights(counts):
    """int [K], how often each class is a label -> float64 [K], n / (K * n[k])."""
    has_some = counts > 0
    weights = np.ones(len(counts), np.float64)
    weights[has_some] = counts.sum() / (has_some.sum() * counts[has_some])
    return weights
