"""EXIF's orientation: turned as Pillow's ImageOps does, where it is asked for, and nowhere else."""
import json
import sys

import numpy as np
import paddle
import pytest
from PIL import Image, ImageOps

from common.apis import Preprocessing, inference_model, init_model, pixel_batches, read_image
from common.data.datasets import get_dataset
from common.data.images import ORIENTATION, decode, is_plain_jpeg, load_image
from common.deploy.folder import read_metadata
from common.export import export_model
from common.serving.pictures import read_picture
from common.serving.service import Service
from common.zoo import create_model, model_config
from tests.conftest import ROOT, run_script

pytestmark = pytest.mark.smoke

BACKENDS = ('pillow', 'cv2')
# What a file may have as its orientation beside 1 to 8; each leaves the image as it is.
BROKEN = {'zero': 0, 'nine': 9, 'large': 65535}
# EXIF blocks that no reader understands; the image is there all the same.
BROKEN_BLOCKS = {
    'empty': b'Exif\0\0', 'no TIFF': b'Exif\0\0garbage',
    'far directory': b'Exif\0\0MM\0*\xff\xff\xff\xff', 'cut': b'Exif\0\0II*\0\x08\0\0\0\x40\0',
    'text': b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0',
    'a fraction': b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x0b\0\x01\0\0\0\0\0\xc0@\0\0\0\0',
}


