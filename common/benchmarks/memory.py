"""Peak memory of training: what `python -m common.benchmark memory` measures."""
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import paddle

from common.benchmarks.baseline import baseline_of
from common.benchmarks.steps import seconds, training_step
from common.core.processes import set_up_cpu, set_up_mkl
from common.core.sizes import to_pair
from common.layers.recompute import recompute_cells
from common.zoo import create_model

STEPS = 3
# The rows of the table.
BASELINE, OWN, RECOMPUTED = 'textbook', 'own', 'own, recompute'


def memory_table(name, image_size, batch_size):
    """Measures the peak memory of a process that trains, and its time: for the baseline, for this
    project's model, and for that with gradient checkpointing (TRAIN.RECOMPUTE).

    Each is trained for STEPS steps in a process of its own. What the process needs for Paddle and
    the weights, before the first step, is a column of its own, and so is the peak of what Paddle
    counts for tensors: the same in each run, where the process's depends on what the allocators
    of all threads keep.

    Args:
        name: of the model.
        image_size: pixels, or None for the model's own.
        batch_size: images in a step.

    Returns:
        A markdown table.
    """
    lines = ['| | Peak MB | Ratio | Before the first step | Tensors | Seconds a step |',
             '|---' * 6 + '|']
    first = None
    for kind in (BASELINE, OWN, RECOMPUTED):
        with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as processes:
            before, peak, tensors, time = processes.submit(
                train, kind, name, image_size, batch_size).result()
        first = first or peak
        lines.append(f'| {kind} | {peak:.0f} | {peak / first:.2f} | {before:.0f} | {tensors:.0f} '
                     f'| {time:.2f} |')
    return '\n'.join(lines)


def train(kind, name, image_size, batch_size):
    """Trains a model for STEPS steps.

    Returns:
        MB before the first step, MB at the peak, MB of tensors at their peak, seconds a step.
    """
    if not paddle.device.get_device().startswith('gpu'):
        if kind == BASELINE:  # Paddle's strided views, its default, need less memory there
            set_up_mkl()
        else:
            set_up_cpu()
    model = create_model(name, image_size=image_size, dropout=0.0, attention_dropout=0.0,
                         droppath=0.0)
    images = paddle.randn([batch_size, 3, *to_pair(model.config.DATA.IMAGE_SIZE)])
    if kind == BASELINE:
        model = baseline_of(model)
    elif kind == RECOMPUTED:
        recompute_cells(model)
    step = training_step(model, images, zero_gradients=kind == BASELINE)
    before = peak_memory()
    times = [seconds(step) for _ in range(STEPS)]
    return before, peak_memory(), peak_of_tensors(), min(times)


def peak_memory():
    """The most memory in MB: on a GPU what Paddle has used, on a CPU what the process has had."""
    if paddle.device.get_device().startswith('gpu'):
        return paddle.device.cuda.max_memory_allocated() / 2 ** 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 10


def peak_of_tensors():
    """The most memory in MB that Paddle has counted for tensors, on the GPU or on the CPU."""
    if paddle.device.get_device().startswith('gpu'):
        return paddle.device.cuda.max_memory_allocated() / 2 ** 20
    return paddle.base.core.host_memory_stat_peak_value('Allocated', 0) / 2 ** 20
