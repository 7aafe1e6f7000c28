"""Early stopping: a run ends when TRAIN.PATIENCE evaluations in a row were no better."""
from common.train.results import is_count, is_fraction


class Patience:
    """Counts the evaluations since the best one.

    What it knows is its own, and a checkpoint keeps it: best.pdparams may be newer than the
    checkpoint, or could not be written, and neither may change when the run ends.

    Args:
        limit: how many evaluations may be no better, one after the other; None has no limit.
        state: what `state` gave before, or None.

    Attributes:
        best: the highest score so far, or None.
        count: evaluations since then.
    """

    def __init__(self, limit, state=None):
        self.limit = limit
        self.best, self.count = (state['best'], state['count']) if state else (None, 0)

    def update(self, score):
        """Takes the score of an evaluation into account."""
        if self.best is None or score > self.best:
            self.best, self.count = score, 0
        else:
            self.count += 1

    @property
    def is_over(self):
        """Whether the run is to end."""
        return self.limit is not None and self.count >= self.limit

    def state(self):
        """What a checkpoint keeps; None without a limit, as in a run that has never had one."""
        return None if self.limit is None else {'best': self.best, 'count': self.count}


def is_patience(value):
    """Whether a value is what `Patience.state` gives."""
    return value is None or isinstance(value, dict) and value.keys() == {'best', 'count'} \
        and is_count(value['count']) and (value['best'] is None or is_fraction(value['best']))
