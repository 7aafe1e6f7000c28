"""The machine over days: logs, memory, file descriptors, threads, folders, and other machines."""
import errno
import gc
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc
import weakref

import numpy as np
import pytest

from common.train import evaluation
from common.train import trainer as training
from common.train.checkpoint import write_atomically
from common.train.engine import evaluate
from common.train.log import RunLog
from common.train.trainer import Trainer
from common.zoo import create_model
from tests.conftest import ROOT, run_script, write_image_list
from tests.reliability.runs import arguments, content_of, cut, digest, run_folder, train

# Steps that cost little: an epoch has three.
QUICK = ['-batch_size=16', '-o', 'AUG.AUTO_AUGMENT=', '-o', 'AUG.MIXUP=0.0',
         '-o', 'REPORT_FREQ=20']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('data'), train=48, val=16, size=(32, 32))


# M5: the log

def test_log_stays_small_M5(data, tmp_path):
    """At the default of one line in 20 steps: less than 1 MB in 10,000 steps, in both files."""
    epochs = 30
    assert cut('vit', data, tmp_path, *QUICK, '-o', f'TRAIN.NUM_EPOCHS={epochs}',
               '-o', f'VALIDATE_FREQ={epochs}', '-batch_size=4', '-o', 'REPORT_FREQ=20') == 0
    size = sum((run_folder(tmp_path) / name).stat().st_size
               for name in ('log.txt', 'metrics.jsonl'))
    assert size / (epochs * 12) < 100, size


def test_warning_of_bad_images_comes_once_an_epoch_M5(tmp_path, capsys):
    """However many images are bad."""
    data = write_image_list(tmp_path / 'data', train=48, val=16)
    for bad in range(0, 48, 2):
        (data / 'train' / f'{bad}.jpg').write_bytes(b'')
    assert cut('vit', data, tmp_path / 'out', '-o', 'DATA.MAX_BAD_IMAGES=24') == 0
    assert capsys.readouterr().out.count('WARNING') == 3  # epochs


class FullDisk(io.StringIO):
    """A file on a disk that has become full."""

    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write = writelines = lambda self, text: self.flush()


def test_training_goes_on_when_the_log_cannot_be_written_M5(data, tmp_path, monkeypatch, capsys):
    """The weights are worth more than the log: one warning, and the same weights."""
    real = RunLog.__init__

    def init(self, *args, **options):
        real(self, *args, **options)
        self.metrics.close()
        self.metrics = FullDisk()
        for handler in self.logger.handlers:
            if hasattr(handler, 'baseFilename'):
                handler.setStream(FullDisk()).close()

    assert cut('vit', data, tmp_path / 'whole') == 0
    monkeypatch.setattr(RunLog, '__init__', init)
    capsys.readouterr()
    assert cut('vit', data, tmp_path / 'full') == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count('No space left on device') <= 2
    assert digest(content_of(tmp_path / 'full')) == digest(content_of(tmp_path / 'whole'))


def test_training_goes_on_when_its_output_cannot_be_written_M5(data, tmp_path, monkeypatch):
    """Standard output and error are files on a full disk."""
    monkeypatch.setattr(sys, 'stdout', FullDisk())
    monkeypatch.setattr(sys, 'stderr', FullDisk())
    assert cut('vit', data, tmp_path, *QUICK, stop_at=2) == 143
    assert content_of(tmp_path)['step'] == 2


# M6, M7: what a process holds

