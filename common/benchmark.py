"""Measures models, or the training loader, side by side: images a second, and ratios.

python -m common.benchmark model NAME [NAME ...] [-image_size 224 [N ...]] [-batch_size 8 [N ...]]
    [-train | -engine] [-runtime eager paddle paddle-bf16 onnx] [-amp float16] [-json FILE]
python -m common.benchmark peers NAME [-train]
python -m common.benchmark memory NAME
python -m common.benchmark data FOLDER [-images 512] [-image_size 224] [-batch_size 32]
    [-workers 0 1 2]
each but memory with [-rounds N]

What is compared takes turns, so that a busy machine slows all of it; a ratio is the median of the
rounds' ratios. Weights are random: they do not change the time. On a GPU a measurement ends when
the device is done, and a batch that does not fit is halved; on a CPU OMP_NUM_THREADS says how many
threads there are.

-engine measures the training loop with its log and counters beside the bare step. `peers` compares
a model with a textbook's (benchmarks/baseline.py), `memory` both, and gradient checkpointing, by
the peak memory of training (benchmarks/memory.py), `data` the loader with other ways to read the
files of FOLDER/train_list.txt (benchmarks/data.py).
"""
import argparse
import itertools
import json
import statistics
import time

import paddle
import paddle.nn.functional as F

from common.benchmarks.baseline import peers_table
from common.benchmarks.data import data_table
from common.benchmarks.memory import memory_table, peak_memory
from common.core.devices import core_count
from common.core.errors import InputError, errors_of_a_tool
from common.core.files import replace_atomically
from common.core.flags import add_flag, check_least, check_output
from common.core.processes import set_up_cpu
from common.core.sizes import to_pair
from common.deploy.export import runtime_of
from common.layers.macs import count_macs, count_parameters
from common.runtimes import RUNTIMES
from common.train.engine import train_one_epoch
from common.train.precision import Precision
from common.zoo import build_model, create_model


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    tools = parser.add_subparsers(dest='tool', required=True)

    model = tools.add_parser('model', help='throughput of models, side by side')
    model.add_argument('names', nargs='+', metavar='NAME', help='names or yaml files of models')
    add_flag(model, 'image_size', "pixels, several are possible; default each model's own",
             type=int, nargs='+', metavar='N')
    add_flag(model, 'batch_size', 'images in a step, default 8; one for all sizes, or one for each',
             type=int, nargs='+', default=[8], metavar='N')
    add_flag(model, 'runtime', f'of the forward pass, several are possible: {", ".join(RUNTIMES)}; '
             f'default eager', nargs='+', choices=RUNTIMES, default=['eager'], metavar='NAME')
    add_flag(model, 'amp', 'mixed precision on a GPU: float16 or bfloat16',
             choices=['float16', 'bfloat16'], metavar='TYPE')
    add_flag(model, 'json', 'writes the figures there, too', metavar='FILE')
    add_flag(model, 'train', 'forward, backward and AdamW instead of the forward pass',
             action='store_true')
    add_flag(model, 'engine', 'the training loop over 50 steps, beside 50 bare steps of -train',
             action='store_true')
    add_flag(model, 'rounds', 'measurements of each model, default 5', type=int, default=5,
             metavar='N')

    peers = tools.add_parser('peers', help='a model beside one as textbooks write it')
    peers.add_argument('name', metavar='NAME', help='a model of blocks that are all alike')
    add_flag(peers, 'image_size', "pixels; default the model's own", type=int, metavar='N')
    add_flag(peers, 'batch_size', 'images in a step, default 8', type=int, default=8, metavar='N')
    add_flag(peers, 'train', 'training steps instead of forward passes', action='store_true')
    add_flag(peers, 'rounds', 'measurements of each, default 5', type=int, default=5, metavar='N')

    memory = tools.add_parser('memory', help='peak memory of training, beside a textbook\'s model')
    memory.add_argument('name', metavar='NAME', help='a model of blocks that are all alike')
    add_flag(memory, 'image_size', "pixels; default the model's own", type=int, metavar='N')
    add_flag(memory, 'batch_size', 'images in a step, default 8', type=int, default=8, metavar='N')

    data = tools.add_parser('data', help='throughput of the training loader')
    data.add_argument('folder', metavar='FOLDER', help='folder with train_list.txt')
    add_flag(data, 'images', 'how many of its images are read, default 512', type=int, default=512,
             metavar='N')
    add_flag(data, 'image_size', 'pixels, default 224', type=int, default=224, metavar='N')
    add_flag(data, 'batch_size', 'images in a batch, default 32', type=int, default=32, metavar='N')
    add_flag(data, 'workers', 'loader processes, default 0 1 2', type=int, nargs='+',
             default=[0, 1, 2], metavar='N')
    add_flag(data, 'rounds', 'epochs of each pipeline, default 3', type=int, default=3, metavar='N')
    return parser


