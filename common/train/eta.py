"""How long the rest of a run will take, by what its steps and evaluations have taken so far."""
import datetime
import time


class Eta:
    """All the time since its start is either of the steps or of the evaluations, so that loading,
    waiting and saving count too. The time before a run was stopped and gone on with does not.

    Args:
        clock: function that gives seconds.
    """

    def __init__(self, clock=time.perf_counter):
        self.clock = clock
        self.mark = clock()
        self.steps, self.step_time = 0, 0.0
        self.evaluations, self.evaluation_time = 0, 0.0

    def steps_done(self, count):
        """Counts optimiser steps; the time since the last call of either kind was theirs."""
        self.steps += count
        self.step_time += self.lap()

    def evaluation_done(self):
        """Counts all that is evaluated after an epoch, in the same way."""
        self.evaluations += 1
        self.evaluation_time += self.lap()

    def lap(self):
        before, self.mark = self.mark, self.clock()
        return self.mark - before

    def left(self, steps, evaluations):
        """The seconds that as many steps and evaluations will take; an evaluation counts only when
        there has been one."""
        return steps * self.step_time / max(self.steps, 1) \
            + evaluations * self.evaluation_time / max(self.evaluations, 1)


def evaluations_left(epoch, num_epochs, every):
    """How many evaluations follow from the middle of an epoch, from 1, to the end of the last one.

    Args:
        epoch: the present one.
        num_epochs: of the whole run; the last one is always evaluated.
        every: epochs between two evaluations.
    """
    return num_epochs // every - (epoch - 1) // every + bool(num_epochs % every)


def duration_text(seconds):
    """'1:02:03', or '2 days, 1:02:03'."""
    return str(datetime.timedelta(seconds=round(seconds)))
