"""Attention maps against the layers themselves, rollout against a plain product of matrices, and
the pictures of common.visualize."""
import functools
import json

import numpy as np
import paddle
import pytest
from PIL import Image

from common import visualize
from common.attention_maps import attention_maps, model_input, read_layers, read_pass, rollout
from common.config import update_config
from common.data.datasets import get_dataset
from common.inspection import drawing
from common.inspection.batch_pictures import label_of, training_batch
from common.inspection.embedding_pictures import cosine_similarities, filter_components
from common.inspection.output import Output
from common.inspection.window_pictures import window_frames, windows_of
from common.train.plot import read_metrics
from common.zoo import create_model, model_config
from tests.conftest import refusal, run_script, write_image_list

# Small models with maps that are not square and no multiple of the windows: 10 x 18, then 5 x 9.
SIZE = [40, 72]
STAGES = {'TOKEN_DIMS': [16, 32], 'NUM_HEADS': [2, 4], 'WINDOW_SIZE': 4}
staged = functools.partial(create_model, 'vitaev2_vsa_digits', image_size=SIZE, **STAGES)
MODELS = {
    'full': functools.partial(staged, ATTENTION=['transformer', 'transformer']),
    'window': functools.partial(staged, ATTENTION=['window', 'window']),
    'learned': staged,
    'learned, detection': functools.partial(staged, VSA_FORM='detection'),
    'shifted': functools.partial(
        create_model, 'swin_tiny', image_size=SIZE, num_classes=10, DEPTHS=[2, 2],
        ATTENTION=['window', 'window'], **STAGES),
}


def small_model(kind, seed=0):
    """A model whose attention is far from even."""
    paddle.seed(seed)
    model = MODELS[kind]()
    for cell in model.cells():
        cell.attn.qkv.weight.set_value(cell.attn.qkv.weight * 8.0)
    return model


def noise(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (1, 3, height, width), np.uint8)


def matrix(attention):
    """[n, N, N] of an Attention, row by row."""
    tokens = attention.prefix + attention.size[0] * attention.size[1]
    return np.stack([attention.spread(row) for row in np.eye(tokens)], axis=1)