def inference(model, images, amp=None):
    """A function that runs one forward pass."""
    model.eval()

    def step():
        with paddle.no_grad(), autocast(amp):
            model(images)
    return step


def training(model, images, amp=None, zero_gradients=False):
    """A function that runs one training step.

    zero_gradients: whether to keep the gradients' memory, filled with zeros, as Paddle does without
        being told otherwise; the training loop frees it.
    """
    model.train()
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())
    labels = paddle.arange(images.shape[0]) % model.num_classes

    def step():
        with autocast(amp):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=zero_gradients)
    return step


def autocast(amp):
    return paddle.amp.auto_cast(enable=amp is not None, dtype=amp or 'float16')


def bare_steps(model, images, steps):
    """A function that runs bare training steps one after another."""
    step = training(model, images)

    def run():
        for _ in range(steps):
            step()
    return run


def engine_steps(model, images, steps):
    """The same through the training loop, with reports every 20 steps."""
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())
    labels = paddle.arange(images.shape[0]) % model.num_classes

    def run():
        train_one_epoch(model, itertools.repeat((images, labels)), F.cross_entropy, optimizer,
                        lambda step: 1e-4, Precision(), epoch=1, steps_per_epoch=steps,
                        on_report=lambda figures: None)
    return run


def engine_table(names, image_size, batch_size, rounds, steps=50):
    """The training loop's images a second beside those of bare steps, as a markdown table."""
    lines = ['| Model | Batch | Bare img/s | Engine img/s | Ratio |', '|---' * 5 + '|']
    for name in names:
        model = create_model(name, image_size=image_size)
        model.train()
        images = paddle.randn([batch_size, 3, *to_pair(model.config.DATA.IMAGE_SIZE)])
        times = measure({'bare': bare_steps(model, images, steps),
                         'engine': engine_steps(model, images, steps)}, rounds)
        bare, engine = (batch_size * steps / statistics.median(times[key])
                        for key in ('bare', 'engine'))
        ratio = statistics.median(first / own for first, own in
                                  zip(times['bare'], times['engine'], strict=True))
        lines.append(f'| {name} | {batch_size} | {bare:.1f} | {engine:.1f} | {ratio:.3f} |')
    return '\n'.join(lines)


def seconds(step):
    """The time of one call, the device's work included."""
    start = time.perf_counter()
    step()
    if paddle.device.get_device().startswith('gpu'):
        paddle.device.cuda.synchronize()
    return time.perf_counter() - start


def measure(steps, rounds):
    """Times of several functions that take turns, after one warm-up: {name: [seconds]}."""
    for step in steps.values():
        seconds(step)
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


def model_rows(names, sizes, batch_sizes, runtimes, train, amp, rounds):
    """The measurements of `python -m common.benchmark model`: a list of dicts, in the order of the
    names, sizes and runtimes.

    Args:
        sizes: list of pixels, or None for each model's own.
        batch_sizes: one for all sizes, or one for each.
    """
    if len(batch_sizes) not in (1, len(sizes or [None])):
        raise InputError(f'-batch_size: got {len(batch_sizes)} numbers, expected 1, or one for '
                         f'each of the {len(sizes or [None])} sizes')
    if len(batch_sizes) == 1:
        batch_sizes = batch_sizes * len(sizes or [None])
    steps, rows = [], []
    for name in names:
        for size, batch_size in zip(sizes or [None], batch_sizes, strict=True):
            model = create_model(name, image_size=size)
            height, width = to_pair(model.config.DATA.IMAGE_SIZE)
            macs = count_macs(lambda model=model: build_model(model.config), [height, width])
            for runtime in runtimes:
                batch, step = fitting(batch_size, lambda batch, model=model, runtime=runtime:
                                      step_of(model, batch, runtime, train, amp))
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


