"""The moving average of the weights, against timm's, and in checkpoints."""
import numpy as np
import paddle
import pytest

from common.config import base_config
from common.core.errors import InputError
from common.train.ema import Ema, build_ema, decay_of
from tests.reference import Case

pytestmark = pytest.mark.smoke


class Small(paddle.nn.Layer):
    """The two layers of the fixture's model."""

    def __init__(self):
        super().__init__()
        self.fc = paddle.nn.Linear(3, 2)
        self.bn = paddle.nn.BatchNorm1D(2)


NAMES = {'fc.weight': 'fc.weight', 'fc.bias': 'fc.bias', 'bn.weight': 'bn.weight',
         'bn.bias': 'bn.bias', 'bn.running_mean': 'bn._mean', 'bn.running_var': 'bn._variance'}


def set_values(model, arrays, key, row):
    for theirs, own in NAMES.items():
        value = arrays[f'{key}_models_{theirs}'][row]
        model.state_dict()[own].set_value(value.T if theirs == 'fc.weight' else value)


@pytest.mark.parametrize('index', range(3))
def test_average_is_timm_s(float64, index):
    case = Case('recipe', 'optim')
    meta = case.meta['ema']['cases'][index]
    model = Small()
    set_values(model, case.arrays, meta['key'], 0)
    ema = Ema(model, meta['decay'])
    for row in (1, 2, 3):
        set_values(model, case.arrays, meta['key'], row)
        ema.update()
    for theirs, own in NAMES.items():
        expected = case.arrays[f'{meta["key"]}_result_{theirs}']
        expected = expected.T if theirs == 'fc.weight' else expected
        # statistics of BatchNorm are float32 in Paddle, whatever the model's type
        atol = 1e-6 if own.startswith('bn._') else 1e-14
        np.testing.assert_allclose(ema.average[own].numpy(), expected, rtol=0, atol=atol)


def test_decay_by_batch():
    ema = base_config().TRAIN.EMA
    ema.DECAY, ema.BASE_BATCH = 0.99996, 512
    assert decay_of(ema, 512) == 0.99996
    assert decay_of(ema, 1024) == pytest.approx(0.99996 ** 2, abs=1e-15)
    assert decay_of(ema, 64) == pytest.approx(0.99996 ** 0.125, abs=1e-15)
    ema.WHOLE_BATCHES = True
    upstream = Case('recipe', 'optim').meta['ema']['upstream_decay_by_total_batch']
    for batch, decay in upstream.items():
        assert decay_of(ema, int(batch)) == pytest.approx(decay, abs=1e-15)
    ema.BASE_BATCH = None
    assert decay_of(ema, 64) == 0.99996
    assert build_ema(base_config(), None, 64) is None


def test_warm_up():
    model = Small()
    ema = Ema(model, 0.5, warmup=True)
    ema.average['fc.bias'].set_value(paddle.ones([2]))
    model.fc.bias.set_value(paddle.zeros([2]))
    for step, decay in enumerate([2 / 11, 3 / 12, 4 / 13], 1):
        before = ema.average['fc.bias'].numpy()
        ema.update()
        np.testing.assert_allclose(ema.average['fc.bias'].numpy(), before * decay, rtol=1e-6)
        assert ema.updates == step


@pytest.mark.parametrize('decay, warmup', [(0.9, False), (0.9999, False), (1.0, False),
                                           (0.9999, True)])
def test_untrained_is_mostly_the_first_weights(decay, warmup):
    """The weights start as 1 and are 0 then: the average is the share of the first ones."""
    layer = paddle.nn.Linear(1, 1, bias_attr=False)
    layer.weight.set_value(paddle.ones([1, 1]))
    ema = Ema(layer, decay, warmup)
    assert ema.is_untrained
    layer.weight.set_value(paddle.zeros([1, 1]))
    for _ in range(30):
        ema.update()
        assert ema.is_untrained == (ema.average['weight'].item() > 0.5)



def test_in_place_and_back():
    model = Small()
    ema = Ema(model, 0.9)
    start = model.fc.weight.numpy().copy()
    model.fc.weight.set_value(paddle.full([3, 2], 7.0))
    with pytest.raises(KeyError), ema.in_place():
        np.testing.assert_array_equal(model.fc.weight.numpy(), start)
        raise KeyError
    assert (model.fc.weight.numpy() == 7).all()
    np.testing.assert_array_equal(ema.average['fc.weight'].numpy(), start)


def test_state_comes_back_and_a_wrong_one_is_an_error():
    ema, other = Ema(Small(), 0.9), Ema(Small(), 0.9)
    ema.update()
    state = {'average': {name: value.numpy() for name, value in ema.average.items()},
             'updates': ema.updates}
    other.load(state, 'a.pdparams')
    assert other.updates == 1
    for name, value in ema.average.items():
        np.testing.assert_array_equal(other.average[name].numpy(), value.numpy())
    with pytest.raises(ValueError, match='a.pdparams: got no moving average, expected one'):
        other.load(None, 'a.pdparams')
    state['average']['fc.bias'] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r'average of fc.bias: got \[3\], expected \[2\]'):
        other.load(state, 'a.pdparams')


@pytest.mark.parametrize('change', [lambda values: values + np.nan, lambda values: values * 1j,
                                    lambda values: values.astype('int32')])
def test_average_that_no_run_writes_is_refused_W5(change):
    ema = Ema(Small(), 0.9)
    state = {'average': {name: value.numpy() for name, value in ema.average.items()}, 'updates': 1}
    before = ema.average['fc.weight'].numpy()
    for updates in (True, -1):
        with pytest.raises(InputError, match='a.pdparams: got no moving average'):
            ema.load({**state, 'updates': updates}, 'a.pdparams')
    state['average']['bn._variance'] = change(state['average']['bn._variance'])
    with pytest.raises(InputError, match='a.pdparams: moving average of bn._variance: got'):
        ema.load(state, 'a.pdparams')
    np.testing.assert_array_equal(ema.average['fc.weight'].numpy(), before)
