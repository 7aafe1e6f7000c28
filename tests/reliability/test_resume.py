"""Exact resume: a run that is cut and gone on with ends with the same numbers, to the bit."""
import json
import signal

import pytest

from tests.conftest import write_image_list
from tests.reliability.runs import STEPS, content_of, cut, digest, run_folder, train


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('data'), train=48, val=16)


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """{family: (digest, metrics)} of uninterrupted runs."""
    found = {}

    def of(family, *more):
        if (family, more) not in found:
            output = tmp_path_factory.mktemp('whole')
            assert cut(family, data, output, *more) == 0
            found[family, more] = digest(content_of(output)), metrics(output)
        return found[family, more]
    return of


def metrics(output):
    """The figures of metrics.jsonl that do not measure time."""
    lines = [json.loads(line) for line in
             (run_folder(output) / 'metrics.jsonl').read_text().splitlines()]
    return [{key: value for key, value in line.items()
             if key not in ('images_per_s', 'data_share')} for line in lines]


def cuts(family):
    """All steps for `make reliability`; a few for `make test`."""
    few = {'vit': (1, 5, 11, 12, 13, 20, 36), 'vitae': (7,), 'vitaev2_vsa': (12, 17)}[family]
    return [pytest.param(family, step, marks=[] if step in few else pytest.mark.long)
            for step in range(1, STEPS + 1)]


@pytest.mark.parametrize('family, step', [
    case for family in ('vit', 'vitae', 'vitaev2_vsa') for case in cuts(family)])
def test_cut_at_a_step_R1_R6(family, step, data, whole, tmp_path):
    """The rest goes on in the same folder; weights, optimiser, average, best, log are the same."""
    assert cut(family, data, tmp_path, stop_at=step) == 143
    content = content_of(tmp_path)
    assert content['epoch'] * 12 + content['step'] == step
    assert cut(family, data, tmp_path, '-resume=auto') == 0
    expected, log = whole(family)
    assert digest(content_of(tmp_path)) == expected
    assert metrics(tmp_path) == log


@pytest.mark.parametrize('more', [
    ('-accum_iter=2', '-batch_size=2'), ('-o', 'TRAIN.OPTIMIZER.NAME=SGD', '-o',
                                         'TRAIN.BASE_LR=0.01')])
def test_cut_with_accumulation_or_sgd_R1(more, data, whole, tmp_path):
    assert cut('vit', data, tmp_path, *more, stop_at=17) == 143
    assert cut('vit', data, tmp_path, *more, '-resume=auto') == 0
    assert digest(content_of(tmp_path)) == whole('vit', *more)[0]


def test_three_cuts_in_processes_with_workers_R1_R2_R4(data, whole, tmp_path):
    """Real processes, two workers, and a whole run with one thread and none: one digest."""
    for stop_at in (9, 13):
        code = cut('vit', data, tmp_path / 'cut', '-resume=auto', stop_at=stop_at)
        assert code == 143
    code, out, err = train('vit', data, tmp_path / 'cut', '-resume=auto', '-o',
                           'DATA.NUM_WORKERS=2')
    assert code == 0, err
    assert 'resume: ' in out and 'after epoch 1 and 10 steps' in out
    assert digest(content_of(tmp_path / 'cut')) == whole('vit')[0]
    code, _, err = train('vit', data, tmp_path / 'whole')
    assert code == 0, err
    assert digest(content_of(tmp_path / 'whole')) == whole('vit')[0]


def test_evaluation_and_saving_do_not_change_training_R3(data, whole, tmp_path):
    assert cut('vit', data, tmp_path, '-o', 'VALIDATE_FREQ=3', '-o', 'SAVE_STEPS=5') == 0
    seldom = content_of(tmp_path)
    assert cut('vit', data, tmp_path / 'often') == 0
    often = content_of(tmp_path / 'often')
    assert digest(often) == whole('vit')[0]
    assert digest({**often, 'best': None}) == digest({**seldom, 'best': None})


def test_interrupt_from_the_keyboard_R4(data, tmp_path):
    assert cut('vit', data, tmp_path, stop_at=3, number=signal.SIGINT) == 130
    assert content_of(tmp_path)['step'] == 3


def test_other_batch_within_an_epoch_is_refused_R5(data, tmp_path, capsys):
    assert cut('vit', data, tmp_path, stop_at=3) == 143
    assert cut('vit', data, tmp_path, '-resume=auto', '-batch_size=8') == 1
    assert "expected {'images': 48, 'global_batch': 4" in capsys.readouterr().err
    # the same samples in each step, split otherwise
    assert cut('vit', data, tmp_path, '-resume=auto', '-batch_size=2', '-accum_iter=2') == 0


def test_finished_run_and_changed_config_R7(data, tmp_path, capsys):
    assert cut('vit', data, tmp_path) == 0
    folder = run_folder(tmp_path)
    assert cut('vit', data, tmp_path, '-resume=auto') == 0
    assert 'nothing to train: 3 of 3 epochs are done' in capsys.readouterr().out
    assert cut('vit', data, tmp_path / 'b', f'-resume={folder}') == 1
    assert 'nothing to train: 3 of 3 epochs are done' in capsys.readouterr().err
    assert cut('vit', data, tmp_path / 'b', f'-resume={folder}', '-o', 'TRAIN.NUM_EPOCHS=4') == 0
    assert 'TRAIN.NUM_EPOCHS: was 3, is 4' in capsys.readouterr().out