def step_of(model, batch, runtime, train, amp):
    """A function that runs one step of a model in a runtime."""
    images = paddle.randn([batch, 3, *to_pair(model.config.DATA.IMAGE_SIZE)])
    if runtime == 'eager':
        return (training if train else inference)(model, images, amp)
    if train or amp:
        raise InputError(f'-runtime: got {runtime} with {"-train" if train else "-amp"}, expected '
                         f'eager')
    classifier, images = runtime_of(model, runtime), images.numpy()
    return lambda: classifier.run(images)


def fitting(batch, make_step):
    """The largest of batch, batch / 2, ... that fits into a GPU's memory, and its step."""
    while True:
        try:
            step = make_step(batch)
            step()
            return batch, step
        except (RuntimeError, MemoryError) as error:
            if batch == 1 or 'out of memory' not in str(error).lower():
                raise
            batch //= 2


def model_table(rows):
    """The rows as a markdown table."""
    lines = ['| Model | Image | Runtime | Params | MACs | Batch | img/s | Ratio to the first |',
             '|---' * 8 + '|']
    for row in rows:
        precision = '' if row['precision'] == 'fp32' or 'bf16' in row['runtime'] else \
            f' {row["precision"]}'
        lines.append(
            f'| {row["model"]} | {row["image"]} | {row["runtime"]}{precision} | '
            f'{row["params_m"]:.1f}M | {row["gmacs"]:.3g}G | {row["batch"]} | '
            f'{row["images_per_s"]:.2f} | {row["ratio"]:.2f} |')
    return '\n'.join(lines)


def environment():
    """What the figures depend on: {name: value}."""
    device = paddle.device.get_device()
    on_gpu = device.startswith('gpu')
    return {'paddle': paddle.__version__,
            'device': paddle.device.cuda.get_device_name() if on_gpu else 'cpu',
            'threads': core_count(),
            'peak_memory_mb': peak_memory()}


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_least(args, batch_size=1, rounds=1, image_size=1, images=1, workers=0)
        on_gpu = paddle.device.get_device().startswith('gpu')
        if getattr(args, 'amp', None) and not on_gpu:
            raise InputError('-amp: got it on a CPU, where Paddle computes in float32; '
                             '-runtime paddle-bf16 is what is fast there')
        if getattr(args, 'json', None):
            check_output('json', args.json)
        if not on_gpu:
            set_up_cpu()  # as the training program does
        {'model': measure_models, 'peers': measure_peers, 'memory': measure_memory,
         'data': measure_data}[args.tool](args)


def measure_models(args):
    names = list(dict.fromkeys(args.names))
    if args.engine:
        size = args.image_size[0] if args.image_size else None
        print(engine_table(names, size, args.batch_size[0], args.rounds))
        return
    rows = model_rows(names, args.image_size, args.batch_size, args.runtime, args.train, args.amp,
                      args.rounds)
    facts = environment()
    if args.json:
        with replace_atomically(args.json) as temporary, open(temporary, 'w') as stream:
            json.dump({**facts, 'rounds': args.rounds, 'rows': rows}, stream, indent=1)
    print(', '.join(f'{key} {value:.0f}' if isinstance(value, float) else f'{key} {value}'
                    for key, value in facts.items()) + '\n')
    print(model_table(rows))


def measure_peers(args):
    print(peers_table(args.name, args.image_size, args.batch_size,
                      training if args.train else inference, measure, args.rounds))


def measure_memory(args):
    print(memory_table(args.name, args.image_size, args.batch_size, training, seconds))


def measure_data(args):
    print(data_table(args.folder, args.images, args.batch_size, args.image_size, args.workers,
                     args.rounds))


if __name__ == '__main__':
    main()
