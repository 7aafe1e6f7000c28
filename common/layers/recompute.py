"""Gradient checkpointing (arXiv 1604.06174)."""
import paddle
from paddle.distributed.fleet.utils import recompute
from paddle.nn.layer.norm import _BatchNormBase


def recompute_cells(model):
    """Gradient checkpointing: the blocks (`model.cells()`) keep only their input in training and
    run again, with the same random numbers, in the backward pass (arXiv 1604.06174)."""
    for cell in model.cells():
        cell.forward = Recomputed(cell, cell.forward)


class Recomputed:
    """The forward pass of a block, run again in the backward pass while it trains."""

    def __init__(self, cell, forward):
        self.cell = cell
        self.forward = forward
        self.norms = [layer for layer in cell.sublayers() if isinstance(layer, _BatchNormBase)]

    def __call__(self, x, *others):
        # with a frozen stem x has no gradient, and recompute would give the block none
        if not self.cell.training or x.stop_gradient:
            return self.forward(x, *others)
        return recompute(self.run, x, *others)

    def run(self, *inputs):
        """The first pass is without gradients, the second with them: BatchNorm's running
        statistics must not move again in it."""
        momenta = [norm._momentum for norm in self.norms]
        try:
            if paddle.is_grad_enabled():
                for norm in self.norms:
                    norm._momentum = 1.0
            return self.forward(*inputs)
        finally:
            for norm, momentum in zip(self.norms, momenta, strict=True):
                norm._momentum = momentum
