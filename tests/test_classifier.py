"""The base of all models: maps are of the pass that the logits come from, names of other codes are
found; and the one function of attention."""
import sys

import numpy as np
import paddle
import pytest
from paddle import nn

from common.layers.attention import Attention, attend
from common.layers.basic import Dropout
from common.layers.classifier import ImageClassifier
from common.layers.fast import Linear, gelu_linear
from common.zoo import create_model, load_family_file

from vit.vit import VisionTransformer

pytestmark = pytest.mark.smoke
NAMES = ['vit_digits', 'vitae_digits', 'vitaev2_vsa_digits']
SMALL = {'image_size': 32, 'patch_size': 8, 'embed_dim': 32, 'depth': 2, 'num_heads': 2}


class Sharpened(nn.Layer):
    """Another attention in a layer's place: its weights are powers of those."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, return_weights=False):
        B, N, _ = x.shape
        q, k, v = self.layer.qkv(x).reshape([B, N, 3, 2, 16]).transpose([2, 0, 3, 1, 4]).unbind(0)
        x, weights = attend(q, k, v, 8.0, self.layer.attn_dropout, return_weights=True)
        x = self.layer.out(x.transpose([0, 2, 1, 3]).reshape([B, N, 32]))
        return (x, weights) if return_weights else x


def test_another_attention_moves_logits_and_maps():
    paddle.seed(0)
    model, image = VisionTransformer(**SMALL), paddle.randn([1, 3, 32, 32])
    model.eval()
    logits, maps = model(image).numpy(), model.get_attention(image)[1].numpy()
    model.encoder.layers[1].attn = Sharpened(model.encoder.layers[1].attn)
    assert np.abs(model(image).numpy() - logits).max() > 1e-5
    assert np.abs(model.get_attention(image)[1].numpy() - maps).max() > 1e-3


@pytest.mark.parametrize('name', NAMES)
def test_the_pass_that_is_recorded_is_the_ordinary_one(name):
    paddle.seed(0)
    model = create_model(name)
    model.eval()
    image = paddle.randn([1, 3, 32, 32])
    expected = model(image).numpy()
    passes = model.attention_passes(image, [-1, 0, -1])
    assert passes[0].weights is passes[2].weights and passes[0].in_last_stage
    assert [one.layer for one in passes] == [model.cells()[index].attn for index in (-1, 0, -1)]
    np.testing.assert_array_equal(model(image).numpy(), expected)  # nothing is left behind
    with pytest.raises(ValueError, match='multiples of'):
        model.attention_passes(paddle.randn([1, 3, 33, 32]))
    np.testing.assert_array_equal(model(image).numpy(), expected)


def test_names_of_other_codes_are_those_beside_the_model():
    names = load_family_file('vit', 'vit_names')

    class Own(VisionTransformer):
        """A user's model, in another file."""

    for model in (VisionTransformer(**SMALL), Own(**SMALL)):
        assert model.dialects() is names.DIALECTS and model.lookalikes() is names.LOOKALIKES
    assert [name for name in sys.modules if name.endswith('vit_names')] == [names.__name__]

    class Bare(ImageClassifier):
        pass

    assert Bare().dialects() == () == Bare().lookalikes()


@pytest.mark.parametrize('shape', [(3, 5, 5), (1, 5, 5), (2, 3, 5, 5), (4, 1, 1, 5), (5, 5)])
def test_bias_of_the_scores(shape, float64):
    q, k, v = paddle.randn([3, 4, 3, 5, 2]).unbind(0)
    bias = paddle.randn(shape)
    x, weights = attend(q, k, v, 0.5, Dropout(0.0), bias, return_weights=True)
    scores = np.einsum('bnqd,bnkd->bnqk', q.numpy(), k.numpy()) * 0.5
    if shape == (2, 3, 5, 5):  # of the windows of an image
        scores += np.tile(bias.numpy(), (2, 1, 1, 1))
    else:
        scores += bias.numpy()
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(x.numpy(), expected @ v.numpy(), atol=1e-12)
    alone = attend(q, k, v, 0.5, Dropout(0.0), bias)
    np.testing.assert_array_equal(alone.numpy(), x.numpy())


def test_output_beside_the_weights_is_the_output():
    layer, x = Attention(12, 3), paddle.randn([2, 5, 12])
    np.testing.assert_array_equal(layer(x, return_weights=True)[0].numpy(), layer(x).numpy())


@pytest.mark.parametrize('kind', [Linear, nn.Linear])
def test_gelu_before_a_linear_layer(kind, float64):
    layer, x = kind(6, 4), paddle.randn([5, 6])
    expected = layer(nn.functional.gelu(x)).numpy()
    np.testing.assert_allclose(gelu_linear(x, layer, Dropout(0.0)).numpy(), expected, atol=1e-12)
    dropout = Dropout(0.5)
    np.testing.assert_array_equal(
        gelu_linear(paddle.full([50, 6], -99.0), layer, dropout).numpy(),
        np.tile(layer(paddle.zeros([1, 6])).numpy(), (50, 1)))
    paddle.seed(0)
    dropped = dropout(nn.functional.gelu(x))
    paddle.seed(0)
    np.testing.assert_allclose(gelu_linear(x, layer, dropout).numpy(), layer(dropped).numpy(),
                               atol=1e-12)
