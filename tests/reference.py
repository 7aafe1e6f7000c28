"""The numeric fixtures: weights made anew from their rule, and reference results.

A case is a .json (description) and a .npz (results of the reference code, float64). Its weights
are not stored. Each tensor is drawn from a generator of its own, seeded by the case's salt and
the tensor's name, and scaled by what the name and shape say (`draw`).
"""
import hashlib
import json
import math
import re
import zlib
from pathlib import Path

import numpy as np
import paddle
from PIL import Image

from common.core.sizes import to_pair
from common.weights.dialects import translate

FIXTURES = Path(__file__).parent / 'fixtures'
EMBEDDING = re.compile('pos_embed|position_embedding|cls_token|relative_position_bias_table|^cls$')


class Case:
    """One fixture: `meta` (the json), `arrays` (the npz)."""

    def __init__(self, folder, name):
        stem = FIXTURES / folder / name
        self.meta = json.loads(Path(f'{stem}.json').read_text())
        with np.load(f'{stem}.npz') as arrays:
            self.arrays = dict(arrays)

    def random(self, name):
        return np.random.RandomState(zlib.crc32(f'{self.meta["salt"]}:{name}'.encode()))

    def weights(self):
        """{name: float32 array}, without integer buffers."""
        return {name: self.draw(name, tuple(shape))
                for name, shape, kind in self.meta['state_dict'] if kind != 'buffer_int'}

    def draw(self, name, shape):
        random = self.random(name)
        flax = self.meta['layout'] == 'npz'
        if name.endswith('running_var'):
            value = random.uniform(0.5, 1.5, shape)
        elif name.endswith('running_mean'):
            value = 0.1 * random.standard_normal(shape)
        elif name.endswith('/scale') or (len(shape) == 1 and name.endswith('weight')):
            value = 1 + 0.1 * random.standard_normal(shape)
        elif name.endswith('/bias') or len(shape) == 1:
            value = 0.1 * random.standard_normal(shape)
        elif EMBEDDING.search(name):
            value = 0.2 * random.standard_normal(shape)
        else:
            value = random.standard_normal(shape) / math.sqrt(self.fan_in(name, shape, flax))
        for pattern, gain in self.meta['gains']:
            if re.search(pattern, name):
                value = value * gain
        return value.astype(np.float32)

    def fan_in(self, name, shape, flax):
        if flax:  # kernels end in the output; a query, key or value kernel is [in, heads, d]
            per_head = len(shape) == 3 and not name.endswith('/out/kernel')
            return shape[0] if per_head else math.prod(shape[:-1])
        if self.meta['layout'] == 'paddle' and len(shape) == 2:
            return shape[0]  # Linear [in, out]
        return math.prod(shape[1:])

    def images(self, name='input'):
        """float32 [B, 3, H, W]."""
        return self.random(name).standard_normal(
            (self.meta['batch'], 3, *to_pair(self.meta['image_size']))).astype(np.float32)


def set_weights(model, weights):
    """Assigns every weight, checking that the names and shapes are exactly the model's."""
    targets = model.state_dict()
    assert set(weights) == set(targets)
    for name, target in targets.items():
        assert list(weights[name].shape) == list(target.shape), name
        target.set_value(paddle.to_tensor(weights[name]).astype(target.dtype))


def relative_error(got, expected):
    """The largest |got - expected| / |expected| of two arrays."""
    return float(np.max(np.abs(np.asarray(got) - expected) / np.abs(expected)))


def own_names(model, case):
    """The reference's names -> this project's: each array is marked by its place."""
    marked = {name: np.full(value.shape, index, np.float32)
              for index, (name, value) in enumerate(case.weights().items())}
    translated, _ = translate(model, marked, 'torch')
    found = {int(value.flat[0]): name for name, value in translated.items()}
    return {name: found[index] for index, name in enumerate(marked)}


def photo(name, box=None):
    """A stored photograph, or its part (left, top, right, bottom), as a Pillow RGB image."""
    with Image.open(FIXTURES / 'recipe' / 'images' / name) as image:
        return image.convert('RGB').crop(box)


def sha256(pixels):
    """Of a Pillow image's or an array's bytes, in rows of pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


# A right value is further away than this once in 5e8 tests.
STANDARD_ERRORS = 6


def assert_share(share, count, expected, expected_count=math.inf):
    """A share of `count` draws, against a probability or a share of `expected_count` draws."""
    error = math.sqrt(expected * (1 - expected) * (1 / count + 1 / expected_count))
    assert abs(share - expected) <= STANDARD_ERRORS * error, (share, expected, error)


def assert_distribution(draws, moments, count=None):
    """Draws against the mean and the quantiles of a fixture.

    Args:
        draws: numbers.
        moments: a fixture's mean, std, se_mean and quantiles.
        count: independent draws in `draws` and in the fixture, where draws depend on each other.
    """
    draws = np.asarray(draws, np.float64)
    if moments['std'] == 0.0:
        assert (draws == moments['mean']).all()
        return
    own_count = count or len(draws)
    count = count or (moments['std'] / moments['se_mean']) ** 2
    error = moments['std'] * math.sqrt(1 / own_count + 1 / count)
    assert abs(draws.mean() - moments['mean']) <= STANDARD_ERRORS * error, draws.mean()
    for share, quantile in zip((0.05, 0.25, 0.5, 0.75, 0.95),
                               moments['quantiles_5_25_50_75_95'], strict=True):
        error = math.sqrt(share * (1 - share) * (1 / own_count + 1 / count))
        # of whole numbers, many may be equal to the quantile
        assert (draws < quantile - 1e-9).mean() <= share + STANDARD_ERRORS * error, share
        assert (draws <= quantile + 1e-9).mean() >= share - STANDARD_ERRORS * error, share
