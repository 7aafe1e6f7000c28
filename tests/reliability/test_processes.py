"""Workers, ranks and runs that die, hang or meet: the run ends soon and says why."""
import errno
import fcntl
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.core.files import replace_atomically
from common.core.processes import lock
from common.train import launcher
from common.train.launcher import command_of_child
from common.train.log import RunLog
from tests.conftest import ROOT, refusal, run_script, write_image_list
from tests.reliability.runs import (
    FORKS,
    LONG,
    all_ended,
    children_of,
    content_of,
    cut,
    digest,
    start,
    train,
    wait_for_training,
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('data'), train=48, val=16)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSEGV])
def test_dead_worker_ends_the_run_M1(number, data, tmp_path):
    process = start('vit', data, tmp_path, *LONG, '-o', 'DATA.NUM_WORKERS=2')
    wait_for_training(process)
    os.kill(children_of(process.pid)[0], number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3 and 'error: loader: a worker has died' in err, err
    assert 'Traceback (most recent call last)' not in err.split('error: loader')[1]


def test_stuck_worker_ends_the_run_M1(data, tmp_path):
    process = start('vit', data, tmp_path, *LONG, '-o', 'DATA.NUM_WORKERS=1',
                    '-o', 'DATA.WORKER_TIMEOUT=2.0')
    wait_for_training(process)
    os.kill(children_of(process.pid)[0], signal.SIGSTOP)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert 'error: loader: no batch for 2.0 s (DATA.WORKER_TIMEOUT)' in err


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_no_orphans_and_no_shared_memory_M2(number, data, tmp_path):
    process = start('vit', data, tmp_path, *LONG, '-o', 'DATA.NUM_WORKERS=2')
    wait_for_training(process)
    workers = children_of(process.pid)
    assert len(workers) >= 2
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert 'Traceback' not in err and 'SystemError' not in err, err
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    assert all_ended(workers, 30)
    assert not any(str(process.pid) in name for name in os.listdir('/dev/shm'))


def test_sigterm_twice_and_quickly_R4(data, tmp_path):
    process = start('vit', data, tmp_path, *LONG, '-o', 'DATA.NUM_WORKERS=2')
    wait_for_training(process)
    process.terminate()
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    where = re.search(r'stopped by a signal at epoch (\d+), step (\d+)', out)
    content = content_of(tmp_path)
    assert (content['epoch'] + 1, content['step']) == (int(where[1]), int(where[2]))


def test_second_run_in_a_folder_is_refused_M3(data, tmp_path):
    process = start('vit', data, tmp_path, *LONG, '-o', 'SAVE_STEPS=1')
    wait_for_training(process)
    code, _, err = train('vit', data, tmp_path, *LONG, '-resume=auto')
    process.kill()
    process.communicate()
    assert code == 1 and f'process {process.pid} is running there' in err


def test_file_system_without_locks_M3(tmp_path, monkeypatch, capsys):
    """Lustre, for one, as many clusters mount it."""
    def flock(stream, how):
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', flock)
    lock(str(tmp_path)).close()
    assert (tmp_path / 'lock').read_text() == f'{os.getpid()}\n'
    assert capsys.readouterr().err.startswith(
        f'WARNING: {tmp_path} cannot be locked (Function not implemented): ')


@pytest.mark.parametrize('function, name', [(lock, 'lock'), (RunLog, 'log.txt'),
                                            (RunLog, 'metrics.jsonl')])
def test_file_of_a_start_that_cannot_be_opened_is_one_line_M4(function, name, tmp_path):
    (tmp_path / name).mkdir()
    assert refusal(function, str(tmp_path)) == f'cannot write {tmp_path}/{name}: Is a directory'


@pytest.mark.parametrize('place', ['a file', 'read-only'])
def test_output_that_cannot_be_written_M4(place, data, tmp_path):
    output = tmp_path / 'out'
    if place == 'a file':
        output.write_text('')
    else:
        output.mkdir()
        output.chmod(0o500)
        if os.access(output, os.W_OK):  # root may write anywhere; /proc it may not
            output = '/proc/nothing'
    code, _, err = train('vit', data, output)
    assert code == 1 and re.search(r'^error: -output: cannot make .*: \w', err, re.M), err


@pytest.mark.parametrize('number', [
    signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.long)])
