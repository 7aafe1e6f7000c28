"""The memory of a training step of any batch, from traces of a few images.

Traces of some batches say what each piece of the model keeps and needs (planning/trace.py); between
and beyond them it is taken for linear. The pieces of the cells that were not run are put in beside
their equals', and the whole is gone through in the order of time.
"""
import dataclasses

from common.planning.trace import TRUNK, trace_step

# The last batch that is traced is the largest one of so few images that the trace itself takes at
# most so many bytes. Large enough, since at a small one gradients outweigh what an image adds.
LEAST, MOST = 4, 32
TRACED_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Curve:
    """A number for each batch: linear between the traced ones, and on from the last two."""
    batches: tuple
    values: tuple

    def at(self, batch):
        last = 1
        while last < len(self.batches) - 1 and batch > self.batches[last]:
            last += 1
        (left, right), (first, second) = (
            pair[last - 1:last + 1] for pair in (self.batches, self.values))
        return first + (second - first) * (batch - left) / (right - left)


@dataclasses.dataclass(frozen=True)
class Step:
    """One piece of a whole step: as Piece, with a Curve each."""
    cell: int
    stage: int
    kept: Curve
    peak: Curve
    gradients: float
    seconds: Curve

    @property
    def is_cell(self):
        return self.cell != TRUNK


def steps_of(lists, batches):
    """The Steps of lists of Piece, which were traced with these batches."""
    def curve(pieces, name):
        return Curve(batches, tuple(getattr(piece, name) for piece in pieces))

    return [Step(pieces[0].cell, pieces[0].stage, curve(pieces, 'kept'), curve(pieces, 'peak'),
                 pieces[0].gradients, curve(pieces, 'seconds'))
            for pieces in zip(*lists, strict=True)]


class Timeline:
    """A training step, from its first forward piece to its last backward piece.

    Args:
        config: of the run.
        recompute: whether with gradient checkpointing.
        target: cpu | gpu, where the run is to be.

    Attributes:
        forward, backward: lists of Step, with all cells.
    """

    def __init__(self, config, recompute=False, target='cpu'):
        trace_step(config, 1, recompute, target)  # what is made once, and kept, falls to it
        traces = [trace_step(config, 1, recompute, target)]
        last = int(min(max(TRACED_BYTES // traces[0].most(), LEAST), MOST))
        batches = 1, last // 2, last
        traces += [trace_step(config, batch, recompute, target) for batch in batches[1:]]
        equal = traces[0].equal
        forward = steps_of([trace.forward for trace in traces], batches)
        backward = steps_of([trace.backward for trace in traces], batches)
        self.forward = [with_cell(forward, equal, step) for step in forward]
        order = [step.cell for step in forward if step.is_cell]
        self.backward = with_equal_cells(backward, order[::-1], equal)

    def peak(self, batch, gradients_share=1.0, accumulate=False):
        """The most that a step needs above what there is at its start, in bytes.

        Args:
            batch: images.
            gradients_share: of the gradients, that this device keeps.
            accumulate: whether the gradients of a micro-batch before this one are there at the
                start.
        """
        now = most = 0.0
        for step in self.forward + self.backward:
            most = max(most, now + max(step.peak.at(batch), step.kept.at(batch)))
            kept = 0.0 if accumulate else step.gradients * gradients_share
            now += step.kept.at(batch) + kept
        return most

    def kept_by_stage(self, batch):
        """What the forward pass keeps, in bytes: {stage: (in the trunk, in the cells)}."""
        found = {}
        for step in self.forward:
            trunk, cells = found.get(step.stage, (0.0, 0.0))
            kept = step.kept.at(batch)
            found[step.stage] = (trunk + kept, cells) if not step.is_cell else \
                (trunk, cells + kept)
        return found

    def seconds(self, batch):
        """About how long the two passes take on the device on which they were traced."""
        return sum(max(step.seconds.at(batch), 0.0) for step in self.forward + self.backward)


def with_cell(steps, equal, step):
    """A step of the forward pass, of a cell that was not run by that of its equal."""
    if step.cell not in equal:
        return step
    same = next(one for one in steps if one.cell == equal[step.cell])
    return dataclasses.replace(same, cell=step.cell, stage=step.stage)


def with_equal_cells(steps, order, equal):
    """The steps of a backward pass, with those of the cells that were not run.

    Args:
        steps: in the order of time.
        order: the indices of all cells, in this order.
        equal: {cell that was not run: the one that was}.
    """
    own = {step.cell: step for step in steps if step.is_cell}
    found, left = [], list(order)
    for step in steps:
        while step.is_cell and left[0] != step.cell:
            found.append(dataclasses.replace(own[equal[left[0]]], cell=left.pop(0)))
        if step.is_cell:
            left.pop(0)
        found.append(step)
    return found
