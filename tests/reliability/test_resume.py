"""Exact resume: a run that is cut and gone on with ends with the same numbers, to the bit."""
import json
import shutil
import signal

import pytest

from common.config import base_config
from common.train import evaluation
from common.train import run_folder as run_folders
from common.train import trainer as training
from common.train.checkpoint import PREVIOUS, write_atomically
from common.train.log import RunLog
from common.train.run_folder import RESULT
from common.weights.load import BEST, LAST
from common.weights.unpickle import load_pickle
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


def test_damaged_lines_are_cut_from_the_log_R6(tmp_path):
    """What a crash of the machine leaves of a file: zeros, or of another file."""
    good = '{"kind": "eval", "epoch": 1, "acc1": 0.5}\n'
    later = good.replace('1', '2', 1)
    file = tmp_path / 'metrics.jsonl'
    file.write_bytes(good.encode() + b'\0\0\0\n\xff\xfe\x80\n' + b'[' * 100_000 + b'\n'
                     + later.encode() + b'{"kind": "ev')
    log = RunLog(str(tmp_path))
    log.cut(1, 0)
    log.metric('eval', at=2, epoch=2, acc1=0.5)
    log.close()
    assert file.read_text() == good + later


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


def test_run_without_a_checkpoint_is_named_R8(data, tmp_path, capsys):
    """As a kill before the first checkpoint leaves it."""
    killed = tmp_path / 'vit_digits-train-20250101-000000'
    killed.mkdir()
    (killed / 'config.yaml').write_text('')
    assert cut('vit', data, tmp_path, '-resume=auto', stop_at=2) == 143
    line = f'-resume=auto: {killed} has no checkpoint, so a new run starts'
    assert capsys.readouterr().out.count(line) == 1
    own, = set(tmp_path.iterdir()) - {killed}
    assert line in (own / 'log.txt').read_text()
    # one that has a checkpoint goes on, and a newer one without is named
    newer = tmp_path / 'vit_digits-train-20990101-000000'
    newer.mkdir()
    assert cut('vit', data, tmp_path, '-resume=auto', stop_at=2) == 143
    assert f'{newer} has no checkpoint, so {own} goes on' in capsys.readouterr().out
    assert load_pickle(str(own / LAST))['step'] == 4


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(monkeypatch, owner, name):
    def kill(*args, **options):
        raise Killed
    monkeypatch.setattr(owner, name, kill)


def test_run_that_is_removed_meanwhile_is_passed_over_R8(tmp_path, monkeypatch):
    """Another start has been refused, and its folder goes while this one looks at it."""
    config, (gone, own) = base_config(), (str(tmp_path / name) for name in ('gone', 'own'))
    monkeypatch.setattr(run_folders, 'runs_of', lambda save, name: [gone, own])
    assert run_folders.find_run(config.SAVE, 'x') is None
    assert run_folders.note_of_unsaved(config, own) is None


@pytest.mark.parametrize('owner, name', [
    (training.Trainer, 'end_run'), (evaluation, 'write_result')])
def test_killed_after_the_last_checkpoint_R9(owner, name, data, whole, tmp_path, monkeypatch,
                                             capsys):
    """-resume=auto does what is missing, and only then is there nothing to train."""
    killed_at(monkeypatch, owner, name)
    with pytest.raises(Killed):
        cut('vit', data, tmp_path)
    monkeypatch.undo()
    folder = run_folder(tmp_path)
    assert content_of(tmp_path)['epoch'] == 3 and not (folder / RESULT).exists()
    (folder / 'curves.png').unlink(missing_ok=True)
    capsys.readouterr()
    assert cut('vit', data, tmp_path, '-resume=auto') == 0
    best = content_of(tmp_path)['best']
    assert f'best, epoch {best["epoch"]}: acc@1' in capsys.readouterr().out
    assert json.loads((folder / RESULT).read_text()) == best
    assert load_pickle(str(folder / BEST))['epoch'] == best['epoch']
    assert (folder / 'curves.png').exists()
    assert (digest(content_of(tmp_path)), metrics(tmp_path)) == whole('vit')
    assert cut('vit', data, tmp_path, '-resume=auto') == 0
    assert 'nothing to train: 3 of 3 epochs are done' in capsys.readouterr().out


def test_run_that_had_no_evaluation_gets_one_R9(data, tmp_path):
    """Its last epoch was not to be the last one, when it ended."""
    flags = ['-o', 'VALIDATE_FREQ=100', '-o', 'SAVE_FREQ=1']
    assert cut('vit', data, tmp_path, *flags, '-o', 'TRAIN.NUM_EPOCHS=4', stop_at=25) == 143
    folder = run_folder(tmp_path)
    shutil.move(folder / PREVIOUS, folder / LAST)  # the end of epoch 2
    assert cut('vit', data, tmp_path, *flags, '-o', 'TRAIN.NUM_EPOCHS=2', '-resume=auto') == 0
    result = json.loads((folder / RESULT).read_text())
    assert result['epoch'] == load_pickle(str(folder / BEST))['epoch'] == 2


def test_run_that_goes_on_after_its_end_has_no_result_R9(data, tmp_path):
    """Until it ends once more: else a kill at its new end would pass for the old one."""
    assert cut('vit', data, tmp_path, '-o', 'TRAIN.NUM_EPOCHS=2') == 0
    assert cut('vit', data, tmp_path, '-resume=auto', stop_at=3) == 143
    assert not (run_folder(tmp_path) / RESULT).exists()
    assert cut('vit', data, tmp_path, '-resume=auto') == 0
    assert (run_folder(tmp_path) / RESULT).exists()


