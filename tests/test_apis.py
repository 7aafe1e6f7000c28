"""init_model, inference_model and predict: what a trained model says about pictures."""
import csv
import json

import numpy as np
import paddle
import pytest
from PIL import Image

from common.apis import (
    Preprocessing,
    classify,
    imagenet_classes,
    inference_model,
    init_model,
    softmax,
)
from common.config import plain_config
from common.core.errors import InputError
from common.data.transforms import EvalTransform
from common.train.checkpoint import save_weights
from common.zoo import create_model, model_config
from tests.conftest import refusal, run_script, write_image_list

pytestmark = pytest.mark.smoke


def checkpoint(path, class_names=None, **data):
    """A run's best.pdparams of a vit_digits with random weights, and the model."""
    model = create_model('vit_digits')
    config = plain_config(model.config)
    config['DATA'].update(data)
    save_weights(str(path), model, {'epoch': 1, 'config': config, 'class_names': class_names})
    return str(path), model


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return write_image_list(tmp_path_factory.mktemp('pictures'), train=1, val=7) / 'val'


def test_fields_are_the_plain_forward_pass_s(tmp_path, pictures):
    """Against Pillow, numpy and a float64 softmax, image by image."""
    file, model = checkpoint(tmp_path / 'a.pdparams', [f'name {k}' for k in range(10)])
    found = inference_model(init_model('vit_digits', file), str(pictures), batch_size=3)
    assert len(found) == 7
    data = model.config.DATA
    model.eval()
    for index, one in enumerate(found):
        image = EvalTransform(32, data.CROP_PCT, data.INTERPOLATION)(
            Image.open(pictures / f'{index}.jpg'))
        pixels = (image / 255 - data.IMAGENET_MEAN) / data.IMAGENET_STD
        logits = model(paddle.to_tensor(pixels.transpose(2, 0, 1)[None].astype('float32')))
        expected = np.exp(logits.numpy()[0].astype('float64'))
        expected /= expected.sum()
        assert one['pred_scores'].dtype == np.float32 and one['pred_scores'].shape == (10,)
        assert np.abs(one['pred_scores'] - expected).max() < 1e-5
        label = one['pred_label']
        assert label == expected.argmax() and one['pred_class'] == f'name {label}'
        assert one['pred_score'] == one['pred_scores'][label]


@pytest.mark.parametrize('workers', [0, 2])
def test_paths_arrays_and_pictures_give_the_same(tmp_path, pictures, workers):
    model = init_model('vit_digits', checkpoint(tmp_path / 'a.pdparams')[0])
    path = str(pictures / '3.jpg')
    image = Image.open(path)
    one = inference_model(model, path, workers=workers)
    assert isinstance(one, dict) and one['pred_class'] == str(one['pred_label'])
    for same in inference_model(model, [path, image, np.asarray(image), pictures / '3.jpg'],
                                batch_size=2, workers=workers):
        assert np.allclose(same['pred_scores'], one['pred_scores'], atol=1e-6)


def test_stack_of_arrays_is_a_list_of_images():
    model = init_model('vit_digits')
    stack = np.random.RandomState(0).randint(0, 256, (5, 20, 24, 3)).astype(np.uint8)
    expected = inference_model(model, [Image.fromarray(image) for image in stack])
    for images in (stack, list(stack), tuple(stack), stack[:, :, ::-1][:, :, ::-1]):
        found = inference_model(model, images, batch_size=2)
        assert isinstance(found, list) and len(found) == 5
        for one, same in zip(found, expected, strict=True):
            assert np.allclose(one['pred_scores'], same['pred_scores'], atol=1e-6)
    assert inference_model(model, stack[:0]) == inference_model(model, []) == []


@pytest.mark.parametrize('name, value, least', [
    ('batch_size', 0, 1), ('batch_size', -1, 1), ('batch_size', 2.0, 1), ('batch_size', None, 1),
    ('batch_size', True, 1), ('batch_size', '4', 1), ('workers', -1, 0), ('workers', 0.5, 0),
    ('workers', '2', 0)])
def test_number_that_is_none_is_named(name, value, least):
    model = init_model('vit_digits')
    image = np.zeros((8, 8, 3), np.uint8)
    for images in (image, [image], [], np.stack([image] * 3)):
        said = refusal(lambda images=images: inference_model(model, images, **{name: value}))
        assert said == f'{name}: got {value!r}, expected a whole number of at least {least}'
    with pytest.raises(InputError, match=f'{name}: got '):
        list(classify(model, [image], **{name: value}))


def test_numbers_of_numpy_are_numbers():
    image = np.zeros((8, 8, 3), np.uint8)
    assert len(inference_model(init_model('vit_digits'), [image], np.int64(2), np.int64(0))) == 1


