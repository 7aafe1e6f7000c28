"""Checkpoints of a run: what is in them, and how they reach the disk.

`last.pdparams` holds everything to go on with, `previous.pdparams` what it held before,
`best.pdparams` the weights of the best evaluation. All are dictionaries with the weights under
'model', as PaddleViT writes them. A file is complete or not there under its name; its sha256 is
behind its content, and is compared when it is read.
"""
import os
from pickle import Pickler

import numpy as np
import paddle

from common.core.errors import InputError, shown
from common.core.files import ChecksumFile, replace_atomically
from common.train.optim import optimizer_state, prepare_optimizer_state
from common.train.patience import is_patience
from common.train.results import is_count, is_float, is_result
from common.train.snapshot import host_array
from common.weights.load import LAST, assign, check_state, state_dict_of
from common.weights.unpickle import load_pickle

# 2: also within an epoch (step, sums). 1 is read too: there the step is 0.
FORMAT_VERSION = 2
PREVIOUS = 'previous.pdparams'


def is_config(value):
    """Whether a value is a config: all keys are texts, and DATA and MODEL, if there, have keys
    below them."""
    return isinstance(value, dict) and all(
        isinstance(key, str) and (key not in ('DATA', 'MODEL') or isinstance(item, dict))
        and (not isinstance(item, dict) or is_config(item)) for key, item in value.items())


# What a run writes beside the arrays is checked: a file that is damaged, or that no run has
# written, may hold anything there.
METADATA = {
    'epoch': is_count, 'step': is_count, 'bad_images': is_count,
    'sums': lambda value: isinstance(value, list) and len(value) == 3 and all(map(is_float, value)),
    'best': lambda value: value is None or is_result(value),
    'unsaved': lambda value: value is None or is_result(value),
    'patience': is_patience,
    'amp_grad_scaler': lambda value: isinstance(value, dict),
    'config': is_config,
    'class_names': lambda value: value is None or isinstance(value, list) and all(
        isinstance(name, str) for name in value),
    'cores': lambda value: value is None or is_count(value),
    'data': lambda value: isinstance(value, dict) and 'images' in value,
    'data_sets': lambda value: isinstance(value, dict) and isinstance(value.get('train'), dict)
    and 'sha256' in value['train'],
}
ALWAYS = 'best', 'amp_grad_scaler', 'config'  # the others came later


def write_atomically(content, path):
    """Writes a file as paddle.save does, with a checksum behind it: there is the old file or the
    new one, never half of one.

    Paddle itself ignores what follows the pickle, so that paddle.load reads the file too.
    """
    with replace_atomically(path) as temporary, ChecksumFile(temporary) as stream:
        dump(content, stream)


def dump(content, stream):
    """Pickles what paddle.save would pickle in the same way, but keeps no tensor: a pickler's memo
    holds two copies of each until the end."""
    TensorPickler(stream).dump(content)


class TensorPickler(Pickler):

    def __init__(self, stream):
        super().__init__(stream, protocol=4)
        self.fast = True  # no memo; there is no dict or list in a checkpoint that holds itself

    def reducer_override(self, value):
        if isinstance(value, paddle.Tensor):
            return tuple, ((value.name, value.numpy()),)
        return NotImplemented


def keep_previous(path):
    """Gives the file a second name, PREVIOUS, so that its place can be taken; at no time is there
    neither."""
    previous = os.path.join(os.path.dirname(path), PREVIOUS)
    # Two names of one file: a run was killed just after this. (Renaming one to the other would do
    # nothing, and leave a third name of it.)
    if not os.path.exists(path) or os.path.exists(previous) and os.path.samefile(path, previous):
        return
    temporary = f'{path}.tmp{os.getpid()}'
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        temporary = path
    os.replace(temporary, previous)


def write_checkpoint(content, path):
    """Writes a checkpoint's content. The file that was there becomes PREVIOUS."""
    keep_previous(path)
    write_atomically(content, path)


def check_finite(model):
    """Raises InputError for weights that are not finite; they must not reach a file."""
    for name, value in model.state_dict().items():
        if value.dtype == paddle.bfloat16:  # whole numbers for numpy
            value = value.astype('float32')
        if not np.isfinite(host_array(value)).all():
            raise InputError(f'{name}: got weights that are not finite; nothing is saved')


