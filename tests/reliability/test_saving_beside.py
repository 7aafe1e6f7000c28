"""Checkpoints that are written beside the training: whatever comes meanwhile, the guarantees are
those of one that training waits for.

`held` keeps each such write from its first byte until the run waits for it, so that what is tested
comes for certain while it is under way.
"""
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time

import numpy as np
import paddle
import pytest

from common.config import base_config
from common.core.memory import available_memory
from common.train import checkpoint, saver
from common.train.checkpoint import PREVIOUS, read_checkpoint, save_checkpoint, write_checkpoint
from common.train.ema import Ema
from common.train.log import RunLog
from common.train.optim import build_optimizer
from common.train.saver import CheckpointSaver
from common.train.snapshot import Snapshot, size_of
from common.train.trainer import Trainer
from common.weights.load import LAST
from common.zoo import create_model
from tests.conftest import write_image_list
from tests.reliability.runs import FORKS, content_of, cut, digest, run_folder

SAVING = ('-o', 'SAVE_STEPS=5', '-o', 'SAVE_ASYNC=True')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('data'), train=48, val=16)


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """The digest of the end of a run that nothing has come to, with all writes while it waits."""
    output = tmp_path_factory.mktemp('whole')
    assert cut('vit', data, output, '-o', 'SAVE_STEPS=5', '-o', 'SAVE_ASYNC=False') == 0
    return digest(content_of(output))


@pytest.fixture
def held(monkeypatch):
    """A list of what was written beside, as 'epoch/step', and of 'step' for each step that ended
    while a write was under way."""
    events, go = [], threading.Event()
    write, wait, step = saver.write_checkpoint, CheckpointSaver.wait, Trainer.after_step

    def held_write(content, path):
        go.wait()
        write(content, path)
        events.append(f'{content["epoch"]}/{content["step"]}')

    def released_wait(self):
        go.set()
        wait(self)
        go.clear()

    def counted_step(self, number, sums):
        step(self, number, sums)
        if self.saver.is_writing():
            events.append('step')

    monkeypatch.setattr(saver, 'write_checkpoint', held_write)
    monkeypatch.setattr(CheckpointSaver, 'wait', released_wait)
    monkeypatch.setattr(Trainer, 'after_step', counted_step)
    return events


@pytest.mark.smoke
def test_file_is_the_same_to_the_byte_and_later_steps_are_not_in_it_K10(tmp_path):
    model = create_model('vitaev2_vsa_digits')  # with running statistics
    optimizer = build_optimizer(base_config().TRAIN, model)
    (model(paddle.rand([2, 3, 32, 32])) ** 2).sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    ema = Ema(model, 0.9)
    ema.update()
    extra = {'b': paddle.rand([3, 2]).astype('bfloat16'), 'h': paddle.rand([5]).astype('float16'),
             'zero': paddle.rand([]), 'none': paddle.zeros([0, 3]), 'array': np.arange(3)}
    extra['again'] = extra['h']
    facts = {'epoch': 0, 'step': 1, 'sums': [0.0] * 3, 'best': None, 'config': {'a': [1, extra]}}
    snapshot = Snapshot()

    def write_later(content, path):
        copied = snapshot.copy(content)
        for tensor in [*model.state_dict().values(), *ema.average.values(), extra['h']]:
            tensor.set_value(tensor * 0)
        write_checkpoint(copied, path)

    for _ in range(2):  # the second time in memory that is there
        save_checkpoint(str(tmp_path / 'a'), model, optimizer, None, facts, ema)
        save_checkpoint(str(tmp_path / 'b'), model, optimizer, None, facts, ema, write=write_later)
        content = (tmp_path / 'a').read_bytes()
        assert content == (tmp_path / 'b').read_bytes()
    assert len(snapshot.memory) > 0.9 * len(content)


def test_training_goes_on_and_the_next_checkpoint_waits_K10(data, tmp_path, held, whole):
    """Each write ends before the next begins, in their order; steps come between."""
    assert cut('vit', data, tmp_path, *SAVING) == 0
    saves = [entry for entry in held if entry != 'step']
    assert saves == ['0/5', '0/10', '1/3', '1/8', '2/1', '2/6', '2/11']
    for before, after in zip(saves, saves[1:], strict=False):
        assert 'step' in held[held.index(before):held.index(after)]
    assert digest(content_of(tmp_path)) == whole


@pytest.mark.smoke
@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_while_one_is_written_K10(number, code, data, tmp_path, held):
    """Both are on the disk: the one under way, and that of the stop."""
    assert cut('vit', data, tmp_path, *SAVING, stop_at=7, number=number) == code
    folder = run_folder(tmp_path)
    assert held[-1] == '0/5' and 'step' in held
    assert [read_checkpoint(str(folder / name))[0]['step'] for name in (LAST, PREVIOUS)] == [7, 5]
    assert not list(folder.glob('*.tmp*'))


