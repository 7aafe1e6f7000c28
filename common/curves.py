"""Loss, learning rate and accuracy of a run as a picture.

python -m common.curves RUN_FOLDER    draws RUN_FOLDER/curves.png again
"""
import json
import os
import sys

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402 - after the choice of the backend


def draw(metrics_file, picture):
    """Draws the lines of a metrics.jsonl into a PNG file."""
    with open(metrics_file) as stream:
        lines = [json.loads(line) for line in stream]
    train = [line for line in lines if line['kind'] == 'train']
    evaluations = [line for line in lines if line['kind'] == 'eval']
    averaged = [line for line in lines if line['kind'] == 'eval_ema']
    figure, (loss, accuracy, rate) = plt.subplots(1, 3, figsize=(13, 3.8), layout='constrained')

    loss.plot(*columns(train, 'epoch_share', 'loss'), label='training', alpha=0.8)
    loss.plot(*columns(evaluations, 'epoch', 'loss'), label='evaluation')
    loss.set_title('loss')
    loss.legend()

    # in percent
    accuracy.plot(*columns(train, 'epoch_share', 'acc1', 100), label='training, acc@1', alpha=0.8)
    accuracy.plot(*columns(evaluations, 'epoch', 'acc1', 100), label='evaluation, acc@1')
    accuracy.plot(*columns(evaluations, 'epoch', 'acc5', 100), label='evaluation, acc@5')
    if averaged:
        accuracy.plot(*columns(averaged, 'epoch', 'acc1', 100), label='averaged weights, acc@1')
    accuracy.set_title('accuracy (%)')
    accuracy.legend(loc='lower right')
    if evaluations:
        best = max(evaluations + averaged, key=lambda line: line['acc1'])
        accuracy.annotate(f'best {100 * best["acc1"]:.2f}', (best['epoch'], 100 * best['acc1']),
                          xytext=(0, -28), textcoords='offset points', ha='center',
                          arrowprops={'arrowstyle': '->'})

    rate.plot(*columns(train, 'epoch_share', 'lr'))
    rate.set_title('learning rate')
    rate.ticklabel_format(axis='y', scilimits=(-2, 2))
    for axes in (loss, accuracy, rate):
        axes.set_xlabel('epoch')
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def columns(lines, x, y, scale=1):
    return [line[x] for line in lines], [line[y] * scale for line in lines]


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        draw(os.path.join(sys.argv[1], 'metrics.jsonl'), os.path.join(sys.argv[1], 'curves.png'))
    except OSError as error:
        sys.exit(f'error: {error}')