def read_checkpoint(path):
    """Reads a checkpoint file, or that of a run's folder.

    A `last.pdparams` that is damaged or missing gives the one before it, and the sentence says so.

    Returns:
        (content, file, a sentence or None).

    Raises:
        InputError: none can be read.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    file = os.path.join(path, LAST) if os.path.isdir(path) else path
    try:
        if not os.path.isfile(file):
            raise InputError(f'{file}: no such file')
        return load_pickle(file), file, None
    except InputError as error:
        previous = os.path.join(folder, PREVIOUS)
        if os.path.basename(file) != LAST or not os.path.isfile(previous):
            raise
        return load_pickle(previous), previous, f'{error}; {previous} is read instead'


def save_weights(path, model, metadata):
    """Writes weights with some metadata (epoch, accuracy, config).

    Args:
        path: file to write.
        model: a Layer.
        metadata: dict of numbers, strings and dicts of them.
    """
    check_finite(model)
    write_atomically({'model': model.state_dict(), 'format_version': FORMAT_VERSION, **metadata},
                     path)


def save_checkpoint(path, model, optimizer, scaler, metadata, ema=None, resumed=None, write=None):
    """Writes everything that a run needs to go on. The file that was there becomes PREVIOUS.

    Args:
        path: file to write.
        model: a Layer.
        optimizer: made by common.train.optim.build_optimizer.
        scaler: GradScaler or None.
        metadata: dict with epoch, step, best and what METADATA lists.
        ema: common.train.ema.Ema or None.
        resumed: the optimiser's state of the checkpoint that this run has gone on with; Paddle 2.6
            gives none before the first step.
        write: called with the content, whose tensors are the run's own, and the path;
            None: write_checkpoint.
    """
    check_finite(model)
    (write or write_checkpoint)(
        checkpoint_content(model, optimizer, scaler, metadata, ema, resumed), path)


def checkpoint_content(model, optimizer, scaler, metadata, ema=None, resumed=None):
    """The dict that `save_checkpoint` writes."""
    return {
        'model': model.state_dict(),
        # compat: optimizer-state
        'optimizer': optimizer_state(optimizer, model) or resumed or {},
        'amp_grad_scaler': scaler.state_dict() if scaler else {},
        'format_version': FORMAT_VERSION,
        **({'ema': ema.state()} if ema else {}),
        **metadata,
    }


def check_metadata(content, scaler, file):
    """Raises InputError for a checkpoint whose metadata no run has written."""
    for key, is_right in METADATA.items():
        is_there = key in content or key in ALWAYS
        if is_there and not is_right(content.get(key, ...)):
            raise InputError(f'{file}: {key}: got {shown(content.get(key))}, which no run writes')
    state = content['amp_grad_scaler']
    if scaler and state and (state.keys() != scaler.state_dict().keys() or not all(
            isinstance(value, (int, float)) or np.size(value) == 1 for value in state.values())):
        raise InputError(f'{file}: amp_grad_scaler: got {shown(state)}, which no run writes')


def resume(path, model, optimizer, scaler, ema=None, check=None):
    """Loads what `save_checkpoint` wrote.

    Args:
        path: file, or a run's folder; see `read_checkpoint`.
        model: a Layer; the weights must fit without any change.
        optimizer: of common.train.optim.build_optimizer, or None to load the weights only.
        scaler: GradScaler or None.
        ema: common.train.ema.Ema or None.
        check: called with the checkpoint's dict before anything is loaded, or None.

    Returns:
        The checkpoint's dict, with its metadata; 'file' is what was read, 'note' a sentence or
        None.

    Raises:
        InputError: not a checkpoint of a run, of a newer format, or for another model.
    """
    content, path, note = read_checkpoint(path)
    if not isinstance(content, dict) or 'optimizer' not in content or 'epoch' not in content:
        raise InputError(f'{path}: got weights without a training state, expected a last.pdparams '
                         f'of a run; to start from weights use -pretrained')
    version = content.get('format_version', 0)
    if version not in (1, FORMAT_VERSION):
        raise InputError(f'{path}: got checkpoint format {shown(version)}, expected '
                         f'{FORMAT_VERSION} or 1')
    content = {'step': 0, 'sums': [0.0, 0.0, 0.0], 'unsaved': None, **content, 'file': path,
               'note': note}
    check_metadata(content, scaler, path)
    if check is not None:
        check(content)
    state = state_dict_of(content.get('model'), path)
    values, _ = check_state(state, model.state_dict(), set(), path)
    if optimizer is not None:
        optimizer.set_state_dict(
            prepare_optimizer_state(optimizer, model, content['optimizer'], path))
        if scaler and content['amp_grad_scaler']:
            scaler.load_state_dict(content['amp_grad_scaler'])
    if ema is not None:
        ema.load(content.get('ema'), path)
    assign(model, values)
    return content
