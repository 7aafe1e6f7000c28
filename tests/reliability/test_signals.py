"""Signals to a run's processes, as a terminal, a process manager or a user sends them: one
checkpoint, the exit code of the signal, nothing started again, and nothing left."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from common.core.environment import RUN_FOLDER
from common.train import evaluation, worker
from common.train.checkpoint import PREVIOUS
from common.weights.load import LAST
from common.weights.unpickle import load_pickle
from tests.conftest import ROOT, write_image_list
from tests.reliability.runs import (
    LONG,
    children_of,
    content_of,
    cut,
    digest,
    is_alive,
    run_folder,
    start,
    train,
    wait_for_training,
)

BOTH = ['-nprocs=2', '-max_restarts=2', '-o', 'DATA.NUM_WORKERS=1']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('data'), train=48, val=16)


def alive_in(session):
    """The processes of a session that run."""
    found = subprocess.run(['pgrep', '-s', str(session)], capture_output=True, text=True).stdout
    return [pid for pid in map(int, found.split()) if is_alive(pid)]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, 'nothing came'
        time.sleep(0.02)
    return found


def ranks_of(session):
    return [pid for pid in alive_in(session) if 'spawn_main' in command_of(pid)]


def command_of(pid):
    try:
        with open(f'/proc/{pid}/cmdline') as stream:
            return stream.read()
    except OSError:
        return ''


def ended(process, code):
    """(stdout, stderr) of a process of a session of its own; nothing else of it is left."""
    try:
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, (process.returncode, err)
        wait_until(lambda: not alive_in(process.pid), 10)
    finally:
        for pid in alive_in(process.pid):
            os.kill(pid, signal.SIGKILL)
    assert not re.search('^error|Traceback|restart', err, re.M), err
    return out, err


def check_stopped_once(out, output):
    """There is one checkpoint, of where the log says that the run was stopped."""
    (epoch, step), = re.findall(r'stopped by a signal at epoch (\d+), step (\d+)', out)
    content = content_of(output)
    assert (content['epoch'] + 1, content['step']) == (int(epoch), int(step))
    assert not (run_folder(output) / PREVIOUS).exists()


@pytest.fixture(autouse=True)
def sighup_of_a_terminal():
    """Under nohup, in which these tests may run, it is ignored, also by what they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize('number, flags', [
    pytest.param(signal.SIGINT, BOTH, id='both'),
    pytest.param(signal.SIGTERM, BOTH, id='both, SIGTERM', marks=pytest.mark.long),
    pytest.param(signal.SIGINT, ['-nprocs=2'], id='ranks', marks=pytest.mark.long),
    pytest.param(signal.SIGINT, ['-max_restarts=2'], id='restarts', marks=pytest.mark.long),
    pytest.param(signal.SIGINT, [], id='plain', marks=pytest.mark.long),
    pytest.param(signal.SIGHUP, BOTH, id='both, SIGHUP', marks=pytest.mark.long),
    pytest.param(signal.SIGTERM, ['-o', 'DATA.NUM_WORKERS=2'], id='workers',
                 marks=pytest.mark.long)])
def test_signal_to_all_of_a_terminal_S1(number, flags, data, tmp_path):
    process = start('vit', data, tmp_path, *LONG, *flags, start_new_session=True)
    wait_for_training(process)
    os.killpg(process.pid, number)
    out, _ = ended(process, 128 + number)
    check_stopped_once(out, tmp_path)


@pytest.mark.parametrize('handler, code', [(signal.SIG_DFL, 129), (signal.SIG_IGN, 0)],
                         ids=['terminal', 'nohup'])
def test_closed_terminal_S1(handler, code, data, tmp_path):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        assert cut('vit', data, tmp_path, stop_at=3, number=signal.SIGHUP) == code
    finally:
        signal.signal(signal.SIGHUP, before)
    content = content_of(tmp_path)
    assert (content['epoch'], content['step']) == ((0, 3) if code else (3, 0))


def test_scripts_become_the_program_S1(tmp_path):
    """A signal to the shell is then one to the run, and whoever has started the shell waits for the
    run's end."""
    fake = tmp_path / 'python'
    fake.write_text('#!/bin/sh\necho $$ $CUDA_VISIBLE_DEVICES "$@"\n')
    fake.chmod(0o755)
    scripts = sorted(ROOT.glob('*/run_*_multi.sh'))
    assert len(scripts) == 9
    for script in scripts:
        process = subprocess.Popen(['sh', script.name, '-o', 'A=b c'], cwd=script.parent, text=True,
                                   stdout=subprocess.PIPE,
                                   env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'})
        out = process.communicate()[0]
        assert out.startswith(f'{process.pid} 0,1,2,3,4,5,6,7 main_multi_gpu.py -cfg='), script
        assert out.endswith(' -o A=b c\n')


def test_second_ctrl_c_ends_at_once_S1(data, tmp_path):
    """The ranks are stuck, so that nothing but a SIGKILL can end them."""
    process = start('vit', data, tmp_path, *LONG, *BOTH[:2], start_new_session=True)
    ranks = wait_until(lambda: len(found := ranks_of(process.pid)) == 2 and found)
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)  # two at once are one
    ended(process, -signal.SIGINT)


