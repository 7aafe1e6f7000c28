"""ViTAE: any size, features, attention, and the performer by hand."""
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from common.layers.prm_performer import PerformerTokens
from common.zoo import create_model

from vitae.vitae import ViTAE

SMALL = {'image_size': 32, 'num_classes': 10, 'embed_dims': (8, 8, 16), 'token_dims': (8, 8, 32),
         'depths': (0, 0, 2), 'groups': (1, 1, 8)}
EMBEDDING = {**SMALL, 'cells': ('embedding', 'none', 'none'), 'ratios': (16, 1, 1),
             'token_dims': (32, 32, 32), 'embed_dims': (32, 32, 32), 'shallow': True}


def small(options=None):
    paddle.seed(0)
    return ViTAE(**(options or SMALL))


@pytest.mark.smoke
@pytest.mark.parametrize('options', [SMALL, EMBEDDING], ids=['performer', 'embedding'])
@pytest.mark.parametrize('height, width', [(32, 32), (48, 32), (16, 80)])
def test_any_size_also_in_training(options, height, width):
    model = small(options)
    image = paddle.randn([2, 3, height, width])
    model.train()
    F.cross_entropy(model(image), paddle.to_tensor([1, 2])).backward()
    assert all(p.grad is not None for p in model.parameters() if not p.stop_gradient)
    model.eval()
    h, w = height // 16, width // 16
    prefix = model.num_prefix_tokens
    raw = model.extract_feat(image, 'raw')
    featmap = model.extract_feat(image, 'featmap')
    assert raw[-1].shape == [2, prefix + h * w, 32]
    np.testing.assert_array_equal(
        featmap[-1].numpy(),
        raw[-1][:, prefix:].numpy().reshape(2, h, w, 32).transpose(0, 3, 1, 2))
    average = model.extract_feat(image, 'avg_featmap')[-1]
    np.testing.assert_allclose(average.numpy(), model.forward_features(image).numpy(), atol=1e-6)
    attention = model.get_attention(image)
    assert [list(a.shape) for a in attention] == [[2, 4, prefix + h * w, prefix + h * w]] * 2
    np.testing.assert_allclose(attention[0].numpy().sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(model.get_attention(image, [-1])[0].numpy(),
                                  attention[1].numpy())


@pytest.mark.smoke
@pytest.mark.parametrize('size', [192, 224, 256, 320, [224, 320]])
def test_sizes_of_the_tiny_model(size):
    model = create_model('vitae_digits', ratios=[4, 2, 2], image_size=size)
    model.eval()
    height, width = np.broadcast_to(size, 2)
    assert model(paddle.randn([1, 3, int(height), int(width)])).shape == [1, 10]


@pytest.mark.smoke
def test_errors_are_clear():
    with pytest.raises(ValueError, match='got 40x32, expected .* multiples of 16'):
        small()(paddle.randn([1, 3, 40, 32]))
    with pytest.raises(ValueError, match="got 'pooling', expected performer"):
        small({**SMALL, 'cells': ('performer', 'pooling', 'performer_less')})
    with pytest.raises(ValueError, match='TOKEN_DIMS: got 64, expected 32, since the cell'):
        small({**SMALL, 'token_dims': (8, 8, 64)})
    with pytest.raises(ValueError, match='this model has no class token'):
        small().extract_feat(paddle.randn([1, 3, 32, 32]), 'cls_token')
    with pytest.raises(ValueError, match='layer: got 2, expected -2 to 1'):
        small().get_attention(paddle.randn([1, 3, 32, 32]), [2])


@pytest.mark.smoke
def test_reset_classifier():
    model = small()
    model.eval()
    image = paddle.randn([2, 3, 32, 32])
    features = model.forward_features(image).numpy()
    model.reset_classifier(7)
    assert model(image).shape == [2, 7]
    model.reset_classifier(0)
    np.testing.assert_array_equal(model(image).numpy(), features)


@pytest.mark.smoke
def test_performer_against_a_plain_loop(float64):
    paddle.seed(2)
    layer = PerformerTokens(6, 8, dropout=0.0)
    layer.init_weights()
    w = layer.w.numpy()
    np.testing.assert_allclose(w @ w.T, 4 * np.eye(4), atol=1e-9)  # orthogonal, norm sqrt(m)
    x = np.random.RandomState(0).randn(2, 5, 6)
    k, q, v = np.split(x @ layer.kqv.weight.numpy() + layer.kqv.bias.numpy(), 3, axis=-1)
    y = np.zeros_like(v)
    for b in range(2):
        for t in range(5):
            def feature(z):
                return np.exp(w @ z - z @ z / 2) / np.sqrt(4)
            scores = np.array([feature(q[b, t]) @ feature(k[b, s]) for s in range(5)])
            y[b, t] = scores @ v[b] / (scores.sum() + 1e-8)
    expected = v + y @ layer.proj.weight.numpy() + layer.proj.bias.numpy()
    np.testing.assert_allclose(layer.attention(paddle.to_tensor(x)).numpy(), expected, atol=1e-12)


@pytest.mark.smoke
def test_initialisation_is_pytorch_s():
    model = small()
    for name, layer in model.named_sublayers():
        if isinstance(layer, paddle.nn.Conv2D):
            bound = 1 / np.sqrt(np.prod(layer.weight.shape[1:]))
            for value in (layer.weight.numpy(), layer.bias.numpy()):
                assert np.abs(value).max() <= bound, name
            assert layer.weight.numpy().std() == pytest.approx(bound / np.sqrt(3), rel=0.1), name
            assert np.abs(layer.bias.numpy()).max() > 0
    large = small(EMBEDDING)
    assert (large.layers[0].RC.pos_embed.numpy() == 0).all()
    assert (large.layers[0].RC.cls_token.numpy() == 0).all()


@pytest.mark.smoke
def test_performer_features_are_exact_for_half_precision_inputs():
    """16-bit inputs are widened before the square and the exponential, which would overflow."""
    paddle.seed(2)
    layer = PerformerTokens(6, 64)
    layer.init_weights()
    x = paddle.to_tensor(np.random.RandomState(0).uniform(-60, 60, (2, 5, 64)).astype('float16'))
    features = layer.features(x)
    assert features.dtype == paddle.float32
    np.testing.assert_array_equal(features.numpy(), layer.features(x.astype('float32')).numpy())
    wide = x.astype('float64').numpy()
    exponent = wide @ layer.w.numpy().T.astype('float64') - (wide ** 2).sum(-1, keepdims=True) / 2
    np.testing.assert_allclose(features.numpy(), np.exp(exponent) / np.sqrt(32), rtol=1e-2,
                               atol=1e-30)
    assert np.abs(exponent).max() > 65504 / 2  # float16 could not hold these
