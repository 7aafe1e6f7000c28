"""The numeric fixtures: weights made anew from their rule, and reference results.

A case is a .json (description) and a .npz (results of the reference code, float64). Its weights
are not stored. Each tensor is drawn from a generator of its own, seeded by the case's salt and
the tensor's name, and scaled by what the name and shape say (`draw`).
"""
import json
import math
import re
import zlib
from pathlib import Path

import numpy as np
import paddle

from common.dialects import translate

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
        """float32 [B, 3, S, S]."""
        size = self.meta['image_size']
        return self.random(name).standard_normal(
            (self.meta['batch'], 3, size, size)).astype(np.float32)


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