def rank_of_two(rank, port, data, output, *more):
    """A rank of a run on two, as the whole of a process. OUTPUT.beside gets a line for each file
    that is written beside."""
    def noted_write(content, path):
        with open(f'{output}.beside', 'a') as stream:
            stream.write(f'{rank} {content["step"]} {threading.current_thread().name}\n')
        write_checkpoint(content, path)

    saver.write_checkpoint = noted_write
    RunLog.draw_curves = lambda self, force=False: None  # its imports take longer than the run
    endpoints = [f'127.0.0.1:{port}', f'127.0.0.1:{port + 1}']
    os.environ.update(PADDLE_TRAINER_ID=str(rank), PADDLE_TRAINERS_NUM='2',
                      PADDLE_CURRENT_ENDPOINT=endpoints[rank],
                      PADDLE_TRAINER_ENDPOINTS=','.join(endpoints))
    sys.exit(cut('vit', data, output, *SAVING, *more))


def log_of_two_ranks(data, output, *more):
    """The log of a run on two ranks that ends well."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    ranks = [FORKS.Process(target=rank_of_two, args=(rank, port, data, output, *more))
             for rank in range(2)]
    ranks[0].start()
    while ranks[0].is_alive():  # without its store rank 1 would wait for 3 s
        with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port)):
            break
        time.sleep(0.01)
    ranks[1].start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    return (run_folder(output) / 'log.txt').read_text()


def test_two_ranks_and_split_states_K10_H1(data, tmp_path):
    """With all states on rank 0 it writes beside the training; with TRAIN.SHARDING training waits,
    as the log says, and the end is the same to the bit. (Without clipping, whose sum has another
    order where gradients are split; and halves are exact.)"""
    flags = ['-batch_size=2', '-o', 'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0',
             '-o', 'TRAIN.GRAD_CLIP=null']
    assert 'SAVE_ASYNC is off' not in log_of_two_ranks(data, tmp_path / 'plain', *flags)
    log = log_of_two_ranks(data, tmp_path / 'split', *flags, '-o', 'TRAIN.SHARDING=3')
    assert log.count('SAVE_ASYNC is off: with TRAIN.SHARDING no process has memory for all') == 1
    assert (tmp_path / 'plain.beside').read_text() == '0 5 checkpoint\n0 10 checkpoint\n'
    assert not (tmp_path / 'split.beside').exists()
    assert digest(content_of(tmp_path / 'plain')) == digest(content_of(tmp_path / 'split'))


def test_error_of_the_run_while_one_is_written_K10(data, tmp_path, held, monkeypatch):
    """A run that ends in an error has its last checkpoint, too."""
    def after_update(self, step, sums):
        if step == 8:
            sums[0] = float('nan')
        real(self, step, sums)

    real = Trainer.after_update
    monkeypatch.setattr(Trainer, 'after_update', after_update)
    assert cut('vit', data, tmp_path, *SAVING) == 1
    assert held[-1] == '0/5' and content_of(tmp_path)['step'] == 5


def killed_in_a_write(data, output, count):
    """A run, as the whole of a process, that gets SIGKILL within one of its writes."""
    real, calls = checkpoint.dump, []

    def dump(content, stream):
        calls.append(content)
        if len(calls) == count:
            assert threading.current_thread() is not threading.main_thread()
            stream.file.write(b'the first bytes')
            stream.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        real(content, stream)

    checkpoint.dump = dump
    cut('vit', data, output, *SAVING)


def test_killed_in_a_write_K11(data, tmp_path, whole):
    third = 4  # of last.pdparams; there is one of best.pdparams, too
    process = FORKS.Process(target=killed_in_a_write, args=(data, tmp_path, third))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    folder = run_folder(tmp_path)
    for name in (LAST, PREVIOUS):  # the newest has both names meanwhile
        assert read_checkpoint(str(folder / name))[0]['step'] == 10
    assert cut('vit', data, tmp_path, *SAVING, '-resume=auto') == 0
    assert not list(folder.glob('*.tmp*'))
    assert digest(content_of(tmp_path)) == whole


def failing(monkeypatch, *errors):
    """Has the first writes fail; None does not."""
    real, left = checkpoint.write_atomically, list(errors)

    def write(content, path):
        error = left.pop(0) if left and path.endswith(LAST) else None
        if error:
            raise error
        real(content, path)

    monkeypatch.setattr(checkpoint, 'write_atomically', write)


def full(path=LAST):
    return OSError(errno.ENOSPC, 'No space left on device', path)


def test_disk_full_in_a_write_K11(data, tmp_path, monkeypatch, capsys):
    """It is said while training goes on, and a stop counts it."""
    failing(monkeypatch, None, full(), full())
    assert cut('vit', data, tmp_path, *SAVING, stop_at=12) == 3
    printed = capsys.readouterr()
    assert printed.out.count('WARNING: cannot write') == 2
    assert 'could not be written; -resume=' in printed.err
    assert content_of(tmp_path)['step'] == 5


def test_other_error_in_a_write_ends_the_run_K11(data, tmp_path, monkeypatch, capsys):
    """Soon, and with its own words; the checkpoint before it stays."""
    failing(monkeypatch, None, ValueError('no such thing'))
    assert cut('vit', data, tmp_path, *SAVING) == 3
    assert 'error: ValueError: no such thing' in capsys.readouterr().err
    folder = run_folder(tmp_path)
    assert content_of(tmp_path)['step'] == 5 and not list(folder.glob('*.tmp*'))


def test_little_memory_is_said_once_and_training_waits_K12(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saver, 'available_memory', lambda: 100_000)
    assert cut('vit', data, tmp_path / 'short', *SAVING, '-o', 'SAVE_STEPS=2', stop_at=5) == 143
    out = capsys.readouterr().out
    assert out.count('SAVE_ASYNC is off: a copy of a checkpoint takes ') == 1, out
    assert content_of(tmp_path / 'short')['step'] == 5

    def refused(size):
        raise OSError(errno.ENOMEM, 'Cannot allocate memory')

    monkeypatch.setattr(saver, 'available_memory', lambda: None)
    monkeypatch.setattr('common.train.snapshot.take_memory', refused)
    assert cut('vit', data, tmp_path / 'none', *SAVING, '-o', 'SAVE_STEPS=2', stop_at=5) == 143
    out = capsys.readouterr().out
    assert out.count('WARNING: SAVE_ASYNC is off: ') == 1 and 'Cannot allocate memory' in out
    assert content_of(tmp_path / 'none')['step'] == 5


@pytest.mark.smoke
def test_no_memory_for_a_copy_that_has_grown_loses_no_checkpoint_K12(tmp_path, monkeypatch, caplog):
    saver = CheckpointSaver(str(tmp_path), {}, logging.getLogger('run'), beside=True)
    saver.prepare(dict)
    saver.wait()

    def refused(size):
        raise OSError(errno.ENOMEM, 'Cannot allocate memory')

    monkeypatch.setattr('common.train.snapshot.take_memory', refused)
    model = create_model('vit_digits', depth=1, embed_dim=16, num_heads=2)
    optimizer = build_optimizer(base_config().TRAIN, model)
    facts = {'epoch': 1, 'step': 0, 'sums': [0.0] * 3, 'best': None, 'config': {}}
    for epoch in (1, 2):
        saver.save(LAST, save_checkpoint, model, {**facts, 'epoch': epoch}, beside=True,
                   optimizer=optimizer, scaler=None)
        saver.check(LAST)
        assert read_checkpoint(str(tmp_path))[0]['epoch'] == epoch
    said, = caplog.messages
    assert said.startswith('SAVE_ASYNC is off: ') and 'Cannot allocate memory' in said


@pytest.mark.smoke
def test_free_memory_is_the_least_of_machine_and_groups_K12(tmp_path):
    proc, groups = tmp_path / 'proc', tmp_path / 'cgroup'
    (proc / 'self').mkdir(parents=True)
    (proc / 'meminfo').write_text('MemTotal: 9000 kB\nMemAvailable: 5000 kB\n')
    assert available_memory(proc, groups) == 5_120_000
    (proc / 'self/cgroup').write_text('4:memory:/a/b\n3:cpu:/a\n0::/c\n')

    def group(folder, use, limit, stat, *files):
        (groups / folder).mkdir(parents=True, exist_ok=True)
        for name, text in zip(files, (limit, use, stat), strict=True):
            (groups / folder / name).write_text(f'{text}\n')

    second = 'memory.max', 'memory.current', 'memory.stat'
    group('c', 900_000, 'max', 'inactive_file 0', *second)
    assert available_memory(proc, groups) == 5_120_000
    group('c', 900_000, 4_000_000, 'anon 5\ninactive_file 50000', *second)
    assert available_memory(proc, groups) == 3_150_000
    first = 'memory.limit_in_bytes', 'memory.usage_in_bytes', 'memory.stat'
    group('memory/a', 2_000_000, 3_000_000, 'total_inactive_file 1', *first)
    assert available_memory(proc, groups) == 1_000_001
    group('memory', 2_000_000, 1_000_000, 'total_inactive_file 1', *first)
    assert available_memory(proc, groups) == 0
    assert available_memory(tmp_path / 'nowhere', groups) is None
    assert available_memory() is None or available_memory() > 0


def test_size_of_a_content():
    content = {'a': paddle.zeros([16]), 'b': {'c': [paddle.zeros([8], 'bfloat16')]}}
    content['again'] = content['a']
    assert size_of(content) == 128  # each begins on a cache line
