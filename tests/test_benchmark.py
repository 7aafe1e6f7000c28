"""The benchmark as a command: its table has a row for each model. No time is asserted."""
import re

import pytest

from tests.conftest import run_script, write_image_list


@pytest.mark.smoke
@pytest.mark.parametrize('flags', [[], ['-train', '-image_size', '48']])
def test_models_side_by_side(flags):
    code, out, err = run_script(['-m', 'common.benchmark', 'model', 'vitae_digits', 'vit_digits',
                                 '-batch_size', '2', '-rounds', '2', *flags], folder='.')
    assert code == 0, err
    size = '48x48' if flags else '32x32'
    rows = out.strip().splitlines()[2:]
    assert re.fullmatch(rf'\| vitae_digits \| {size} \| 0.2M \| 2 \| [\d.]+ \| 1.00 \|', rows[0])
    assert re.fullmatch(rf'\| vit_digits \| {size} \| 0.3M \| 2 \| [\d.]+ \| [\d.]+ \|', rows[1])


@pytest.mark.smoke
def test_pipelines_side_by_side(small_data):
    code, out, err = run_script(['-m', 'common.benchmark', 'data', small_data, '-batch_size', '4',
                                 '-image_size', '32', '-workers', '0', '1', '-rounds', '1'],
                                folder='.')
    assert code == 0, err
    rows = out.strip().splitlines()[2:]
    assert len(rows) == 14
    assert re.fullmatch(r'\| plain, crop and flip \| 0 \| \d+ \| \d+ \| 1.00 \| [\d.]+ \|',
                        rows[2])
    assert re.fullmatch(r'\| loader, recipe \| 1 \| \d+ \| \d+ \| [\d.]+ \| [\d.]+ \|',
                        rows[12])


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
    (['vit_digits', '-rounds', '0'], '-rounds: got 0, expected at least 1')])
def test_wrong_input(arguments, message):
    code, _, err = run_script(['-m', 'common.benchmark', 'model', *arguments], folder='.')
    assert code == 1 and err.startswith('error: ') and message in err
