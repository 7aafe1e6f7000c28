"""Checkpoints of a run: what is in them, and how they reach the disk.

`last.pdparams` holds everything to go on with, `best.pdparams` the weights of the best
evaluation. Both are dictionaries with the weights under 'model', as PaddleViT writes them.
"""
import contextlib
import os

import paddle

from common.errors import InputError
from common.optim import optimizer_state, prepare_optimizer_state
from common.safe_load import append_checksum, load_pickle
from common.weights import assign, check_state, state_dict_of

FORMAT_VERSION = 1


def write_atomically(content, path):
    """paddle.save with a checksum behind it: the old file or the new one, never half of one.

    Paddle itself ignores what follows the pickle, so that paddle.load reads the file too.
    """
    with replace_atomically(path) as temporary:
        paddle.save(content, temporary)
        append_checksum(temporary)


@contextlib.contextmanager
def replace_atomically(path):
    """A temporary path beside `path`, to be written; takes its place at the end of the block."""
    temporary = f'{path}.tmp{os.getpid()}'
    try:
        yield temporary
        with open(temporary, 'rb+') as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_weights(path, model, facts):
    """Weights with some facts about them (epoch, accuracy, config).

    Args:
        path: file to write.
        model: a Layer.
        facts: dict of numbers, strings and dicts of them.
    """
    write_atomically({'model': model.state_dict(), 'format_version': FORMAT_VERSION, **facts}, path)


def save_checkpoint(path, model, optimizer, scaler, facts, ema=None):
    """Everything that a run needs to go on: weights, their moving average, optimiser, loss
    scaling, and the facts."""
    write_atomically({
        'model': model.state_dict(),
        'optimizer': optimizer_state(optimizer, model),
        'amp_grad_scaler': scaler.state_dict() if scaler else {},
        'format_version': FORMAT_VERSION,
        **({'ema': ema.state()} if ema else {}),
        **facts,
    }, path)


def resume(path, model, optimizer, scaler, ema=None):
    """Loads what `save_checkpoint` wrote.

    Args:
        path: file.
        model: a Layer; the weights must fit without any change.
        optimizer: of common.optim.build_optimizer, or None to load the weights only.
        scaler: GradScaler or None.
        ema: common.ema.Ema or None.

    Returns:
        The checkpoint's dict, with the facts.

    Raises:
        InputError: not a checkpoint of a run, of a newer format, or for another model.
    """
    content = load_pickle(path)
    if not isinstance(content, dict) or 'optimizer' not in content or 'epoch' not in content:
        raise InputError(f'{path}: got weights without a training state, expected a last.pdparams '
                         f'of a run; to start from weights use -pretrained')
    for key, kinds in (('epoch', int), ('best', (dict, type(None))), ('amp_grad_scaler', dict),
                       ('config', dict)):
        if not isinstance(content.get(key, ...), kinds):
            raise InputError(f'{path}: {key}: got {content.get(key)!r}, which no run writes')
    version = content.get('format_version', 0)
    if version != FORMAT_VERSION:
        raise InputError(f'{path}: got checkpoint format {version}, expected {FORMAT_VERSION}')
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
