"""Two models on the same images: what got better, what got worse, and whether it may be chance."""
from dataclasses import dataclass

import numpy as np

from common.core.errors import InputError, printable


@dataclass(frozen=True)
class Comparison:
    """A model beside another one, the one before.

    Attributes:
        name: of the other one.
        other: Predictions of the other one, in the order of this one's.
        better, worse: int64 arrays of indices: images that this one alone has right, and the other
            one alone. The first ones have changed most, by the probability of the label.
        both_right, both_wrong: how many images.
        p_value: of McNemar's test, exact for any number of images.
    """

    name: str
    other: object
    better: np.ndarray
    worse: np.ndarray
    both_right: int
    both_wrong: int
    p_value: float


def compare(predictions, other, name):
    """The Comparison of some Predictions with those of another model.

    Raises:
        InputError: they are not for the same images, or not for the same labels.
    """
    other = aligned(predictions, other, name)
    here, there = predictions.correct, other.correct
    gain = predictions.label_scores - other.label_scores
    better, worse = np.flatnonzero(here & ~there), np.flatnonzero(~here & there)
    return Comparison(
        printable(name), other, better[np.argsort(-gain[better], kind='stable')],
        worse[np.argsort(gain[worse], kind='stable')], int((here & there).sum()),
        int((~here & ~there).sum()), mcnemar(len(better), len(worse)))


def aligned(predictions, other, name):
    """The other Predictions with the images in the order of the first ones.

    Raises:
        InputError: see `compare`.
    """
    places = {file: index for index, file in enumerate(other.names)}
    missing = [file for file in predictions.names if file not in places]
    if missing or len(other) != len(predictions) or len(places) != len(other):
        example = f', such as {missing[0]}' if missing else ''
        raise InputError(f'-compare: {name}: got predictions of {len(other)} images, expected the '
                         f'same {len(predictions)} images; {len(missing)} are missing{example}')
    order = np.array([places[file] for file in predictions.names])
    arrays = {field: getattr(other, field)[order] for field in
              ('labels', 'top', 'scores', 'label_scores', 'losses', 'ranks')}
    names = np.array(predictions.class_names, object)[predictions.labels]
    other_names = np.array(other.class_names, object)[arrays['labels']]
    different = np.flatnonzero(names != other_names)
    if len(different):
        first = int(different[0])
        raise InputError(f'-compare: {name}: {predictions.names[first]}: got the label '
                         f'{other_names[first]!r}, expected {names[first]!r}, as here; '
                         f'{len(different)} labels differ')
    return type(other)(predictions.names, other.class_names, **arrays)


def mcnemar(better, worse):
    """The p-value of McNemar's test: of at least so uneven a split of the images that one model
    alone has right, if either model were as likely to be the one; by the binomial distribution, two
    sided, for any number of images."""
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0