@pytest.mark.parametrize('flags, is_there', [
    (['-max_restarts=2'], lambda process: children_of(process.pid)),
    (['-nprocs=2'], lambda process: len(ranks_of(process.pid)) == 2)], ids=['restarts', 'ranks'])
def test_signal_while_a_process_starts_S2(flags, is_there, data, tmp_path):
    """The child, or the ranks, are there and import what they need: they have no handler yet."""
    process = start('vit', data, tmp_path, *LONG, *flags, start_new_session=True)
    wait_until(lambda: is_there(process))
    process.terminate()
    out, _ = ended(process, 143)
    assert ' step ' not in out and not list(tmp_path.iterdir())


def signal_in(monkeypatch, module, name):
    """Has a function come with a SIGTERM."""
    real = getattr(module, name)

    def call(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **options)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize('module, name', [
    (worker, 'build_optimizer'), (worker, 'data_fingerprints'), (evaluation, 'evaluate')])
def test_signal_before_a_run_trains_S2(module, name, data, tmp_path, monkeypatch):
    """It ends with the signal's code, and leaves nothing; -eval too, in its evaluation."""
    flags = []
    if module is evaluation:
        assert cut('vit', data, tmp_path / 'trained', stop_at=1) == 143
        flags = ['-eval', f'-resume={run_folder(tmp_path / "trained")}']
    signal_in(monkeypatch, module, name)
    assert cut('vit', data, tmp_path / 'out', *flags) == 143
    assert not list((tmp_path / 'out').iterdir())


# Comes before the program: rank 1 takes a second for each batch of an evaluation; there are four.
SLOW = '''
import os, time
import common.train.evaluation as evaluation
evaluate = evaluation.evaluate
def slow(model, batches, *args):
    def held():
        for batch in batches:
            print(' step of an evaluation', flush=True)
            time.sleep(int(os.environ['PADDLE_TRAINER_ID']))
            yield batch
    return evaluate(model, held(), *args)
evaluation.evaluate = slow
'''


@pytest.mark.parametrize('rank', [0, pytest.param(1, marks=pytest.mark.long)])
def test_signal_to_one_rank_in_an_evaluation_S3_S6(rank, data, tmp_path):
    """Rank 0 is through with its batches, or gets no signal at all: both stop together, and the
    rest equals the whole run."""
    script = tmp_path / 'slow.py'
    script.write_text(SLOW + (ROOT / 'vit' / 'main_multi_gpu.py').read_text())
    flags = ['-nprocs=2', '-batch_size=2', '-o', 'DATA.BATCH_SIZE_EVAL=2', '-o', 'AUG.MIXUP=0.0',
             '-o', 'AUG.ERASING=0.0', '-o', 'TRAIN.NUM_EPOCHS=2', '-o', 'REPORT_FREQ=100']
    process = start('vit', data, tmp_path / 'cut', *flags, script=script, start_new_session=True,
                    env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "vit"}'})
    for line in process.stdout:
        if ' step of an evaluation' in line:
            break
    os.kill(ranks_of(process.pid)[rank], signal.SIGTERM)
    out, _ = ended(process, 143)  # 3, if gloo gave up
    check_stopped_once(out, tmp_path / 'cut')
    content = content_of(tmp_path / 'cut')
    assert (content['epoch'], content['step']) == (0, 12)


@pytest.mark.parametrize('rank', [1, pytest.param(0, marks=pytest.mark.long)])
def test_signal_to_one_rank_in_training_S6(rank, data, tmp_path):
    process = start('vit', data, tmp_path, *LONG, '-nprocs=2', start_new_session=True)
    wait_for_training(process)
    os.kill(ranks_of(process.pid)[rank], signal.SIGTERM)
    out, _ = ended(process, 143)
    check_stopped_once(out, tmp_path)


