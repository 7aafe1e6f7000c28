"""A run's folder: which one a command writes into, which run it goes on with, and what must be the
same for that."""
import contextlib
import hashlib
import json
import os
import shutil
import time

import numpy as np
import yaml

from common.config import differences, plain_config
from common.core import dist, processes
from common.core.errors import InputError
from common.core.files import replace_atomically
from common.core.signals import LAUNCHED, SUPERVISED
from common.train.checkpoint import BEST, LAST, PREVIOUS, is_result
from common.weights.unpickle import load_pickle

AUTO = 'auto'  # of -resume
OWN_FOLDER = 'RUN_FOLDER'  # environment variable: the folder that a supervisor has chosen
RESULT = 'result.json'
# What a start writes before anything is trained.
AT_START = {'config.yaml', 'log.txt', 'metrics.jsonl', 'lock', 'visualdl', 'train_subset.txt'}


def choose_folder(config):
    """The run's folder: its supervisor's choice, the one that -resume=auto finds, or a new one.

    None on a launcher's ranks other than 0, which hear of it from that one.
    """
    if int(os.environ.get(LAUNCHED, '0')):
        return None
    folder = own_folder()
    if not folder and config.MODEL.RESUME == AUTO:
        folder = find_run(config.SAVE, config.MODEL.NAME)
    if not folder:
        return make_run_folder(config)
    processes.sweep(folder, r'.*\.tmp(\d+)')
    return folder


def own_folder():
    """The folder that a supervisor has chosen for this process, or None."""
    return os.environ.get(OWN_FOLDER) if SUPERVISED in os.environ else None


def find_resumed(config, folder):
    """(config, note): MODEL.RESUME is what the run goes on with: its own folder if a checkpoint is
    in it, else what the user named, or None. The note, or None, is about runs that are passed over.
    """
    resumed, note = config.MODEL.RESUME, None
    if resumed == AUTO:
        resumed, note = None, note_of_unsaved(config, folder) if folder else None
    if folder and saved_at(folder):
        resumed = folder
    return with_resume(config, resumed), note


def with_resume(config, resumed):
    config = config.clone()
    config.defrost()
    config.MODEL.RESUME = resumed
    config.freeze()
    return config


def runs_of(save, name):
    """The folders SAVE/NAME-train-*."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [entry.path for entry in os.scandir(save)
                if entry.name.startswith(f'{name}-train-') and entry.is_dir()]
    return []


def saved_at(folder):
    """When a run's newest checkpoint was written (seconds since 1970); 0.0 if there is none."""
    return max(changed_at(os.path.join(folder, name)) for name in (LAST, PREVIOUS))


def changed_at(path):
    """When a file or folder was changed last; 0.0 if it is missing: another run may remove it."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.getmtime(path)
    return 0.0


def find_run(save, name):
    """The newest run's folder SAVE/NAME-train-* with a checkpoint, or None."""
    saved = max(((saved_at(run), run) for run in runs_of(save, name)), default=(0.0, None))
    return saved[1] if saved[0] else None


def note_of_unsaved(config, folder):
    """A sentence about the newest run without a checkpoint, if it is newer than the run that goes
    on; else None. `folder` is where this run is written."""
    newer = [(changed_at(run), run) for run in runs_of(config.SAVE, config.MODEL.NAME)
             if run != folder and not saved_at(run)]
    time_of_run, run = max(newer, default=(0.0, None))
    if time_of_run <= saved_at(folder):
        return None
    return (f'-resume=auto: {run} has no checkpoint, so '
            + (f'{folder} goes on' if saved_at(folder) else 'a new run starts'))


