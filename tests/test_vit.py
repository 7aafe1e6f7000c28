"""What ViT promises beside its numbers: sizes, features, attention, head, init, drop path."""
import numpy as np
import paddle
import pytest

from common.layers.basic import Dropout, DropPath, Mlp, drop_path_rates
from common.layers.classifier import FEATURE_TYPES
from common.layers.position import resize_position_embedding
from common.zoo import build_model, create_model, list_models, model_config

from vit.vit import VisionTransformer

pytestmark = pytest.mark.smoke
SMALL = {'image_size': 32, 'patch_size': 8, 'embed_dim': 32, 'depth': 3, 'num_heads': 2,
         'num_classes': 10}


def small(**options):
    paddle.seed(0)
    model = VisionTransformer(**{**SMALL, **options})
    model.eval()
    return model


@pytest.mark.parametrize('height, width', [(32, 32), (64, 64), (32, 64), (8, 24)])
def test_any_size(height, width):
    model = small()
    image = paddle.randn([2, 3, height, width])
    h, w = height // 8, width // 8
    assert model(image).shape == [2, 10]
    assert model.extract_feat(image, 'raw')[0].shape == [2, 1 + h * w, 32]
    assert model.extract_feat(image, 'featmap')[0].shape == [2, 32, h, w]
    assert model.get_attention(image, [0])[0].shape == [2, 2, 1 + h * w, 1 + h * w]


def test_other_size_equals_a_model_with_the_resized_embedding():
    model, larger = small(), small(image_size=[40, 64])
    state = model.state_dict()
    state['position_embedding'] = resize_position_embedding(
        model.position_embedding, 1, (4, 4), (5, 8))
    larger.set_state_dict(state)
    image = paddle.randn([1, 3, 40, 64])
    np.testing.assert_allclose(model(image).numpy(), larger(image).numpy(), atol=1e-6)


