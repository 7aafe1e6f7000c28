"""FlashAttention, by the form of it that Paddle runs on a CPU: equal to the plain attention.

What a GPU has, and gives, is a part of `make gpu-check`.
"""
import numpy as np
import paddle
import pytest

from common.layers import attention, flash_attention
from common.layers.attention import Attention
from common.layers.fast import Fast

pytestmark = pytest.mark.smoke


@pytest.fixture
def used(monkeypatch):
    """Switches it on; the list gets the dropout of each call."""
    calls = []

    def record(q, k, v, scale, dropout):
        calls.append(dropout)
        return flash_attention.flash_attention(q, k, v, scale, dropout)

    monkeypatch.setattr(attention, 'flash_attention', record)
    monkeypatch.setattr(attention, 'has_flash_attention', lambda dtype, head_dim: True)
    return calls


@pytest.mark.parametrize('options', [{}, {'out_dim': 9}, {'qkv_bias': False}])
def test_values_and_gradients_are_the_plain_attention_s(options, request):
    paddle.seed(0)
    layer = Attention(12, 3, **options)
    found = []
    for turn in range(2):
        if turn:
            calls = request.getfixturevalue('used')
        x = paddle.to_tensor(np.random.RandomState(1).standard_normal((2, 5, 12)).astype('float32'),
                             stop_gradient=False)
        y = layer(x)
        (y ** 2).sum().backward()
        found.append([y.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in layer.parameters())])
        layer.clear_gradients()
    assert calls == [0.0]
    for plain, own in zip(*found, strict=True):
        np.testing.assert_allclose(own, plain, rtol=0, atol=2e-6 * np.abs(plain).max())


def test_dropout_is_for_training_only(used):
    layer = Attention(12, 3, attention_dropout=0.5)
    x = paddle.randn([2, 5, 12])
    layer(x)
    layer.eval()
    np.testing.assert_array_equal(layer(x).numpy(), layer(x).numpy())
    assert used == [0.5, 0.0, 0.0]


def test_attention_maps_do_without_it(used):
    Attention(12, 3)(paddle.randn([2, 5, 12]), return_weights=True)
    assert used == []


@pytest.mark.parametrize('device, dtype, head_dim, plain, expected', [
    ('gpu:0', paddle.float16, 64, False, True), ('gpu:0', paddle.bfloat16, 64, False, True),
    ('gpu:0', paddle.float32, 64, False, False), ('cpu', paddle.float16, 64, False, False),
    ('gpu:0', paddle.float16, 12, False, False), ('gpu:0', paddle.float16, 264, False, False),
    ('gpu:0', paddle.float16, 64, True, False)])
def test_where_it_is_used(device, dtype, head_dim, plain, expected, monkeypatch):
    monkeypatch.setattr(Fast, 'plain', plain)
    for name, function in (('get_device', lambda: device), ('get_cuda_rng_state', list),
                           ('set_cuda_rng_state', lambda state: None)):
        monkeypatch.setattr(paddle, name, function)
    monkeypatch.setattr(flash_attention, 'flash_attention', lambda *arguments: None)
    for capability in ((7, 5), (8, 0)):
        monkeypatch.setattr(paddle.device.cuda, 'get_device_capability',
                            lambda capability=capability: capability)
        flash_attention.works.cache_clear()
        found = flash_attention.has_flash_attention(dtype, head_dim)
        assert found == (expected and capability == (8, 0))


def test_gpu_without_it_gets_the_plain_attention(monkeypatch):
    restored = []
    for name, function in (('get_device', lambda: 'gpu:0'),
                           ('get_cuda_rng_state', lambda: ['state']),
                           ('set_cuda_rng_state', restored.append)):
        monkeypatch.setattr(paddle, name, function)

    monkeypatch.setattr(paddle.device.cuda, 'get_device_capability', lambda: (8, 6))

    def fail(*arguments):
        raise RuntimeError('FlashAttention only supports Ampere GPUs or newer')

    monkeypatch.setattr(flash_attention, 'flash_attention', fail)
    flash_attention.works.cache_clear()
    assert not flash_attention.has_flash_attention(paddle.float16, 64)
    assert restored == [['state']]
    flash_attention.works.cache_clear()
