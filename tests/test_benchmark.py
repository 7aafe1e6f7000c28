"""The benchmark as a command: its table has a row for each model. No time is asserted."""
import json
import re

import paddle
import pytest

from common.benchmarks.archives import reading_table, scale_table
from common.benchmarks.baseline import baseline_of
from common.zoo import create_model
from tests.conftest import run_script, write_image_list


@pytest.mark.smoke
@pytest.mark.parametrize('flags', [[], ['-train', '-image_size', '48']])
def test_models_side_by_side(flags):
    code, out, err = run_script(['-m', 'common.benchmark', 'model', 'vitae_digits', 'vit_digits',
                                 '-batch_size', '2', '-rounds', '2', *flags], folder='.')
    assert code == 0, err
    size = '48x48' if flags else '32x32'
    assert out.startswith('paddle ') and 'threads ' in out
    rows = out.strip().splitlines()[4:]
    assert re.fullmatch(rf'\| vitae_digits \| {size} \| eager \| 0.2M \| 0.0\d+G \| 2 \| [\d.]+ \| '
                        rf'1.00 \|', rows[0])
    assert re.fullmatch(rf'\| vit_digits \| {size} \| eager \| 0.3M \| 0.0\d+G \| 2 \| [\d.]+ \| '
                        rf'[\d.]+ \|', rows[1])


@pytest.mark.smoke
def test_sizes_with_their_batches_as_json(tmp_path):
    code, _, err = run_script(['-m', 'common.benchmark', 'model', 'vit_digits', '-image_size', '32',
                               '64', '-batch_size', '4', '1', '-rounds', '1', '-json',
                               tmp_path / 'a.json'], folder='.')
    assert code == 0, err
    found = json.loads((tmp_path / 'a.json').read_text())
    assert found['device'] == 'cpu' and found['peak_memory_mb'] > 100
    assert [(row['image'], row['batch']) for row in found['rows']] == [('32x32', 4), ('64x64', 1)]
    assert found['rows'][1]['gmacs'] > 4 * found['rows'][0]['gmacs']
    assert all(row['images_per_s'] > 0 for row in found['rows'])


@pytest.mark.smoke
@pytest.mark.parametrize('flags', [[], ['-train']])
def test_model_beside_the_textbook_s(flags):
    code, out, err = run_script(['-m', 'common.benchmark', 'peers', 'vit_digits', '-batch_size',
                                 '2', '-rounds', '1', *flags], folder='.')
    assert code == 0, err
    rows = [line.split(' | ')[0] for line in out.strip().splitlines()[2:]]
    assert rows == ['| textbook', '| textbook without strided views', '| vit_digits']


def test_memory_beside_the_textbook_s():
    code, out, err = run_script(['-m', 'common.benchmark', 'memory', 'vit_digits', '-batch_size',
                                 '512'], folder='.')
    assert code == 0, err
    rows = [line.strip('| ').split(' | ') for line in out.strip().splitlines()[2:]]
    assert [row[0] for row in rows] == ['textbook', 'own', 'own, recompute']
    # what Paddle counts for tensors; a process's peak depends on what its allocators keep
    textbook, own, recompute = (float(row[4]) for row in rows)
    assert recompute < own < textbook


@pytest.mark.smoke
def test_textbook_computes_what_the_model_computes():
    """With the same weights; else it would be no peer."""
    model = create_model('vit_digits')
    model.eval()
    textbook = baseline_of(model)
    textbook.eval()
    names = {'patch_embedding.patch_embedding': 'patches', 'position_embedding': 'position',
             'encoder.layers': 'blocks', 'encoder.encoder_norm': 'norm', 'attn_norm': 'norm1',
             'mlp_norm': 'norm2', 'attn.qkv': 'qkv', 'attn.out': 'proj', 'mlp.fc': 'fc'}
    state = {}
    for key, value in model.state_dict().items():
        for theirs, own in names.items():
            key = key.replace(theirs, own)
        state[key] = value
    assert state.keys() == textbook.state_dict().keys()
    textbook.set_state_dict(state)
    images = paddle.randn([2, 3, 32, 32])
    assert float((model(images) - textbook(images)).abs().max()) < 1e-5