def cubic(x, a=-0.75):
    """The kernel of bicubic interpolation as PyTorch and Paddle have it."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1
    return a * x ** 3 - 5 * a * x ** 2 + 8 * a * x - 4 * a if x < 2 else 0.0


def cubic_matrix(old, new):
    """[new, old] weights of one axis, no aligned corners, the border repeated."""
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[row, min(max(tap, 0), old - 1)] += cubic(centre - tap)
    return matrix


def test_position_embedding_is_resized_as_bicubic_by_hand():
    position = np.random.RandomState(0).randn(1, 1 + 3 * 4, 2)
    resized = resize_position_embedding(paddle.to_tensor(position), 1, (3, 4), (5, 7)).numpy()
    np.testing.assert_array_equal(resized[:, 0], position[:, 0])
    expected = np.einsum('ih,jw,hwc->ijc', cubic_matrix(3, 5), cubic_matrix(4, 7),
                         position[0, 1:].reshape(3, 4, 2))
    # Paddle computes the sampling positions in float32, whatever the type of the values
    np.testing.assert_allclose(resized[0, 1:].reshape(5, 7, 2), expected, atol=1e-6)


@pytest.mark.parametrize('size', [(33, 32), (32, 30), (4, 8)])
def test_size_that_is_no_multiple_of_the_patch_is_an_error(size):
    with pytest.raises(ValueError, match=f'got {size[0]}x{size[1]}, expected .* patch size 8'):
        small()(paddle.randn([1, 3, *size]))
    with pytest.raises(ValueError, match='multiples of the patch size 8'):
        VisionTransformer(**{**SMALL, 'image_size': list(size)})


def test_feature_types_agree():
    model = small()
    image = paddle.randn([2, 3, 32, 64])
    raw, featmap, token, average = (model.extract_feat(image, kind)[0].numpy()
                                    for kind in FEATURE_TYPES)
    np.testing.assert_array_equal(token, raw[:, 0])
    np.testing.assert_array_equal(featmap, raw[:, 1:].reshape(2, 4, 8, 32).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(average, raw[:, 1:].mean(1), atol=1e-6)
    np.testing.assert_allclose(token, model.forward_features(image).numpy(), atol=1e-6)
    stage, = model.extract_feat(image)           # MMClassification's form: [featmap, cls_token]
    np.testing.assert_array_equal(stage[0].numpy(), featmap)
    np.testing.assert_array_equal(stage[1].numpy(), token)
    with pytest.raises(ValueError, match="got 'tokens'"):
        model.extract_feat(image, 'tokens')


def test_attention_is_that_of_the_forward_pass():
    model = small()
    image = paddle.randn([2, 3, 32, 32])
    attention = model.get_attention(image)
    assert len(attention) == 3
    for weights in attention:
        np.testing.assert_allclose(weights.numpy().sum(-1), 1, atol=1e-5)
    block = model.encoder.layers[0]
    x = block.attn_norm(model.embed(image))
    qkv = block.attn.qkv(x).numpy().reshape(2, 17, 3, 2, 16)
    values = np.einsum('bhnm,bmhd->bnhd', attention[0].numpy(), qkv[:, :, 2]).reshape(2, 17, 32)
    out = block.attn.out(paddle.to_tensor(values.astype('float32')))
    np.testing.assert_allclose(out.numpy(), block.attn(x).numpy(), atol=1e-5)
    last, first = model.get_attention(image, [-1, 0])
    np.testing.assert_array_equal(last.numpy(), attention[2].numpy())
    np.testing.assert_array_equal(first.numpy(), attention[0].numpy())
    with pytest.raises(ValueError, match='layer: got 3'):
        model.get_attention(image, [3])


def test_reset_classifier():
    model = small()
    image = paddle.randn([2, 3, 32, 32])
    features = model.forward_features(image).numpy()
    model.reset_classifier(7)
    assert model(image).shape == [2, 7]
    model.reset_classifier(0)
    np.testing.assert_array_equal(model(image).numpy(), features)
    assert not any(name.startswith('classifier') for name in model.state_dict())


def test_representation_layer_and_head_size():
    model = small(representation_size=20, attn_head_size=24)
    features = model.forward_features(paddle.randn([2, 3, 32, 32]))
    assert features.shape == [2, 20] and float(features.abs().max()) <= 1
    assert model.encoder.layers[0].attn.qkv.weight.shape == [32, 3 * 2 * 24]
    with pytest.raises(ValueError, match='MODEL.NUM_HEADS: got 3, expected a divisor of the 32 ch'):
        small(num_heads=3)


def test_initialisation_follows_its_table():
    paddle.seed(1)
    model = VisionTransformer(image_size=64, patch_size=16, embed_dim=256, depth=2, num_heads=4)
    for name, parameter in model.named_parameters():
        value = parameter.numpy()
        if name.endswith('bias'):
            assert (value == 0).all(), name
        elif 'norm' in name:
            assert (value == 1).all(), name
        else:
            patch = name == 'patch_embedding.patch_embedding.weight'
            std = np.sqrt(1 / 768) if patch else 0.02
            # five standard errors of a deviation that is estimated from this many values
            assert abs(value.std() / std - 1) < 5 / np.sqrt(2 * value.size), name
    logits = model(paddle.randn([1, 3, 64, 64])).numpy()
    assert logits.std() > 0.01  # not one value for all classes


def test_every_parameter_gets_a_gradient_and_the_model_learns_eight_images():
    model = small(drop_path=0.1, dropout=0.1)
    model.train()
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters())
    image, label = paddle.randn([8, 3, 32, 32]), paddle.arange(8)
    for step in range(60):
        loss = paddle.nn.functional.cross_entropy(model(image), label)
        loss.backward()
        if step == 0:
            assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    assert (model(image).argmax(1) == label).all()


def test_drop_path_rates_and_expectation():
    assert drop_path_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 1) == [0]
    model = small(drop_path=0.2)
    assert [layer.drop_path.p for layer in model.encoder.layers] == pytest.approx([0, 0.1, 0.2])
    layer = DropPath(0.25)
    layer.train()
    x = paddle.ones([4000, 2, 3])
    y = layer(x).numpy().reshape(4000, -1)
    assert (y == y[:, :1]).all() and set(np.unique(y.round(4))) == {0, np.float32(1.3333)}
    assert abs(y.mean() - 1) < 0.03


@pytest.mark.parametrize('layer', [Dropout(0.5), DropPath(0.5), Dropout(0.0), DropPath(0.0)])
def test_idle_layer_emits_no_operator(layer):
    if layer.p:
        layer.eval()
    x = paddle.ones([2, 3])
    assert layer(x) is x


@pytest.mark.parametrize('p', [-0.1, 1.0])
def test_wrong_probability(p):
    with pytest.raises(ValueError, match=f'got {p}'):
        Dropout(p)


def test_mlp_is_exact_gelu(float64):
    from math import erf
    layer = Mlp(3, 5)
    x = np.random.RandomState(0).randn(4, 3)
    hidden = x @ layer.fc1.weight.numpy() + layer.fc1.bias.numpy()
    hidden = hidden * 0.5 * (1 + np.vectorize(erf)(hidden / np.sqrt(2)))
    expected = hidden @ layer.fc2.weight.numpy() + layer.fc2.bias.numpy()
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, atol=1e-12)


def test_zoo_lists_and_builds():
    names = list_models('vit_*')
    for size in ('tiny', 'small', 'base', 'large'):
        assert {f'vit_{size}_patch16_{px}' for px in (224, 384)} <= set(names)
    for size in ('small', 'base', 'large'):
        assert {f'vit_{size}_patch32_{px}' for px in (224, 384)} <= set(names)
    assert {'vit_huge_patch14_224', 'vit_base_r50_s16_224', 'vit_base_r50_s16_384',
            'vit_digits'} <= set(names)
    model = create_model('vit_digits', num_classes=3, image_size=[16, 24], droppath=0.0)
    assert model.grid == (2, 3) and model.num_classes == 3
    with pytest.raises(ValueError, match='unknown key MODEL.DEPTHS; .* is MODEL.DEPTH'):
        create_model('vit_digits', depths=3)
    with pytest.raises(ValueError, match="got 'vit_tiny', expected a yaml file or one of"):
        create_model('vit_tiny')


@pytest.mark.parametrize('name, count', [
    ('vit_tiny_patch16_224', 5717416), ('vit_small_patch16_224', 22050664),
    ('vit_base_patch16_224', 86567656), ('vit_base_patch32_384', 88297192),
    ('vit_base_r50_s16_384', 98950952)])
def test_parameter_counts_are_timm_s(name, count):
    model = build_model(model_config(name))
    assert sum(p.size for p in model.parameters()) == count