def picture(width=48, height=32):
    """No two corners are alike, so that each of the eight ways shows."""
    pixels = np.zeros([height, width, 3], np.uint8)
    pixels[:height // 2, :width // 2] = 255, 60, 30
    pixels[height // 2:, :width // 2] = 40, 200, 90
    pixels[:height // 2, width // 2:] = 20, 80, 220
    return Image.fromarray(pixels)


def with_orientation(path, orientation, image=None, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (image or picture()).save(path, exif=exif, **options)
    return path


def as_stored(path):
    with Image.open(path) as image:
        return np.asarray(image.convert('RGB'))


def by_pillow(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_all_eight_are_those_of_exif_transpose(tmp_path, orientation):
    for name, options in (('a.jpg', {'quality': 95}), ('grey.jpg', {}), ('a.png', {}),
                          ('a.webp', {'lossless': True})):
        image = picture().convert('L') if name == 'grey.jpg' else picture()
        path = with_orientation(tmp_path / name, orientation, image, **options)
        expected, stored = by_pillow(path), as_stored(path)
        assert name != 'a.jpg' or is_plain_jpeg(path.read_bytes())  # OpenCV decodes it
        for backend in BACKENDS:
            # two JPEG libraries may differ by a step or two of rounding
            tolerance = 3 if path.suffix == '.jpg' and backend == 'cv2' else 0
            for upright, wanted in ((True, expected), (False, stored)):
                found = np.asarray(load_image(path, backend, upright))
                assert found.shape == wanted.shape, (name, backend)
                assert np.abs(found.astype(int) - wanted).max() <= tolerance, (name, backend)
        assert np.array_equal(read_image(path), expected)
        with Image.open(path) as image:
            assert np.array_equal(read_image(image), expected)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_tiff_files_are_turned_once_by_pillow_itself(tmp_path, orientation):
    """Whether it is asked for or not; exif_transpose turns them twice before Pillow 10.1."""
    path = with_orientation(tmp_path / 'a.tif', orientation)
    expected = by_pillow(with_orientation(tmp_path / 'a.png', orientation))
    for upright in (True, False):
        assert np.array_equal(load_image(path, upright=upright), expected)
    with Image.open(path) as image:
        assert np.array_equal(read_image(image), expected)


@pytest.mark.parametrize('backend', BACKENDS)
def test_phone_s_photo_of_two_pictures_is_turned(tmp_path, backend):
    """An MPO file, a JPEG with a second one behind it."""
    path = with_orientation(tmp_path / 'a.jpg', 6, format='MPO', save_all=True, quality=95,
                            append_images=[picture()])
    expected = by_pillow(path)
    assert is_plain_jpeg(path.read_bytes())
    found = np.asarray(load_image(path, backend, upright=True))
    assert found.shape == expected.shape == (48, 32, 3)
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_the_picture_stands_as_it_was_taken(tmp_path):
    """By its meaning, not by another library: 6 says that the camera was turned to the right, so
    that the file's first row is the right side of what was seen."""
    path = with_orientation(tmp_path / 'a.png', 6)
    found, stored = np.asarray(load_image(path, upright=True)), as_stored(path)
    assert found.shape == (48, 32, 3)
    assert np.array_equal(found[:, -1], stored[0])


def test_what_is_upright_is_not_turned_again(tmp_path):
    path = with_orientation(tmp_path / 'a.jpg', 6)
    once = read_image(path)
    assert np.array_equal(read_image(once), once)
    once.save(tmp_path / 'b.png')
    assert np.array_equal(read_image(tmp_path / 'b.png'), once)


def test_xmp_says_it_too(tmp_path):
    """Some programs write the orientation there; Pillow reads both."""
    xmp = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
           b'tiff:Orientation="8"/></rdf:RDF></x:xmpmeta>')
    content = b'http://ns.adobe.com/xap/1.0/\0' + xmp
    path = tmp_path / 'a.jpg'
    picture().save(path)
    raw = path.read_bytes()
    path.write_bytes(raw[:2] + b'\xff\xe1' + (len(content) + 2).to_bytes(2, 'big') + content
                     + raw[2:])
    for backend in BACKENDS:
        assert np.asarray(load_image(path, backend, True)).shape == by_pillow(path).shape


@pytest.mark.parametrize('kind', [*BROKEN, *BROKEN_BLOCKS])
def test_broken_exif_leaves_the_image_as_it_is(tmp_path, kind):
    for name in ('a.jpg', 'a.png'):
        path = tmp_path / name
        if kind in BROKEN:
            with_orientation(path, BROKEN[kind])
        else:
            picture().save(path, exif=BROKEN_BLOCKS[kind])
        expected = as_stored(path)
        for backend in BACKENDS:
            found = np.asarray(load_image(path, backend, upright=True))
            assert np.abs(found.astype(int) - expected).max() <= 3
        with open(path, 'rb') as stream:
            assert np.array_equal(decode(stream, upright=True), expected)


# Who asks for it

def test_off_in_training_and_evaluation_by_default(tmp_path):
    (tmp_path / 'val_list.txt').write_text('a.jpg 0\n')
    (tmp_path / 'train_list.txt').write_text('a.jpg 0\n')
    path = with_orientation(tmp_path / 'a.jpg', 6, quality=95)
    config = model_config('vit_digits').clone()
    config.defrost()
    config.DATA.DATASET, config.DATA.DATA_PATH = 'list', str(tmp_path)
    for value, expected in ((None, as_stored(path)), (False, as_stored(path)),
                            (True, by_pillow(path))):
        config.DATA.EXIF_ORIENTATION = value
        for is_train in (True, False):
            found = np.asarray(get_dataset(config, is_train).images.load(0))
            assert found.shape == expected.shape
            assert np.abs(found.astype(int) - expected).max() <= 3


def test_on_in_what_a_user_gives_unless_the_config_says_otherwise(tmp_path):
    path, plain = with_orientation(tmp_path / 'a.png', 8), tmp_path / 'b.png'
    Image.fromarray(by_pillow(path)).save(plain)
    paddle.seed(0)
    weights = str(tmp_path / 'a.pdparams')
    paddle.save(create_model('vit_digits').state_dict(), weights)
    scores = {}
    for options in ([], ['DATA.EXIF_ORIENTATION=True'], ['DATA.EXIF_ORIENTATION=False']):
        model = init_model('vit_digits', weights, options=options)
        scores[str(options)] = [inference_model(model, file)['pred_scores']
                                for file in (str(path), Image.open(path), str(plain))]
        service = Service(model).predict(path.read_bytes(), 1).classes[0]
        assert service.score == pytest.approx(scores[str(options)][0].max(), abs=1e-6)
    *upright, stored = scores.values()
    for turned, opened, expected in upright:
        assert np.array_equal(turned, expected) and np.array_equal(opened, expected)
    turned, opened, expected = stored
    assert np.array_equal(turned, opened) and not np.array_equal(turned, expected)


def test_the_page_s_reader_turns_and_box_fits(tmp_path):
    content = with_orientation(tmp_path / 'a.jpg', 6).read_bytes()
    assert read_picture(content).size == (32, 48)
    assert read_picture(content, upright=False).size == (48, 32)
    service = Service(init_model('vit_digits'))
    left, top, across, down = service.attention(content, -1, 'mean').box
    assert (left, across) == (0, 1) and top > 0 and down < 1  # a tall picture
    assert service.info().upright


def test_checkpoint_and_export_keep_it(tmp_path):
    model = create_model('vit_digits', options=['DATA.EXIF_ORIENTATION=False'])
    export_model(model, str(tmp_path / 'out'), 'paddle')
    assert read_metadata(tmp_path / 'out')['preprocessing'].exif_orientation is False
    file = tmp_path / 'out' / 'export.json'
    metadata = json.loads(file.read_text())
    del metadata['preprocessing']['exif_orientation']  # as exports of old are
    file.write_text(json.dumps(metadata))
    assert read_metadata(tmp_path / 'out')['preprocessing'].exif_orientation is True
    weights = str(tmp_path / 'best.pdparams')
    for value in (True, False, None):
        config = {'MODEL': {'NUM_CLASSES': 10}, 'DATA': {'EXIF_ORIENTATION': value}}
        paddle.save({'model': model.state_dict(), 'format_version': 2, 'config': config}, weights)
        found = init_model('vit_digits', weights).config
        assert found.DATA.EXIF_ORIENTATION is value
        assert Preprocessing.of(found).exif_orientation is (value is not False)


def test_predict_says_the_same_of_a_turned_photo(tmp_path):
    """The command, as a user starts it."""
    path = with_orientation(tmp_path / 'a.png', 5)
    Image.fromarray(by_pillow(path)).save(tmp_path / 'b.png')
    Image.fromarray(as_stored(path)).save(tmp_path / 'c.png')
    paddle.save(create_model('vit_digits').state_dict(), str(tmp_path / 'w.pdparams'))
    code, _, error = run_script(
        ['-m', 'common.predict', '-cfg', 'vit_digits', '-pretrained', tmp_path / 'w.pdparams',
         '-json', tmp_path / 'found.json', tmp_path / 'a.png', tmp_path / 'b.png',
         tmp_path / 'c.png'], folder=ROOT, env={'PYTHONPATH': str(ROOT)})
    assert code == 0, error
    turned, upright, stored = (entry['classes']
                               for entry in json.loads((tmp_path / 'found.json').read_text()))
    assert turned == upright and turned != stored


def test_batches_of_pictures_are_turned_in_workers(tmp_path):
    path = with_orientation(tmp_path / 'a.png', 7)
    expected = read_image(Image.fromarray(by_pillow(path)))
    preprocessing = Preprocessing([16, 16], 1.0, 'bilinear', [0.5] * 3, [0.5] * 3)
    workers = 1 if sys.platform == 'linux' else 0
    for count in (0, workers):
        for pixels, errors in pixel_batches(preprocessing, [str(path)] * 2, 1, count):
            assert errors == ['']
            assert np.array_equal(pixels[0].transpose(1, 2, 0), preprocessing.transform()(expected))
