"""Peak memory of training: what `python -m common.benchmark memory` measures."""
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import paddle

from common.benchmarks.baseline import textbook_of
from common.core.processes import set_up_cpu, set_up_mkl
from common.core.sizes import to_pair
from common.layers.recompute import recompute_cells
from common.zoo import create_model

STEPS = 3
KINDS = ('textbook', 'own', 'own, recompute')


def memory_table(name, image_size, batch_size, make_step, seconds):
    """Peak memory of a process that trains, and its time, as a markdown table: for a textbook's
    model, for this project's, and for that with gradient checkpointing (TRAIN.RECOMPUTE).

    Each is trained for STEPS steps in a process of its own. What the process needs for Paddle and
    the weights, before the first step, is a column of its own, and so is the peak of what Paddle
    counts for tensors: the same in each run, where the process's depends on what the allocators
    of all threads keep.

    Args:
        make_step: (model, images, zero_gradients) -> function that runs one training step.
        seconds: function -> the time of its call.
    """
    lines = ['| | Peak MB | Ratio | Before the first step | Tensors | Seconds a step |',
             '|---' * 6 + '|']
    first = None
    for kind in KINDS:
        with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as processes:
            before, peak, tensors, time = processes.submit(
                train, kind, name, image_size, batch_size, make_step, seconds).result()
        first = first or peak
        lines.append(f'| {kind} | {peak:.0f} | {peak / first:.2f} | {before:.0f} | {tensors:.0f} '
                     f'| {time:.2f} |')
    return '\n'.join(lines)


def train(kind, name, image_size, batch_size, make_step, seconds):
    """Trains a model for some steps: MB before the first step, at the peak, of tensors at their
    peak; seconds a step."""
    if not paddle.device.get_device().startswith('gpu'):
        # Paddle's strided views, its default, need less memory in a textbook's model
        set_up = set_up_mkl if kind == 'textbook' else set_up_cpu
        set_up()
    model = create_model(name, image_size=image_size, dropout=0.0, attention_dropout=0.0,
                         droppath=0.0)
    images = paddle.randn([batch_size, 3, *to_pair(model.config.DATA.IMAGE_SIZE)])
    if kind == 'textbook':
        model = textbook_of(model)
    elif kind == 'own, recompute':
        recompute_cells(model)
    step = make_step(model, images, zero_gradients=kind == 'textbook')
    before = peak_memory()
    times = [seconds(step) for _ in range(STEPS)]
    return before, peak_memory(), peak_of_tensors(), min(times)


def peak_memory():
    """MB: of the GPU's memory what Paddle has used, on a CPU what the process has."""
    if paddle.device.get_device().startswith('gpu'):
        return paddle.device.cuda.max_memory_allocated() / 2 ** 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 10


def peak_of_tensors():
    """MB: what Paddle has counted for tensors at most, on the GPU or in the CPU's memory."""
    if paddle.device.get_device().startswith('gpu'):
        return paddle.device.cuda.max_memory_allocated() / 2 ** 20
    return paddle.base.core.host_memory_stat_peak_value('Allocated', 0) / 2 ** 20
