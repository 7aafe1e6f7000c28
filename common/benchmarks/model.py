"""Throughput of models, side by side: what `python -m common.benchmark model` measures."""
import statistics

import paddle

from common.apis import Eager
from common.benchmarks.memory import peak_memory
from common.benchmarks.steps import inference_step, measure, training_step
from common.core.cores import core_count
from common.core.errors import InputError, complain
from common.core.sizes import to_pair
from common.deploy.export import runtime_of
from common.layers.fast.kernels import has_kernels
from common.layers.macs import count_macs, count_parameters
from common.zoo import build_model, create_model


def model_rows(names, sizes, batch_sizes, runtimes, train, amp, rounds):
    """Measures models in sizes and runtimes, which take turns.

    Args:
        names: of models.
        sizes: list of pixels, or None for each model's own.
        batch_sizes: one for all sizes, or one for each.
        runtimes: list of names of common.runtimes.RUNTIMES.
        train: whether to measure training steps instead of forward passes.
        amp: type of mixed precision, or None.
        rounds: measurements of each.

    Returns:
        A list of dicts, in the order of the names, sizes and runtimes.
    """
    sizes = sizes or [None]
    if len(batch_sizes) not in (1, len(sizes)):
        raise InputError(f'-batch_size: got {len(batch_sizes)} numbers, expected 1, or one for '
                         f'each of the {len(sizes)} sizes')
    if len(batch_sizes) == 1:
        batch_sizes = batch_sizes * len(sizes)
    steps, rows = [], []
    for name in names:
        for size, batch_size in zip(sizes, batch_sizes, strict=True):
            model = create_model(name, image_size=size)
            height, width = to_pair(model.config.DATA.IMAGE_SIZE)
            macs = count_macs(lambda model=model: build_model(model.config), [height, width])
            for runtime in runtimes:
                batch, step = fit_batch(model, batch_size, runtime, train, amp)
                steps.append(step)
                rows.append({
                    'model': name, 'image': f'{height}x{width}', 'runtime': runtime,
                    'precision': amp or ('bf16' if 'bf16' in runtime else 'fp32'),
                    'train': train, 'batch': batch, 'params_m': count_parameters(model) / 1e6,
                    'gmacs': macs / 1e9})
    times = list(measure(dict(enumerate(steps)), rounds).values())
    for row, own in zip(rows, times, strict=True):
        row['images_per_s'] = row['batch'] / statistics.median(own)
        row['ratio'] = statistics.median(
            first / second * row['batch'] / rows[0]['batch']
            for first, second in zip(times[0], own, strict=True))
    return rows


def fit_batch(model, batch, runtime, train, amp):
    """Finds the largest of batch, batch / 2, ... that fits into a GPU's memory.

    Returns:
        That number, and a function that runs one step with it.
    """
    while True:
        try:
            step = make_step(model, batch, runtime, train, amp)
            step()
            return batch, step
        except (RuntimeError, MemoryError) as error:
            if batch == 1 or 'out of memory' not in str(error).lower():
                raise
            batch //= 2


def make_step(model, batch, runtime, train, amp):
    """Makes a function that runs one step of a model in a runtime."""
    images = paddle.randn([batch, 3, *to_pair(model.config.DATA.IMAGE_SIZE)])
    if runtime == 'eager' and train:
        return training_step(model, images, amp)
    if runtime == 'eager':
        return inference_step(model, images, amp)
    if train or amp:
        raise InputError(f'-runtime: got {runtime} with {"-train" if train else "-amp"}, expected '
                         f'eager')
    classifier = runtime_of(model, runtime, images.shape[0])
    for note in classifier.notes:
        complain(note)
    if isinstance(classifier, Eager):  # the fastest of `auto`
        return inference_step(model, images, amp)
    images = images.numpy()
    return lambda: classifier.run(images)


def model_table(rows):
    """The rows as a markdown table."""
    lines = ['| Model | Image | Runtime | Params | MACs | Batch | img/s | Ratio to the first |',
             '|---' * 8 + '|']
    for row in rows:
        precision = f' {row["precision"]}'
        if row['precision'] == 'fp32' or 'bf16' in row['runtime']:  # said by the runtime's name
            precision = ''
        lines.append(
            f'| {row["model"]} | {row["image"]} | {row["runtime"]}{precision} | '
            f'{row["params_m"]:.1f}M | {row["gmacs"]:.3g}G | {row["batch"]} | '
            f'{row["images_per_s"]:.2f} | {row["ratio"]:.2f} |')
    return '\n'.join(lines)


def environment():
    """What the figures depend on: {name: value}."""
    on_gpu = paddle.device.get_device().startswith('gpu')
    return {'paddle': paddle.__version__,
            'device': paddle.device.cuda.get_device_name() if on_gpu else 'cpu',
            'kernels': 'compiled' if has_kernels() else 'plain',
            'threads': core_count(),
            'peak_memory_mb': peak_memory()}
