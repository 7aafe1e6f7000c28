"""A run's folder: which one a command writes into, and which run it goes on with."""
import contextlib
import json
import os
import shutil
import time

import yaml

from common.config import plain_config
from common.core import dist, processes
from common.core.environment import RUN_FOLDER, SUPERVISED
from common.core.errors import InputError
from common.core.files import replace_atomically
from common.train.checkpoint import PREVIOUS
from common.weights.load import LAST

AUTO = 'auto'  # of -resume
RESULT = 'result.json'
# What a start writes before anything is trained.
AT_START = {'config.yaml', 'log.txt', 'metrics.jsonl', 'lock', 'visualdl', 'train_subset.txt',
            'val_subset.txt'}
MAX_FOLDERS = 999  # that may be made within one second


def choose_folder(config):
    """Chooses the run's folder: its supervisor's, the one that -resume=auto finds, or a new one.

    Returns:
        Its path; None on a launcher's ranks other than 0, which hear of it from that one.
    """
    if dist.launched_rank() > 0:
        return None
    folder = supervised_folder()
    if not folder and config.MODEL.RESUME == AUTO:
        folder = find_run(config.SAVE, config.MODEL.NAME)
    if not folder:
        return make_run_folder(config)
    sweep_temporary(folder)
    return folder


def sweep_temporary(folder):
    """Removes what `replace_atomically` has left of a run that was killed."""
    processes.sweep(folder, r'.*\.tmp(\d+)')


def supervised_folder():
    """The folder that a supervisor has chosen for this process; None or '' if there is none."""
    return os.environ.get(RUN_FOLDER) if SUPERVISED in os.environ else None


def find_resumed(config, folder):
    """Finds what a run goes on with: its own folder if a checkpoint is in it, else what the user
    has named, or nothing.

    Args:
        config: the run's config; its MODEL.RESUME may be AUTO.
        folder: the run's folder, or None.

    Returns:
        The config with a MODEL.RESUME that is a path or None; and a sentence about runs that are
        passed over, or None.
    """
    resumed, note = config.MODEL.RESUME, None
    if resumed == AUTO:
        resumed = None
        if folder:
            note = note_of_unsaved(config, folder)
    if folder and saved_at(folder):
        resumed = folder
    return with_resume(config, resumed), note


def with_resume(config, resumed):
    """The config with another MODEL.RESUME."""
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
    """Finds the newest run's folder SAVE/NAME-train-* with a checkpoint, or None."""
    newest_time, newest = max(((saved_at(run), run) for run in runs_of(save, name)),
                              default=(0.0, None))
    return newest if newest_time else None


def note_of_unsaved(config, folder):
    """A sentence about the newest run without a checkpoint, if it is newer than the run that goes
    on; else None. `folder` is where this run is written."""
    newer = [(changed_at(run), run) for run in runs_of(config.SAVE, config.MODEL.NAME)
             if run != folder and not saved_at(run)]
    time_of_run, run = max(newer, default=(0.0, None))
    if time_of_run <= saved_at(folder):
        return None
    what_starts = f'{folder} goes on' if saved_at(folder) else 'a new run starts'
    return f'-resume=auto: {run} has no checkpoint, so {what_starts}'


def make_run_folder(config):
    """A new folder SAVE/NAME-train-YYYYmmdd-HHMMSS with the run's config, never one that exists."""
    kind = 'eval' if config.get('EVAL') else 'train'
    folder = make_folder(config.SAVE, f'{config.MODEL.NAME}-{kind}')
    plain = plain_config(config)
    plain['MODEL']['RESUME'] = None  # of this start, not of the recipe
    try:
        write_text(os.path.join(folder, 'config.yaml'), yaml.safe_dump(plain, sort_keys=False))
    except InputError:
        discard(folder)
        raise
    return folder


def make_folder(save, name):
    """A new folder SAVE/NAME-YYYYmmdd-HHMMSS, never one that exists.

    Raises:
        InputError: it cannot be made.
    """
    stem = os.path.join(save, f'{name}-{time.strftime("%Y%m%d-%H%M%S")}')
    for attempt in range(1, MAX_FOLDERS + 1):
        folder = stem if attempt == 1 else f'{stem}-{attempt}'
        try:
            os.makedirs(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise InputError(f'-output: {folder} is in the way') from None
            continue
        except OSError as error:
            raise InputError(f'-output: cannot make {folder}: {error.strerror}') from None
        return folder
    raise InputError(f'-output: {stem} and {MAX_FOLDERS - 1} more exist already')


def write_text(path, text):
    """Writes a small file, whole or not at all.

    Raises:
        InputError: it cannot be written (disk full).
    """
    try:
        with replace_atomically(path) as temporary, open(temporary, 'w') as stream:
            stream.write(text)
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from None


def copy_file(source, path):
    """Copies a file, whole or not at all. Raises InputError as `write_text` does."""
    try:
        with replace_atomically(path) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from None


def write_result(folder, result):
    """Writes result.json, which says that the run has ended."""
    write_text(os.path.join(folder, RESULT), json.dumps(result, indent=1))


def has_result(folder):
    """Whether the run has ended."""
    return os.path.exists(os.path.join(folder, RESULT))


def remove_result(folder):
    """Removes result.json, for a run that goes on after its end with more epochs."""
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