def make_run_folder(config):
    """A new folder SAVE/NAME-train-YYYYmmdd-HHMMSS with the run's config, never one that exists."""
    kind = 'eval' if config.EVAL else 'train'
    stem = os.path.join(config.SAVE,
                        f'{config.MODEL.NAME}-{kind}-{time.strftime("%Y%m%d-%H%M%S")}')
    for attempt in range(1, 1000):
        folder = stem if attempt == 1 else f'{stem}-{attempt}'
        try:
            os.makedirs(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise InputError(f'-output: {folder} is in the way') from None
            continue
        except OSError as error:
            raise InputError(f'-output: cannot make {folder}: {error.strerror}') from None
        plain = plain_config(config)
        plain['MODEL']['RESUME'] = None  # of this start, not of the recipe
        try:
            write_text(os.path.join(folder, 'config.yaml'), yaml.safe_dump(plain, sort_keys=False))
        except InputError:
            discard(folder)
            raise
        return folder
    raise InputError(f'-output: {stem} and 998 more exist already')


def write_text(path, text):
    """A small file, whole or not at all.

    Raises:
        InputError: it cannot be written (disk full).
    """
    try:
        with replace_atomically(path) as temporary, open(temporary, 'w') as stream:
            stream.write(text)
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from None


def copy_file(source, path):
    """As `write_text`, of a file."""
    try:
        with replace_atomically(path) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from None


def write_result(folder, result):
    """result.json, which says that the run has ended."""
    write_text(os.path.join(folder, RESULT), json.dumps(result, indent=1))


def has_result(folder):
    return os.path.exists(os.path.join(folder, RESULT))


def remove_result(folder):
    """For a run that goes on after its end, with more epochs."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, RESULT))


def discard(folder):
    """Removes the folder of a run that was refused or stopped before it did anything: if there is
    nothing in it but what each start writes."""
    sizes = {}
    with contextlib.suppress(FileNotFoundError):
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    if sizes.keys() <= AT_START and not sizes.get('metrics.jsonl'):
        shutil.rmtree(folder, ignore_errors=True)


# What a run goes on with

def facts_of_data(train_set, val_set):
    """What says whether two data sets are the same, wherever they lie: the number of images of each
    split, and the sha256 of all labels and of a thousand names."""
    facts = {}
    for split, dataset in (('train', train_set), ('val', val_set)):
        images = dataset.images
        digest = hashlib.sha256(np.ascontiguousarray(images.labels, np.int64).tobytes())
        for index in np.linspace(0, len(images) - 1, min(len(images), 1000)).astype(int).tolist():
            digest.update(images.name(index).encode('utf-8', 'surrogateescape'))
        facts[split] = {'images': len(images), 'sha256': digest.hexdigest()}
    return facts


def check_same_run(facts, num_epochs, folder, log, checkpoint):
    """Whether the run that -resume=auto has found is the one that the command asks for.

    The data may lie elsewhere, or have changed in their place while something is left to train.

    Args:
        facts: what this start keeps; see Keeper.
        num_epochs: of the whole run.
        folder, checkpoint: what was found.
        log: RunLog.

    Raises:
        InputError: it is a run on other data or classes.
    """
    finished = checkpoint['epoch'] >= num_epochs
    before, now = (describe_data(content) for content in (checkpoint, facts))
    if before == now:
        now = f'the same but for {hidden_difference(checkpoint, facts)}'
    changed = {line.partition(':')[0] for line in
               differences(checkpoint['config'], facts['config'])}
    moved = changed & {'DATA.DATASET', 'DATA.DATA_PATH', 'DATA.TRAIN_FRACTION'}
    if 'MODEL.NUM_CLASSES' in changed or (
            not same_data(checkpoint, facts) and (moved or finished)):
        raise InputError(
            f'-resume=auto: found {folder}, a run on other data: {before}; got {now}; expected '
            f'another -output for a new run, or -resume={folder} to go on from its weights')
    if not same_data(checkpoint, facts):
        log.warning(f'the data have changed: {before}; now {now}')
    elif moved:
        log.info(f'the data are the same, elsewhere: {before}; now {now}')


def same_data(checkpoint, facts):
    """By what both know: checkpoints had less in them before."""
    names = [content.get('class_names') for content in (checkpoint, facts)]
    if None not in names and names[0] != names[1]:
        return False
    if 'data_sets' in checkpoint:
        return checkpoint['data_sets'] == facts['data_sets']
    images = checkpoint.get('data', facts['data'])['images']
    return images == facts['data']['images']


def describe_data(content):
    """'DATASET PATH (N images, K classes)' of what a checkpoint keeps."""
    config = content['config']
    data, images = config.get('DATA', {}), content.get('data', {}).get('images', 'unknown')
    names = content.get('class_names')
    shown = f': {names[0]}, ...' if names else ''
    return (f'{data.get("DATASET")} {data.get("DATA_PATH")} ({images} training images, '
            f'{config.get("MODEL", {}).get("NUM_CLASSES")} classes{shown})')


def hidden_difference(checkpoint, facts):
    """What of the data differs, where `describe_data` says the same of both."""
    before = checkpoint.get('data_sets', {})
    splits = [f'the {split} images\' number, names or labels'
              for split, now in facts['data_sets'].items() if before.get(split) != now]
    return ', and '.join(splits) or 'the names of classes'


def go_on(position, folder, facts, log):
    """Says where a resumed run goes on and what is different, and takes over its best weights.

    Args:
        position: what `resume` gave; `best` and `unsaved` are set to what best.pdparams holds.
        folder: of this run.
        facts: what its checkpoints keep; see Keeper.
        log: RunLog.

    Raises:
        InputError: it would go on in an epoch whose order was another one.
    """
    file = position['file']
    if position['note']:
        log.warning(position['note'])
    log.info(f'resume: {file}, after epoch {position["epoch"]}'
             + (f' and {position["step"]} steps' if position['step'] else ''))
    for line in differences(position['config'], facts['config']):
        log.info(f'  {line}')
    before, now = ({**facts['data'], **content.get('data', {}), 'SEED': content.get('seed'),
                    'sha256': content.get('data_sets', facts['data_sets'])['train']['sha256']}
                   for content in (position, facts))
    if position['step'] and before != now:
        raise InputError(
            f'-resume: {file} stops within an epoch, after {position["step"]} steps; to go on with '
            f'its other samples, expected {before}, got {now} (global batch: DATA.BATCH_SIZE x '
            f'TRAIN.ACCUM_ITER x processes)')
    if not dist.is_master():
        return
    in_place = os.path.dirname(file) == folder
    take_best(position, folder, in_place)
    if in_place:
        log.cut(position['epoch'], position['step'])
    best = position['best']
    if best and (not in_place or best['epoch'] > position['epoch']):  # its line is not in the log
        log.metric('best', at=best['epoch'], **best)
    if not in_place:
        return
    damaged = os.path.join(folder, LAST)
    if file != damaged and os.path.exists(damaged):
        os.replace(damaged, f'{damaged}.damaged')  # else it would become the one before the next


def take_best(position, folder, in_place):
    """Sets the position's `best` to the evaluation whose weights best.pdparams holds, or None, and
    `unsaved` to a better one whose weights could not be written, or None.

    The file may be newer than the checkpoint (the run was killed between the two), or older (the
    disk was full). That of another run is copied, unless it is newer.
    """
    best = position.get('unsaved') or position['best']
    source = os.path.join(os.path.dirname(position['file']), BEST)
    kept = None
    with contextlib.suppress(InputError, KeyError, TypeError):  # missing, damaged, or another's
        kept = load_pickle(source)['best']
    kept = kept if is_result(kept) else None
    if kept and not in_place:
        if best is None or kept['epoch'] > best['epoch']:
            kept = None
        else:
            copy_file(source, os.path.join(folder, BEST))
    is_kept = kept and (best is None or kept['acc1'] >= best['acc1'])
    position['best'] = kept
    position['unsaved'] = None if is_kept else best
