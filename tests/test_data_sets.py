"""Runs of the real script over each data set, and with the whole training recipe."""
import json

import numpy as np
import pytest
from PIL import Image

from common.weights.unpickle import load_pickle
from tests.conftest import run_script, write_image_list
from tests.test_cifar import archive_of
from tests.test_end_to_end import TINY, result_of, run_folder

SHORT = ['-cfg=./configs/vit_tiny_patch16_224.yaml', '-batch_size=4', *TINY,
         '-o', 'TRAIN.NUM_EPOCHS=2', '-o', 'TRAIN.WARMUP_EPOCHS=1', '-o', 'REPORT_FREQ=1']
RECIPE = ['-o', 'AUG.AUTO_AUGMENT=rand-m9-mstd0.5-inc1', '-o', 'AUG.ERASING=0.5',
          '-o', 'AUG.MIXUP=0.8', '-o', 'AUG.CUTMIX=1.0', '-o', 'AUG.MIXUP_MODE=elem',
          '-o', 'TRAIN.EMA.DECAY=0.9', '-o', 'TRAIN.EMA.BEST=True', '-o', 'MODEL.DROPPATH=0.2',
          '-o', 'TRAIN.RECOMPUTE=True', '-o', 'TRAIN.LAYER_DECAY=0.8']


def train(output, *flags):
    """(run folder, what was printed)"""
    code, out, err = run_script(['main_multi_gpu.py', *SHORT, f'-output={output}', *flags])
    assert code == 0, err
    return run_folder(output), out


@pytest.mark.smoke
def test_cifar10_from_its_archive(tmp_path):
    archive = archive_of(tmp_path)
    folder, out = train(tmp_path / 'out', '-dataset=cifar10', f'-data_path={archive}')
    assert result_of(tmp_path / 'out')['seen'] == 3
    assert 'batch: 4 x 1 processes x 1 accumulated = 4; 15 images make 3 steps an epoch' in out
    names = load_pickle(str(folder / 'best.pdparams'))['class_names']
    assert names == [f'class {number}' for number in range(10)]


@pytest.mark.smoke
def test_folders_with_names_and_a_share_of_each_class(tmp_path):
    for split, count in (('train', 6), ('val', 2)):
        for label, name in enumerate(('cat', 'dog')):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new('RGB', (40, 30), (label * 200, index, 0)).save(
                    tmp_path / split / name / f'{index}.png')
    names = tmp_path / 'names.txt'
    names.write_text('Katze\nHund\n')
    flags = ['-dataset=imagefolder', f'-data_path={tmp_path}', '-o', 'MODEL.NUM_CLASSES=2']
    folder, _ = train(tmp_path / 'out', *flags, f'-class_names={names}', '-train_fraction=0.5')
    assert load_pickle(str(folder / 'best.pdparams'))['class_names'] == ['Katze', 'Hund']
    lines = [line.split() for line in (folder / 'train_subset.txt').read_text().splitlines()]
    assert [name.split('/')[1] for name, _ in lines] == ['cat'] * 3 + ['dog'] * 3
    assert [label for _, label in lines] == ['0'] * 3 + ['1'] * 3
    code, _, err = run_script(['main_multi_gpu.py', *SHORT, *flags, f'-output={tmp_path / "e"}',
                               '-o', 'MODEL.NUM_CLASSES=3'])
    assert code == 1 and f'got 3 (-o MODEL.NUM_CLASSES=3), but {tmp_path} has 2 classes; ' \
        'expected -o MODEL.NUM_CLASSES=2, or none' in err


def test_training_as_a_graph_is_training(tmp_path, small_data):
    flags = [f'-data_path={small_data}', '-o', 'TRAIN.EMA.DECAY=0.9', '-o', 'MODEL.DROPPATH=0.0',
             '-o', 'MODEL.DROPOUT=0.0', '-o', 'MODEL.ATTENTION_DROPOUT=0.0']
    eager, graph = (train(tmp_path / str(static), *flags, '-o', f'TRAIN.TO_STATIC={static}')[0]
                    for static in (False, True))
    for line, other in zip(*((folder / 'metrics.jsonl').read_text().splitlines()
                             for folder in (eager, graph)), strict=True):
        line, other = json.loads(line), json.loads(other)
        assert {'kind', 'epoch', 'loss'} <= line.keys() == other.keys()
        assert other['loss'] == pytest.approx(line['loss'], rel=1e-4)


@pytest.mark.smoke
def test_real_labels_are_evaluated_beside_the_labels(tmp_path):
    """Image k has ReaL label k % 3 alone, 7 and 8 have none; the labels are all 5."""
    lines = []
    for index in range(9):
        name = f'ILSVRC2012_val_{index + 1:08d}.png'
        Image.new('RGB', (40, 30), (index * 25, 0, 0)).save(tmp_path / name)
        lines.append(f'{name} 5\n')
    for split in ('train', 'val'):
        (tmp_path / f'{split}_list.txt').write_text(''.join(lines))
    (tmp_path / 'class_names.txt').write_text(''.join(f'class {k}\n' for k in range(1000)))
    sets = [[index % 3] for index in range(7)] + [[]] * 49_993
    (tmp_path / 'real.json').write_text(json.dumps(sets))
    _, out = train(tmp_path / 'out', f'-data_path={tmp_path}', '-o', 'MODEL.NUM_CLASSES=1000',
                   f'-real_labels={tmp_path / "real.json"}')
    result = result_of(tmp_path / 'out')
    assert result['seen'] == 9 and result['real_seen'] == 7
    assert f'ReaL acc@1 {result["real_acc1"]:.2%} on 7' in out
    (tmp_path / 'class_names.txt').write_text('\n'.join('abcdefghij'))
    code, _, err = run_script(['main_multi_gpu.py', *SHORT, f'-output={tmp_path / "e"}',
                               f'-data_path={tmp_path}',
                               f'-real_labels={tmp_path / "real.json"}'])
    assert code == 1 and 'got a model of 10 classes, expected 1000' in err


