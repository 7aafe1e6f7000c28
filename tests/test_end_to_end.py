"""The scripts as a user starts them, in child processes, from the family's folder."""
import json
import os
import re
import sys

import numpy as np
import paddle
import pytest
from PIL import Image

from common.train.checkpoint import write_atomically
from common.weights.unpickle import load_pickle
from common.zoo import create_model
from tests.conftest import ROOT, refused_run, run_script, write_image_list

# A ViT small enough for a test; the rest of each command is the README's.
TINY = ['-image_size=32', '-o', 'MODEL.DEPTH=2', '-o', 'MODEL.NUM_CLASSES=10',
        '-o', 'DATA.NUM_WORKERS=0']


def run_shell(script, *arguments, **options):
    """`sh SCRIPT ARGUMENTS` in vit/; `python` is the one that runs the tests."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ['PATH']])
    code, out, err = run_script(['-c', 'import os, sys; os.execvp("sh", sys.argv[1:])', 'sh',
                                 script, *arguments], env={'PATH': path}, **options)
    return code, out, err


def run_folder(output):
    folder, = [folder for folder in output.iterdir() if folder.is_dir()]
    return folder


def result_of(output):
    return json.loads((run_folder(output) / 'result.json').read_text())


@pytest.fixture(scope='module')
def trained(small_data, tmp_path_factory):
    """A finished run of run_train_multi.sh."""
    output = tmp_path_factory.mktemp('train')
    code, out, err = run_shell(
        'run_train_multi.sh', '-cfg=./configs/vit_tiny_patch16_224.yaml', '-batch_size=4',
        f'-data_path={small_data}', f'-output={output}', *TINY, '-o', 'TRAIN.NUM_EPOCHS=3',
        '-o', 'TRAIN.WARMUP_EPOCHS=1', '-o', 'REPORT_FREQ=1')
    assert code == 0, err
    return run_folder(output), out


@pytest.mark.smoke
def test_training_writes_what_the_readme_says(trained):
    folder, out = trained
    assert re.fullmatch(r'vit_tiny_patch16_224-train-\d{8}-\d{6}', folder.name)
    assert {path.name for path in folder.iterdir()} == {
        'best.pdparams', 'last.pdparams', 'previous.pdparams', 'config.yaml', 'curves.png',
        'log.txt', 'metrics.jsonl', 'result.json', 'lock'}
    assert 'batch: 4 x 1 processes x 1 accumulated = 4; 16 images make 4 steps an epoch, 12' in out
    assert 'BASE_LR 0.003 x 4 / 4096' in out
    assert 'float32 (on a CPU -amp has no effect)' in out
    assert re.search(r'best, epoch \d: acc@1 [\d.]+%  acc@5 [\d.]+%.* on 8 images$', out.strip())
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    train = [line for line in lines if line['kind'] == 'train']
    assert [(line['epoch'], line['step']) for line in train] == [
        (epoch, step) for epoch in (1, 2, 3) for step in (1, 2, 3, 4)]
    assert [line['epoch'] for line in lines if line['kind'] == 'eval'] == [1, 2, 3]
    assert train[0]['lr'] == 1e-6
    assert np.asarray(Image.open(folder / 'curves.png').convert('L')).std() > 5


@pytest.mark.smoke
def test_evaluation_gives_the_figure_of_the_training_run(trained, small_data, tmp_path):
    folder, _ = trained
    code, out, err = run_shell(
        'run_eval_multi.sh', f'-data_path={small_data}', f'-output={tmp_path}', '-batch_size=4',
        f'-pretrained={folder}/best.pdparams', *TINY)
    assert code == 0, err
    expected = json.loads((folder / 'result.json').read_text())
    got = result_of(tmp_path)
    assert {**got, 'epoch': expected['epoch']} == expected
    assert 'crop 0.875, bicubic, mean [0.5, 0.5, 0.5]' in out


@pytest.mark.smoke
def test_resume_gives_the_weights_of_the_uninterrupted_run_R6(trained, small_data, tmp_path):
    """Killed after the checkpoint of epoch 2, and gone on with."""
    folder, _ = trained
    flags = [*TINY, '-cfg=./configs/vit_tiny_patch16_224.yaml', '--batch_size=4',
             f'-data_path={small_data}', '-o', 'TRAIN.NUM_EPOCHS=3', '-o', 'TRAIN.WARMUP_EPOCHS=1']
    killed = ('import os\n'
              'import common.train.checkpoint as checkpoint\n'  # before saver.py takes it
              'write = checkpoint.write_checkpoint\n'
              'def save(content, path):\n'
              '    write(content, path)\n'
              '    if content["epoch"] == 2: os.kill(os.getpid(), 9)\n'
              'checkpoint.write_checkpoint = save\n'
              'import runpy; runpy.run_path("main_multi_gpu.py", run_name="__main__")\n')
    code, _, err = run_script(['-c', killed, *flags, f'-output={tmp_path / "part"}'],
                              env={'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "vit"}'})
    assert code == -9, err
    code, out, err = run_script([
        'main_multi_gpu.py', *flags, f'-output={tmp_path / "rest"}',
        f'-resume={run_folder(tmp_path / "part")}/last.pdparams'])
    assert code == 0, err
    assert 'after epoch 2' in out
    whole = load_pickle(str(folder / 'last.pdparams'))
    rest = load_pickle(str(run_folder(tmp_path / 'rest') / 'last.pdparams'))
    assert whole['best'] == rest['best']
    best = load_pickle(str(run_folder(tmp_path / 'rest') / 'best.pdparams'))
    assert best['epoch'] == rest['best']['epoch']  # also when it is the first part's
    for name, value in whole['model'].items():
        np.testing.assert_array_equal(rest['model'][name], value, err_msg=name)
    code, _, err = run_script(['main_multi_gpu.py', *flags, f'-output={tmp_path / "none"}',
                               f'-resume={folder}/last.pdparams'])
    assert code == 1 and 'nothing to train: 3 of 3 epochs are done' in err
    code, _, err = run_script(['main_multi_gpu.py', *flags, f'-output={tmp_path / "sgd"}',
                               f'-resume={folder}/last.pdparams', '-o',
                               'TRAIN.OPTIMIZER.NAME=SGD'])
    assert code == 1 and 'expected that of Momentum; TRAIN.OPTIMIZER.NAME has changed' in err


@pytest.mark.smoke
def test_evaluation_of_a_checkpoint_L8(trained, small_data, tmp_path):
    """-eval -resume evaluates the weights of last.pdparams."""
    folder, _ = trained
    code, _, err = run_script([
        'main_multi_gpu.py', *TINY, '-cfg=./configs/vit_tiny_patch16_224.yaml', '-batch_size=4',
        f'-data_path={small_data}', f'-output={tmp_path}', '-eval',
        f'-resume={folder}/last.pdparams'])
    assert code == 0, err
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    expected = [json.loads(line) for line in lines if '"eval"' in line][-1]
    assert result_of(tmp_path)['loss'] == pytest.approx(expected['loss'], rel=1e-5)


@pytest.mark.parametrize('size, grid', [(32, '2x2'), (384, '24x24')])
def test_fine_tuning_from_1000_classes_at_224_L2_L3(size, grid, small_data, tmp_path):
    weights = tmp_path / 'vit.pdparams'
    model = create_model('vit_tiny_patch16_224', depth=1)
    write_atomically(model.state_dict(), str(weights))
    code, out, err = run_shell(
        'run_finetune_multi.sh', '-cfg=./configs/vit_tiny_patch16_224.yaml', '-batch_size=8',
        f'-data_path={small_data}', f'-output={tmp_path / "out"}', f'-pretrained={weights}',
        f'-image_size={size}', '-o', 'MODEL.NUM_CLASSES=10', '-o', 'MODEL.DEPTH=1',
        '-o', 'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0', '-o', 'TRAIN.BASE_LR=1e-12',
        '-o', 'DATA.NUM_WORKERS=0')
    assert code == 0, err
    assert 'classifier: new, [192, 10]; the file has [192, 1000]' in out
    assert f'position_embedding: resized (bicubic) from 14x14 to {grid}' in out
    after = load_pickle(str(run_folder(tmp_path / 'out') / 'best.pdparams'))['model']
    for name, value in model.state_dict().items():  # a rate of 1e-12 leaves the rest as it was
        if name not in ('position_embedding', 'classifier.weight', 'classifier.bias'):
            np.testing.assert_allclose(after[name], value.numpy(), atol=1e-7, err_msg=name)


@pytest.mark.smoke
def test_python_snippet_of_the_readme(tmp_path):
    weights = str(tmp_path / 'vit.pdparams')
    write_atomically(create_model('vit_tiny_patch16_224').state_dict(), weights)
    code, out, err = run_script(['-c', f'''
import paddle
from config import get_config
from vit import build_vit as build_model
# config files in ./configs/
config = get_config('./configs/vit_tiny_patch16_224.yaml')
# build model
model = build_model(config)
# load pretrained weights
model_state_dict = paddle.load({weights!r})
missing, unexpected = model.set_state_dict(model_state_dict)
print(missing, unexpected, list(model(paddle.rand([1, 3, 224, 224])).shape))
'''], env={'PYTHONPATH': str(ROOT)})
    assert code == 0, err
    assert out.strip() == '[] [] [1, 1000]'


@pytest.mark.smoke
@pytest.mark.parametrize('arguments, message', [
    (['-eval'], '-eval: got no weights, expected -pretrained FILE'),
    (['-eval', '-pretrained=none.pdparams'], '-pretrained: no such file: none.pdparams'),
    (['-o', 'DATA.BATCH_SIZES=3'], 'unknown key DATA.BATCH_SIZES; the nearest key is DATA.BATCH_S'),
    (['-batch_size=0'], 'DATA.BATCH_SIZE: got 0, expected at least 1'),
    (['-cfg=none.yaml'], 'none.yaml: no such config file'),
    (['-data_path=nowhere'], '-data_path: nowhere: no such folder or table, expected train_list'),
    (['-o', 'MODEL.NUM_CLASSES=9'], 'train_list.txt:10: label: got 9, expected 0 to 8'),
    (['-batch_size=17'], 'training set: got 16 images, expected at least one global batch of 17'),
    (['-o', 'DEVICE=gpu'], 'DEVICE: got gpu, but this machine'),
    (['-nprocs=0'], '-nprocs: got 0, expected at least 1'),
    (['-image_size=30'], 'image size: got 30x30, expected a height and a width that are multiples'),
    (['-o', 'MODEL.BACKBONE=r101'], "MODEL.BACKBONE: got 'r101', expected None or 'r50'"),
    (['-o', 'MODEL.NUM_HEADS=7'], 'MODEL.NUM_HEADS: got 7, expected a divisor of the 192 channels'),
])
def test_wrong_input_is_one_line_L7_C7_D5_D9(arguments, message, small_data, tmp_path, monkeypatch,
                                             capfd):
    if 'DEVICE=gpu' in arguments and paddle.device.cuda.device_count():
        pytest.skip('this machine has a GPU')
    monkeypatch.chdir(ROOT / 'vit')
    error = refused_run(['-cfg=./configs/vit_tiny_patch16_224.yaml', '-batch_size=4',
                         f'-data_path={small_data}', f'-output={tmp_path}', *TINY, *arguments],
                        capfd)
    assert message in error


@pytest.mark.parametrize('workers', [0, 2])
def test_bad_image_ends_the_run_and_names_the_line_I1(workers, tmp_path):
    folder = write_image_list(tmp_path / 'data')
    (folder / 'train' / '5.jpg').write_bytes((folder / 'train' / '5.jpg').read_bytes()[:200])
    code, _, err = run_script([
        'main_multi_gpu.py', '-cfg=./configs/vit_tiny_patch16_224.yaml', '-batch_size=4',
        f'-data_path={folder}', f'-output={tmp_path / "out"}', *TINY,
        '-o', f'DATA.NUM_WORKERS={workers}'], timeout=60)
    assert code == 1 and 'Traceback' not in err, err
    assert f'error: {folder}/train_list.txt:6: cannot read train/5.jpg: ' in err


def test_two_runs_in_one_second_get_two_folders_M3(tmp_path):
    from common.config import base_config
    from common.train.run_folder import make_run_folder
    config = base_config()
    config.SAVE, config.MODEL.NAME = str(tmp_path), 'x'
    folders = {make_run_folder(config) for _ in range(3)}
    assert len(folders) == 3


def test_prediction(trained, small_data):
    folder, _ = trained
    code, out, err = run_script(
        ['-m', 'common.predict', '-cfg', folder / 'config.yaml', '-pretrained',
         folder / 'best.pdparams', small_data / 'val' / '3.jpg', '-topk', '2'], folder='.')
    assert code == 0, err
    assert re.search(r'3\.jpg  class \d: [\d.]+%  \d: [\d.]+%$', out.strip())


@pytest.mark.parametrize('family, model', [
    ('vitae', 'vitae_digits'), ('vitaev2_vsa', 'vitaev2_vsa_digits'),
    ('vitaev2_vsa', 'swin_tiny_vsa')])
def test_the_other_families_train_evaluate_and_fine_tune(family, model, small_data, tmp_path):
    size = ['-o', 'MODEL.TOKEN_DIMS=[12,24,48,96]', '-image_size=32'] if 'swin' in model else []
    flags = [f'-cfg=./configs/{model}.yaml', f'-data_path={small_data}', '-batch_size=4',
             '-o', 'DATA.NUM_WORKERS=0', *size]
    short = ['-o', 'TRAIN.NUM_EPOCHS=1', '-o', 'TRAIN.WARMUP_EPOCHS=0', '-o',
             'TRAIN.COOLDOWN_EPOCHS=0']
    ten = ['-o', 'MODEL.NUM_CLASSES=10']
    code, _, err = run_shell('run_train_multi.sh', *flags, *short, *ten,
                             f'-output={tmp_path / "train"}', folder=family)
    assert code == 0, err
    folder = run_folder(tmp_path / 'train')
    code, _, err = run_shell('run_eval_multi.sh', *flags, *ten, f'-output={tmp_path / "eval"}',
                             f'-pretrained={folder}/best.pdparams', folder=family)
    assert code == 0, err
    expected = json.loads((folder / 'result.json').read_text())
    assert {**result_of(tmp_path / 'eval'), 'epoch': 1} == expected
    names = tmp_path / 'names.txt'
    names.write_text('\n'.join('abcdefghijkl'))  # two more than the labels
    code, _, err = run_shell(
        'run_finetune_multi.sh', *flags, *short, f'-class_names={names}',
        f'-output={tmp_path / "tune"}', f'-pretrained={folder}/best.pdparams', folder=family)
    assert code == 0, err
    log = (run_folder(tmp_path / 'tune') / 'log.txt').read_text()
    assert 'head: new, [' in log
    steps, = map(int, re.findall(r'images make (\d+) steps an epoch', log))
    epochs, number = map(int, re.findall(
        r'hardly enough for a new classifier; -o TRAIN.NUM_EPOCHS=(\d+) makes (\d+)\n', log)[0])
    assert number == steps * epochs >= 200 > steps * (epochs - 1)
    assert 'hardly enough' not in (folder / 'log.txt').read_text()  # from new weights
    assert result_of(tmp_path / 'tune')['seen'] == 8


def test_figures_for_visualdl_are_those_of_metrics_jsonl(small_data, tmp_path):
    from importlib.util import find_spec
    flags = ['-batch_size=4', '-o', 'TRAIN.NUM_EPOCHS=2', '-o', 'TRAIN.WARMUP_EPOCHS=0', '-o',
             'DATA.NUM_WORKERS=0', '-o', 'REPORT_FREQ=1', '-visualdl']
    code, _, err = run_script(['main_multi_gpu.py', '-cfg=./configs/vit_digits.yaml',
                               f'-data_path={small_data}', f'-output={tmp_path}', *flags])
    if find_spec('visualdl') is None:
        assert code == 1
        assert "-visualdl: visualdl is missing; pip install 'paddle-vitae[visualdl]'" in err
        return
    assert code == 0, err
    from visualdl import LogReader
    run, = tmp_path.iterdir()
    file, = (run / 'visualdl').iterdir()
    scalars = LogReader(file_path=str(file)).get_data('scalar', 'train/loss')
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    losses = [line['loss'] for line in lines if line['kind'] == 'train']
    assert [scalar.id for scalar in scalars] == [1, 2, 3, 4, 5, 6, 7, 8] and len(losses) == 8
    assert np.allclose([scalar.value for scalar in scalars], losses, rtol=1e-5)