def test_dead_or_stuck_rank_ends_all_P1(number, data, tmp_path):
    process = start('vit', data, tmp_path, *LONG, '-nprocs=2')
    wait_for_training(process)
    ranks = [child for child in children_of(process.pid)
             if b'spawn_main' in Path(f'/proc/{child}/cmdline').read_bytes()]
    assert len(ranks) == 2
    os.kill(ranks[1], number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert all_ended(ranks, 30)
    if number == signal.SIGKILL:
        assert 'error: process 1 was ended by SIGKILL' in err


def first_to_end(folder):
    while not list(folder.iterdir()):
        time.sleep(0.01)
    sys.exit(1)


def still_writing(folder):
    with replace_atomically(folder / 'last.pdparams') as temporary:
        Path(temporary).write_text('half')
        time.sleep(0.7)
        Path(temporary).write_text('whole')
    time.sleep(600)


def test_rank_that_writes_a_file_ends_it_when_another_has_ended_P1(tmp_path, monkeypatch):
    """It is ended after that, if it does not end by itself."""
    monkeypatch.setattr(launcher, 'GRACE', 0.1)
    ranks = [FORKS.Process(target=target, args=(tmp_path,))
             for target in (still_writing, first_to_end)]
    for rank in ranks:
        rank.start()
    assert launcher.wait_for(ranks, SimpleNamespace(number=None), str(tmp_path)) == 1
    assert [file.read_text() for file in tmp_path.iterdir()] == ['whole']


STUCK = '''
import os, signal
import common.train.launcher as launcher
from common.train import evaluation
launcher.STUCK, launcher.GRACE = 2.0, 1.0
evaluate = evaluation.evaluate
def stopped(*args):
    if os.environ['PADDLE_TRAINER_ID'] == '1':
        os.kill(os.getpid(), signal.SIGSTOP)
    return evaluate(*args)
evaluation.evaluate = stopped
'''


def test_rank_that_is_stopped_where_no_collective_waits_P1(data, tmp_path):
    """The other one is through with its part of the evaluation; no limit of gloo holds there."""
    script = tmp_path / 'stuck.py'
    script.write_text(STUCK + (ROOT / 'vit' / 'main_multi_gpu.py').read_text())
    process = start('vit', data, tmp_path / 'out', *LONG, '-o', 'VALIDATE_FREQ=1', '-nprocs=2',
                    script=script, env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "vit"}'})
    _, err = process.communicate(timeout=240)
    assert process.returncode == 3, err
    assert 'error: process 1 has been stopped (SIGSTOP) for 2 s, and the others wait' in err
    assert 'Traceback' not in err, err


@pytest.mark.long
def test_ranks_stop_together_and_go_on_R4_P2(data, tmp_path):
    """SIGTERM to the parent reaches both; the rest on two ranks equals a whole run on two."""
    flags = ['-nprocs=2', '-batch_size=2', '-o', 'AUG.MIXUP=0.0', '-o', 'AUG.ERASING=0.0',
             '-o', 'TRAIN.NUM_EPOCHS=30', '-o', 'VALIDATE_FREQ=30']
    process = start('vit', data, tmp_path / 'cut', *flags)
    wait_for_training(process)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    code, _, err = train('vit', data, tmp_path / 'cut', *flags, '-resume=auto')
    assert code == 0, err
    code, _, err = train('vit', data, tmp_path / 'whole', *flags)
    assert code == 0, err
    assert digest(content_of(tmp_path / 'cut')) == digest(content_of(tmp_path / 'whole'))


SLOW = '''
import time
import common.train.saver as saver
save = saver.CheckpointSaver.save
def slow(self, *args, **state):
    save(self, *args, **state)
    time.sleep(35)
saver.CheckpointSaver.save = slow
import runpy; runpy.run_path("main_multi_gpu.py", run_name="__main__")
'''


@pytest.mark.long
def test_slow_saving_does_not_trip_the_other_rank_P3(data, tmp_path):
    """gloo gives up after 30 s; rank 0 is away for 35. (The patch reaches one process, the
    launcher's rank 0.)"""
    script = tmp_path / 'slow.py'
    script.write_text('import os\\nif os.environ["PADDLE_TRAINER_ID"] == "0":\\n    pass\\n')
    source = SLOW.replace('import time\n', 'import os, time\n').replace(
        'saver.CheckpointSaver.save = slow\n',
        'if os.environ["PADDLE_TRAINER_ID"] == "0": saver.CheckpointSaver.save = slow\n')
    script.write_text(source)
    code, out, err = run_script(
        ['-m', 'paddle.distributed.launch', '--nproc_per_node=2', f'--log_dir={tmp_path / "log"}',
         script, '-cfg=./configs/vit_digits.yaml', f'-data_path={data}', '-batch_size=8',
         f'-output={tmp_path / "out"}', '-o', 'TRAIN.NUM_EPOCHS=1', '-o',
         'TRAIN.WARMUP_EPOCHS=0'], env={'PADDLE_DISTRI_BACKEND': 'gloo',
                                        'PYTHONPATH': f'{ROOT}:{ROOT / "vit"}'})
    assert code == 0, err + out


CRASHING = '''
import os, signal
from common.train.trainer import Trainer
after_update, steps = Trainer.after_update, []
def crash(self, *args):
    steps.append(args)
    starts = len(open(os.environ['STARTS']).read()) if os.path.exists(os.environ['STARTS']) else 0
    if starts < 2 and len(steps) == 8:
        with open(os.environ['STARTS'], 'a') as stream:
            stream.write('x')
        os.kill(os.getpid(), signal.SIGKILL)
    after_update(self, *args)
Trainer.after_update = crash
'''


def test_restarts_after_a_crash_P2(data, tmp_path):
    """The child dies in the eighth step of its first two starts, the second time in another epoch;
    the parent starts it again, and it goes on to the same end."""
    flags = ['-o', 'SAVE_STEPS=3']
    script = tmp_path / 'crashing.py'
    script.write_text(CRASHING + (ROOT / 'vit' / 'main_multi_gpu.py').read_text())
    process = start('vit', data, tmp_path / 'crashed', *flags, '-max_restarts=3', script=script,
                    env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "vit"}',
                         'STARTS': str(tmp_path / 'starts')})
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert 'ended with code -9; restart 1 of 3' in err and 'restart 2 of 3' in err
    assert cut('vit', data, tmp_path / 'whole', *flags) == 0
    assert digest(content_of(tmp_path / 'crashed')) == digest(content_of(tmp_path / 'whole'))


@pytest.mark.parametrize('flags', [['-max_restarts', '2'], ['--max_restarts=2'],
                                   ['-max_restarts=1', '--max_restarts', '2']])
def test_restart_has_all_other_arguments_P2(flags, monkeypatch):
    others = ['main_multi_gpu.py', '-output', 'max_restarts', '-o', 'MODEL.NAME=max_restarts']
    monkeypatch.setattr(sys, 'orig_argv', ['python', *others[:3], *flags, *others[3:]])
    assert command_of_child() == [sys.executable, *others]


def test_wrong_input_is_not_started_again_P2(data, tmp_path):
    code, _, err = train('vit', data, tmp_path, '-max_restarts=3', '-o', 'MODEL.NUM_HEADS=7')
    assert code == 1 and 'restart' not in err


def test_debug_shows_the_traceback(data, tmp_path):
    code, _, err = train('vit', data, tmp_path, '-o', 'MODEL.NUM_HEADS=7', '-debug')
    assert code == 1 and 'Traceback' in err
