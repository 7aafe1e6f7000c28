"""Numbers that are not finite: the run stops at once, or leaves the step out, on every rank."""
import numpy as np
import paddle
import pytest

from common.train.checkpoint import read_checkpoint
from common.train.trainer import Trainer
from tests.conftest import ROOT, run_script, write_image_list
from tests.reliability.runs import arguments, content_of, cut, run_folder


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('data'), train=48, val=16)


def poison(monkeypatch, steps, value=np.nan):
    """Makes the images of some steps of the run (from 1) not finite."""
    real, count = Trainer.train, [0]

    def poisoned(self, epoch, batches, sums):
        def changed():
            for images, target in batches:
                count[0] += 1
                yield (paddle.full_like(images, value), target) if count[0] in steps \
                    else (images, target)
        real(self, epoch, changed(), sums)

    monkeypatch.setattr(Trainer, 'train', poisoned)


def test_nan_input_stops_at_its_step_and_names_the_samples_N1(data, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, {17})
    assert cut('vit', data, tmp_path, '-o', 'SAVE_STEPS=2') == 1
    err = capsys.readouterr().err
    assert 'epoch 2, step 5: the training loss is not finite; its samples: train/' \
        in err
    assert err.count('train/') == 4
    content, _, _ = read_checkpoint(str(run_folder(tmp_path)))
    assert (content['epoch'], content['step']) == (1, 4)
    assert all(np.isfinite(value).all() for value in content['model'].values())


def test_too_high_a_rate_stops_the_run_N1(data, tmp_path, capsys):
    assert cut('vit', data, tmp_path, '-o', 'TRAIN.BASE_LR=1e30', '-o', 'TRAIN.GRAD_CLIP=null',
               '-o', 'TRAIN.WARMUP_EPOCHS=0', '-o', 'TRAIN.OPTIMIZER.NAME=SGD') == 1
    assert 'epoch 1, step 2: the training loss is not finite' in capsys.readouterr().err


def test_step_that_is_not_finite_is_left_out_N3(data, tmp_path, monkeypatch, capsys):
    """Steps 5, 6 and 20: the same as if the optimiser had not been called there."""
    flags = ['-o', 'TRAIN.MAX_SKIPPED=2']
    poison(monkeypatch, {5, 6, 20})
    assert cut('vit', data, tmp_path, *flags) == 0
    content = content_of(tmp_path)
    assert all(np.isfinite(value).all() for value in content['model'].values())
    assert content['ema']['updates'] == 33
    monkeypatch.undo()
    poison(monkeypatch, {5, 6, 7})
    assert cut('vit', data, tmp_path / 'b', *flags) == 1
    assert 'epoch 1, step 7: got 3 steps in a row with a gradient that is not finite' \
        in capsys.readouterr().err


POISON = '''
import os, time
from common.train import saver
from common.train.trainer import Trainer
real = Trainer.train
def poisoned(self, epoch, batches, sums):
    changed = ((images * float("nan") if step == 5 else images, target)
               for step, (images, target) in enumerate(batches, 1))
    real(self, epoch, changed, sums)
if os.environ["PADDLE_TRAINER_ID"] == "1":
    Trainer.train = poisoned
write = saver.write_checkpoint
def slowly(content, path):
    time.sleep(1.0)
    write(content, path)
    open("WRITTEN", "w").close()
saver.write_checkpoint = slowly
import runpy
try:
    runpy.run_path("main_multi_gpu.py", run_name="__main__")
finally:
    print("written when this rank ends:", os.path.exists("WRITTEN"))
'''


def test_nan_on_one_rank_stops_both_N2(data, tmp_path):
    """At the same step, when the checkpoint that is written beside it is whole; the one that has it
    names the samples."""
    script = tmp_path / 'poison.py'
    script.write_text(POISON.replace('WRITTEN', str(tmp_path / 'written')))
    code, _, err = run_script(
        ['-m', 'paddle.distributed.launch', '--nproc_per_node=2', f'--log_dir={tmp_path / "log"}',
         script, *arguments('vit', data, tmp_path / 'out', '-batch_size=2', '-o', 'SAVE_STEPS=4',
                            '-o', 'SAVE_ASYNC=True')],
        env={'PADDLE_DISTRI_BACKEND': 'gloo', 'PYTHONPATH': f'{ROOT}:{ROOT / "vit"}'})
    logs = [(tmp_path / 'log' / f'workerlog.{rank}').read_text() for rank in (0, 1)]
    assert code == 1, logs
    assert 'step 5: the training loss is not finite in another process' in logs[0]
    assert 'step 5: the training loss is not finite; its samples: train/' in logs[1]
    assert 'written when this rank ends: True' in logs[1], logs[1]
    assert content_of(tmp_path / 'out')['step'] == 4
