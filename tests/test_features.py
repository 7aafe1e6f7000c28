"""Features in a file are those of the model; a bad image is left out and named."""
import numpy as np
import paddle
import pytest
from PIL import Image

from common import features
from common.apis import Preprocessing, init_model, pixel_batches
from common.core.errors import InputError
from common.data.batches import Normalize
from common.inspection.features import NpzWriter
from common.inspection.features import extract as extract_features
from common.zoo import create_model
from tests.conftest import refusal, run_script


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Five images, of which the third cannot be read, and weights of some models."""
    folder = tmp_path_factory.mktemp('features')
    random = np.random.RandomState(0)
    (folder / 'images').mkdir()
    for index in range(5):
        pixels = random.randint(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / 'images' / f'{index}.png')
    (folder / 'images' / '2.png').write_bytes(b'no image')
    for name in ('vit_digits', 'vitaev2_vsa_digits'):
        paddle.save(create_model(name).state_dict(), str(folder / f'{name}.pdparams'))
    return folder


def expected(model, files, kind, stage=-1):
    """One image after the other through the model."""
    preprocessing = Preprocessing.of(model.config)
    normalize = Normalize(preprocessing.mean, preprocessing.std)
    with paddle.no_grad():
        found = [model.extract_feat(normalize(paddle.to_tensor(pixels)), kind)[stage].numpy()
                 for pixels, _ in pixel_batches(preprocessing, files, batch_size=1)]
    return np.concatenate(found)


@pytest.mark.smoke
def test_features_are_the_models(folder, tmp_path):
    weights, images = folder / 'vit_digits.pdparams', folder / 'images'
    code, out, err = run_script(
        ['-m', 'common.features', '-cfg', 'vit_digits', '-pretrained', weights, images, '-output',
         tmp_path / 'all.npz', '-type', 'featmap', '-type', 'cls_token', '-batch_size', '2',
         '-workers', '2'], folder='.')
    assert code == 1 and err.count('\n') == 2
    assert f'error: {images / "2.png"}: cannot read the image' in err
    assert 'error: 1 of 5 images could not be read' in err
    assert f'{tmp_path / "all.npz"}: featmap, float32 [4, 96, 4, 4]' in out
    found = np.load(tmp_path / 'all.npz', allow_pickle=False)
    good = [str(images / f'{index}.png') for index in (0, 1, 3, 4)]
    assert sorted(found) == ['cls_token', 'featmap', 'names'] and found['names'].tolist() == good
    model = init_model('vit_digits', str(weights))
    for kind in ('featmap', 'cls_token'):
        np.testing.assert_allclose(found[kind], expected(model, good, kind), rtol=1e-4, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ['all.npz']


@pytest.mark.smoke
@pytest.mark.parametrize('name, kind, shape', [
    ('vit_digits', 'cls_token', (2, 96)), ('vitaev2_vsa_digits', 'avg_featmap', (2, 64))])
def test_default_type(folder, tmp_path, monkeypatch, name, kind, shape):
    monkeypatch.setattr(features, 'set_up_cpu', lambda: None)  # it acts on the whole process
    images = [str(folder / 'images' / f'{index}.png') for index in (0, 4)]
    weights, output = str(folder / f'{name}.pdparams'), str(tmp_path / 'a.npz')
    features.main(['-cfg', name, '-pretrained', weights, *images, '-output', output])
    found = np.load(output)
    assert sorted(found) == sorted([kind, 'names']) and found[kind].shape == shape
    model = init_model(name, weights)
    np.testing.assert_allclose(found[kind], expected(model, images, kind), rtol=1e-4, atol=1e-5)


def test_stages(folder):
    model = init_model('vitaev2_vsa_digits', str(folder / 'vitaev2_vsa_digits.pdparams'))
    files = [str(folder / 'images' / '1.png')]
    (_, arrays, _), = extract_features(model, files, ['featmap'], stage=0)
    assert arrays['featmap'].shape == (1, 32, 8, 8)
    np.testing.assert_allclose(arrays['featmap'], expected(model, files, 'featmap', 0), rtol=1e-5)

    def extract(*args):
        return list(extract_features(model, files, *args))

    assert refusal(extract, ['featmap'], 2) == '-stage: got 2, expected -2 to 1'
    assert refusal(extract, ['cls_token']) == \
        "out_type: got 'cls_token', but this model has no class token"


@pytest.mark.parametrize('rows', [[3], [2, 2, 1]])
def test_parts_of_a_file(tmp_path, rows):
    random, file = np.random.RandomState(0), tmp_path / 'a.npz'
    parts = [{'map': random.randn(count, 2, 3).astype(np.float32),
              'vector': random.randn(count, 4)} for count in rows]
    with NpzWriter(str(file)) as writer:
        for part in parts:
            writer.add(part)
        assert not file.exists()
        writer.finish(names=np.array(['ä', 'bc']))
    found = np.load(file, allow_pickle=False)
    assert found['names'].tolist() == ['ä', 'bc']
    for name in ('map', 'vector'):
        whole = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(found[name], whole)
        assert found[name].dtype == whole.dtype
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_kept_when_something_goes_wrong(tmp_path):
    (tmp_path / 'a.npz').write_bytes(b'before')
    with pytest.raises(InputError), NpzWriter(str(tmp_path / 'a.npz')) as writer:
        writer.add({'map': np.zeros((2, 3))})
        raise InputError('stop')
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b'before']


@pytest.mark.parametrize('flags, message', [
    (['-batch_size', '0'], '-batch_size: got 0, expected at least 1'),
    (['-output', 'a.txt'], '-output: got a.txt, expected a name that ends with .npz')])
def test_wrong_flags(folder, flags, message):
    with pytest.raises(SystemExit) as caught:
        features.main(['-cfg', 'vit_digits', '-pretrained', 'x', str(folder), *flags])
    assert str(caught.value).startswith(f'error: {message}')
