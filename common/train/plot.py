"""Loss, learning rate and accuracy of runs as pictures, from the lines of metrics.jsonl."""
import json
import os

from matplotlib.figure import Figure

from common.config import read_yaml
from common.core.errors import InputError
from common.core.figures import literal, save
from common.train.results import score_name, score_of

METRICS, PICTURE = 'metrics.jsonl', 'curves.png'  # in a run's folder
# What a line of each kind must have for a picture.
FIGURES = {'train': ('epoch', 'epoch_share', 'loss', 'acc1', 'lr'), 'eval': ('epoch', 'loss'),
           'eval_ema': ('epoch',), 'best': ('epoch',)}
EVALUATIONS = 'eval', 'eval_ema', 'best'  # they have acc1 too, or mAP
LARGEST = 1e300  # of an integer, so that it can be drawn


def read_metrics(file):
    """Reads the figures of a run, and which of its evaluations the saved weights are of.

    A line that cannot be read is left out: a run that was killed leaves half a line.

    Args:
        file: metrics.jsonl. For a run of a version that did not write lines of the kind 'best',
            the config.yaml beside it tells whether the averaged weights are those that were saved.

    Returns:
        A list of dicts, and a note about the lines that are left out or ''.

    Raises:
        InputError: no line can be read.
        OSError: the file cannot be read.
    """
    lines, note, bad = [], '', 0
    with open(file, encoding='utf-8', errors='replace') as stream:
        for number, text in enumerate(stream, 1):
            line = figures_of(text)
            if line:
                lines.append(line)
                continue
            bad += 1
            note = note or f'{file}:{number}: got {text.strip()[:60]!r}, expected a line of a ' \
                           f'run\'s figures'
    if bad:
        note += f'; {bad} of {number} lines are left out'
    if not lines:
        raise InputError(note or f'{file}: got no figures yet')
    if best_of(lines) is None:
        lines += best_by_config(lines, os.path.join(os.path.dirname(file), 'config.yaml'))
    return lines, note


def figures_of(text):
    """A line of metrics.jsonl as a dict, or None if it is none."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get('kind'), str):
        return None
    needed = FIGURES.get(line['kind'], ())
    if line['kind'] in EVALUATIONS:
        needed = *needed, score_name(line)
        needed += ('acc5',) * (line['kind'] == 'eval' and 'mAP' not in line)
    return line if all(is_figure(line.get(name)) for name in needed) else None


def is_figure(value):
    """Whether a value is a number, and not an integer that no float can hold."""
    return isinstance(value, float) or isinstance(value, int) and abs(value) < LARGEST


def best_by_config(lines, config_file):
    """Makes a line of the kind 'best', as the run would have written it last.

    Returns:
        A list of that line; an empty one if there was no evaluation.
    """
    chosen = [line for line in lines if line['kind'] == 'eval']
    averaged = [line for line in lines if line['kind'] == 'eval_ema']
    if averaged and os.path.isfile(config_file):
        keys = {key: value for key, value, _ in read_yaml(config_file)}
        chosen = averaged if keys.get('TRAIN.EMA.BEST') else chosen
    if not chosen:
        return []
    best = max(chosen, key=score_of)  # of equal ones the first, as in training
    return [{'kind': 'best', 'epoch': best['epoch'], score_name(best): score_of(best)}]


def run_figure(lines):
    """Draws one run.

    Args:
        lines: what `read_metrics` gave.

    Returns:
        A figure of matplotlib: losses, accuracies, learning rate.
    """
    train = [line for line in lines if line['kind'] == 'train']
    evaluations = [line for line in lines if line['kind'] == 'eval']
    averaged = [line for line in lines if line['kind'] == 'eval_ema']
    figure = Figure(figsize=(13, 3.8), layout='constrained')
    loss, accuracy, rate = figure.subplots(1, 3)

    loss.plot(*columns(train, 'epoch_share', 'loss'), label='training', alpha=0.8)
    loss.plot(*columns(evaluations, 'epoch', 'loss'), label='evaluation')
    loss.set_title('loss')
    loss.legend()

    # in percent
    score, name = score_of_lines(evaluations)
    hit = 'acc@1' if score == 'acc1' else 'hit@1'
    accuracy.plot(*columns(train, 'epoch_share', 'acc1', 100), label=f'training, {hit}', alpha=0.8)
    accuracy.plot(*columns(evaluations, 'epoch', score, 100), label=f'evaluation, {name}')
    if score == 'acc1':
        accuracy.plot(*columns(evaluations, 'epoch', 'acc5', 100), label='evaluation, acc@5')
    if averaged:
        accuracy.plot(*columns(averaged, 'epoch', score, 100), label=f'averaged weights, {name}')
    accuracy.set_title('accuracy (%)' if score == 'acc1' else 'mean average precision (%)')
    accuracy.legend(loc='lower right')
    best = best_of(lines)
    if best:
        whose = f', {best["weights"]}' if 'weights' in best else ''
        accuracy.annotate(f'best {100 * score_of(best):.2f}{whose}',
                          (best['epoch'], 100 * score_of(best)), xytext=(0, -28),
                          textcoords='offset points', ha='center',
                          arrowprops={'arrowstyle': '->'})

    rate.plot(*columns(train, 'epoch_share', 'lr'))
    rate.set_title('learning rate')
    rate.ticklabel_format(axis='y', scilimits=(-2, 2))
    for axes in (loss, accuracy, rate):
        axes.set_xlabel('epoch')
        axes.grid(alpha=0.3)
        for line in axes.lines:
            if len(line.get_xdata()) == 1:  # a line of one point would not be seen
                line.set_marker('o')
    return figure


def draw(folder):
    """Draws curves.png of a run's folder; returns the note of read_metrics."""
    lines, note = read_metrics(os.path.join(folder, METRICS))
    save(run_figure(lines), os.path.join(folder, PICTURE), dpi=100)
    return note


