"""A forward pass on all cores: parts of the batch, each in a thread of its own.

Threads inside the operators leave most of those between the products to one core; what either way
gives is in docs/performance.md. Paddle lets go of Python's lock in an operator.
"""
import inspect
import threading

import paddle

from common.core.cores import core_count, libraries, threads_of_this_thread, use_cores

# How many numbers of images a part has at least, 21 images of 32 px: with fewer, threads wait for
# Python's lock longer than they compute.
LEAST = 1 << 16


def in_parts(model, function, images):
    """function(images) without gradients, of the whole batch, or of its parts at the same time.

    Parts are computed on a CPU of which this process uses more than one core (set_up_cpu), by as
    many threads as there are parts, which end with the call. A batch of fewer images than cores has
    a part for each image, whose operators take more threads; small images come in fewer parts. The
    whole batch is one part, in the calling thread, where the model has hooks, which may count
    calls, is a graph, or does not say runs_in_parts, as ImageClassifier does.

    Args:
        model: a Layer in evaluation mode, for which an image's result is its own.
        function: tensor [B, ...] -> tensor [B, ...], or a list of such; it calls the model.
        images: tensor [B, ...].

    Returns:
        As function(images). The numbers differ at most by the rounding that another batch size
        makes; on the processors that were measured they were the same bits.

    Raises:
        What function raises, here, after all parts have ended.
    """
    parts = part_count(model, images)
    if parts == 1:
        use_cores()
        with paddle.no_grad():
            return function(images)
    bounds = [len(images) * index // parts for index in range(parts + 1)]
    pieces = [images[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    results = run_threads(function, pieces, core_count() // parts)
    with paddle.no_grad():
        if isinstance(results[0], paddle.Tensor):
            return paddle.concat(results)
        return [paddle.concat(list(stage)) for stage in zip(*results, strict=True)]


def part_count(model, images):
    """In how many parts a batch is computed."""
    cores = core_count()
    if cores == 1 or paddle.get_device() != 'cpu' or not libraries():
        return 1
    if not getattr(model, 'runs_in_parts', False) or not inspect.ismethod(model.forward):
        return 1  # another's Layer may note things in itself; a graph, of to_static
    if any(layer._forward_pre_hooks or layer._forward_post_hooks
           for layer in model.sublayers(include_self=True)):
        return 1
    return max(1, min(cores, len(images), images.size // LEAST))


def run_threads(function, pieces, threads):
    """function of each piece, in a thread of its own whose operators take so many threads."""
    results, errors = [None] * len(pieces), [None] * len(pieces)
    ended = [threading.Event() for _ in pieces]

    def compute(index):
        try:
            with threads_of_this_thread(threads), paddle.no_grad():
                results[index] = function(pieces[index])
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asked
            errors[index] = error
        finally:
            ended[index].set()

    workers = [threading.Thread(target=compute, args=(index,), daemon=True)
               for index in range(len(pieces))]
    try:
        for worker in workers:
            worker.start()
    finally:
        stop = wait_for([event for worker, event in zip(workers, ended, strict=True)
                         if worker.ident is not None])
    for worker in workers:
        worker.join()
    for error in (stop, *errors):
        if error is not None:
            raise error
    return results


def wait_for(events):
    """Waits for all events; returns what a signal has raised meanwhile, or None: it ends no
    operator. (A join that a signal ends takes the thread for one that has ended.)"""
    stop = None
    while True:
        try:
            for event in events:
                event.wait()
            return stop
        except BaseException as error:  # noqa: BLE001 - ctrl-C, or a Stopped
            stop = stop or error
