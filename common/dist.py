"""Processes of one run: rank, world size, and the one collective that is needed (a sum)."""
import contextlib

import paddle
import paddle.distributed as paddle_dist


def rank():
    return paddle_dist.get_rank()


def world_size():
    return paddle_dist.get_world_size()


def is_master():
    return rank() == 0


def all_reduce_sum(values):
    """The sum over all ranks of a float64 tensor of any shape, on every rank."""
    if world_size() > 1:
        paddle_dist.all_reduce(values)
    return values


def average(tensors):
    """Replaces float tensors by their mean over all ranks, in place."""
    size = world_size()
    if size == 1:
        return
    for tensor in tensors:
        mean = all_reduce_sum(tensor.astype('float64')) / size
        tensor.set_value(mean.astype(tensor.dtype))


def data_parallel(model):
    """The model whose backward pass averages gradients over the ranks; itself on one rank."""
    return paddle.DataParallel(model) if world_size() > 1 else model


def no_sync(model, when):
    """A context in which backward passes, if `when`, only add up on each rank."""
    if when and isinstance(model, paddle.DataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def unwrap(model):
    return model._layers if isinstance(model, paddle.DataParallel) else model