def columns(lines, x, y, scale=1):
    """Two lists for a curve: the x of each line of metrics.jsonl, and its y times `scale`."""
    return [line[x] for line in lines], [line[y] * scale for line in lines]


def score_of_lines(evaluations):
    """The figure of some evaluations that is compared, and what it is called: acc@1 or mAP."""
    score = score_name(evaluations[-1]) if evaluations else 'acc1'
    return score, 'mAP' if score == 'mAP' else 'acc@1'


def best_of(lines):
    """The line of metrics.jsonl about the evaluation whose weights were saved, or None."""
    return next((line for line in reversed(lines) if line['kind'] == 'best'), None)


def runs_figure(runs):
    """Draws accuracies and training losses of several runs in one figure.

    Args:
        runs: {name: what `read_metrics` gave}.
    """
    figure = Figure(figsize=(13, 4.8), layout='constrained')
    accuracy, loss = figure.subplots(1, 2)
    scores = []
    for name, lines in runs.items():
        kinds = {kind: [line for line in lines if line['kind'] == kind]
                 for kind in ('train', 'eval', 'eval_ema')}
        best = best_of(lines)
        label = literal(name) + (f', best {100 * score_of(best):.2f}' if best else '')
        score, score_label = score_of_lines(kinds['eval'])
        if score_label not in scores:
            scores.append(score_label)
        line, = accuracy.plot(*columns(kinds['eval'], 'epoch', score, 100), label=label)
        colour = line.get_color()
        if kinds['eval_ema']:
            accuracy.plot(*columns(kinds['eval_ema'], 'epoch', score, 100), '--', color=colour,
                          label='    its averaged weights')
        loss.plot(*columns(kinds['train'], 'epoch_share', 'loss'), color=colour, alpha=0.8)
    accuracy.set_title(f'accuracy of evaluations, {" and ".join(scores)} (%)')
    loss.set_title('training loss')
    for axes in (accuracy, loss):
        axes.set_xlabel('epoch')
        axes.grid(alpha=0.3)
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=2, fontsize=9)
    return figure
