"""Runs whose optimiser's states are split over the ranks: ranks that die, slow disks, a machine of
two that is gone."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.archive_files import as_tar
from tests.conftest import ROOT, write_image_list
from tests.reliability.runs import (
    LONG,
    all_ended,
    arguments,
    children_of,
    content_of,
    digest,
    run_folder,
    start,
    train,
    wait_for_training,
)

# 12 steps an epoch on two ranks; nothing that is drawn over the whole batch.
SPLIT = ['-batch_size=2', '-o', 'AUG.MIXUP=0.0', '-o', 'AUG.ERASING=0.0', '-o', 'SAVE_STEPS=5',
         '-o', 'TRAIN.GRAD_CLIP=1.0', '-o', 'TRAIN.SHARDING=1']
TWO = ['-nprocs=2', *SPLIT]
# Weights too. Without clipping, whose norm is summed in another order then, to the bit the same.
WEIGHTS = ['-o', 'TRAIN.SHARDING=3', '-o', 'TRAIN.GRAD_CLIP=null']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('data'), train=48, val=16)


def start_patched(patch, data, output, *more):
    """The program, with lines before it, which hold in each rank."""
    script = output.with_suffix('.py')
    script.write_text(patch + (ROOT / 'vit' / 'main_multi_gpu.py').read_text())
    return start('vit', data, output, *more, script=script,
                 env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "vit"}'})


def whole(data, output, *more):
    """The digest of a run on two ranks that nothing has stopped or split."""
    code, _, err = train('vit', data, output, *TWO, *more, '-o', 'TRAIN.SHARDING=0')
    assert code == 0, err
    return digest(content_of(output))


DIES = '''
import os, signal
from common.core import dist
from common.train import sharding
serve, broadcast, calls, saves = sharding.States.serve, dist.broadcast_all, [], []
def dies(self, own):
    saves.append(own)
    serve(self, own)
def counted(*args):
    calls.append(args)
    if dist.rank() == 1 and len(saves) == 2:
        saves.append(calls[:])
    if len(saves) > 2 and len(calls) > len(saves[2]) + 9:
        os.kill(os.getpid(), signal.SIGKILL)
    broadcast(*args)
sharding.States.serve, dist.broadcast_all = dies, counted
'''


def die_in_the_second_save(data, output):
    process = start_patched(DIES, data, output, *TWO)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert 'error: process 1 was ended by SIGKILL' in err
    assert (content_of(output)['epoch'], content_of(output)['step']) == (0, 5)
    assert not [file for file in run_folder(output).iterdir() if '.tmp' in file.name]


def test_rank_dies_while_it_sends_its_states_H4(data, tmp_path):
    die_in_the_second_save(data, tmp_path / 'out')


@pytest.mark.long
def test_run_goes_on_to_the_bit_after_a_rank_has_died_H4(data, tmp_path):
    die_in_the_second_save(data, tmp_path / 'out')
    code, _, err = train('vit', data, tmp_path / 'out', *TWO, '-resume=auto')
    assert code == 0, err
    assert digest(content_of(tmp_path / 'out')) == whole(data, tmp_path / 'whole')


@pytest.mark.long
@pytest.mark.parametrize('split', [[], WEIGHTS], ids=['states', 'weights'])
def test_signal_ends_the_run_after_a_checkpoint_of_all_states_H4(split, data, tmp_path):
    flags = [*TWO, *split, '-o', 'TRAIN.NUM_EPOCHS=30', '-o', 'VALIDATE_FREQ=30',
             '-o', 'SAVE_STEPS=null']
    process = start('vit', data, tmp_path / 'cut', *flags)
    wait_for_training(process)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    for sharding, name in ((2 if split else 1, 'cut'), (0, 'whole')):
        code, _, err = train('vit', data, tmp_path / name, *flags, '-resume=auto',
                             '-o', f'TRAIN.SHARDING={sharding}')
        assert code == 0, err
    assert digest(content_of(tmp_path / 'cut')) == digest(content_of(tmp_path / 'whole'))


SLOW = '''
import time
from common.train import sharding
fetch, slow = sharding.States.fetch, []
def slowly(self, *args):
    value = fetch(self, *args)
    if not slow:
        slow.append(1)
        time.sleep(35)
    return value
sharding.States.fetch = slowly
'''


SLOW_BEST = '''
import time
from common.train import trainer
save, slow = trainer.save_weights, []
def slowly(*args, **options):
    if not slow:
        slow.append(1)
        time.sleep(35)
    save(*args, **options)
trainer.save_weights = slowly
'''


@pytest.mark.long
@pytest.mark.parametrize('patch, split', [(SLOW, []), (SLOW, WEIGHTS), (SLOW_BEST, WEIGHTS)],
                         ids=['states', 'states of split weights', 'best weights'])
def test_disk_that_stands_still_for_longer_than_gloo_waits_H2(patch, split, data, tmp_path):
    process = start_patched(patch, data, tmp_path / 'out', *TWO, *split)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert digest(content_of(tmp_path / 'out')) == whole(data, tmp_path / 'whole', *split)


def in_archives(files, folder):
    """The data set with a .tar for each folder."""
    folder.mkdir()
    for split in ('train', 'val'):
        as_tar(folder / f'{split}.tar', files / split)
        shutil.copy(files / f'{split}_list.txt', folder)
    return folder


def machines(data, folder, *more):
    """Two launchers on loopback, as two machines with one rank each."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    return [subprocess.Popen(
        [sys.executable, '-m', 'paddle.distributed.launch', f'--master=127.0.0.1:{port}',
         '--nnodes=2', f'--rank={rank}', '--nproc_per_node=1', f'--log_dir={folder / str(rank)}',
         'main_multi_gpu.py', *arguments('vit', data, folder / 'out', *SPLIT, *more)],
        cwd=ROOT / 'vit', env={**os.environ, 'PADDLE_DISTRI_BACKEND': 'gloo'}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        for rank in (0, 1)]


def log_of(folder, rank):
    file = folder / str(rank) / 'workerlog.0'
    return file.read_text() if file.exists() else ''


@pytest.mark.long
@pytest.mark.parametrize('gone', ['machine 0', 'machine 1', 'launcher 1'])
def test_one_of_two_machines_is_gone_H5(gone, data, tmp_path):
    """A launcher is killed, and with a machine its rank, too: the other one ends at once and says
    what has happened, or after a checkpoint where its rank could still say it; the same command
    goes on. Images are in archives."""
    archives, dead = in_archives(data, tmp_path / 'data'), int(gone[-1])
    both = machines(archives, tmp_path, *LONG)
    deadline = time.monotonic() + 90
    while not [*tmp_path.glob('out/*/last.pdparams')] and time.monotonic() < deadline:
        time.sleep(0.1)
    rank, = children_of(both[dead].pid)
    os.killpg(both[dead].pid, signal.SIGKILL)
    if 'machine' in gone:
        os.kill(rank, signal.SIGKILL)
    both[1 - dead].communicate(timeout=60)
    assert both[1 - dead].returncode == (3 if 'machine' in gone else 143)
    both[dead].communicate()
    said = log_of(tmp_path, 1 - dead)
    assert ('has broken, which has ended, or whose machine' if 'machine' in gone else
            'stopped by a signal at epoch') in said, said
    assert all_ended([rank], 5)
    for number, each in enumerate(machines(archives, tmp_path, '-resume=auto')):
        out, _ = each.communicate(timeout=120)
        assert each.returncode == 0, out + log_of(tmp_path, number)
    assert content_of(tmp_path / 'out')['epoch'] == 3
