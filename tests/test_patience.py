"""Early stopping, the remaining time, and the exact continuation of runs with both of it and with
classes that are balanced."""
import json
import os
import signal

import pytest

from common.config import base_config, set_options
from common.core.errors import InputError
from common.train.checkpoint import save_weights
from common.train.eta import Eta, duration_text, evaluations_left
from common.train.evaluation import Evaluation
from common.train.patience import Patience, is_patience
from common.train.results import better_weights, is_better, is_result
from common.train.same_run import take_best
from common.weights.load import BEST, LAST
from common.zoo import create_model
from tests.conftest import ROOT, run_script, write_image_list
from tests.reliability.runs import arguments, content_of, cut, digest, run_folder

# acc@1 of each epoch: the third evaluation after the best one ends the run
SCORES = (0.3, 0.5, 0.4, 0.45, 0.5, 0.9, 0.9, 0.9)
FLAGS = ['-o', 'TRAIN.PATIENCE=3', '-o', 'DATA.BALANCE=0.8', '-o', 'TRAIN.NUM_EPOCHS=8',
         '-o', 'TRAIN.CLASS_WEIGHTS=balanced', '-o', 'TRAIN.EMA.BEST=False']
KILLED = f'''
import os, runpy
import common.train.trainer as trainer
from common.train.evaluation import Evaluation
run, write = Evaluation.run, trainer.save_weights
Evaluation.run = lambda self, model, epoch, **options: {{
    **run(self, model, epoch, **options), 'acc1': {SCORES}[epoch - 1]}}
def save(path, model, metadata):
    write(path, model, metadata)
    if metadata['epoch'] == 2:
        os.kill(os.getpid(), 9)
trainer.save_weights = save
runpy.run_path('main_multi_gpu.py', run_name='__main__')
'''


@pytest.mark.smoke
def test_count_of_evaluations_that_are_no_better():
    patience = Patience(2)
    for score, count, is_over in ((0.0, 0, False), (0.4, 0, False), (0.4, 1, False),
                                  (0.5, 0, False), (0.1, 1, False), (0.49, 2, True)):
        patience.update(score)
        assert (patience.count, patience.is_over) == (count, is_over)
    again = Patience(3, patience.state())
    assert (again.best, again.count, again.is_over) == (0.5, 2, False)
    endless = Patience(None)
    for _ in range(100):
        endless.update(0.5)
    assert not endless.is_over and endless.state() is None
    with pytest.raises(InputError, match='TRAIN.PATIENCE: got 0, expected at least 1'):
        set_options(base_config(), ['TRAIN.PATIENCE=0'])


@pytest.mark.smoke
def test_state_that_no_run_writes_is_refused_W5():
    assert is_patience(None) and is_patience({'best': None, 'count': 0})
    for value in (3, {}, {'best': 0.5}, {'best': 2.0, 'count': 1}, {'best': 0.5, 'count': -1}):
        assert not is_patience(value)
    result = {'epoch': 1, 'loss': 0.5, 'seen': 3, 'mAP': 0.5, 'AP': [0.5, None]}
    assert is_result(result) and is_result({**result, 'weights': 'average'})
    for change in ({'weights': 'mine'}, {'AP': 0.5}, {'AP': [2.0]}, {'mAP': None}):
        assert not is_result({**result, **change})


@pytest.mark.smoke
def test_better_one_of_model_and_average():
    low, high = {'acc1': 0.4}, {'acc1': 0.5}
    assert better_weights(high, low) == {'acc1': 0.5, 'weights': 'model'}
    assert better_weights(low, high) == {'acc1': 0.5, 'weights': 'average'}
    assert better_weights(low, low)['weights'] == 'average'
    assert is_better(low, None) and is_better(high, low) and not is_better(high, high)
    assert is_better({'mAP': 0.1}, high)  # of other labels than the best one's


@pytest.mark.smoke
def test_remaining_time_counts_steps_and_evaluations():
    times = iter((0.0, 10.0, 14.0, 34.0))
    eta = Eta(lambda: next(times))
    eta.steps_done(5)
    assert eta.left(10, 3) == 20  # no evaluation yet
    eta.evaluation_done()
    assert eta.left(10, 3) == 20 + 3 * 4
    eta.steps_done(5)
    assert eta.left(10, 0) == 30
    assert duration_text(3723.4) == '1:02:03'
    for num_epochs, every in ((7, 1), (7, 3), (6, 3), (1, 5)):
        evaluated = [epoch for epoch in range(1, num_epochs + 1)
                     if epoch % every == 0 or epoch == num_epochs]
        for epoch in range(1, num_epochs + 1):
            assert evaluations_left(epoch, num_epochs, every) == sum(
                other >= epoch for other in evaluated)


