"""Multi-label data: lists, targets, average precision, runs, predictions of their models."""
import csv
import json
import os
import warnings

import numpy as np
import paddle
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from common import predict, report, verify_dataset
from common.apis import inference_model, init_model
from common.config import base_config, set_options
from common.core.class_names import match_labels
from common.core.errors import InputError
from common.core.label_sets import LabelSets, class_counts, label_bytes, label_text
from common.core.probabilities import predicted, probabilities, sigmoid
from common.core.randomness import BATCH, generator
from common.data.datasets import get_dataset
from common.data.lists import read_list
from common.data.loader import build_loader
from common.data.mixup import Mixup
from common.deploy.folder import read_metadata
from common.export import export_model
from common.inspection.batch_pictures import labels_of
from common.runtimes import load_exported
from common.serving.service import Service
from common.train.checkpoint import write_atomically
from common.train.losses import build_loss
from common.train.multi_label import (
    average_precision,
    check_keys,
    check_same_labels,
    evaluate_multi_label,
)
from common.train.precision import Precision
from common.weights.load import read_weights
from common.zoo import create_model
from tests.conftest import ROOT, refusal, run_script
from tests.reliability.runs import run_folder

CLEAN = b'a 1.png 0,3,7\nb.png -\nc.png 5\n\n \tmy - dogs.png\t12,0\r\n'
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))  # of the classes


def write_data(folder, train=48, val=97, size=32):
    """Pictures with a square for each of their classes, on grey noise; every fifth has none, and
    the last class has no picture in val."""
    random = np.random.RandomState(0)
    for split, count in (('train', train), ('val', val)):
        (folder / split).mkdir(parents=True)
        lines = []
        for index in range(count):
            classes = [k for k in range(4) if index % 5 and random.rand() < 0.5
                       and (k < 3 or split == 'train')]
            pixels = random.randint(60, 120, (size, size, 3)).astype(np.uint8)
            for k in classes:
                top, left = k // 2 * size // 2, k % 2 * size // 2
                pixels[top:top + size // 2, left:left + size // 2] = COLOURS[k]
            Image.fromarray(pixels).save(folder / split / f'{index}.png')
            lines.append(f'{split}/{index}.png {",".join(map(str, classes)) or "-"}\n')
        (folder / f'{split}_list.txt').write_text(''.join(lines))
    return folder


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('multi') / 'data')


def config_of(data, *options):
    config = create_model('vit_digits', depth=1).config.clone()
    config.defrost()
    set_options(config, ['DATA.DATASET=list', f'DATA.DATA_PATH={data}', 'MODEL.NUM_CLASSES=4',
                         'DATA.MULTI_LABEL=True', 'TRAIN.LOSS=bce', 'DATA.NUM_WORKERS=0',
                         'DATA.BATCH_SIZE=8', *options])
    return config


# Lists

def write(folder, content):
    (folder / 'train_list.txt').write_bytes(content)
    return str(folder / 'train_list.txt')


@pytest.mark.smoke
def test_labels_of_a_list(tmp_path):
    images = read_list(write(tmp_path, CLEAN), multi_label=True)
    assert [images.name(index) for index in range(4)] == ['a 1.png', 'b.png', 'c.png',
                                                          'my - dogs.png']
    assert [images.labels.classes(index).tolist() for index in range(4)] == [
        [0, 3, 7], [], [5], [12, 0]]
    assert images.where(3).endswith(':5') and len(images) == 4
    rows = [images.labels[index] for index in range(4)]
    assert [np.flatnonzero(row).tolist() for row in rows] == [[0, 3, 7], [], [5], [0, 12]]
    assert {len(row) for row in rows} == {13} and class_counts(images.labels, 14).sum() == 6
    part = images.labels[np.array([3, 1])]
    assert [label_text(part, index) for index in range(2)] == ['12,0', '-']
    moved = part.renumbered(np.arange(13)[::-1])
    assert moved.classes(0).tolist() == [0, 12]
    assert len({label_bytes(LabelSets(np.array([1, 2]), np.array(ends)))
                for ends in ([1, 2], [2, 2], [0, 2])}) == 3


