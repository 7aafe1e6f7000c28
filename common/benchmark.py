"""Measures models side by side: images a second, and the ratio to the first.

python -m common.benchmark model NAME [NAME ...] [-image_size 224] [-batch_size 8]
    [-train] [-rounds 5]

The models take turns, so that a busy machine slows all of them; a ratio is the median of the
rounds' ratios. Weights are random: they do not change the time. On a GPU a measurement ends when
the device is done; on a CPU OMP_NUM_THREADS says how many threads there are.
"""
import argparse
import statistics
import sys
import time

import paddle
import paddle.nn.functional as F

from common.errors import InputError
from common.layers import to_pair
from common.macs import count_parameters
from common.zoo import create_model


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    tools = parser.add_subparsers(dest='tool', required=True)
    model = tools.add_parser('model', help='throughput of models, side by side')
    model.add_argument('names', nargs='+', metavar='NAME', help='names or yaml files of models')

    def add(flag, help_text, **options):
        model.add_argument(f'-{flag}', f'--{flag}', dest=flag, help=help_text, **options)

    add('image_size', 'pixels; default each model\'s own', type=int, metavar='N')
    add('batch_size', 'images in a step, default 8', type=int, default=8, metavar='N')
    add('train', 'forward, backward and AdamW instead of the forward pass', action='store_true')
    add('rounds', 'measurements of each model, default 5', type=int, default=5, metavar='N')
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
        for flag in ('batch_size', 'rounds', 'image_size'):
            value = getattr(args, flag)
            if value is not None and value < 1:
                raise InputError(f'-{flag}: got {value}, expected at least 1')
        if not paddle.device.get_device().startswith('gpu'):
            paddle.set_flags({'FLAGS_use_stride_kernel': False})  # as the training program does
        print(model_table(list(dict.fromkeys(args.names)), args.image_size, args.batch_size,
                          args.train, args.rounds))
    except InputError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
