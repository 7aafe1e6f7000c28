"""Segmentation with PaddleSeg: training, going on, evaluation, pictures, graphs.

The model is the demo's with one map channel here and there, the pictures are the demo's."""
import json
import signal
import subprocess
import sys
import time
from argparse import Namespace

import numpy as np
import paddle
import pytest
from PIL import Image

from common import segmentation as command
from common.core.errors import InputError
from common.core.signals import Stopped, StopSignal
from common.engines.segmentation import components, tools
from common.engines.segmentation.config import read_config
from common.engines.segmentation.deploy import Graph
from tests.conftest import ROOT, refusal

pytestmark = [pytest.mark.engines, pytest.mark.smoke]

SMALL = ['MODEL.CHANNELS=8', 'MODEL.AUX_CHANNELS=4', 'DATA.CROP=[64, 64]', 'DATA.BATCH_SIZE=2',
         'DATA.SIDES=[96, 64]', 'DATA.DISTORT=true', 'DATA.MOST_OF_ONE=0.95', 'MODEL.DROPOUT=0.1',
         'MODEL.DROPPATH=0.2', 'TRAIN.NUM_STEPS=6', 'TRAIN.WARMUP_STEPS=2', 'TRAIN.EVAL_FREQ=4',
         'REPORT_FREQ=1', 'TEST.SCALES=[0.5, 1.0]']


