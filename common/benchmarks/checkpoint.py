"""How long training waits for a checkpoint: what `benchmark checkpoint` measures."""
import logging
import statistics
import tempfile
import time

import paddle

from common.benchmarks.memory import peak_memory
from common.benchmarks.steps import build_adamw, seconds, training_step
from common.core.sizes import to_pair
from common.train.checkpoint import checkpoint_content, save_checkpoint
from common.train.saver import CheckpointSaver
from common.train.snapshot import size_of
from common.weights.load import LAST
from common.zoo import create_model

METADATA = {'epoch': 0, 'step': 1, 'sums': [0.0] * 3, 'best': None, 'config': {}}


def checkpoint_table(name, image_size, batch_size, rounds, folder):
    """Measures a checkpoint of a model with AdamW that is written while training waits, and one
    that is written beside it. They take turns; in between there is a step alone.

    Args:
        name: of the model.
        image_size: pixels, or None for the model's own.
        batch_size: images in a step.
        rounds: measurements of each; the table has medians.
        folder: where the files are written, and removed; None for the temporary folder.

    Returns:
        A markdown table: how long training waits, how long it takes until the file is there, how
        much longer the steps meanwhile take in all, the sum of both losses, the ratio to the
        first row, and the peak memory of the process, which grows from row to row.
    """
    model = create_model(name, image_size=image_size)
    images = paddle.randn([batch_size, 3, *to_pair(model.config.DATA.IMAGE_SIZE)])
    optimizer = build_adamw(model)
    step = training_step(model, images, optimizer=optimizer)
    rows = {beside: [] for beside in (False, True)}
    peaks, alone = {}, []
    with tempfile.TemporaryDirectory(dir=folder) as folder:
        savers = {beside: CheckpointSaver(folder, {}, logging.getLogger('benchmark'), beside)
                  for beside in rows}
        for _ in range(2):
            seconds(step)
        for beside, saver in savers.items():  # the first files find no pages in the system's cache
            saver.prepare(lambda: checkpoint_content(model, optimizer, None, {}))
            one_save(saver, step, model, optimizer, 0.0)
            peaks[beside] = peak_memory()
        for _ in range(rounds):
            alone.append(seconds(step))
            for beside, saver in savers.items():
                rows[beside].append(one_save(saver, step, model, optimizer, alone[-1]))
    size = size_of(checkpoint_content(model, optimizer, None, {}))
    return '\n'.join([f'{name}, checkpoint of {size / 1e9:.2f} GB, a step alone takes '
                      f'{statistics.median(alone):.2f} s', '', *lines_of(rows, peaks)])


def one_save(saver, step, model, optimizer, alone):
    """Writes a checkpoint, and trains until it is there.

    Args:
        alone: seconds of a step alone.

    Returns:
        Seconds of the pause, seconds that the writing took, and by how many seconds the steps
        meanwhile were longer than alone.
    """
    start = time.perf_counter()
    saver.save(LAST, save_checkpoint, model, METADATA, saver.beside, optimizer=optimizer,
               scaler=None)
    pause, steps = time.perf_counter() - start, 0
    while steps == 0 or saver.is_writing():
        seconds(step)
        steps += 1
    trained = time.perf_counter() - start - pause
    saver.check(LAST)
    return pause, saver.seconds, trained - steps * alone


def lines_of(rows, peaks):
    yield '| Written | Training waits s | Writing takes s | Steps longer by s | Lost s | Ratio | ' \
          'Peak MB |'
    yield '|---' * 7 + '|'
    ratios = [(pause + longer) / (first_pause + first_longer) for (first_pause, _, first_longer),
              (pause, _, longer) in zip(rows[False], rows[True], strict=True)]
    for beside, name in ((False, 'while training waits'), (True, 'beside the training')):
        pause, written, longer = (statistics.median(values) for values in
                                  zip(*rows[beside], strict=True))
        lost = statistics.median(row[0] + row[2] for row in rows[beside])
        ratio = statistics.median(ratios) if beside else 1.0
        yield f'| {name} | {pause:.3f} | {written:.2f} | {longer:.2f} | {lost:.2f} | ' \
              f'{ratio:.2f} | {peaks[beside]:.0f} |'