def resident():
    with open('/proc/self/statm') as stream:
        return int(stream.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def watch(monkeypatch, measure):
    """Calls `measure` after each step; the list of what it gave."""
    seen, real = [], Trainer.after_step

    def measured(self, step, sums):
        real(self, step, sums)
        seen.append(measure())

    monkeypatch.setattr(Trainer, 'after_step', measured)
    return seen


def slope(values):
    return np.polyfit(np.arange(len(values)), values, 1)[0]


@pytest.mark.long
def test_memory_does_not_grow_M6(data, tmp_path, monkeypatch):
    """5,000 steps, 20 evaluations, 50 checkpoints: under 1 kB a step after the first thousand."""
    seen = watch(monkeypatch, resident)
    assert cut('vit', data, tmp_path, *QUICK, '-batch_size=4', '-o', 'TRAIN.NUM_EPOCHS=420',
               '-o', 'VALIDATE_FREQ=21', '-o', 'SAVE_STEPS=100') == 0
    assert len(seen) == 5040
    print(f'{slope(seen[1000:]):.0f} bytes a step, {seen[-1] >> 20} MiB')
    assert slope(seen[1000:]) < 1024


def test_nothing_is_kept_of_an_evaluated_image_M6(tmp_path, monkeypatch):
    """What Python holds after each epoch, in bytes; 1,000 images are evaluated in each, by the
    weights and by their average. (Paddle 3.3 itself loses 104 bytes with each array that becomes a
    tensor, whatever its size: some 2 kB an epoch here.)"""
    data = write_image_list(tmp_path / 'data', train=16, val=500, size=(8, 8))
    seen, real = [], Trainer.finish_epoch

    def measured(self, epoch):
        real(self, epoch)
        gc.collect()
        seen.append(tracemalloc.get_traced_memory()[0])

    monkeypatch.setattr(Trainer, 'finish_epoch', measured)
    tracemalloc.start()
    try:
        assert cut('vit', data, tmp_path / 'output', *QUICK, '-o', 'DATA.BATCH_SIZE_EVAL=500',
                   '-o', 'DATA.IMAGE_SIZE=8', '-o', 'TRAIN.NUM_EPOCHS=7') == 0
    finally:
        tracemalloc.stop()
    assert len(seen) == 7
    # the median: what is made once, such as a cache, does not count
    assert np.median(np.diff(seen)) / 1000 < 8  # a number in a list takes 8, a large one 28 more


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.long)])
def test_descriptors_and_threads_stay_M7(workers, data, tmp_path, monkeypatch):
    """Over 100 epochs with an evaluation in each."""
    seen = watch(monkeypatch, lambda: (len(os.listdir('/proc/self/fd')),
                                       len(os.listdir('/proc/self/task'))))
    assert cut('vit', data, tmp_path, *QUICK, '-o', 'TRAIN.NUM_EPOCHS=100',
               '-o', f'DATA.NUM_WORKERS={workers}') == 0
    assert len(seen) == 300
    early, late = np.array(seen[15:60]), np.array(seen[-45:])
    assert (late.max(0) <= early.max(0) + 1).all(), (early.max(0), late.max(0))


# M4: folders that are not there

def test_nothing_is_kept_of_the_log_of_a_run_that_has_ended_M7(tmp_path):
    """Several runs in one Python process."""
    log = RunLog(str(tmp_path))
    log.info('a line')
    log.close()
    kept = weakref.ref(log)
    del log
    gc.collect()
    assert kept() is None


def test_missing_home_M4(data, tmp_path):
    """Nothing that a run needs is kept there: fonts, caches, settings."""
    code, _, err = run_script(
        ['main_multi_gpu.py', *arguments('vit', data, tmp_path, '-o', 'TRAIN.NUM_EPOCHS=1')],
        env={'HOME': '/nowhere', 'MPLCONFIGDIR': '/nowhere/matplotlib'})
    assert code == 0, err
    assert content_of(tmp_path)['epoch'] == 1


# M8: a run that is refused

@pytest.mark.parametrize('flags', [
    ['-o', 'MODEL.NUM_HEADS=5'], ['-batch_size=64'], ['-resume=WEIGHTS'], ['-last_epoch=3'],
    ['-eval', '-pretrained=WEIGHTS', '-o', 'MODEL.NUM_CLASSES=11']])
def test_refused_run_leaves_no_folder_M8(flags, data, tmp_path, capsys):
    weights = tmp_path / 'weights.pdparams'
    write_atomically(create_model('vit_digits', depth=1, embed_dim=32, num_heads=2).state_dict(),
                     str(weights))
    flags = [flag.replace('WEIGHTS', str(weights)) for flag in flags]
    assert cut('vit', data, tmp_path / 'out', *flags) == 1
    assert capsys.readouterr().err.count('error: ') == 1
    assert not (tmp_path / 'out').exists() or not list((tmp_path / 'out').iterdir())