@pytest.mark.parametrize('image, got', [
    (np.zeros((8, 8), np.uint8), 'uint8[8, 8]'), (np.zeros((8, 8, 1), np.uint8), 'uint8[8, 8, 1]'),
    (np.zeros((8, 8, 4), np.uint8), 'uint8[8, 8, 4]'), (np.uint8(3), 'uint8'),
    (np.zeros((0, 8, 3), np.uint8), 'uint8[0, 8, 3]'), (None, 'NoneType'), (b'a.jpg', 'bytes'),
    (np.zeros((1, 8, 8, 3, 1), np.uint8), 'uint8[1, 8, 8, 3, 1]'), (3, 'int'),
    (iter([]), 'list_iterator'), (paddle.zeros([8, 8, 3], 'uint8'), 'Tensor')])
def test_what_is_no_image_is_named(image, got):
    model = init_model('vit_digits')
    for images in (image, [image]):
        assert refusal(inference_model, model, images) == (
            f'image 0: cannot read the image: got {got}, expected a path, a Pillow image or a '
            f'uint8 array [H, W, 3]')


def test_checkpoint_brings_its_preprocessing(tmp_path):
    file, _ = checkpoint(tmp_path / 'a.pdparams', IMAGE_SIZE=32, CROP_PCT=0.5,
                         INTERPOLATION='bilinear', IMAGENET_MEAN=[0.1, 0.2, 0.3])
    found = Preprocessing.of(init_model('vit_digits', file).config)
    assert found[:4] == ([32, 32], 0.5, 'bilinear', [0.1, 0.2, 0.3])
    found = Preprocessing.of(init_model('vit_digits', file, options=['DATA.CROP_PCT=0.7']).config)
    assert found.crop_pct == 0.7
    assert Preprocessing.of(init_model('vit_digits').config) == \
        Preprocessing.of(model_config('vit_digits'))


def test_imagenet_s_names():
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[65], names[999]) == \
        ('tench, Tinca tinca', 'sea snake', 'toilet tissue, toilet paper, bathroom tissue')
    assert init_model('vit_tiny_patch16_224').class_names == names
    assert init_model('vit_digits').class_names is None


def test_softmax_of_large_logits():
    shares = softmax(np.array([[1e4, 1e4, -1e4], [0, 0, 0]], np.float32))
    assert np.allclose(shares, [[0.5, 0.5, 0], [1 / 3] * 3])


def test_wrong_input_is_one_line(tmp_path, pictures):
    file, _ = checkpoint(tmp_path / 'a.pdparams', ['only one'])
    assert 'got 1 class names, expected 10' in refusal(init_model, 'vit_digits', file)
    file, _ = checkpoint(tmp_path / 'b.pdparams', CROP_PCT='half')
    assert f"{file}: DATA.CROP_PCT: got 'half'" in refusal(init_model, 'vit_digits', file)
    assert 'device' in refusal(init_model, 'vit_digits', None, 'tpu')
    assert 'has 0 GPUs' in refusal(init_model, 'vit_digits', None, 'gpu:7') \
        or paddle.device.cuda.device_count()
    model = init_model('vit_digits')
    (tmp_path / 'bad.png').write_bytes(b'x')
    assert 'bad.png: cannot read the image' in refusal(inference_model, model,
                                                       str(tmp_path / 'bad.png'))
    assert 'no such file' in refusal(inference_model, model, 'nothing.png').lower()
    assert 'got float64[4, 4, 3], expected a path' in refusal(inference_model, model,
                                                              np.zeros((4, 4, 3)))
    (tmp_path / 'empty').mkdir()
    assert 'a folder without images' in refusal(inference_model, model, str(tmp_path / 'empty'))
    with pytest.raises(InputError, match='image 1: cannot read'):
        inference_model(model, [np.zeros((4, 4, 3), np.uint8), 3])


def test_predictions_as_json_and_csv(tmp_path, pictures):
    """A bad file is named, the others go on, and the exit code is 1."""
    file, _ = checkpoint(tmp_path / 'a.pdparams', [f'<{k}>, "quoted"' for k in range(10)])
    (tmp_path / 'bad.png').write_bytes(b'x')
    code, out, err = run_script(
        ['-m', 'common.predict', '-cfg', 'vit_digits', '-pretrained', file, pictures,
         tmp_path / 'bad.png', pictures / '0.jpg', '-topk', '2', '-batch_size', '3',
         '-json', tmp_path / 'a.json', '-csv', tmp_path / 'a.csv'], folder='.')
    assert code == 1 and 'bad.png: cannot read' in err and '1 of 9 images' in err
    assert 'Traceback' not in err and len(out.strip().splitlines()) == 8
    found = json.loads((tmp_path / 'a.json').read_text())
    assert [one['file'] for one in found][:2] == [str(pictures / '0.jpg'), str(pictures / '1.jpg')]
    assert 'cannot read' in found[7]['error']
    for one, same in zip(found[0]['classes'], found[8]['classes'], strict=True):
        assert (one['label'], one['name']) == (same['label'], same['name'])
        assert abs(one['score'] - same['score']) < 1e-6  # rounding depends on the place in a batch
    scores = [one['score'] for one in found[0]['classes']]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    with open(tmp_path / 'a.csv', newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9 and rows[7]['error'] and not rows[7]['label_1']
    first = found[0]['classes'][0]
    assert (rows[0]['label_1'], rows[0]['name_1']) == (str(first['label']), first['name'])
