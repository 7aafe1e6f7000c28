"""Training sets whose classes have very different numbers of images: which ones an epoch takes.

An epoch has as many images as without. Class k, with n[k] of N images, gets a share of it in
proportion to n[k] ** (1 - x), where x is DATA.BALANCE: 0 is the data's own share, 1 the same for
each class, and 0.5 lies between (the square root of arXiv 1805.00932 and of repeat factors, arXiv
1908.03195).

Different from PyTorch's WeightedRandomSampler, which draws with replacement: a class's number of
images is exact, but for the rounding of one, and within a class each image comes as often as any
other, but for one time. So a class that is too large is seen as a whole over some epochs, and no
image of a small one is left out.
"""
import numpy as np

from common.core.errors import InputError


class BalancedPicker:
    """Chooses the images of an epoch.

    Args:
        labels: int64 [N], the class of each image.
        balance: x, in (0, 1].

    Attributes:
        counts: int64 [C], the images of each class that has some.
        shares: float64 [C], the part of an epoch that each of them gets; the sum is 1.
    """

    def __init__(self, labels, balance):
        order = np.argsort(labels, kind='stable')  # class after class, each in the list's order
        _, starts, self.counts = np.unique(labels[order], return_index=True, return_counts=True)
        self.members = np.split(order, starts[1:])
        weights = self.counts.astype(np.float64) ** (1.0 - balance)
        self.shares = weights / weights.sum()

    def pick(self, count, repeats, random):
        """Indices of images, in no order that matters.

        Args:
            count: how many.
            repeats: TrainSampler's; an index that comes for the t-th time, from 0, is the image's
                own + t * repeats * N, so that all repetitions of an epoch differ.
            random: numpy Generator.

        Returns:
            int64 [count].
        """
        size = sum(map(len, self.members))  # N
        picked = []
        for members, quota in zip(self.members, self.quotas(count, random), strict=True):
            times, rest = divmod(quota, len(members))
            chosen = np.concatenate([np.tile(members, times), random.permutation(members)[:rest]])
            picked.append(chosen + np.arange(quota) // len(members) * (repeats * size))
        return np.concatenate(picked)

    def quotas(self, count, random):
        """How many of `count` images each class gets, int64 [C]: its share, rounded up or down at
        random so that the mean over the epochs is exact, and the sum is `count`."""
        ends = np.cumsum(self.shares) * count
        ends[-1] = count
        return np.diff(np.floor(ends + random.random()).astype(np.int64), prepend=0)

    def describe(self, count):
        """A sentence about the classes' images in an epoch of `count`."""
        given = self.shares * count
        return (f'{len(self.counts)} classes of {self.counts.min()} to {self.counts.max()} images '
                f'give {given.min():.4g} to {given.max():.4g} an epoch; an image comes '
                f'{(given / self.counts).min():.3g} to {(given / self.counts).max():.3g} times')


def build_picker(config, dataset):
    """The BalancedPicker of a config's training set, or None where DATA.BALANCE is 0.

    Raises:
        InputError: the data set has not one class for each image.
    """
    if not config.DATA.BALANCE:
        return None
    labels = getattr(getattr(dataset, 'images', None), 'labels', None)
    if not isinstance(labels, np.ndarray):
        raise InputError(f'DATA.BALANCE: got {config.DATA.BALANCE:g} for a data set whose images '
                         f'have not one label each, expected 0')
    return BalancedPicker(labels, config.DATA.BALANCE)
