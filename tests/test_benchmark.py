"""The benchmark as a command: its table has a row for each model. No time is asserted."""
import re

import pytest

from tests.conftest import run_script


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
@pytest.mark.parametrize('arguments, message', [
    (['nothing'], "model: got 'nothing', expected"),
    (['vit_digits', '-rounds', '0'], '-rounds: got 0, expected at least 1')])
def test_wrong_input(arguments, message):
    code, _, err = run_script(['-m', 'common.benchmark', 'model', *arguments], folder='.')
    assert code == 1 and err.startswith('error: ') and message in err
