"""The table of workarounds in common/core/compat.py, and what its functions compute."""
import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from common.core import compat
from common.zoo import FAMILIES
from tests.conftest import ROOT

pytestmark = pytest.mark.smoke


def rows():
    """{ID: (version, where)} of the table: each row is `ID | version | where`, then a sentence."""
    lines = [line.split(' | ') for line in compat.__doc__.splitlines()
             if ' | ' in line and not line.startswith(('ID ', ' '))]
    assert all(len(line) == 3 and all(line) for line in lines), lines
    assert len({line[0] for line in lines}) == len(lines)
    return {name: line for name, *line in lines}


def tags():
    """{ID: files with a comment `compat: ID`}."""
    found = {}
    for folder in ('common', *FAMILIES):
        for path in (ROOT / folder).rglob('*.py'):
            for name in re.findall(r'# compat: ([a-z0-9-]+)', path.read_text()):
                found.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return found


def test_every_tag_has_a_row_and_every_row_a_tag():
    assert tags().keys() == rows().keys()


def test_rows_name_the_files_of_their_tags():
    found = tags()
    for name, (_, where) in rows().items():
        for word in where.replace(',', ' ').split():
            if word.endswith('.py'):
                file = word if word.startswith('common/') else f'common/{word}'
                assert file in found[name], (name, word)
            elif hasattr(compat, word):
                assert 'common/core/compat.py' in found[name], (name, word)


@pytest.mark.parametrize('slope', [0.01, 0.3])
def test_leaky_relu(slope):
    x = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(compat.leaky_relu(paddle.to_tensor(x), slope).numpy(),
                               np.where(x > 0, x, slope * x), rtol=0, atol=1e-15)


def test_pad_map_is_a_padding_of_height_and_width():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    padded = compat.pad_map(paddle.to_tensor(x), 1, 2, 3, 4).numpy()
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (1, 2), (3, 4), (0, 0))))
    tensor = paddle.to_tensor(x)
    assert compat.pad_map(tensor, 0, 0, 0, 0) is tensor


def test_grid_sample_is_paddle_s_and_stands_a_nan():
    random = np.random.default_rng(0)
    features = paddle.to_tensor(random.standard_normal((2, 3, 4, 5)))
    columns, rows_ = (paddle.to_tensor(random.uniform(-1.5, 1.5, (2, 6, 7))) for _ in range(2))
    expected = F.grid_sample(features, paddle.stack([columns, rows_], -1), align_corners=True)
    got = compat.grid_sample(features, columns, rows_, (6, 7))
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=0, atol=1e-14)
    columns[1, 2, 3] = float('nan')
    got = np.isnan(compat.grid_sample(features, columns, rows_, (6, 7)).numpy())
    assert got[1, :, 2, 3].all() and got.sum() == 3


def test_full_precision_is_a_block_in_both_modes():
    for switch in (paddle.enable_static, paddle.disable_static):
        switch()
        with compat.full_precision():
            pass
