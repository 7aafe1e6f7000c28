"""The cores that are used: what is free, what the user says, a forward pass in parts."""
import os
import signal
import threading
import time
from functools import partial

import numpy as np
import paddle
import pytest

from common.core import cores
from common.core.errors import InputError
from common.core.parts import in_parts
from common.train.engine import evaluate
from common.train.multi_label import evaluate_multi_label
from common.train.precision import Precision
from common.zoo import create_model
from tests.conftest import refusal, run_script

needs_libraries = pytest.mark.skipif(not cores.libraries(),
                                     reason='this Paddle has no libiomp5 and MKL')


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(cores.Cores, 'count', 2)
    monkeypatch.setattr('common.core.parts.LEAST', 1)
    yield
    if cores.libraries():
        cores.libraries()[0].omp_set_num_threads(1)


def machine(folder, membership, files):
    """A folder as /proc and one as /sys/fs/cgroup."""
    (folder / 'proc/self').mkdir(parents=True)
    (folder / 'proc/self/cgroup').write_text(membership)
    for name, text in files.items():
        file = folder / 'groups' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder / 'proc', folder / 'groups'


@pytest.mark.parametrize('membership, files, expected', [
    ('0::/a/b\n', {'a/cpu.max': '350000 100000', 'a/b/cpu.max': 'max 100000'}, 3),
    ('0::/\n', {'cpu.max': '200000 100000\n'}, 2),
    ('0::/a\n', {'cpu.max': 'max 100000', 'a/cpu.max': '50000 100000'}, 1),
    ('3:cpu,cpuacct:/a\n2:memory:/\n', {'cpu/a/cpu.cfs_quota_us': '400000',
                                        'cpu/a/cpu.cfs_period_us': '100000'}, 4),
    ('1:cpu:/gone\n', {'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, 8),
    ('', {}, 8),
])
def test_free_cores_of_a_container(tmp_path, monkeypatch, membership, files, expected):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)), raising=False)
    assert cores.free_cores(*machine(tmp_path, membership, files)) == expected


def test_number_that_openmp_reads():
    assert cores.number_of('3') == 3 and cores.number_of(' 4,2') == 4
    for text in ('many', '0', '-1', ''):
        assert text in refusal(cores.number_of, text)


def test_ranks_of_this_machine(monkeypatch):
    monkeypatch.setenv('PADDLE_TRAINERS_NUM', '8')
    assert cores.ranks_here() == 8
    monkeypatch.setenv('PADDLE_NNODES', '2')
    assert cores.ranks_here() == 4


PROGRAM = '''
import os, sys, paddle
from common.core import cores
from common.processes import set_up_cpu
with cores.said_environment():
    inherited = os.environ.get('OMP_NUM_THREADS')
before = cores.core_count()
cores.free_cores = lambda: 6
set_up_cpu()
print(cores.SAID, inherited, before, cores.core_count(),
      cores.libraries()[0].omp_get_max_threads())
'''


@needs_libraries
@pytest.mark.smoke
@pytest.mark.parametrize('said, ranks, expected', [
    (None, '2', 'None None 1 3 3'), ('2', '3', '2 2 2 2 2')])
def test_paddle_takes_the_free_cores_unless_told_otherwise(said, ranks, expected):
    """Paddle is imported before ours, and writes OMP_NUM_THREADS itself."""
    env = {name: value for name, value in os.environ.items() if name != cores.VARIABLE}
    env |= {cores.VARIABLE: said} if said else {}
    env |= {'PADDLE_TRAINERS_NUM': ranks} if ranks else {}
    code, out, err = run_script(['-W', 'ignore', '-c', PROGRAM], folder='.', env=env, whole=True)
    assert (code, out.split('\n')[-2]) == (0, expected), err


@needs_libraries
@pytest.mark.smoke
@pytest.mark.parametrize('name, options', [
    ('vit_digits', {}), ('vitaev2_s', {'image_size': 32}), ('vitaev2_vsa_s', {'image_size': 32})])
def test_parts_give_what_the_whole_batch_gives(two_cores, float64, name, options):
    model = create_model(name, num_classes=10, **options)
    model.eval()
    images = paddle.to_tensor(np.random.RandomState(0).randn(3, 3, 32, 32))
    threads, features = [], partial(model.extract_feat, out_type='avg_featmap')

    def forward(part):
        threads.append(threading.current_thread())
        assert not paddle.is_grad_enabled()
        return model(part)

    logits = in_parts(model, forward, images)
    assert len(set(threads)) == 2 and threading.main_thread() not in threads
    assert not any(thread.is_alive() for thread in threads) and logits.stop_gradient
    with paddle.no_grad():
        np.testing.assert_allclose(logits.numpy(), model(images).numpy(), rtol=0, atol=1e-10)
        expected = features(images)
    for own, other in zip(in_parts(model, features, images), expected, strict=True):
        np.testing.assert_allclose(own.numpy(), other.numpy(), rtol=0, atol=1e-10)


@needs_libraries
def test_error_of_a_part_is_raised_when_all_have_ended(two_cores):
    model = create_model('vit_digits')
    ended = []

    def forward(part):
        if part[0, 0, 0, 0].item():
            raise InputError('the second part')
        ended.append(model(part))
        return ended[0]

    images = paddle.to_tensor(np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1)) \
        * paddle.ones([1, 3, 32, 32])
    before = threading.active_count()
    assert refusal(in_parts, model, forward, images) == 'the second part'
    assert len(ended) == 1 and threading.active_count() == before


@pytest.fixture
def interrupts():
    """SIGINT raises, also where a shell that ignores it has started the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@needs_libraries
def test_ctrl_c_is_raised_when_all_parts_have_ended(two_cores, interrupts):
    model, ended, before = create_model('vit_digits'), [], threading.active_count()

    def forward(part):
        if part[0, 0, 0, 0].item():
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        ended.append(True)
        return part

    images = paddle.to_tensor(np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1))
    with pytest.raises(KeyboardInterrupt):
        in_parts(model, forward, images)
    assert ended == [True, True] and threading.active_count() == before


def test_a_hook_gets_the_whole_batch(two_cores):
    model = create_model('vit_digits')
    sizes = []
    model.encoder.register_forward_post_hook(
        lambda layer, inputs, output: sizes.append(len(output)))
    in_parts(model, model, paddle.zeros([4, 3, 32, 32]))
    assert sizes == [4]


@needs_libraries
@pytest.mark.parametrize('evaluation', [
    evaluate, lambda *args: evaluate_multi_label(*args, num_classes=10)])
def test_evaluation_in_parts_counts_each_image_once(two_cores, float64, monkeypatch, evaluation):
    paddle.seed(0)
    model = create_model('vit_digits')
    random = np.random.RandomState(0)
    multi_label = evaluation is not evaluate
    batches = [(paddle.to_tensor(random.randn(size, 3, 32, 32)),
                paddle.to_tensor(np.eye(10, dtype='float32')[:size] if multi_label
                                 else np.arange(size)))
               for size in (5, 4, 1)]
    in_two = evaluation(model, batches, Precision())
    monkeypatch.setattr(cores.Cores, 'count', 1)
    whole = evaluation(model, batches, Precision())
    assert in_two['seen'] == whole['seen'] == 10
    assert in_two.pop('AP', []) == pytest.approx(whole.pop('AP', []))
    assert in_two == pytest.approx(whole)