@pytest.mark.smoke
def test_pipelines_side_by_side(small_data):
    code, out, err = run_script(['-m', 'common.benchmark', 'data', small_data, '-batch_size', '4',
                                 '-image_size', '32', '-workers', '0', '1', '-rounds', '1'],
                                folder='.')
    assert code == 0, err
    rows = out.strip().splitlines()[2:]
    assert len(rows) == 22
    assert re.fullmatch(r'\| plain, crop and flip \| 0 \| \d+ \| \d+ \| 1.00 \| [\d.]+ \|',
                        rows[2])
    assert re.fullmatch(r'\| loader, recipe \| 1 \| \d+ \| \d+ \| [\d.]+ \| [\d.]+ \|',
                        rows[17])
    assert re.fullmatch(r'\| loader, recipe, cv2_reduced \| 1 \| .*', rows[18])
    assert re.fullmatch(r'\| plain, evaluation \| 1 \| \d+ \| \d+ \| 1.00 \| [\d.]+ \|',
                        rows[20])


@pytest.mark.smoke
def test_benchmark_of_a_bad_file_is_an_error(tmp_path):
    folder = write_image_list(tmp_path)
    (folder / 'train' / '7.jpg').write_bytes(b'x')
    code, _, err = run_script(['-m', 'common.benchmark', 'data', folder, '-batch_size', '4',
                               '-workers', '0'],
                              folder='.')
    assert code == 1 and 'train_list.txt:8: cannot read train/7.jpg: ' in err


@pytest.mark.smoke
def test_training_loop_beside_bare_steps():
    code, out, err = run_script(['-m', 'common.benchmark', 'model', 'vit_digits', '-engine',
                                 '-batch_size', '2', '-rounds', '1'], folder='.')
    assert code == 0, err
    assert re.fullmatch(r'\| vit_digits \| 2 \| [\d.]+ \| [\d.]+ \| [\d.]+ \|',
                        out.strip().splitlines()[2])


@pytest.mark.smoke
@pytest.mark.parametrize('arguments, message', [
    (['nothing'], "model: got 'nothing', expected"),
    (['vit_digits', '-rounds', '0'], '-rounds: got 0, expected at least 1'),
    (['vit_digits', '-batch_size', '1', '2'], '-batch_size: got 2 numbers, expected 1, or one'),
    (['vit_digits', '-train', '-runtime', 'paddle'], '-runtime: got paddle with -train, expected')])
def test_wrong_input(arguments, message):
    code, _, err = run_script(['-m', 'common.benchmark', 'model', *arguments], folder='.')
    assert code == 1 and err.startswith('error: ') and message in err


@pytest.mark.smoke
def test_archives_beside_files(small_data):
    """What is counted does not depend on the machine: a file is opened for each image, or once."""
    header, _, files, tar, ratio = reading_table(str(small_data), 12, 0.1, 1).splitlines()
    assert header.startswith('| 12 images |') and ratio.startswith('| tar to files |')
    assert re.fullmatch(r'\| files \| \d+ \| 1\.00 \| \d\.\d\d \| \d+ \| \d+ \|', files)
    assert re.fullmatch(r'\| tar \| \d+ \| 0\.\d\d \| \d\.\d\d \| \d+ \| \d+ \|', tar)


@pytest.mark.smoke
def test_index_of_many_images():
    header, _, small, large, _, grown = scale_table([30_000, 60_000]).splitlines()
    assert header.startswith('| images | index, bytes an image | start, s |')
    assert small.startswith('| 30,000 | ') and large.startswith('| 60,000 | ')
    assert float(large.split('|')[2]) < 80
    assert grown.startswith('From 30,000 to 60,000 images, x 2: start x ')