def test_full_disk_while_the_best_weights_are_copied_M8(data, tmp_path, monkeypatch, capsys):
    """The line names the file that is written, and the new run's folder goes."""
    flags = ['-o', 'SAVE_FREQ=1']
    assert cut('vit', data, tmp_path / 'old', *flags, stop_at=13) == 143

    def copyfile(source, target):
        raise OSError(errno.ENOSPC, 'No space left on device', source, None, target)

    monkeypatch.setattr(shutil, 'copyfile', copyfile)
    old = run_folder(tmp_path / 'old')
    assert cut('vit', data, tmp_path / 'new', *flags, f'-resume={old}') == 1
    err = capsys.readouterr().err
    assert f'error: cannot write {tmp_path / "new"}/' in err
    assert err.endswith('/best.pdparams: No space left on device\n')
    assert not list((tmp_path / 'new').iterdir())


def test_refused_run_that_is_watched_over_leaves_no_folder_M8(tmp_path):
    """Its data are missing, which the process finds that is watched over."""
    (tmp_path / 'out').mkdir()
    code, _, err = train('vit', tmp_path / 'missing', tmp_path / 'out', '-max_restarts=1')
    assert code == 1 and err.count('error: ') == 1, err
    assert not list((tmp_path / 'out').iterdir())


def test_refused_run_leaves_an_older_one_alone_M8(data, tmp_path):
    assert cut('vit', data, tmp_path, stop_at=3) == 143
    before = digest(content_of(tmp_path))
    assert cut('vit', data, tmp_path, '-resume=auto', '-o', 'MODEL.EMBED_DIM=16') == 1
    assert digest(content_of(tmp_path)) == before


# R4: a signal while no step runs

def killed_in(monkeypatch, module, name):
    """Has the first call of a function come with a SIGTERM."""
    real, calls = getattr(module, name), []

    def call(*args, **options):
        if not calls:
            os.kill(os.getpid(), signal.SIGTERM)
        calls.append(name)
        return real(*args, **options)

    monkeypatch.setattr(module, name, call)
    return calls


@pytest.mark.parametrize('name', ['evaluate', 'save_checkpoint', 'save_weights'])
def test_signal_in_evaluation_or_saving_R4(name, data, tmp_path, monkeypatch):
    assert evaluate is evaluation.evaluate
    assert cut('vit', data, tmp_path / 'whole', '-o', 'SAVE_STEPS=5') == 0
    calls = killed_in(monkeypatch, evaluation if name == 'evaluate' else training, name)
    assert cut('vit', data, tmp_path / 'cut', '-o', 'SAVE_STEPS=5') == 143
    assert calls
    monkeypatch.undo()
    assert cut('vit', data, tmp_path / 'cut', '-o', 'SAVE_STEPS=5', '-resume=auto') == 0
    assert digest(content_of(tmp_path / 'cut')) == digest(content_of(tmp_path / 'whole'))


# P6: two machines

def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


@pytest.mark.long
def test_two_nodes_on_the_loopback_P6(data, tmp_path):
    """One launcher is one machine; together they are the run on two processes of one machine."""
    flags = ['-batch_size=4', '-o', 'AUG.MIXUP=0.0', '-o', 'AUG.ERASING=0.0']
    port = free_port()
    nodes = [subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-m', 'paddle.distributed.launch',
         f'--master=127.0.0.1:{port}', '--nnodes=2', f'--rank={node}', '--nproc_per_node=1',
         f'--log_dir={tmp_path / "log" / str(node)}', 'main_multi_gpu.py',
         *arguments('vit', data, tmp_path / 'two', *flags)], cwd=ROOT / 'vit',
        env={**os.environ, 'PADDLE_DISTRI_BACKEND': 'gloo'}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True) for node in range(2)]
    try:
        for node in nodes:
            out, _ = node.communicate(timeout=120)
            assert node.returncode == 0, out
    finally:
        for node in nodes:
            node.kill()
    code, _, err = run_script(['main_multi_gpu.py', *arguments(
        'vit', data, tmp_path / 'one', *flags, '-nprocs=2')])
    assert code == 0, err
    assert digest(content_of(tmp_path / 'two')) == digest(content_of(tmp_path / 'one'))
