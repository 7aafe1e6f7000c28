"""Measures models, or the training loader, side by side: images a second, and ratios.

python -m common.benchmark model NAME [NAME ...] [-image_size 224] [-batch_size 8]
    [-train | -engine] [-rounds 5]
python -m common.benchmark data FOLDER [-images 512] [-image_size 224] [-batch_size 32]
    [-workers 0 1 2] [-rounds 3]

The models take turns, so that a busy machine slows all of them; a ratio is the median of the
rounds' ratios. Weights are random: they do not change the time. On a GPU a measurement ends when
the device is done; on a CPU OMP_NUM_THREADS says how many threads there are. The loader is
compared with other ways to read the files of FOLDER/train_list.txt, see benchmark_data.py.
-engine measures the training loop with its log and counters beside the bare step.
"""
import argparse
import itertools
import statistics
import sys
import time

import paddle
import paddle.nn.functional as F

from common.benchmark_data import data_table
from common.engine import train_one_epoch
from common.errors import InputError
from common.layers import to_pair
from common.macs import count_parameters
from common.precision import Precision
from common.processes import set_up_cpu
from common.zoo import create_model


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    tools = parser.add_subparsers(dest='tool', required=True)

    def add(tool, flag, help_text, **options):
        tool.add_argument(f'-{flag}', f'--{flag}', dest=flag, help=help_text, **options)

    model = tools.add_parser('model', help='throughput of models, side by side')
    model.add_argument('names', nargs='+', metavar='NAME', help='names or yaml files of models')
    add(model, 'image_size', 'pixels; default each model\'s own', type=int, metavar='N')
    add(model, 'batch_size', 'images in a step, default 8', type=int, default=8, metavar='N')
    add(model, 'train', 'forward, backward and AdamW instead of the forward pass',
        action='store_true')
    add(model, 'engine', 'the training loop over 50 steps, beside 50 bare steps of -train',
        action='store_true')
    add(model, 'rounds', 'measurements of each model, default 5', type=int, default=5,
        metavar='N')

    data = tools.add_parser('data', help='throughput of the training loader')
    data.add_argument('folder', metavar='FOLDER', help='folder with train_list.txt')
    add(data, 'images', 'how many of its images are read, default 512', type=int, default=512,
        metavar='N')
    add(data, 'image_size', 'pixels, default 224', type=int, default=224, metavar='N')
    add(data, 'batch_size', 'images in a batch, default 32', type=int, default=32, metavar='N')
    add(data, 'workers', 'loader processes, default 0 1 2', type=int, nargs='+',
        default=[0, 1, 2], metavar='N')
    add(data, 'rounds', 'epochs of each pipeline, default 3', type=int, default=3, metavar='N')
    return parser


def inference(model, images):
    """A function that runs one forward pass."""
    model.eval()

    def step():
        with paddle.no_grad():
            model(images)
    return step


def training(model, images):
    """A function that runs one training step."""
    model.train()
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())
    labels = paddle.arange(images.shape[0]) % model.num_classes

    def step():
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.clear_grad()
    return step


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


def model_table(names, image_size, batch_size, train, rounds):
    """The measurements of `python -m common.benchmark model` as a markdown table."""
    steps, counts, sizes = {}, {}, {}
    for name in names:
        model = create_model(name, image_size=image_size)
        height, width = to_pair(model.config.DATA.IMAGE_SIZE)
        images = paddle.randn([batch_size, 3, height, width])
        counts[name], sizes[name] = count_parameters(model), f'{height}x{width}'
        steps[name] = (training if train else inference)(model, images)
    times = measure(steps, rounds)
    lines = ['| Model | Image | Params | Batch | img/s | Ratio to the first |', '|---' * 6 + '|']
    for name in names:
        ratio = statistics.median(first / own for first, own in
                                  zip(times[names[0]], times[name], strict=True))
        lines.append(f'| {name} | {sizes[name]} | {counts[name] / 1e6:.1f}M | {batch_size} | '
                     f'{batch_size / statistics.median(times[name]):.2f} | {ratio:.2f} |')
    return '\n'.join(lines)


def main(argv=None):
    args = make_parser().parse_args(argv)
    try:
        if any(workers < 0 for workers in getattr(args, 'workers', [])):
            raise InputError(f'-workers: got {args.workers}, expected at least 0')
        for flag in ('batch_size', 'rounds', 'image_size', 'images'):
            value = getattr(args, flag, None)
            if value is not None and value < 1:
                raise InputError(f'-{flag}: got {value}, expected at least 1')
        if not paddle.device.get_device().startswith('gpu'):
            set_up_cpu()  # as the training program does
        if args.tool == 'data':
            print(data_table(args.folder, args.images, args.batch_size, args.image_size,
                             args.workers, args.rounds))
            return
        if args.engine:
            print(engine_table(list(dict.fromkeys(args.names)), args.image_size, args.batch_size,
                               args.rounds))
            return
        print(model_table(list(dict.fromkeys(args.names)), args.image_size, args.batch_size,
                          args.train, args.rounds))
    except InputError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
