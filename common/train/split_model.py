"""Gradients and weights that are split over the ranks: stages 2 and 3 of ZeRO, TRAIN.SHARDING 2, 3.

In the place of DataParallel. 2: as soon as the backward pass has a gradient, the ranks' are summed
on the rank whose the parameter is (`owners_of`), and the others forget theirs; so a rank keeps
those of its share, and DataParallel's copies of all gradients are not there. 3: also the weights of
the blocks (`model.cells()`) are on their rank only. The others have them from the beginning to the
end of a block's forward pass, and again of its backward pass; what lies outside the blocks stays
whole. Ranks that evaluate have different numbers of batches, so that nothing can be sent within
these: `whole` gives all weights for an evaluation and a save.

The loss is divided by the number of ranks, so that the sums are means, as DataParallel's are.

All ranks must have the gradients in the same order. Paddle's backward pass has them in the order of
the graph, which is the same on all ranks: nothing in a model depends on its images' values.

Source: ZeRO, arXiv 1910.02054, sections 5.2 and 5.3. Not Paddle's group_sharded_parallel, which is
for GPUs only, so that nothing of it can be tried on a CPU, and has faults that docs/scale.md names.
No GPU has run this file; on CPUs it is compared with plain data parallelism, over gloo.
"""
import contextlib
import functools
import itertools

import paddle

from common.core import dist


class SplitModel:
    """Splits a model's gradients, and weights, over the ranks.

    Args:
        model: an ImageClassifier, whole, with its weights. Rank 0's are taken.
        optimizer: ShardedOptimizer of it.
        weights: whether the weights of the blocks are split too.

    Attributes:
        ranks: what the loss is divided by.
        cells: a CellWeights for each block whose weights are split.
    """

    numbers = itertools.count()  # all ranks make these in the same order

    def __init__(self, model, optimizer, weights):
        self.ranks = dist.world_size()
        self.barrier = dist.Barrier(f'weights/{next(self.numbers)}')
        values = list(model.state_dict().values())
        dist.broadcast_all(values, [0] * len(values))
        for parameter, owner in optimizer.pairs:
            parameter._register_backward_hook(functools.partial(to_owner, parameter, owner))
        owners = {parameter.name: owner for parameter, owner in optimizer.pairs}
        self.cells = []
        for cell, parameters in split_parameters(model) if weights else []:
            self.cells.append(CellWeights(cell, [(p, owners[p.name]) for p in parameters]))
        optimizer.keep_apart(p for cell in self.cells for p in cell.parameters)

    @contextlib.contextmanager
    def whole(self, meet=True):
        """A context, entered by all ranks, in which each has all weights. What is assigned to them
        counts on the rank whose they are.

        Args:
            meet: whether ranks may come to it, and leave it, at different times: gloo waits for
                30 s only.
        """
        if meet and self.cells:
            self.barrier()
        for cell in self.cells:
            cell.fetch()
            cell.is_whole = True
        try:
            yield
        finally:
            for cell in self.cells:
                cell.is_whole = False
                cell.free()
        if meet and self.cells:
            self.barrier()


def split_parameters(model):
    """(block, its trained parameters) of a model whose weights are split."""
    found = [(cell, [p for p in cell.parameters() if not p.stop_gradient])
             for cell in model.cells()]
    return [(cell, parameters) for cell, parameters in found if parameters]


@paddle.no_grad()
def to_owner(parameter, owner, *_):
    """Sums a gradient on its rank, when it is there; those of the others go. (A second one, of the
    next micro-batch, is added to that sum.)"""
    dist.sum_to(parameter.grad, owner)
    if dist.rank() != owner:
        parameter.clear_gradient(False)


class CellWeights:
    """The weights of one block, which are here while it runs.

    Args:
        cell: a Layer of tensors to tensors.
        pairs: (parameter, rank whose it is).
    """

    def __init__(self, cell, pairs):
        self.parameters = [parameter for parameter, _ in pairs]
        self.owners = [owner for _, owner in pairs]
        self.is_here = self.is_whole = False
        self.missing = 0  # gradients that the backward pass has not had
        for parameter in self.parameters:  # follows the hook that sends the gradient
            parameter._register_backward_hook(self.after_gradient)
        cell.register_forward_pre_hook(self.before_forward)
        cell.register_forward_post_hook(self.after_forward)
        self.free()

    @paddle.no_grad()
    def fetch(self):
        """Gets the weights, as they are now, from the ranks whose they are."""
        tensors = []
        for parameter, owner in zip(self.parameters, self.owners, strict=True):
            if dist.rank() != owner:
                paddle.empty(parameter.shape, parameter.dtype)._share_buffer_to(parameter)
            tensors.append(parameter.detach())
        dist.broadcast_all(tensors, self.owners)
        self.is_here = True

    def free(self):
        for parameter, owner in zip(self.parameters, self.owners, strict=True):
            if dist.rank() != owner:
                parameter._clear_data()
        self.is_here = False

    def before_forward(self, cell, inputs):
        if not self.is_whole:
            self.fetch()

    def after_forward(self, cell, inputs, outputs):
        if self.is_whole:
            return
        self.free()
        for output in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            if not output.stop_gradient:
                output.register_hook(self.before_backward)

    def before_backward(self, gradient):
        if not self.is_here:
            self.fetch()
            self.missing = len(self.parameters)

    def after_gradient(self, *_):
        """Frees the weights after the last gradient: nothing of the block is left to do then."""
        self.missing -= 1
        if not self.missing and not self.is_whole:
            self.free()


def parallel(state, stage):
    """Has a TrainState average its gradients over the ranks, by a DataParallel or, from
    TRAIN.SHARDING 2 on, a SplitModel."""
    if stage < 2 or dist.world_size() == 1:
        state.model = dist.data_parallel(state.model)
    else:
        state.split = SplitModel(state.model, state.optimizer, stage == 3)


def whole(state, meet=True):
    """A context in which a TrainState's model has all its weights on each rank; see SplitModel."""
    return state.split.whole(meet) if state.split else contextlib.nullcontext()