def flags(*arguments, options=SMALL):
    return [*map(str, arguments), *(part for option in options for part in ('-o', option))]


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return {line['step']: line['loss'] for line in lines if line['kind'] == 'train'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes') / 'data'
    tools.write_shapes(str(folder), 6, 3, seed=1)
    return folder


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    """The folder of a whole run."""
    output = tmp_path_factory.mktemp('run')
    command.main(flags('train', '-cfg=upernet_shapes', f'-data_path={data}', f'-output={output}'))
    folder, = output.iterdir()
    return folder


def test_run_writes_what_it_should(run):
    assert {'best.pdparams', 'last.pdparams', 'config.yaml', 'log.txt', 'metrics.jsonl',
            'result.json'} <= {path.name for path in run.iterdir()}
    losses = losses_of(run)
    assert list(losses) == [1, 2, 3, 4, 5, 6] and all(np.isfinite(list(losses.values())))
    assert 'shapes' in (run / 'log.txt').read_text()


def stop_after(steps, monkeypatch):
    """Training that gets SIGTERM after some steps."""
    from common.engines.segmentation.training import Training
    before = Training.backward

    def backward(self, model, batch):
        loss = before(self, model, batch)
        if self.step + 1 == steps:
            signal.raise_signal(signal.SIGTERM)
        return loss

    monkeypatch.setattr(Training, 'backward', backward)


def test_stopped_run_goes_on_with_the_same_losses(run, data, tmp_path, monkeypatch):
    arguments = flags('train', '-cfg=upernet_shapes', f'-data_path={data}', f'-output={tmp_path}')
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            command.main(arguments)
    folder, = tmp_path.iterdir()
    assert list(losses_of(folder)) == [1, 2, 3] and not (folder / 'result.json').exists()
    (folder / 'last.pdparams.tmp99999999').write_text('of a run that was killed')
    # the run knows its recipe; who loads the images changes nothing
    command.main(['train', f'-resume={folder}', f'-output={tmp_path}', '-o', 'DATA.NUM_WORKERS=1'])
    assert not (folder / 'last.pdparams.tmp99999999').exists()
    assert losses_of(folder) == losses_of(run)                         # to every written digit
    weights, others = (paddle.load(str(path / 'last.pdparams'))['model'] for path in (folder, run))
    for name, value in weights.items():
        np.testing.assert_array_equal(value.numpy(), others[name].numpy(), name)
    with pytest.raises(SystemExit) as ended:                           # it has ended
        command.main([*arguments, f'-resume={folder}'])
    assert ended.value.code == 1


def test_run_of_another_recipe_or_data_does_not_go_on(run, data, tmp_path, capsys):
    arguments = flags('train', '-cfg=upernet_shapes', f'-data_path={data}', f'-resume={run}',
                      f'-output={tmp_path}')
    before = {path.name: path.read_bytes() for path in run.iterdir() if 'pdparams' in path.name}
    with pytest.raises(SystemExit):
        command.main([*arguments, '-o', 'TRAIN.BASE_LR=0.1'])
    assert 'got another recipe, expected the same: TRAIN.BASE_LR' in capsys.readouterr().err
    other = tmp_path / 'other'
    tools.write_shapes(str(other), 5, 3, seed=1)
    with pytest.raises(SystemExit):
        command.main([argument.replace(f'-data_path={data}', f'-data_path={other}')
                      for argument in arguments])
    assert 'got other training images' in capsys.readouterr().err
    assert {name: (run / name).read_bytes() for name in before} == before


def plain_iou(predictions, masks, count):
    """IoU of each class by plain numpy; pixels of 255 are not counted."""
    pairs = [(p[m != 255], m[m != 255]) for p, m in zip(predictions, masks, strict=True)]
    p, m = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return [((p == k) & (m == k)).sum() / ((p == k) | (m == k)).sum()
            if ((p == k) | (m == k)).any() else None for k in range(count)]


@pytest.mark.parametrize('scales', [[], ['-multi_scale']])
def test_evaluation_is_that_of_the_saved_predictions(scales, run, data, tmp_path):
    output = tmp_path / 'predictions'
    command.main(['eval', f'-pretrained={run}', f'-data_path={data}', f'-output={output}', *scales])
    result = json.loads((output / 'result.json').read_text())
    files = sorted((data / 'masks' / 'val').iterdir())
    masks = [np.asarray(Image.open(file)) for file in files]
    predictions = [np.asarray(Image.open(output / 'images' / 'val' / file.name)) for file in files]
    assert [p.shape for p in predictions] == [m.shape for m in masks]
    expected = plain_iou(predictions, masks, 4)
    np.testing.assert_allclose([np.nan if iou is None else iou for iou in result['class_iou']],
                               [np.nan if iou is None else iou for iou in expected], rtol=1e-12)
    there = [iou for iou in expected if iou is not None]
    np.testing.assert_allclose(result['miou'], np.mean(there), rtol=1e-12)
    assert np.asarray(Image.open(output / 'examples.png')).shape[0] > 3 * 120  # three rows, names
    with pytest.raises(SystemExit):                                    # the folder is not empty now
        command.main(['eval', f'-pretrained={run}', f'-data_path={data}', f'-output={output}'])


def test_scales_and_windows_are_plain_means(run):
    """PaddleSeg's inference at two scales with flips, and by windows, against a plain loop."""
    from common.engines.segmentation.evaluation import options_of, predict
    from common.train.precision import Precision
    functional = paddle.nn.functional
    config = read_config('upernet_shapes', Namespace(
        pretrained=str(run), o=[*SMALL, 'TEST.WINDOW=[64, 64]', 'TEST.STRIDE=[40, 40]']))
    model, _ = components.build_model(config)
    model.eval()
    random = np.random.RandomState(0)
    image = random.standard_normal((3, 100, 90)).astype(np.float32)
    whole = paddle.to_tensor(image[None])

    def windows(x):
        height, width = x.shape[2:]
        total, count = paddle.zeros([1, 4, height, width]), np.zeros([height, width])
        total = total.numpy()
        for top in sorted({min(at, max(height - 64, 0)) for at in range(0, height, 40)}):
            for left in sorted({min(at, max(width - 64, 0)) for at in range(0, width, 40)}):
                part = np.s_[top:top + 64, left:left + 64]
                total[(..., *part)] += model(x[(..., *part)])[0].numpy()
                count[part] += 1
        return total / count

    with paddle.no_grad():
        total = 0
        for scale in (0.5, 1.0):
            size = [int(side * scale + 0.5) for side in (100, 90)]
            scaled = functional.interpolate(whole, size, mode='bilinear')
            for flip in (False, True):
                logits = windows(scaled.flip(3) if flip else scaled)
                logits = logits[..., ::-1].copy() if flip else logits
                total = total + functional.interpolate(
                    paddle.to_tensor(logits.astype(np.float32)), [100, 90], mode='bilinear').numpy()
    got = predict(model, image, np.zeros([0, 3], np.int64), options_of(config, True), Precision())
    best, second = -np.sort(-total[0], axis=0)[:2]
    sure = best - second > 1e-4 * np.abs(total).max()                  # rounding decides the others
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(got[sure], total[0].argmax(0)[sure])


def test_pictures_and_graph(run, data, tmp_path, capsys):
    image = data / 'images' / 'val' / '0000.png'
    command.main(['infer', f'-pretrained={run}', f'-output={tmp_path / "pictures"}', str(image)])
    classes = np.asarray(Image.open(tmp_path / 'pictures' / '0000.png'))
    size = np.asarray(Image.open(image)).shape[:2]
    laid = np.asarray(Image.open(tmp_path / 'pictures' / '0000_overlay.png'))
    assert classes.shape == size and classes.max() < 4 and laid.shape[1] >= size[1]
    assert laid.shape[0] > size[0]                                     # names below it
    folder = tmp_path / 'graph'
    command.main(['export', f'-pretrained={run}', f'-output={folder}', '-size', '64', '96',
                  str(image)])
    metadata = json.loads((folder / 'export.json').read_text())
    assert metadata['class_names'] == ['background', 'disc', 'square', 'triangle']
    model, _ = components.build_model(read_config(str(run / 'config.yaml'),
                                                  Namespace(pretrained=str(run))))
    model.eval()
    pixels = np.random.RandomState(1).standard_normal((2, 3, 64, 96)).astype(np.float32)
    labels, logits = Graph(str(folder))(pixels)
    with paddle.no_grad():
        expected = model(paddle.to_tensor(pixels))[0].numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    best, second = -np.sort(-expected, axis=1).transpose(1, 0, 2, 3)[:2]
    sure = best - second > 4e-3 * np.abs(expected).max()
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(labels[sure], expected.argmax(1)[sure])


def test_weights_of_something_else(run, data, tmp_path):
    def build(is_new, *options, pretrained=run):
        return components.build_model(read_config('upernet_shapes', Namespace(
            pretrained=str(pretrained), o=[*SMALL, *options])), is_new)

    assert 'for 4 classes, MODEL.NUM_CLASSES is 3' in refusal(build, False, 'MODEL.NUM_CLASSES=3')
    _, notes = build(True, 'MODEL.NUM_CLASSES=3')
    assert any('start anew' in note for note in notes)
    message = refusal(build, False, 'MODEL.CHANNELS=16')
    assert 'not for this model; nothing was loaded' in message
    backbone = {name.removeprefix('backbone.model.'): value
                for name, value in build(False)[0].state_dict().items() if 'backbone' in name}
    paddle.save(backbone, str(tmp_path / 'backbone.pdparams'))
    message = refusal(build, False, pretrained=tmp_path / 'backbone.pdparams')
    assert 'weights of a backbone only' in message
    model, _ = build(True, pretrained=tmp_path / 'backbone.pdparams')
    for name, value in backbone.items():
        np.testing.assert_array_equal(model.state_dict()[f'backbone.model.{name}'].numpy(),
                                      value.numpy())
    paddle.save({'weight': paddle.zeros([3])}, str(tmp_path / 'other.pdparams'))
    with pytest.raises(InputError):
        build(True, pretrained=tmp_path / 'other.pdparams')


def test_refused_training_leaves_nothing(data, tmp_path, capsys):
    output, nowhere = tmp_path / 'output', tmp_path / 'nowhere'
    for change, message in (([f'-data_path={nowhere}'], 'no such folder of data'),
                            ([f'-pretrained={nowhere}'], str(nowhere)),
                            ([f'-resume={nowhere}'], '-resume: no such folder'),
                            (['-num_classes=3'], 'got 3 classes, expected 4')):
        with pytest.raises(SystemExit) as ended:
            command.main(flags('train', '-cfg=upernet_shapes', f'-data_path={data}',
                               f'-output={output}', *change))
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert ended.value.code == 1 and said.startswith('error: ') and message in said
    assert not output.exists() or not list(output.iterdir())


def test_paddleseg_s_own_loop_trains_the_components(data, tmp_path):
    """Its builder makes them from its own yaml, and its loop, patched, trains and evaluates."""
    components.register()
    from paddleseg.core import train
    from paddleseg.cvlibs import Config, SegBuilder
    for split in ('train', 'val'):
        names = sorted(path.name for path in (data / 'images' / split).iterdir())
        (tmp_path / f'{split}.txt').write_text(''.join(
            f'images/{split}/{name} masks/{split}/{name}\n' for name in names))
    options = read_config('upernet_shapes').MODEL.BACKBONE_OPTIONS
    backbone = '\n'.join(f'    {option.replace("=", ": ")}' for option in options)
    (tmp_path / 'own.yml').write_text(f'''
batch_size: 2
iters: 2
model:
  type: UPerNetMMSeg
  num_classes: 4
  channels: 8
  aux_channels: 4
  backbone:
    type: ZooBackbone
    name: vitaev2_vsa_s
{backbone}
train_dataset: &data
  type: Dataset
  dataset_root: {data}
  train_path: {tmp_path}/train.txt
  num_classes: 4
  mode: train
  transforms:
    - {{type: ResizeWithin, long_side: 96, short_side: 64, ratios: [0.5, 2.0]}}
    - {{type: CropOfClasses, crop_size: [64, 64]}}
    - {{type: RandomHorizontalFlip}}
    - {{type: PhotoMetricDistortion}}
    - {{type: Normalize}}
    - {{type: PadTo, size: [64, 64]}}
val_dataset:
  type: Dataset
  dataset_root: {data}
  val_path: {tmp_path}/val.txt
  num_classes: 4
  mode: val
  transforms: [{{type: Normalize}}]
optimizer: {{type: AdamW, weight_decay: 0.01}}
lr_scheduler: {{type: PolynomialDecay, learning_rate: 0.001, end_lr: 0.0, power: 1.0}}
loss:
  types: [{{type: CrossEntropyLoss}}]
  coef: [1, 0.4]
''')
    config = Config(str(tmp_path / 'own.yml'))
    builder = SegBuilder(config)
    train(builder.model, builder.train_dataset, builder.val_dataset, builder.optimizer,
          str(tmp_path / 'out'), iters=2, batch_size=2, save_interval=2, log_iters=1,
          losses=builder.loss)
    assert (tmp_path / 'out' / 'iter_2' / 'model.pdparams').exists()


def test_script_is_stopped_by_a_signal_and_goes_on(data, tmp_path):
    """The real script in a process of its own."""
    script = ROOT / 'vitaev2_vsa' / 'segmentation' / 'main.py'
    arguments = [sys.executable, script, *flags('train', '-cfg=upernet_shapes',
                                                f'-data_path={data}', f'-output={tmp_path}')]
    long = [*arguments, '-o', 'TRAIN.NUM_STEPS=100000', '-o', 'TRAIN.EVAL_FREQ=100000']
    process = subprocess.Popen(long, cwd=script.parent, text=True, stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            logs = list(tmp_path.glob('*/log.txt'))
            if process.poll() is not None or logs and 'step 2/' in logs[0].read_text():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM and 'stopped by SIGTERM' in said
    folder, = tmp_path.iterdir()
    assert (folder / 'last.pdparams').exists()
    with StopSignal():                                                 # goes on in this process
        content = paddle.load(str(folder / 'last.pdparams'))
    assert content['step'] >= 2