@pytest.mark.smoke
@pytest.mark.parametrize('allowed', [5, 4])
def test_bad_images_are_counted_I5(allowed, tmp_path):
    """Five of 96, and the epoch drops none."""
    folder = write_image_list(tmp_path / 'data', train=96)
    for bad in (3, 40, 41, 42, 95):
        (folder / 'train' / f'{bad}.jpg').write_bytes(b'')
    flags = ['main_multi_gpu.py', *SHORT, f'-data_path={folder}', f'-output={tmp_path / "out"}',
             '-batch_size=16', '-o', f'DATA.MAX_BAD_IMAGES={allowed}']
    code, out, err = run_script(flags)
    if allowed == 4:
        assert code == 1 and 'more than DATA.MAX_BAD_IMAGES 4' in err
        return
    assert code == 0, err
    assert 'WARNING: epoch 2: 5 bad images were replaced by others' in out
    lines = (run_folder(tmp_path / 'out') / 'metrics.jsonl').read_text().splitlines()
    counts = [json.loads(line) for line in lines if '"bad_images"' in line]
    assert [(line['epoch'], line['count']) for line in counts] == [(1, 5), (2, 5)]
    assert load_pickle(str(run_folder(tmp_path / 'out') / 'last.pdparams'))['bad_images'] == 10


def assert_equal(first, second, where='checkpoint'):
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f'{where}.{key}')
    elif isinstance(first, np.ndarray):
        np.testing.assert_array_equal(first, second, err_msg=where)
    else:
        assert first == second, where


@pytest.mark.smoke
def test_recipe_goes_on_exactly_with_other_workers_and_evaluations(small_data, tmp_path):
    """One run of two epochs; and one that stops after the first, goes on with two workers and is
    evaluated once. Every number of the last checkpoints is the same."""
    flags = [f'-data_path={small_data}', *RECIPE]
    whole, out = train(tmp_path / 'whole', *flags)
    assert 'moving average of the weights: decay 0.9 a step' in out
    assert out.count('averaged weights after epoch') == 2
    stop = ('from common.train.log import RunLog\n'
            'def stop(*args, **options): raise SystemExit(3)\n'
            'RunLog.draw_curves = stop\n'
            'import runpy; runpy.run_path("main_multi_gpu.py", run_name="__main__")\n')
    code, _, err = run_script(['-c', stop, *SHORT, *flags, f'-output={tmp_path / "part"}'],
                              env={'PYTHONPATH': '.:..'})
    assert code == 3, err
    rest, _ = train(tmp_path / 'rest', *flags, '-o', 'DATA.NUM_WORKERS=2', '-o',
                    'VALIDATE_FREQ=2', f'-resume={run_folder(tmp_path / "part")}/last.pdparams')
    first, second = (load_pickle(str(folder / 'last.pdparams')) for folder in (whole, rest))
    for state in (first, second):
        del state['config']
    assert first['ema']['updates'] == 8
    assert_equal(first, second)
    code, out, err = run_script([
        'main_multi_gpu.py', *SHORT, *flags, f'-output={tmp_path / "eval"}', '-eval',
        f'-resume={whole}'])
    assert code == 0, err
    lines = [json.loads(line) for line in (whole / 'metrics.jsonl').read_text().splitlines()]
    averaged = [line for line in lines if line['kind'] == 'eval_ema'][-1]
    loss = result_of(tmp_path / 'eval')['averaged']['loss']
    assert float(f'{loss:.6g}') == averaged['loss']  # as metrics.jsonl rounds
    best = load_pickle(str(whole / 'best.pdparams'))
    if best['epoch'] == 2:  # it holds the average
        assert_equal(best['model'], first['ema']['average'])


@pytest.mark.smoke
@pytest.mark.parametrize('arguments, message', [
    (['-o', 'AUG.AUTO_AUGMENT=rand-m11'], "AUG.AUTO_AUGMENT: got 'rand-m11'"),
    (['-batch_size=3', '-o', 'AUG.MIXUP=0.8'], 'DATA.BATCH_SIZE: got 3, expected an even number'),
    (['-dataset=cifar10', '-data_path=nowhere'], 'nowhere'),
    (['-dataset=mnist'], "DATA.DATASET: got 'mnist', expected one of imagenet2012"),
    (['-train_fraction=0'], 'DATA.TRAIN_FRACTION: got 0.0, expected 1e-09 to 1.0'),
    (['-class_names=none.txt'], 'none.txt: no such file of class names'),
    (['-real_labels=none.json'], 'none.json: no such file of ReaL labels'),
    (['-o', "TRAIN.FREEZE=['encoders']"], "TRAIN.FREEZE: got 'encoders'"),
])
def test_wrong_input_is_one_line(arguments, message, small_data, tmp_path):
    code, _, err = run_script(['main_multi_gpu.py', *SHORT, f'-data_path={small_data}',
                               f'-output={tmp_path}', *arguments])
    errors = [line for line in err.splitlines() if line.startswith('error: ')]
    assert code == 1 and 'Traceback' not in err, err
    assert len(errors) == 1 and message in errors[0], err