@pytest.mark.smoke
@pytest.mark.parametrize('line, said', [
    (b'a.png', 'or "-" for no label'), (b'a.png 0,', 'without spaces'),
    (b'a.png 0, 3', 'joined by commas without spaces'), (b'a.png ,0', 'joined by commas'),
    (b'a.png 0,,3', 'joined by commas'), (b'a.png 0;3', 'joined by commas'),
    (b'a.png 3,-1', 'whole numbers from 0'), (b'a.png 1.0,2', 'whole numbers from 0'),
    (b'a.png --', 'whole numbers from 0'), (b'a.png 1234567890', 'whole numbers from 0'),
    (b'a.png 3,0,3', 'expected each label once'), (b'# a.png 0,1', 'no comment'),
    (b'../a.png 0,1', "without '..'"), (b'caf\xe9.png 0,1', 'expected UTF-8'),
    (b'0,1 a.png', 'whole numbers from 0')])
def test_wrong_line_is_one_message_D12(line, said, tmp_path):
    file = write(tmp_path, b'ok.png -\n\n' + line + b'\nok.png 0\n')
    message = refusal(lambda: read_list(file, multi_label=True))
    assert message.startswith(f'{file}:3: ') and said in message, message


@pytest.mark.smoke
def test_label_out_of_range_names_its_line_D12(tmp_path):
    images = read_list(write(tmp_path, CLEAN), multi_label=True)
    images.check_labels(13)
    message = refusal(images.check_labels, 7)
    assert message.startswith(f'{images.file}:1: label: got 7, expected 0 to 6')
    assert '2 of 6 entries are out of range' in message
    images.check_labels(13)


@pytest.mark.smoke
def test_lists_are_checked_by_the_command(data, capsys):
    with pytest.raises(SystemExit) as end:
        verify_dataset.main([str(data), '-multi_label'])
    out = capsys.readouterr().out
    assert end.value.code == 0 and '97 entries, 3 classes' in out and '48 entries, 4' in out


@pytest.mark.smoke
def test_labels_of_an_evaluation_follow_the_names(data):
    config = config_of(data, 'EVAL=True')
    dataset = get_dataset(config, is_train=False)
    before = [dataset.images.labels.classes(index).tolist() for index in range(97)]
    dataset.class_names = ['a', 'b', 'c', 'd']
    match_labels(dataset, ['b', 'a', 'd', 'c'], 'best.pdparams', config)
    after = [dataset.images.labels.classes(index).tolist() for index in range(97)]
    assert after == [[(1, 0, 3, 2)[k] for k in classes] for classes in before]


# Targets

@pytest.mark.smoke
def test_targets_of_batches(data):
    dataset = get_dataset(config_of(data))
    loader = build_loader(config_of(data, 'TRAIN.LABEL_SMOOTHING=0.1'), dataset)
    for batch in loader:
        expected = np.stack([dataset.images.labels[index] for index in batch.indices])
        np.testing.assert_allclose(batch.target, expected * 0.9 + 0.1 / 4, rtol=1e-6)
        assert batch.target.dtype == np.float32
    val = get_dataset(config_of(data), is_train=False)
    batch = next(iter(build_loader(config_of(data, 'TRAIN.LABEL_SMOOTHING=0.1'), val, False)))
    assert set(batch.target.ravel().tolist()) == {0.0, 1.0} and not batch.target[0].any()
    image, target = val[1]
    assert image.dtype == target.dtype == np.float32
    assert target.tolist() == batch.target[1].tolist()


