"""A run that goes on: whether it is the same run, where it goes on, and its best weights."""
import contextlib
import hashlib
import os

import numpy as np

from common.config import differences
from common.core import dist
from common.core.errors import InputError
from common.core.label_sets import label_bytes
from common.train.patience import Patience
from common.train.results import figures_of, is_better, is_result
from common.train.run_folder import copy_file
from common.weights.load import BEST, LAST
from common.weights.unpickle import load_pickle

SAMPLED_NAMES = 1000  # of a data set's images, for its fingerprint


def data_fingerprints(train_set, val_set):
    """Describes two data sets so that another run can tell whether it has the same, wherever they
    lie.

    Returns:
        {'train' and 'val': {'images': their number, 'sha256': of all labels and of some names}}.
    """
    fingerprints = {}
    for split, dataset in (('train', train_set), ('val', val_set)):
        images = dataset.images
        digest = hashlib.sha256(label_bytes(images.labels))
        count = min(len(images), SAMPLED_NAMES)
        for index in np.linspace(0, len(images) - 1, count).astype(int).tolist():
            digest.update(images.name(index).encode('utf-8', 'surrogateescape'))
        fingerprints[split] = {'images': len(images), 'sha256': digest.hexdigest()}
    return fingerprints


def check_same_run(metadata, num_epochs, folder, log, checkpoint):
    """Checks whether the run that -resume=auto has found is the one that the command asks for.

    The data may lie elsewhere, or have changed in their place while something is left to train.

    Args:
        metadata: what this start keeps; see CheckpointSaver.
        num_epochs: of the whole run.
        folder: the folder that was found.
        log: RunLog.
        checkpoint: the dict that was found in it.

    Raises:
        InputError: it is a run on other data or classes.
    """
    patience = Patience(metadata['config']['TRAIN']['PATIENCE'], checkpoint.get('patience'))
    finished = checkpoint['epoch'] >= num_epochs or patience.is_over
    before, now = describe_data(checkpoint), describe_data(metadata)
    if before == now:
        now = f'the same but for {hidden_difference(checkpoint, metadata)}'
    changed = {line.partition(':')[0] for line in
               differences(checkpoint['config'], metadata['config'])}
    moved = changed & {'DATA.DATASET', 'DATA.DATA_PATH', 'DATA.TRAIN_FRACTION'}
    if 'MODEL.NUM_CLASSES' in changed or (
            not same_data(checkpoint, metadata) and (moved or finished)):
        raise InputError(
            f'-resume=auto: found {folder}, a run on other data: {before}; got {now}; expected '
            f'another -output for a new run, or -resume={folder} to go on from its weights')
    if not same_data(checkpoint, metadata):
        log.warning(f'the data have changed: {before}; now {now}')
    elif moved:
        log.info(f'the data are the same, elsewhere: {before}; now {now}')


def same_data(checkpoint, metadata):
    """Whether two runs have the same data, by what both know: checkpoints once had less in them."""
    before, now = checkpoint.get('class_names'), metadata.get('class_names')
    if before is not None and now is not None and before != now:
        return False
    if 'data_sets' in checkpoint:
        return checkpoint['data_sets'] == metadata['data_sets']
    images = checkpoint.get('data', metadata['data'])['images']
    return images == metadata['data']['images']


def describe_data(content):
    """'DATASET PATH (N images, K classes)' of what a checkpoint holds, for a message."""
    config = content['config']
    data, images = config.get('DATA', {}), content.get('data', {}).get('images', 'unknown')
    names = content.get('class_names')
    shown = f': {names[0]}, ...' if names else ''
    return (f'{data.get("DATASET")} {data.get("DATA_PATH")} ({images} training images, '
            f'{config.get("MODEL", {}).get("NUM_CLASSES")} classes{shown})')


def hidden_difference(checkpoint, metadata):
    """Says what of the data differs, where `describe_data` says the same of both."""
    before = checkpoint.get('data_sets', {})
    splits = [f'the {split} images\' number, names or labels'
              for split, now in metadata['data_sets'].items() if before.get(split) != now]
    return ', and '.join(splits) or 'the names of classes'


def continue_run(start, folder, metadata, log):
    """Says where a resumed run goes on and what is different, and takes over its best weights.

    Args:
        start: what `resume` gave; `best` and `unsaved` are set to what best.pdparams holds.
        folder: of this run.
        metadata: what its checkpoints keep; see CheckpointSaver.
        log: RunLog.

    Raises:
        InputError: it would go on in an epoch whose order was another one.
    """
    file = start['file']
    if start['note']:
        log.warning(start['note'])
    steps = f' and {start["step"]} steps' if start['step'] else ''
    log.info(f'resume: {file}, after epoch {start["epoch"]}{steps}')
    for line in differences(start['config'], metadata['config']):
        log.info(f'  {line}')
    for line in core_lines(start.get('cores'), metadata['cores']):
        log.info(f'  {line}')
    before, now = order_of_samples(start, metadata), order_of_samples(metadata, metadata)
    if start['step'] and before != now:
        raise InputError(
            f'-resume: {file} stops within an epoch, after {start["step"]} steps; to go on with '
            f'its other samples, expected {before}, got {now} (global batch: DATA.BATCH_SIZE x '
            f'TRAIN.ACCUM_ITER x processes)')
    if not dist.is_master():
        return
    in_place = os.path.dirname(file) == folder
    take_best(start, folder, in_place)
    if in_place:
        log.cut(start['epoch'], start['step'])
    best = start['best']
    if best and (not in_place or best['epoch'] > start['epoch']):  # its line is not in the log
        log.metric('best', at=best['epoch'], **figures_of(best))
    if not in_place:
        return
    damaged = os.path.join(folder, LAST)
    if file != damaged and os.path.exists(damaged):
        # else the next checkpoint would make it the previous one
        os.replace(damaged, f'{damaged}.damaged')


def core_lines(before, now):
    """A line where a run on CPUs goes on with another number of cores: the sums of its threads are
    rounded otherwise.

    Args:
        before, now: cores of a process, or None: on a GPU, and in checkpoints that do not say it.
    """
    if None in (before, now) or before == now:
        return []
    return [f'cores: {now} instead of {before}, so its numbers are the same up to rounding only; '
            f'OMP_NUM_THREADS={before} keeps them to the bit']


def order_of_samples(content, metadata):
    """Gathers what the order of a run's samples depends on.

    Args:
        content: what a checkpoint holds; old ones had less in them.
        metadata: stands in for what it has not.
    """
    data_sets = content.get('data_sets', metadata['data_sets'])
    return {**metadata['data'], 'balance': 0.0, **content.get('data', {}),
            'SEED': content.get('seed'), 'sha256': data_sets['train']['sha256']}


def take_best(start, folder, in_place):
    """Sets `best` of a start to the evaluation whose weights best.pdparams holds, or None, and
    `unsaved` to a better one whose weights could not be written, or None.

    The file may be newer than the checkpoint (the run was killed between the two), or older (the
    disk was full). That of another run is copied, unless it is newer.
    """
    best = start.get('unsaved') or start['best']
    source = os.path.join(os.path.dirname(start['file']), BEST)
    kept = None
    with contextlib.suppress(InputError, KeyError, TypeError):  # missing, damaged, or another's
        kept = load_pickle(source)['best']
    kept = kept if is_result(kept) else None
    if kept and not in_place:
        if best is None or kept['epoch'] > best['epoch']:
            kept = None
        else:
            copy_file(source, os.path.join(folder, BEST))
    is_kept = kept and (best is None or not is_better(best, kept))
    start['best'] = kept
    start['unsaved'] = None if is_kept else best
