"""Several processes on a CPU (gloo): the same numbers as one."""
import json
import random
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from paddle.base import core

from common.core import dist
from common.train.checkpoint import write_atomically
from common.train.launcher import first_code
from common.weights.unpickle import load_pickle
from common.zoo import create_model
from tests.conftest import ROOT, run_script, write_image_list
from tests.test_end_to_end import result_of, run_folder

FLAGS = ['-cfg=./configs/vit_digits.yaml', '-dataset=list', '-o', 'MODEL.DEPTH=2',
         '-o', 'MODEL.DROPPATH=0.0', '-o', 'AUG.ERASING=0.0']  # what is drawn over a batch


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('data'), train=160, val=97)


@pytest.mark.parametrize('numbers', [(1, 3), pytest.param((1, 2, 4), marks=pytest.mark.long)])
def test_accuracy_of_97_images_is_the_same_on_one_to_four_ranks_P4(numbers, data, tmp_path):
    """Of three ranks one has 33 images in five batches, the others 32 in four."""
    weights = tmp_path / 'weights.pdparams'
    write_atomically(create_model('vit_digits', depth=2).state_dict(), str(weights))
    results = []
    for ranks in numbers:
        output = tmp_path / str(ranks)
        code, out, err = run_script([
            'main_multi_gpu.py', *FLAGS, f'-data_path={data}', f'-output={output}', '-eval',
            f'-pretrained={weights}', '-batch_size=8', f'-nprocs={ranks}'])
        assert code == 0, err
        assert f'device: {ranks} x cpu' in out
        results.append(result_of(output))
    assert all(result['seen'] == 97 for result in results)
    assert len({(result['acc1'], result['acc5']) for result in results}) == 1
    np.testing.assert_allclose([result['loss'] for result in results], results[0]['loss'],
                               rtol=1e-6)


def train(data, output, *arguments, launcher=()):
    """One epoch, 20 steps; the weights and the losses."""
    code, _, err = run_script([
        *launcher, 'main_multi_gpu.py', *FLAGS, f'-data_path={data}', f'-output={output}',
        '-o', 'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0.5', '-o', 'REPORT_FREQ=1',
        '-o', 'TRAIN.BASE_LR=1e-3', *arguments])
    assert code == 0, err
    folder = run_folder(output)
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    losses = [line['loss'] for line in lines if line['kind'] == 'train']
    return load_pickle(str(folder / 'last.pdparams'))['model'], losses


def test_two_ranks_equal_one_with_twice_the_batch(data, tmp_path):
    """Under Paddle's launcher; and spawned, with two micro-batches, whose gradients travel once."""
    one, losses = train(data, tmp_path / 'one', '-batch_size=8')
    assert len(losses) == 20
    launcher = ['-m', 'paddle.distributed.launch', '--nproc_per_node=2',
                f'--log_dir={tmp_path / "log"}']
    for name, arguments, start in [
            ('accumulated', ['-batch_size=2', '-accum_iter=2', '-nprocs=2'], ()),
            ('launched', ['-batch_size=4'], launcher)]:
        weights, other = train(data, tmp_path / name, *arguments, launcher=start)
        np.testing.assert_allclose(other, losses, rtol=1e-4, err_msg=name)
        for key, value in one.items():
            np.testing.assert_allclose(weights[key], value, atol=5e-5, err_msg=f'{name} {key}')


STATISTICS = '''
import sys
import numpy as np
import paddle
import paddle.distributed as dist
from common.train.ema import Ema
from common.train.engine import average_statistics
dist.init_parallel_env()
model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 1), paddle.nn.BatchNorm2D(4))
ema = Ema(model, 0.9)
for name, value in model.state_dict().items():
    value.set_value(paddle.full(value.shape, float(dist.get_rank())))
    ema.average[name].set_value(paddle.full(value.shape, 10.0 + 3 * dist.get_rank()))
average_statistics(model, ema)
of = lambda values, name: float(values[name].mean())
own = [of(values, f'1.{name}') for values in (model.state_dict(), ema.average)
       for name in ('_mean', '_variance', 'weight')]
print('STATISTICS', dist.get_rank(), own, flush=True)
'''