@pytest.fixture
def imbalanced(tmp_path):
    """Two thirds of the training images are of class 0."""
    folder = write_image_list(tmp_path / 'data', train=72, classes=3)
    file = folder / 'train_list.txt'
    lines = [line.split()[0] for line in file.read_text().splitlines()]
    file.write_text(''.join(f'{name} {(index >= 48) + (index >= 66)}\n'
                            for index, name in enumerate(lines)))
    return folder


def test_run_ends_early_and_goes_on_to_the_bit_R11(imbalanced, tmp_path, monkeypatch, capsys):
    """One run as a whole; one that is killed between best.pdparams and last.pdparams of an epoch,
    goes on, gets a signal within another epoch, and goes on."""
    run = Evaluation.run
    monkeypatch.setattr(Evaluation, 'run', lambda self, model, epoch, **options: {
        **run(self, model, epoch, **options), 'acc1': SCORES[epoch - 1]})
    flags = [*FLAGS, '-o', 'SAVE_FREQ=1']
    assert cut('vit', imbalanced, tmp_path / 'whole', *flags) == 0
    said = capsys.readouterr().out
    assert 'DATA.BALANCE 0.8: 3 classes of ' in said and 'class weights, balanced: ' in said
    assert 'ETA at most 0:0' in said
    assert 'TRAIN.PATIENCE 3: 3 evaluations in a row were no better than 50.00%; the run ends ' \
           'after epoch 5 of 8' in said
    folder = run_folder(tmp_path / 'whole')
    assert json.loads((folder / 'result.json').read_text())['epoch'] == 2
    assert (folder / 'curves.png').exists()
    whole = content_of(tmp_path / 'whole')
    assert whole['epoch'] == 5 and whole['patience'] == {'best': 0.5, 'count': 3}

    part = arguments('vit', imbalanced, tmp_path / 'part', *flags)
    code, _, err = run_script(['-c', KILLED, *part],
                              env={'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "vit"}'})
    assert code == -signal.SIGKILL, err
    assert content_of(tmp_path / 'part')['epoch'] == 1
    again = [*flags, '-resume=auto']
    assert cut('vit', imbalanced, tmp_path / 'part', *again, stop_at=42) == 143
    stopped = content_of(tmp_path / 'part')
    assert (stopped['epoch'], stopped['step']) == (3, 6)
    assert stopped['patience'] == {'best': 0.5, 'count': 1}
    other = [*again, '-o', 'DATA.BALANCE=0.7']
    assert cut('vit', imbalanced, tmp_path / 'part', *other) == 1
    assert "'balance': 0.8" in capsys.readouterr().err
    assert cut('vit', imbalanced, tmp_path / 'part', *again) == 0
    rest = content_of(tmp_path / 'part')
    assert digest(rest) == digest(whole) and rest['patience'] == whole['patience']
    capsys.readouterr()
    assert cut('vit', imbalanced, tmp_path / 'part', *again) == 0
    assert 'nothing to train: 5 of 8 epochs are done, and 3 evaluations were no better' \
        in capsys.readouterr().out
    longer = [*again, '-o', 'TRAIN.PATIENCE=4']
    assert cut('vit', imbalanced, tmp_path / 'part', *longer) == 0  # 0.9 comes just in time
    assert content_of(tmp_path / 'part')['epoch'] == 8


@pytest.mark.smoke
def test_best_file_of_a_run_that_was_killed_before_its_checkpoint_knew_of_it_R11(tmp_path):
    result = {'epoch': 1, 'loss': 0.5, 'seen': 8, 'acc1': 0.5, 'acc5': 1.0}
    save_weights(str(tmp_path / BEST), create_model('vit_digits'), {'epoch': 1, 'best': result})
    for known, unsaved in ((None, None), ({**result, 'acc1': 0.25}, None),
                           ({**result, 'acc1': 0.75}, {**result, 'acc1': 0.75})):
        start = {'file': str(tmp_path / LAST), 'best': known}
        take_best(start, str(tmp_path), in_place=True)
        assert (start['best'], start['unsaved']) == (result, unsaved)