@pytest.mark.smoke
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_one_label_for_each_image_is_what_single_labels_are(smoothing):
    """The same target after mixing, and the same loss, to the bit."""
    labels, images = np.array([2, 0, 3, 3]), np.zeros([4, 3, 8, 8], np.uint8)
    mixup = Mixup(0.8, 1.0, mode='pair', label_smoothing=smoothing, num_classes=4)
    rows = np.eye(4, dtype=np.float32)[labels]
    rows = rows * np.float32(1 - smoothing) + np.float32(smoothing / 4)
    single, multi = (mixup(images, target, generator(BATCH, 0, 1))[1] for target in (labels, rows))
    np.testing.assert_allclose(single, multi, atol=1e-7)
    config = base_config()
    set_options(config, ['TRAIN.LOSS=bce', f'TRAIN.LABEL_SMOOTHING={smoothing}'])
    logits = paddle.to_tensor(np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32))
    losses = [build_loss(config.TRAIN)(logits, paddle.to_tensor(target)).item()
              for target in (labels, rows)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.smoke
@pytest.mark.parametrize('option, said', [
    ('DATA.DATASET=digits', 'DATA.DATASET: got digits, expected imagenet2012, list or csv'),
    ('DATA.BALANCE=1', 'DATA.BALANCE: got 1.0, expected 0'),
    ('DATA.TRAIN_FRACTION=0.5', 'DATA.TRAIN_FRACTION: got 0.5, expected 1'),
    ('DATA.REAL_LABELS=real.json', 'DATA.REAL_LABELS: got real.json, expected null')])
def test_keys_that_need_one_label_are_refused_C10(option, said):
    with pytest.raises(InputError, match=said):
        set_options(base_config(), ['DATA.DATASET=list', 'DATA.MULTI_LABEL=True', option])


@pytest.mark.smoke
def test_labels_of_a_training_picture():
    names = ['a', 'b', 'c', 'd', 'e', 'f']
    for target, text in (([0, 1, 0, 0, 1, 0], 'b, e'), ([0.3, 0.7, 0, 0, 1, 0], 'e, b 70%, a 30%'),
                         ([0] * 6, 'no class'), ([1] * 6, 'a, b, c, d, ...')):
        smoothed = np.float32(target) * 0.9 + np.float32(0.1 / 6)
        assert labels_of(smoothed, names, 0.1) == text


# Average precision

@pytest.mark.smoke
@pytest.mark.parametrize('levels', [1, 3, 20, 10 ** 9])
def test_average_precision_is_scikit_learn_s(levels):
    random = np.random.default_rng(levels)
    for _ in range(50):
        scores = (random.integers(0, levels, 60) / levels).astype(np.float32)
        is_positive = random.random(60) < random.random()
        if not is_positive.any():
            assert average_precision(scores, is_positive) is None
            continue
        assert average_precision(scores, is_positive) == pytest.approx(
            average_precision_score(is_positive, scores), rel=1e-12)
    assert average_precision(np.arange(9.0), np.arange(9) > 4) == 1.0


class Given(paddle.nn.Layer):
    """Its logits are its input's first pixels."""

    def forward(self, images):
        return images[:, 0, 0, :5]


@pytest.mark.smoke
def test_evaluation_is_scikit_learn_s_macro_mean():
    random = np.random.default_rng(0)
    logits = random.normal(size=(23, 5)).astype(np.float32)
    target = (random.random((23, 5)) < 0.3).astype(np.float32)
    target[:, 2] = 0

    def batches():
        for start in range(0, 23, 6):
            images = np.zeros([len(logits[start:start + 6]), 3, 5, 5], np.float32)
            images[:, 0, 0] = logits[start:start + 6]
            yield paddle.to_tensor(images), paddle.to_tensor(target[start:start + 6])

    result = evaluate_multi_label(Given(), batches(), Precision(), 5)
    some = [0, 1, 3, 4]
    assert result['seen'] == 23 and result['AP'][2] is None
    assert result['mAP'] == pytest.approx(
        average_precision_score(target[:, some], logits[:, some], average='macro'), rel=1e-12)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    loss = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    assert result['loss'] == pytest.approx(loss, rel=1e-6)
    target[:] = 0
    assert 'no image that has a label' in refusal(evaluate_multi_label, Given(), batches(),
                                                  Precision(), 5)


# The program with a model in float64, so that no rounding that depends on the batch reaches the
# float32 numbers that are compared.
FLOAT64 = '''
from common.runner import run
import paddle
from config import get_config, update_config
from datasets import get_dataset
from vit import build_vit

def build_model(config):
    paddle.set_default_dtype('float64')
    model = build_vit(config)
    forward = model.forward
    model.forward = lambda images: forward(images.astype('float64'))
    return model

if __name__ == '__main__':
    run(get_config, update_config, build_model, get_dataset)
'''
FLAGS = ['-cfg=./configs/vit_digits.yaml', '-dataset=list', '-o', 'MODEL.DEPTH=1', '-o',
         'MODEL.NUM_CLASSES=4', '-o', 'DATA.MULTI_LABEL=True', '-o', 'DATA.NUM_WORKERS=0']


@pytest.mark.parametrize('numbers', [(1, 3), pytest.param((1, 2, 4), marks=pytest.mark.long)])
def test_evaluation_is_the_same_on_one_to_four_ranks_P7(numbers, data, tmp_path):
    weights = tmp_path / 'weights.pdparams'
    write_atomically(create_model('vit_digits', depth=1, num_classes=4).state_dict(), str(weights))
    script = tmp_path / 'main.py'
    script.write_text(FLOAT64)
    results = []
    for ranks in numbers:
        code, out, err = run_script(
            [script, *FLAGS, f'-data_path={data}', f'-output={tmp_path / str(ranks)}', '-eval',
             f'-pretrained={weights}', '-batch_size=10', f'-nprocs={ranks}'],
            env={'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "vit"}'})
        assert code == 0, err
        assert f'device: {ranks} x cpu' in out
        results.append(json.loads((run_folder(tmp_path / str(ranks)) / 'result.json').read_text()))
    first = results[0]
    assert first['seen'] == 97 and first['AP'][3] is None
    for result in results[1:]:
        assert result['loss'] == pytest.approx(first['loss'], rel=1e-9)
        assert {**result, 'loss': first['loss']} == first


# Runs and predictions

@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """The folder of a run, what it said, and its model."""
    output = tmp_path_factory.mktemp('trained')
    names = output / 'names.txt'
    names.write_text('red\ngreen\nblue\n黄\n', encoding='utf-8')
    (output / 'run').mkdir()
    code, out, err = run_script([
        'main_multi_gpu.py', *FLAGS, f'-data_path={data}', f'-output={output / "run"}',
        f'-class_names={names}', '-batch_size=8', '-o', 'TRAIN.LOSS=bce', '-o', 'AUG.MIXUP=0.1',
        '-o', 'TRAIN.NUM_EPOCHS=3', '-o', 'TRAIN.WARMUP_EPOCHS=1', '-o', 'REPORT_FREQ=3'])
    assert code == 0, err
    folder = run_folder(output / 'run')
    return folder, out, init_model('vit_digits', str(folder / 'best.pdparams'), depth=1)


@pytest.mark.smoke
def test_run_says_what_it_found(trained, data):
    folder, out, model = trained
    result = json.loads((folder / 'result.json').read_text())
    assert result['seen'] == 97 and len(result['AP']) == 4 and result['AP'][3] is None
    assert result['mAP'] == pytest.approx(np.mean(result['AP'][:3]))
    last = out.strip().splitlines()
    assert f'best, epoch {result["epoch"]}: mAP {result["mAP"]:.2%}  loss ' in last[-1]
    worst = int(np.argmin(result['AP'][:3]))
    assert f'AP, lowest first: {("red", "green", "blue")[worst]} ' \
           f'{result["AP"][worst]:.2%}, ' in last[-2]
    assert 'no image here has 1 of the 4 classes' in last[-2] and 'hit@1' in out
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    scores = [line['mAP'] for line in lines if line['kind'] in ('eval', 'eval_ema')]
    assert len(scores) == 6 and max(scores) == pytest.approx(result['mAP'], 1e-5)
    assert (folder / 'curves.png').stat().st_size > 10_000
    assert model.config.DATA.MULTI_LABEL and model.class_names[3] == '黄'
    # the file holds what was chosen: evaluated again it gives the same
    images = inference_model(model, [str(data / 'val' / f'{index}.png') for index in range(97)])
    labels = read_list(str(data / 'val_list.txt'), multi_label=True).labels
    scores = np.stack([image['pred_scores'] for image in images])
    found = [average_precision(scores[:, k], np.array([k in labels.classes(index)
             for index in range(97)])) for k in range(3)]
    np.testing.assert_allclose(found, result['AP'][:3], atol=0.02)


@pytest.mark.smoke
def test_classes_from_a_threshold_on(trained, data, capsys, tmp_path):
    _, _, model = trained
    image = str(data / 'val' / '1.png')
    scores = inference_model(model, image)['pred_scores']
    for threshold in (0.0, float(np.sort(scores)[-2]), 0.5, 1.0):
        result = inference_model(model, image, threshold=threshold)
        expected = sorted(np.flatnonzero(scores >= threshold), key=lambda k: -scores[k])
        assert result['pred_label'] == expected
        assert result['pred_class'] == [model.class_names[k] for k in expected]
        assert result['pred_score'] == [float(scores[k]) for k in expected]
    assert 'threshold: got 1.5' in refusal(lambda: inference_model(model, image, threshold=1.5))
    service = Service(model)
    content = (data / 'val' / '1.png').read_bytes()
    assert [entry.label for entry in service.predict(content, 1, 0.0).classes] \
        == inference_model(model, image, threshold=0.0)['pred_label']
    assert service.predict(content, 5, 1.0).classes == [] and service.info().multi_label
    export_model(model, str(tmp_path / 'graph'), 'paddle')
    assert read_metadata(str(tmp_path / 'graph'))['multi_label'] is True
    exported = inference_model(load_exported(tmp_path / 'graph'), image, threshold=0.0)
    assert len(exported['pred_label']) == 4
    np.testing.assert_allclose(exported['pred_scores'], scores, atol=1e-4)
    capsys.readouterr()


@pytest.mark.smoke
def test_predict_command(trained, data, capsys, tmp_path):
    folder, _, model = trained
    command = ['-cfg', 'vit_digits', '-pretrained', str(folder / 'best.pdparams'), '-o',
               'MODEL.DEPTH=1', str(data / 'val' / '1.png')]
    predict.main([*command, '-threshold', '0', '-csv', str(tmp_path / 'all.csv')])
    line, = capsys.readouterr().out.splitlines()
    assert line.count('%') == 4 and '黄: ' in line
    assert (tmp_path / 'all.csv').read_text().startswith('file,label_1,name_1,score_1,label_2')
    predict.main([*command, '-threshold', '1', '-json', str(tmp_path / 'none.json')])
    assert capsys.readouterr().out.endswith('1.png  no class\n')
    assert json.loads((tmp_path / 'none.json').read_text())[0]['classes'] == []
    for flags, said in ((['-topk', '2'], '-topk: got 2 for a model that gives several classes'),
                        (['-threshold', '2'], '-threshold: got 2.0, expected a probability')):
        with pytest.raises(SystemExit) as end:
            predict.main([*command, *flags])
        assert said in str(end.value)


@pytest.mark.smoke
def test_report_command(trained, data, monkeypatch, capsys, tmp_path):
    """Its figures are those of the run's evaluation, its probabilities those of predictions."""
    folder, _, model = trained
    monkeypatch.setattr(report, 'set_up_cpu', lambda: None)  # not in the tests' process
    output = tmp_path / 'report'
    output.mkdir()
    (output / 'confusions.csv').write_text('of an earlier report')
    report.main([str(folder), '-output', str(output), '-threshold', '0.3', '-images', '2', '-o',
                 'DATA.NUM_WORKERS=0'])
    result = json.loads((folder / 'result.json').read_text())
    assert f'mAP {result["mAP"]:.2%} on 97 images' in capsys.readouterr().out
    found = json.loads((output / 'figures.json').read_text())
    assert found['mAP'] == pytest.approx(result['mAP']) and found['threshold'] == 0.3
    assert found['loss'] == pytest.approx(result['loss'], rel=1e-5)
    assert {file.name for file in output.iterdir()} == {
        'report.html', 'predictions.csv', 'classes.csv', 'duplicates.csv', 'figures.json'}
    with open(output / 'predictions.csv', encoding='utf-8', newline='') as stream:
        rows = list(csv.DictReader(stream))
    images = inference_model(model, [str(data / row['file']) for row in rows[:5]], threshold=0.3)
    for row, image in zip(rows, images, strict=False):
        np.testing.assert_allclose([float(row[f'p {name}']) for name in model.class_names],
                                   image['pred_scores'], atol=1e-4)
    page = (output / 'report.html').read_text(encoding='utf-8')
    assert '黄' in page and f'{100 * result["mAP"]:.2f}' in page
    for flags in (['-topk', '3'], ['-compare', str(folder)], ['-threshold', '2']):
        with pytest.raises(SystemExit) as end:
            report.main([str(folder), '-output', str(output), *flags])
        assert str(end.value).startswith(f'error: {flags[0]}: got {float(flags[1])}'
                                         if flags[0] == '-threshold' else
                                         f'error: {flags[0]}: got {flags[1]} for multi-label data')


@pytest.mark.smoke
def test_other_loss_and_forgotten_key_are_one_line_C7(trained, data):
    folder, _, model = trained
    config = config_of(data, 'TRAIN.LOSS=cross_entropy')
    assert refusal(check_keys, config).startswith(
        'TRAIN.LOSS: got cross_entropy, expected bce with DATA.MULTI_LABEL')
    set_options(config, ['EVAL=True', 'DATA.DATA_PATH=x'])
    check_keys(config)
    metadata = read_weights(str(folder)).metadata
    check_same_labels(config, metadata, 'best.pdparams')
    set_options(config, ['DATA.MULTI_LABEL=False'])
    assert refusal(check_same_labels, config, metadata, 'best.pdparams') == \
        'best.pdparams: got a multi-label model, expected -o DATA.MULTI_LABEL=true beside it'
    for strange in ({}, {'config': None}, {'config': {'DATA': 3}}):
        check_same_labels(config, strange, 'best.pdparams')


@pytest.mark.smoke
def test_probabilities():
    logits = np.array([[-800.0, 0.0, 3.0, 800.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        np.testing.assert_allclose(sigmoid(logits), [[0, 0.5, 1 / (1 + np.exp(-3)), 1]], rtol=1e-6)
        assert probabilities(logits).sum() == 1
    assert predicted(np.array([0.1, 0.9, 0.5]), 2).tolist() == [1, 2]
    assert predicted(np.array([0.1, 0.9, 0.5]), 1, 0.5).tolist() == [1, 2]