def test_statistics_of_batch_norm_become_the_ranks_mean(tmp_path):
    """Those of the model and of its average; other values stay each rank's own."""
    script = tmp_path / 'statistics.py'
    script.write_text(STATISTICS)
    code, out, err = run_script(
        ['-m', 'paddle.distributed.launch', '--nproc_per_node=2', f'--log_dir={tmp_path / "log"}',
         script], folder='.', env={'PADDLE_DISTRI_BACKEND': 'gloo', 'PYTHONPATH': str(ROOT)})
    assert code == 0, err
    lines = [line for file in (tmp_path / 'log').glob('workerlog.*')
             for line in file.read_text().splitlines() if line.startswith('STATISTICS')]
    assert sorted(lines) == ['STATISTICS 0 [0.5, 0.5, 0.0, 11.5, 11.5, 10.0]',
                             'STATISTICS 1 [0.5, 0.5, 1.0, 11.5, 11.5, 13.0]']


@pytest.mark.parametrize('codes, code, named', [
    ((None, 0), 0, ''), ((3, -9), 3, 'process 1 was ended by SIGKILL'), ((1, 3), 1, ''),
    ((3, 143), 143, ''), ((-9, -15), 143, ''),
    ((3, None, -11), 3, 'process 2 was ended by SIGSEGV')])
def test_process_that_went_first_is_named_P1(codes, code, named, capsys):
    """Several may have ended at one look; those that were killed have not failed for another."""
    assert first_code([SimpleNamespace(exitcode=exit_code) for exit_code in codes]) == code
    err = capsys.readouterr().err
    assert named in err and bool(named) == bool(err)


def test_error_of_a_spawned_process_is_one_line_P1(data, tmp_path):
    weights = tmp_path / 'weights.pdparams'
    write_atomically(create_model('vit_digits', depth=1).state_dict(), str(weights))
    code, _, err = run_script([
        'main_multi_gpu.py', *FLAGS, f'-data_path={data}', f'-output={tmp_path / "out"}',
        '-eval', f'-pretrained={weights}', '-nprocs=2'])
    assert code == 1 and 'Traceback' not in err, err
    assert 'error: ' in err and 'nothing was loaded: 12 missing' in err


class SlowStore:
    """A real store, that one process or thread is slow to get answers of.

    Attributes:
        last: when it was asked last.
    """

    def __init__(self, port, rank, ranks):
        self.store = core.TCPStore('127.0.0.1', port, rank == 0, ranks, 30)
        self.rank, self.keys, self.last = rank, set(), 0.0

    def add(self, key, number):
        time.sleep(random.random() * 0.002)
        self.last = time.monotonic()
        answer = self.store.add(key, number)
        time.sleep(0.02 * self.rank)
        self.keys.add(key)
        return answer


def meet(monkeypatch, flags):
    """[(answers, store, time of the end) of each rank], each a thread, of many meetings.

    flags: [ranks, meetings, flags of each].
    """
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    this, results = threading.local(), [None] * len(flags)
    monkeypatch.setattr(dist, 'world_size', lambda: len(flags))
    monkeypatch.setattr(dist, 'rank', lambda: this.rank)
    monkeypatch.setattr(dist, 'Store', lambda: this.store)

    def run(rank):
        this.rank, this.store = rank, SlowStore(port, rank, len(flags))
        meeting = dist.Barrier('test')
        answers = [meeting(*row) for row in flags[rank]]
        results[rank] = answers, this.store, time.monotonic()

    threads = [threading.Thread(target=run, args=[rank]) for rank in range(len(flags))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_ranks_agree_and_the_store_does_not_grow_S3_M6(monkeypatch):
    flags = np.random.default_rng(0).random([3, 8, 2]) < 0.3
    results = meet(monkeypatch, flags.tolist())
    for answers, _, _ in results:
        assert answers == flags.any(0).tolist()
    assert len(set().union(*(store.keys for _, store, _ in results))) <= 6


def test_rank_with_the_store_leaves_a_meeting_last_S3_P1(monkeypatch):
    """Its process may end then, with the store; another one that still asks would have an error."""
    (_, _, end), (_, other, _) = meet(monkeypatch, [[[True]]] * 2)
    assert end >= other.last