def test_other_data_under_the_same_output_R10(data, tmp_path, capsys):
    """A run on other data is never gone on with, nor passes for this one's end; the same data
    elsewhere are the same."""
    other = write_image_list(tmp_path / 'other', train=60, val=16, seed=1)
    moved = tmp_path / 'moved'
    shutil.copytree(data, moved)
    for stop_at, code in ((14, 143), (None, 0)):
        assert cut('vit', data, tmp_path / 'out', '-resume=auto', stop_at=stop_at) == code
        folder = run_folder(tmp_path / 'out')
        before = (folder / LAST).read_bytes()
        assert cut('vit', other, tmp_path / 'out', '-resume=auto') == 1
        err = capsys.readouterr().err
        assert f'error: -resume=auto: found {folder}, a run on other data: list {data} ' \
            '(48 training images, 10 classes)' in err
        assert f'got list {other} (60 training images, 10 classes); expected another -output' in err
        assert (folder / LAST).read_bytes() == before
    assert cut('vit', moved, tmp_path / 'out', '-resume=auto') == 0
    out = capsys.readouterr().out
    assert 'the data are the same, elsewhere' in out and 'nothing to train' in out
    names = moved / 'class_names.txt'
    names.write_text('\n'.join('abcdefghijk'))
    assert cut('vit', moved, tmp_path / 'out', '-resume=auto') == 1
    assert '11 classes: a, ...); expected another -output' in capsys.readouterr().err
    names.unlink()
    (moved / 'train_list.txt').write_text((data / 'train_list.txt').read_text().replace(' 9', ' 8'))
    assert cut('vit', moved, tmp_path / 'out', '-resume=auto') == 1  # as many, with other labels
    assert 'a run on other data' in capsys.readouterr().err


@pytest.mark.parametrize('split', ['train', 'val'])
def test_difference_that_numbers_do_not_show_is_named_R10(split, tmp_path, capsys):
    data, flags = write_image_list(tmp_path / 'data', train=48, val=16), ['-o', 'SAVE_FREQ=1']
    assert cut('vit', data, tmp_path / 'out', *flags) == 0
    file = data / f'{split}_list.txt'
    file.write_text(file.read_text().replace(' 9', ' 8'))
    assert cut('vit', data, tmp_path / 'out', *flags, '-resume=auto') == 1
    line = f'list {data} (48 training images, 10 classes); got the same but for the {split} images'
    assert f"{line}' number, names or labels; expected" in capsys.readouterr().err
    more = [*flags, '-resume=auto', '-o', 'TRAIN.NUM_EPOCHS=4']
    assert cut('vit', data, tmp_path / 'out', *more) == 0
    assert f'now the same but for the {split} images\'' in capsys.readouterr().out


def test_data_that_change_in_their_place_R10(tmp_path, capsys):
    """At an epoch's end they may, and it is said; within one they may not."""
    data = write_image_list(tmp_path / 'data', train=48, val=16)
    flags = ['-o', 'SAVE_FREQ=1']
    assert cut('vit', data, tmp_path / 'out', *flags, stop_at=13) == 143
    file = data / 'train_list.txt'
    file.write_text(file.read_text().replace(' 9', ' 8'))
    assert cut('vit', data, tmp_path / 'out', *flags, '-resume=auto') == 1
    assert 'stops within an epoch' in capsys.readouterr().err
    folder = run_folder(tmp_path / 'out')
    shutil.move(folder / PREVIOUS, folder / LAST)  # the end of epoch 1
    assert cut('vit', data, tmp_path / 'out', *flags, '-resume=auto') == 0
    assert 'WARNING: the data have changed' in capsys.readouterr().out


def test_run_on_another_number_of_cores_says_so(data, tmp_path, capsys):
    assert cut('vit', data, tmp_path / 'out', stop_at=5) == 143
    file = str(run_folder(tmp_path / 'out') / LAST)
    content = load_pickle(file)
    write_atomically({**content, 'cores': content['cores'] + 6}, file)
    assert cut('vit', data, tmp_path / 'out', '-resume=auto') == 0
    assert f'cores: {content["cores"]} instead of {content["cores"] + 6}' in capsys.readouterr().out


def test_checkpoint_that_does_not_know_its_data_R10(data, tmp_path, capsys):
    """As earlier versions wrote it: the number of images counts."""
    assert cut('vit', data, tmp_path / 'out', stop_at=5) == 143
    folder = run_folder(tmp_path / 'out')
    content = load_pickle(str(folder / LAST))
    for key in ('data_sets', 'unsaved'):
        del content[key]
    write_atomically(content, str(folder / LAST))
    shutil.copytree(data, tmp_path / 'moved')
    other = write_image_list(tmp_path / 'other', train=60, val=16)
    assert cut('vit', other, tmp_path / 'out', '-resume=auto') == 1
    assert 'a run on other data' in capsys.readouterr().err
    assert cut('vit', other, tmp_path / 'new', f'-resume={folder}') == 1
    assert "expected {'images': 48" in capsys.readouterr().err
    assert cut('vit', tmp_path / 'moved', tmp_path / 'out', '-resume=auto') == 0