@pytest.mark.parametrize('save_steps', [1000, pytest.param(3, marks=pytest.mark.long)])
def test_restart_goes_on_in_its_own_folder_S4(save_steps, data, tmp_path):
    """Another run under the same -output has a newer checkpoint, and has ended, when the one that
    is watched over dies, before its first checkpoint or after it."""
    flags = ['-o', 'TRAIN.NUM_EPOCHS=8', '-o', 'VALIDATE_FREQ=8', '-o', f'SAVE_STEPS={save_steps}']
    process = start('vit', data, tmp_path / 'out', *flags, '-max_restarts=1')
    wait_for_training(process)
    own = run_folder(tmp_path / 'out')
    os.kill(children_of(process.pid)[0], signal.SIGSTOP)
    assert cut('vit', data, tmp_path / 'out') == 0
    other, = set((tmp_path / 'out').iterdir()) - {own}
    before = {file.name: file.read_bytes() for file in other.iterdir()}
    os.kill(children_of(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and 'restart 1 of 1' in err, err
    assert {file.name: file.read_bytes() for file in other.iterdir()} == before
    assert set((tmp_path / 'out').iterdir()) == {own, other}
    assert cut('vit', data, tmp_path / 'whole', *flags) == 0
    whole = run_folder(tmp_path / 'whole')
    assert digest(load_pickle(str(own / LAST))) == digest(load_pickle(str(whole / LAST)))


def test_only_a_supervisor_chooses_the_folder_S4(data, tmp_path, monkeypatch):
    """A variable of the user's own that happens to have the same name means nothing."""
    mine = tmp_path / 'mine'
    mine.mkdir()
    monkeypatch.setenv(RUN_FOLDER, str(mine))
    assert cut('vit', data, tmp_path / 'out', stop_at=1) == 143
    assert not list(mine.iterdir()) and content_of(tmp_path / 'out')


# A run of two processes: the second one has the lock, and takes seconds to end when the first,
# its launcher, has died. It says how each start went.
LAUNCHER = '''
import os, signal, subprocess, sys, time
from common.core.processes import end_with_parent, lock
folder = sys.argv[1]
if len(sys.argv) > 2:
    signal.signal(signal.SIGTERM, lambda number, frame: (time.sleep(4), sys.exit(143)))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    end_with_parent(signal.SIGTERM)
held = lock(folder)
if os.path.exists(f'{folder}/died'):
    sys.exit(0)
if len(sys.argv) == 2:
    del held
    rank = subprocess.Popen([sys.executable, __file__, folder, 'rank'], stdout=subprocess.PIPE)
    rank.stdout.readline()
    open(f'{folder}/died', 'w').close()
    os.kill(os.getpid(), signal.SIGKILL)
print('ready', flush=True)
time.sleep(60)
'''
SUPERVISOR = '''
import sys
from common.train import launcher
from common.core.signals import StopSignal
launcher.choose_folder = lambda config: sys.argv[2]
launcher.command_of_child = lambda: [sys.executable, *sys.argv[1:]]
with StopSignal() as signals:
    sys.exit(launcher.supervise(None, 1, signals))
'''


def test_restart_waits_for_the_old_processes_S5(tmp_path):
    script = tmp_path / 'launcher.py'
    script.write_text(LAUNCHER)
    result = subprocess.run([sys.executable, '-c', SUPERVISOR, str(script), str(tmp_path)],
                            cwd=ROOT, capture_output=True, text=True, timeout=100,
                            env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert result.returncode == 0, result.stderr
    assert 'code -9; restart 1 of 1' in result.stderr


@pytest.mark.long
def test_restart_of_ranks_whose_launcher_has_died_S5(data, tmp_path):
    """A rank is busy (stopped, for three seconds) when the launcher is killed."""
    flags = ['-nprocs=2', '-batch_size=2', '-o', 'AUG.MIXUP=0.0', '-o', 'AUG.ERASING=0.0',
             '-o', 'TRAIN.NUM_EPOCHS=10', '-o', 'VALIDATE_FREQ=10']
    process = start('vit', data, tmp_path / 'crashed', *flags, '-max_restarts=1',
                    start_new_session=True)
    wait_for_training(process)
    rank = ranks_of(process.pid)[0]
    os.kill(rank, signal.SIGSTOP)
    os.kill(children_of(process.pid)[0], signal.SIGKILL)
    time.sleep(3)
    os.kill(rank, signal.SIGCONT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and 'restart 1 of 1' in err, err
    code, _, err = train('vit', data, tmp_path / 'whole', *flags)
    assert code == 0, err
    assert digest(content_of(tmp_path / 'crashed')) == digest(content_of(tmp_path / 'whole'))



def test_ending_child_keeps_its_exit_code_S6():
    """A launcher sends SIGTERM to the others when one has ended; they may be ending by themselves.
    What C libraries do at the end comes after Python has taken its handlers away."""
    program = (
        'import os, signal, sys\n'
        'from common.core.signals import StopSignal\n'
        'with StopSignal(child=True):\n'
        '    pass\n'
        'assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN\n'
        'os.kill(os.getpid(), signal.SIGTERM)\n'
        'sys.exit(1)\n')
    assert subprocess.run([sys.executable, '-c', program], cwd=ROOT).returncode == 1