@pytest.mark.smoke
@pytest.mark.parametrize('kind', MODELS)
@pytest.mark.parametrize('layer', [0, -1])
def test_weights_at_their_tokens_give_the_layers_output(kind, layer):
    """With an identity as projection and no bias a layer gives A v, whatever its windows."""
    model = small_model(kind)
    for cell in model.cells():
        attn = cell.attn
        attn.proj.weight.set_value(paddle.eye(attn.proj.weight.shape[0]))
        for linear in (attn.proj, attn.qkv):
            if linear.bias is not None:
                linear.bias.set_value(paddle.zeros_like(linear.bias))

    one = model.attention_passes(model_input(model, noise(*SIZE)), [layer])[0]
    A = matrix(read_pass(one))                                             # [n, N, N]
    v = one.layer.qkv(one.tokens)[0].numpy()                               # [N, 3 * n * d]
    v = v[:, 2 * v.shape[1] // 3:].reshape(len(v), len(A), -1)             # [N, n, d]
    expected = np.einsum('hqk,khd->qhd', A, v).reshape(len(v), -1)         # [N, n * d]
    np.testing.assert_allclose(one.layer(one.tokens, one.h, one.w)[0].numpy(), expected,
                               rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    assert A.sum(-1).max() < 1 + 1e-5 and A.std() > 1e-3
    if kind == 'full':
        np.testing.assert_allclose(A.sum(-1), 1, atol=1e-5)
    if kind in ('window', 'shifted'):
        assert (A.sum(-1) < 0.999).any(), 'some weight must fall on padding'


@pytest.mark.smoke
@pytest.mark.parametrize('kind', MODELS)
def test_maps_are_rows_and_their_mean(kind):
    model, image = small_model(kind), noise(*SIZE)
    A = matrix(read_layers(model, model_input(model, image), [-1])[0])     # [n, 45, 45]
    maps = attention_maps(model, image)
    assert maps.shape == (4, 5, 9) and maps.dtype == np.float32
    np.testing.assert_allclose(maps, A.mean(1).reshape(4, 5, 9), atol=1e-6)
    # pixel (20, 50) is in token (2, 6) of 8 x 8 pixels
    one = attention_maps(model, image, -1, head=2, query=(20, 50))
    np.testing.assert_allclose(one, A[2, 2 * 9 + 6].reshape(1, 5, 9), atol=1e-6)


@pytest.mark.smoke
def test_class_token_where_the_classifier_reads_it():
    image = noise(64, 96)
    model = create_model('vit_digits', image_size=[64, 96])
    weights = model.get_attention(model_input(model, image), [1])[0].numpy()[0]
    np.testing.assert_allclose(attention_maps(model, image, 1),
                               weights[:, 0, 1:].reshape(4, 8, 12), atol=1e-6)
    # this one has a class token, but classifies by the mean over the patches
    pooled = create_model('vitae_large', image_size=32, num_classes=10, EMBED_DIMS=[16] * 3,
                          TOKEN_DIMS=[16] * 3, DEPTHS=[0, 0, 2], NUM_HEADS=[1, 1, 2],
                          GROUPS=[1, 1, 4], RATIOS=[8, 1, 1])
    image = noise(32, 32)
    weights = pooled.get_attention(model_input(pooled, image), [0])[0].numpy()[0]  # [2, 17, 17]
    np.testing.assert_allclose(attention_maps(pooled, image, 0),
                               weights[:, 1:, 1:].mean(1).reshape(2, 4, 4), atol=1e-6)


def test_learned_windows_inside_the_map_lose_nothing():
    model, image = create_model('vitaev2_vsa_digits', image_size=[64, 96]), noise(64, 96)

    def set_windows(offset):
        for cell in model.cells():
            for linear in (cell.attn.sampling_offsets, cell.attn.sampling_scales):
                linear.weight.set_value(paddle.zeros_like(linear.weight))
                linear.bias.set_value(paddle.zeros_like(linear.bias))
            bias = cell.attn.sampling_offsets.bias
            bias.set_value(paddle.full_like(bias, offset))

    set_windows(0.0)  # the default windows, which tile the map
    np.testing.assert_allclose(attention_maps(model, image, 0).sum((1, 2)), 1, atol=1e-5)
    query = attention_maps(model, image, 0, query=(20, 40))               # token (5, 10)
    inside = np.zeros((16, 24), bool)
    inside[4:8, 8:12] = True
    assert (query[:, inside] > 0).all() and (query[:, ~inside] == 0).all()
    set_windows(1e3)  # far outside, where keys and values are zero
    assert attention_maps(model, image, 0).max() == 0
    np.testing.assert_allclose(rollout(model, image), 1 / 96, rtol=1e-5)  # the skip connections


def plain_rollout(matrices):
    """The paper's: the product of the layers' (A + I) with rows of sum 1, [N, N]."""
    product = np.eye(len(matrices[0]))
    for A in matrices:
        A = A + np.eye(len(A))
        product = A / A.sum(-1, keepdims=True) @ product
    np.testing.assert_allclose(product.sum(-1), 1, rtol=1e-6)
    return product


@pytest.mark.smoke
def test_rollout_is_the_product_of_all_layers():
    model, image = create_model('vit_digits', image_size=[64, 96]), noise(64, 96)
    for layer in model.encoder.layers:
        layer.attn.qkv.weight.set_value(layer.attn.qkv.weight * 8.0)
    weights = model.get_attention(model_input(model, image))               # of [1, 4, 97, 97]
    expected = plain_rollout([one.numpy()[0].mean(0).astype(np.float64) for one in weights])
    np.testing.assert_allclose(rollout(model, image), expected[0, 1:].reshape(8, 12), rtol=1e-4)
    np.testing.assert_allclose(rollout(model, image, query=(63, 0)),       # token (7, 0)
                               expected[1 + 7 * 12, 1:].reshape(8, 12), rtol=1e-4)


@pytest.mark.parametrize('kind', MODELS)
def test_rollout_of_the_last_stage(kind):
    model, image = small_model(kind), noise(*SIZE)
    matrices = [matrix(one).mean(0)
                for one in read_layers(model, model_input(model, image), [-2, -1])]
    found = rollout(model, image)
    np.testing.assert_allclose(found, plain_rollout(matrices).mean(0).reshape(5, 9), rtol=1e-4)
    assert found.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.smoke
def test_pixels_and_normalised_images_give_the_same():
    model, image = small_model('learned'), noise(*SIZE)
    data = model.config.DATA
    normalised = (image / 255 - np.reshape(data.IMAGENET_MEAN, (3, 1, 1))) / np.reshape(
        data.IMAGENET_STD, (3, 1, 1))
    for given in (paddle.to_tensor(image), normalised.astype(np.float32)):
        np.testing.assert_allclose(attention_maps(model, given), attention_maps(model, image),
                                   atol=1e-5)


@pytest.mark.smoke
def test_wrong_arguments_of_maps():
    model, image = create_model('vit_digits'), noise(32, 32)
    assert refusal(attention_maps, model, image, 4) == 'layer: got 4, expected -4 to 3'
    assert refusal(attention_maps, model, image, -1, 4) == 'head: got 4, expected -4 to 3'
    assert refusal(attention_maps, model, image, -1, None, (32, 0)) == \
        'query: got 32,0, expected a row below 32 and a column below 32'
    assert refusal(attention_maps, model, image[0]) == \
        'image: got shape [3, 32, 32], expected [1, 3, H, W]'
    empty = create_model('vitae_digits', DEPTHS=[0, 2, 0])
    assert refusal(rollout, empty, image) == 'rollout: the last stage has no layer with attention'


def test_overlay_is_bright_where_the_weight_is():
    picture = np.full((20, 40, 3), 128, np.uint8)
    weights = np.zeros((2, 4), np.float32)
    weights[1, 2] = 0.3
    laid = drawing.overlay(picture, weights)
    assert laid.shape == (240, 480, 3)                                     # 12 times
    bright = laid.sum(-1) > 500
    assert bright[120:, 240:360].all() and bright.sum() == 120 * 120


def test_filters_are_principal_components():
    model = create_model('vit_digits')
    weight = model.patch_embedding.patch_embedding.weight
    random = np.random.RandomState(0)
    # two directions, the second one weaker, and a mean that does not matter
    directions = np.linalg.qr(random.randn(192, 2))[0].T                   # [2, 3 * 8 * 8]
    values = random.randn(96, 2) * [3, 1] @ directions + 5
    weight.set_value(values.reshape(weight.shape).astype(np.float32))
    title, found = filter_components(model)
    assert found.shape == (28, 8, 8, 3) and '100% of their variance' in title
    # the same by the eigenvectors of the covariance
    vectors = np.linalg.eigh(np.cov(values.T))[1][:, ::-1].T[:2]
    flat = found[:2].transpose(0, 3, 1, 2).reshape(2, 192)
    np.testing.assert_allclose(np.abs((flat * vectors).sum(1)), 1, atol=1e-4)


@pytest.mark.smoke
@pytest.mark.parametrize('name, layer', [
    ('vit_tiny_patch16_224', 'patch_embedding.patch_embedding:'),
    ('vitae_digits', 'layers.0.RC.PRM.convs.0.0:'),
    ('vitaev2_vsa_digits', 'layers.0.RC.PRM.convs.0.0:'),
    ('swin_tiny', 'patch_embed.proj:')])
def test_filters_are_of_the_layer_that_reads_the_image(name, layer):
    assert filter_components(create_model(name))[0].startswith(layer)


def test_similarities_and_mosaic():
    positions = np.array([[1, 0], [0, 2], [3, 0], [0, 4], [-5, 0], [6, 6]], np.float32)
    found = cosine_similarities(positions, (2, 3))
    np.testing.assert_allclose(found[0, 0], [[1, 0, 1], [0, -1, 0.5 ** 0.5]], atol=1e-6)
    whole = drawing.mosaic(found, np.nan)
    assert whole.shape == (2 + 1 + 2, 3 + 1 + 3 + 1 + 3)
    np.testing.assert_array_equal(whole[3:, 8:], found[1, 2])
    assert np.isnan(whole[2]).all() and np.isnan(whole[:, 3]).all()


def test_windows_in_the_picture():
    """Without offsets and with scale 1.5 each head's window is 1.5 times the default one."""
    model = create_model('vitaev2_vsa_digits')
    for cell in model.cells():
        for linear in (cell.attn.sampling_offsets, cell.attn.sampling_scales):
            linear.weight.set_value(paddle.zeros_like(linear.weight))
        bias = cell.attn.sampling_scales.bias
        bias.set_value(paddle.full_like(bias, 0.5))
        bias = cell.attn.sampling_offsets.bias
        bias.set_value(paddle.zeros_like(bias))
    windows, layer = windows_of(model, model_input(model, noise(32, 32)), None)
    assert layer == 0  # those after it have one window only
    default, learned = window_frames(windows, (1, 0))
    np.testing.assert_allclose(default, [8, 24, 16, 16], atol=1e-4)       # x, y, width, height
    np.testing.assert_allclose(learned, [[8, 24, 24, 24]] * 2, atol=1e-4)
    assert refusal(windows_of, create_model('vit_digits'), None, None) == \
        'vit_digits: got a model without learned windows'


def test_labels_of_mixed_targets():
    names = ['cat', 'dog', 'cow', 'hen']
    assert label_of(np.array(2), names, 0.1) == 'cow'
    target = np.array([0.7, 0, 0, 0.3]) * 0.9 + 0.1 / 4
    assert label_of(target, names, 0.1) == 'cat 70%, hen 30%'
    assert label_of(np.array([0, 1, 0, 0]) * 0.9 + 0.1 / 4, names, 0.1) == 'dog'


@pytest.mark.smoke
def test_augmented_samples_are_those_of_the_training(tmp_path):
    folder = write_image_list(tmp_path)
    config = model_config('vit_digits')

    def batch(epoch, *options):
        class Flags:
            data_path, batch_size, o = str(folder), 8, ['AUG.ERASING=0.0', *options]
        own = update_config(config, Flags)
        dataset = get_dataset(own)
        return dataset, *training_batch(own, dataset, epoch)

    dataset, pictures, labels = batch(2)
    items = {dataset[2, index].image.tobytes(): dataset[2, index].label for index in range(16)}
    for picture, label in zip(pictures, labels, strict=True):
        assert items[picture.tobytes()] == label
    np.testing.assert_array_equal(batch(2)[1], pictures)
    assert (batch(3)[1] != pictures).any() and (batch(2, 'SEED=1')[1] != pictures).any()
    _, mixed, target = batch(2, 'AUG.MIXUP=0.8', 'AUG.ERASING=1.0')
    assert target.shape == (8, 10) and (mixed != pictures).any(axis=(1, 2, 3)).all()


def test_names_of_pictures(tmp_path):
    output = Output(str(tmp_path / 'new'))
    assert [output.file('a'), output.file('a'), output.file('b')] == [
        str(tmp_path / 'new' / name) for name in ('a.png', 'a_2.png', 'b.png')]
    for wrong in (tmp_path / 'a.jpg', tmp_path / 'missing' / 'a.png'):
        assert refusal(Output, str(wrong)).startswith(f'-output: got {wrong}, expected')
    assert refusal(visualize.parse_query, '3;4').startswith(
        "-query: got '3;4', expected ROW,COLUMN")


# ---- the tool as a user starts it

@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Random weights of the digits models, by name."""
    folder = tmp_path_factory.mktemp('weights')
    files = {}
    for name in ('vit_digits', 'vitaev2_vsa_digits'):
        files[name] = folder / f'{name}.pdparams'
        paddle.save(create_model(name).state_dict(), str(files[name]))
    return files


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    for index in range(2):
        Image.fromarray(noise(40, 48, index)[0].transpose(1, 2, 0)).save(folder / f'{index}.png')
    (folder / 'bad.png').write_bytes(b'no image')
    return folder


def start(*arguments):
    """The tool in a process of its own: (exit code, stdout, stderr)."""
    return run_script(['-m', 'common.visualize', *arguments], folder='.')


def call(function, *arguments):
    """The same in this process, but for what main does around it."""
    return function(visualize.make_parser().parse_args([str(one) for one in arguments]))


def check_picture(file, least_width=500):
    """A PNG file with something on it."""
    with Image.open(file) as picture:
        assert picture.format == 'PNG'
        pixels = np.asarray(picture.convert('RGB'))
    assert least_width <= pixels.shape[1] < 3000 and 150 < pixels.shape[0] < 3000
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert (pixels != 255).any(axis=-1).mean() > 0.05


@pytest.mark.smoke
def test_attention_tool(weights, images, tmp_path):
    flags = ['attention', '-cfg', 'vit_digits', '-pretrained', weights['vit_digits']]
    code, out, err = start(*flags, images, '-output', tmp_path / 'all.png')
    assert code == 1 and f'{tmp_path / "all.png"}: written' in out
    assert f'error: {images / "bad.png"}: cannot read the image' in err
    assert err.strip().endswith('error: 1 of 3 images could not be read')
    check_picture(tmp_path / 'all.png')
    call(visualize.draw_attention, *flags, images / '0.png', images / '1.png', '-layer', '1',
         '-head', '2', '-query', '31,0', '-output', tmp_path / 'folder')
    for index in range(2):
        check_picture(tmp_path / 'folder' / f'{index}_attention.png')
    assert refusal(call, visualize.draw_attention, *flags, images / '0.png', '-head', '4',
                   '-output', tmp_path / 'x.png') == 'head: got 4, expected -4 to 3'
    assert sorted(file.name for file in tmp_path.iterdir()) == ['all.png', 'folder']


def test_attention_without_a_rollout(images, tmp_path, capsys):
    model = create_model('vitae_digits', DEPTHS=[0, 2, 0])  # no attention in the last stage
    paddle.save(model.state_dict(), str(tmp_path / 'a.pdparams'))
    call(visualize.draw_attention, 'attention', '-cfg', 'vitae_digits', '-o',
         'MODEL.DEPTHS=[0,2,0]', '-pretrained', tmp_path / 'a.pdparams', images / '0.png',
         '-output', tmp_path / 'a.png')
    assert capsys.readouterr().err == \
        'no rollout is drawn: rollout: the last stage has no layer with attention\n'
    check_picture(tmp_path / 'a.png')


def test_windows_tool(weights, images, tmp_path):
    flags = ['windows', images / '0.png', '-output', tmp_path / 'a.png']
    code, _, err = start(*flags, '-cfg', 'vitaev2_vsa_digits', '-pretrained',
                         weights['vitaev2_vsa_digits'])
    assert code == 0, err
    check_picture(tmp_path / 'a.png')
    code, _, err = start(*flags, '-cfg', 'vit_digits', '-pretrained', weights['vit_digits'])
    assert (code, err) == (1, 'error: vit_digits: got a model without learned windows\n')


def test_embedding_tool(weights, tmp_path):
    code, _, err = start('embedding', '-cfg', 'vit_digits', '-pretrained', weights['vit_digits'],
                         '-output', tmp_path / 'a.png')
    assert code == 0, err
    check_picture(tmp_path / 'a.png')
    call(visualize.draw_embedding, 'embedding', '-cfg', 'vitaev2_vsa_digits', '-pretrained',
         weights['vitaev2_vsa_digits'], '-output', tmp_path / 'b.png')
    check_picture(tmp_path / 'b.png')


def test_augment_tool(small_data, tmp_path):
    flags = ['augment', '-cfg', 'vitae_tiny', '-data_path', small_data, '-batch_size', '4',
             '-image_size', '32', '-output']
    code, _, err = start(*flags, tmp_path / 'a.png')
    assert code == 0, err
    check_picture(tmp_path / 'a.png')
    call(visualize.draw_augment, *flags, tmp_path / 'b.png')
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


@pytest.mark.smoke
def test_curves_tool(tmp_path):
    for run, steps in (('first', 3), ('second', 5)):
        (tmp_path / run).mkdir()
        with open(tmp_path / run / 'metrics.jsonl', 'w') as stream:
            for epoch in range(1, steps):
                for line in ({'kind': 'train', 'epoch_share': epoch, 'loss': 2 / epoch,
                              'acc1': 0.1 * epoch, 'lr': 1e-3},
                             {'kind': 'eval', 'loss': 1 / epoch, 'acc1': 0.2 * epoch,
                              'acc5': 0.2 * epoch}):
                    stream.write(json.dumps({'epoch': epoch, **line}) + '\n')
    code, _, err = start('curves', tmp_path / 'first', tmp_path / 'second', '-output',
                         tmp_path / 'both.png')
    assert code == 0, err
    call(visualize.draw_curves, 'curves', tmp_path / 'first', '-output', tmp_path / 'one.png')
    for name in ('both', 'one'):
        check_picture(tmp_path / f'{name}.png')
    with open(tmp_path / 'second' / 'metrics.jsonl', 'a') as stream:
        stream.write('{"kind": "tr')
    lines, note = read_metrics(str(tmp_path / 'second' / 'metrics.jsonl'))
    assert len(lines) == 8 + 1  # and the best
    assert note.startswith(f'{tmp_path}/second/metrics.jsonl:9: got \'{{"kind": "tr\', expected')
