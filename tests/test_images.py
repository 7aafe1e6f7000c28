"""Reading image files: every kind of pixels as Pillow converts it, every bad file an error."""
import os
import socket
import struct
import subprocess
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from common import apis
from common.data import images, jpeg
from common.data.image_dataset import ImageDataset
from common.data.images import MAX_PIXELS, is_plain_jpeg, load_image
from common.data.lists import read_list
from common.data.transforms import EvalTransform
from common.data.verify import verify
from tests.reference import FIXTURES, Case, sha256

pytestmark = pytest.mark.smoke

BACKENDS = ['pillow', 'cv2']
PHOTO = FIXTURES / 'recipe' / 'images' / 'flower.jpg'
ORIENTATION = 0x0112


def picture(mode='RGB', size=(40, 30)):
    """A smooth image with noise, of several bands where the mode has them."""
    random = np.random.default_rng(0)
    pixels = np.add.outer(np.arange(size[1]) * 4, np.arange(size[0]) * 2)[:, :, None]
    pixels = pixels + random.integers(0, 50, (size[1], size[0], 4)) % [50, 40, 30, 20]
    bands = {'L': 1, 'LA': 2, 'RGB': 3, 'RGBA': 4, 'CMYK': 4}[mode]
    return Image.merge(mode, [Image.fromarray(pixels[:, :, band].astype(np.uint8))
                              for band in range(bands)])


def by_pillow(path):
    with Image.open(path) as image:
        return np.asarray(image.convert('RGB'))


def pixels_of(path, backend):
    """What load_image gives; its kind and type are checked."""
    result = load_image(path, backend)
    if backend == 'pillow':
        assert isinstance(result, Image.Image) and result.mode == 'RGB'
        return np.asarray(result)
    assert isinstance(result, np.ndarray) and result.dtype == np.uint8
    assert result.ndim == 3 and result.shape[2] == 3
    return result


# Good files

def palette(transparent):
    image = picture().quantize(16)
    if transparent:
        image.info['transparency'] = 3
    return image


def rotated(image):
    """EXIF that asks for a turn by 90 degrees."""
    exif = image.getexif()
    exif[ORIENTATION] = 6
    return exif


EXACT = {
    'rgb.png': lambda path: picture().save(path),
    'rgb.bmp': lambda path: picture().save(path),
    'rgb.tif': lambda path: picture().save(path),
    'rgb.webp': lambda path: picture().save(path, lossless=True),
    'png_named.JPEG': lambda path: picture().save(path, 'PNG'),
    'gif_named.jpg': lambda path: picture().save(path, 'GIF'),
    'grey.png': lambda path: picture('L').save(path),
    'bits.png': lambda path: picture('L').convert('1').save(path),
    'grey_alpha.png': lambda path: picture('LA').save(path),
    'rgba.png': lambda path: picture('RGBA').save(path),
    'transparent.png': lambda path: Image.new('RGBA', (9, 7), (10, 200, 30, 0)).save(path),
    'palette.png': lambda path: palette(False).save(path),
    'palette_transparent.png': lambda path: palette(True).save(path, transparency=3),
    'palette_transparent.gif': lambda path: palette(True).save(path, transparency=3),
    'animated.gif': lambda path: picture().save(
        path, save_all=True, append_images=[Image.new('RGB', (40, 30), 'red')]),
    'cmyk.jpg': lambda path: picture('CMYK').save(path),
    'cmyk.tif': lambda path: picture('CMYK').save(path),
    'exif.png': lambda path: picture().save(path, exif=rotated(picture())),
    'one_pixel.png': lambda path: picture(size=(1, 1)).save(path),
    'long.png': lambda path: picture(size=(1, 30000)).save(path),
}
JPEG = {
    'plain.jpg': {},
    'colours_at_full_size.jpg': {'subsampling': 0},
    'progressive.jpg': {'progressive': True},
    'optimised.jpeg': {'optimize': True, 'quality': 95},
    'not_ycc.jpg': {'keep_rgb': True},
    'restarts.jpg': {'restart_marker_blocks': 1},
    'resolution_and_comment.jpg': {'dpi': (300, 300), 'comment': b'\xff\xd9 a comment \xff\xc0'},
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', EXACT)
def test_pixels_are_pillow_s_I3(tmp_path, name, backend):
    path = tmp_path / name
    EXACT[name](path)
    result = pixels_of(path, backend)
    assert np.array_equal(result, by_pillow(path)) and result.size


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('name', JPEG)
def test_pixels_of_a_jpeg_are_pillow_s(tmp_path, name, mode, backend):
    """Read by OpenCV they may be those of another JPEG library: a step or two of rounding."""
    path = tmp_path / name
    picture(mode).save(path, **JPEG[name])
    assert is_plain_jpeg(path.read_bytes())
    difference = np.abs(pixels_of(path, backend).astype(int) - by_pillow(path))
    assert difference.max() <= (0 if backend == 'pillow' else 3)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('orientation', [2, 3, 6, 8])
def test_orientation_is_not_applied_I3(tmp_path, backend, orientation):
    path, exif = tmp_path / 'a.jpg', Image.Exif()
    exif[ORIENTATION] = orientation
    picture().save(path, exif=exif)
    assert is_plain_jpeg(path.read_bytes())  # OpenCV would turn it
    result = pixels_of(path, backend)
    assert result.shape == (30, 40, 3)
    assert np.abs(result.astype(int) - by_pillow(path)).max() <= (0 if backend == 'pillow' else 3)


@pytest.mark.parametrize('backend', BACKENDS)
def test_pixels_of_a_photograph_I3(backend):
    sizes = Case('recipe', 'eval_preprocess').meta['cases']
    digest, = {meta['image_sha256'] for meta in sizes if meta['image'] == 'flower'}
    result = pixels_of(PHOTO, backend)
    if backend == 'pillow':
        assert sha256(result) == digest
    assert np.abs(result.astype(int) - by_pillow(PHOTO)).mean() < 0.5


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name, dtype', [('a.png', '<u2'), ('a.tif', '<u2'), ('a.tif', '>u2')])
def test_16_bit_grey_is_scaled_I3(tmp_path, name, dtype, backend):
    """Pillow's own conversion makes all of 256 and above white."""
    values = np.array([[0, 255, 256, 0x1234], [0x7fff, 0x8000, 0xfeff, 0xffff]], dtype)
    Image.fromarray(values).save(tmp_path / name)
    result = pixels_of(tmp_path / name, backend)
    assert np.array_equal(result, np.repeat((values >> 8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize('backend', BACKENDS)
def test_16_bit_rgb_is_scaled(tmp_path, backend):
    values = np.random.default_rng(0).integers(0, 65536, (5, 6, 3), np.uint16)
    assert cv2.imwrite(str(tmp_path / 'a.png'), values[:, :, ::-1])
    assert np.array_equal(pixels_of(tmp_path / 'a.png', backend), values >> 8)


# Modes: the same by path and as a Pillow image

GREY = (np.arange(12 * 16).reshape(12, 16) * 341).astype(np.uint16)  # 0 to 65131


def tiff(values, bits, sample_format=1, photometric=1):
    """A grey TIFF file that is not compressed, of little-endian values [H, W]."""
    content = values.astype(values.dtype.newbyteorder('<')).tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 134),
            (277, 1), (278, height), (279, len(content)), (339, sample_format)]
    return (b'II*\0\x08\0\0\0' + struct.pack('<H', len(tags))
            + b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags)
            + bytes(4) + content)


@pytest.mark.parametrize('name', ['PNG', 'TIFF', 'PPM', 'JPEG2000'])
def test_16_bit_grey_is_the_same_by_path_and_as_an_image_I9(tmp_path, name):
    path, options = tmp_path / 'a', {'irreversible': False} if name == 'JPEG2000' else {}
    Image.fromarray(GREY).save(path, name, **options)
    with Image.open(path) as image:
        as_image = np.asarray(apis.read_image(image))
    for result in (as_image, *(pixels_of(path, backend) for backend in BACKENDS)):
        assert np.array_equal(result, np.repeat((GREY >> 8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize('mode', ['I;16', 'I;16B', 'I;16L', 'I;16N'])
def test_16_bit_grey_of_each_mode_is_scaled_I9(mode):
    image = Image.new(mode, (3, 2), 0x1234)
    assert np.array_equal(apis.read_image(image), np.full((2, 3, 3), 0x12))


WITHOUT_RANGE = {
    'float': (lambda: tiff(GREY.astype('<f4'), 32, 3), 'got float pixels'),
    '32 bits': (lambda: tiff(GREY.astype('<u4'), 32), 'got integer pixels of 32 bits'),
    '32 bits of 8': (lambda: tiff((GREY >> 8).astype('<u4'), 32), 'got integer pixels of 32 bits'),
    '32 bits signed': (lambda: tiff(GREY.astype('<i4'), 32, 2), 'got integer pixels of 32 bits'),
    '16 bits signed': (lambda: tiff(GREY.astype('<i2'), 16, 2), 'or with a sign'),
    '8 bits signed': (lambda: tiff(GREY.astype('i1'), 8, 2), 'got pixels with a sign'),
    '12 bits': (lambda: tiff(GREY, 12), 'got grey of 12 bits'),
    '0 is white': (lambda: tiff(GREY, 16, photometric=0), '0 as white'),
}


@pytest.mark.parametrize('kind', WITHOUT_RANGE)
def test_pixels_without_a_range_are_refused_by_path_and_as_an_image_I9(tmp_path, kind):
    """Pillow reads them, and makes them white, black or the negative of what they are."""
    make, said = WITHOUT_RANGE[kind]
    path = tmp_path / 'a.tif'
    path.write_bytes(make())
    with Image.open(path) as image, pytest.raises(ValueError, match=said):
        apis.read_image(image)
    for backend in BACKENDS:
        with pytest.raises(ValueError, match='expected 8 or 16 bits'):
            load_image(path, backend)


@pytest.mark.parametrize('values', [GREY.astype(np.int32), GREY.astype(np.float32)])
def test_image_without_a_range_is_refused_I9(values):
    with pytest.raises(ValueError, match='expected 8 or 16 bits'):
        apis.read_image(Image.fromarray(values))


def test_evaluation_and_prediction_see_the_same_pixels_I6(tmp_path):
    """A grey photograph with an orientation: what two readers are likely to read differently."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture('L', (80, 60)).save(tmp_path / 'a.jpg', exif=exif)
    file = tmp_path / 'val_list.txt'
    file.write_text('a.jpg 0\n')
    transform = EvalTransform(48, 0.875)
    images, path = read_list(str(file)), tmp_path / 'a.jpg'
    item = ImageDataset(images, transform, 48)[0, 0]
    assert np.array_equal(item[0], transform(apis.read_image(path, upright=False)))
    assert np.array_equal(item[0], transform(Image.fromarray(by_pillow(path))))
    images.upright = True
    item = ImageDataset(images, transform, 48)[0, 0]
    assert np.array_equal(item[0], transform(apis.read_image(path)))


# Bad files

def truncated(share, kind='JPEG', **arguments):
    """The first bytes of a good file; a negative number is bytes that are missing at the end."""
    def write(path):
        picture(size=(640, 480)).save(path, kind, **arguments)
        content = path.read_bytes()
        path.write_bytes(content[:share if share < 0 else int(share * len(content))])
    return write


def jpeg_of_size(width, height):
    """A real JPEG file whose header claims another size."""
    def write(path):
        picture(size=(64, 64)).save(path)
        content = path.read_bytes()
        place = content.index(b'\xff\xc0') + 5
        path.write_bytes(content[:place] + struct.pack('>HH', height, width)
                         + content[place + 4:])
    return write


def png_of_size(width, height):
    """A PNG file of a few bytes that claims a size."""
    def chunk(kind, content):
        return struct.pack('>I', len(content)) + kind + content + struct.pack(
            '>I', zlib.crc32(kind + content))

    def write(path):
        path.write_bytes(b'\x89PNG\r\n\x1a\n'
                         + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0))
                         + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))
    return write


def ends_in_a_thumbnail(path):
    """Cut off where a JPEG file within the EXIF data ends: it begins and ends as JPEG files do."""
    picture(size=(16, 16)).save(path)
    small = path.read_bytes()
    path.write_bytes(b'\xff\xd8\xff\xe1' + struct.pack('>H', len(small) + 2) + small)


BAD = {
    **{f'jpeg_{share:g}': truncated(share) for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)},
    'jpeg_without_end': truncated(-2),
    'jpeg_without_last_byte': truncated(-1),
    'progressive_0.7': truncated(0.7, progressive=True),
    'png_0.5': truncated(0.5, 'PNG'),
    'tiff_0.5': truncated(0.5, 'TIFF'),
    'gif_0.5': truncated(0.5, 'GIF'),
    'jpeg_of_100_bytes': lambda path: path.write_bytes(PHOTO.read_bytes()[:100]),
    'jpeg_of_a_thumbnail': ends_in_a_thumbnail,
    'jpeg_of_nothing': lambda path: path.write_bytes(b'\xff\xd8\xff\xd9'),
    'jpeg_without_size': jpeg_of_size(0, 0),
    'empty': lambda path: path.write_bytes(b''),
    'zeros': lambda path: path.write_bytes(bytes(5000)),
    'text': lambda path: path.write_text('this is no image\n'),
    'html': lambda path: path.write_text('<!DOCTYPE html><html><body>404</body></html>'),
    'svg': lambda path: path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9"/>'),
    'folder': lambda path: path.mkdir(),
    'missing': lambda path: None,
    'float': lambda path: Image.fromarray(np.ones((4, 4), np.float32)).save(path, 'TIFF'),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('kind', BAD)
def test_bad_file_is_an_error_I1_I2(tmp_path, kind, backend):
    path = tmp_path / 'a.jpg'
    BAD[kind](path)
    with pytest.raises((OSError, ValueError, SyntaxError)) as error:
        load_image(path, backend)
    assert str(error.value)
    if kind == 'float':
        assert str(error.value) == 'got float pixels, expected 8 or 16 bits'


# What is opened at all

SPECIAL = {
    'pipe': lambda path: os.mkfifo(path),
    'link to a pipe': lambda path: (os.mkfifo(f'{path}.fifo'), path.symlink_to(f'{path}.fifo')),
    'link to a device': lambda path: path.symlink_to('/dev/zero'),
    'link to another device': lambda path: path.symlink_to('/dev/null'),
    'link to a folder': lambda path: path.symlink_to(path.parent),
    'socket': lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    'link to itself': lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('kind', SPECIAL)
def test_what_is_no_file_is_not_waited_for_I7(tmp_path, monkeypatch, kind, backend):
    """By itself, in a list, in the Python interface and in the check of a data set."""
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path('a.jpg')
    SPECIAL[kind](path)
    with pytest.raises((OSError, ValueError)) as error:
        load_image(path, backend)
    assert len(str(error.value)) < 200
    assert kind.rpartition(' ')[2] in ('socket', 'itself') or str(error.value).startswith('got a ')
    Path('train_list.txt').write_text('a.jpg 0\n')
    images = read_list('train_list.txt')
    images.backend = backend
    error = ImageDataset(images, EvalTransform(8, 0.9), 8)[0, 0].error
    assert error.startswith('train_list.txt:1: cannot read a.jpg: ')
    (_, errors), = apis.pixel_batches(apis.Preprocessing([8, 8], 0.9, 'bicubic', 0, 1), [path])
    assert errors[0].startswith('a.jpg: cannot read the image: ')
    findings = verify('.', decode=True, workers=1)
    assert findings['train: missing files'][0] == 1


def test_name_with_escapes_is_shown_as_text_C9(tmp_path, capsys):
    """Of a list, by the data set, its check and the Python interface."""
    (tmp_path / 'train_list.txt').write_text('a\x1b[2J\u202eb.jpg 0\n')
    images = read_list(str(tmp_path / 'train_list.txt'))
    preprocessing = apis.Preprocessing([8, 8], 0.9, 'bicubic', 0, 1)
    (_, errors), = apis.pixel_batches(preprocessing, [images.path(0)])
    verify(str(tmp_path)).report()
    for text in (ImageDataset(images, EvalTransform(8, 0.9), 8)[0, 0].error, errors[0],
                 capsys.readouterr().out):
        assert text.replace('\n', '').isprintable() and 'a\\x1b[2J\\xe2\\x80\\xaeb.jpg' in text


def test_link_to_a_file_is_read_I7(tmp_path):
    picture().save(tmp_path / 'a.png')
    (tmp_path / 'link.png').symlink_to(tmp_path / 'a.png')
    for backend in BACKENDS:
        assert np.array_equal(pixels_of(tmp_path / 'link.png', backend), picture())


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', ['a.webp', 'a.jpg', 'a.png'])
def test_file_without_an_end_is_not_read_I7(tmp_path, name, backend):
    """One with a hole of a terabyte; some readers take all of a file first."""
    picture().save(tmp_path / name)
    os.truncate(tmp_path / name, 1 << 40)
    with pytest.raises(ValueError, match='got 1099511627776 bytes, expected at most'):
        load_image(tmp_path / name, backend)


@pytest.mark.parametrize('kind', ['EPS', 'ICO', 'PCX', 'TGA', 'ICNS', 'PDF'])
def test_other_format_is_refused_before_it_is_decoded_I7(tmp_path, monkeypatch, kind):
    """Whatever the name says. Pillow starts Ghostscript for an EPS file."""
    started = []
    picture(size=(32, 32)).save(tmp_path / 'a.jpg', kind)
    monkeypatch.setattr(subprocess, 'Popen', lambda *args, **_: started.append(args))
    for backend in BACKENDS:
        with pytest.raises(OSError, match='got no image, or a damaged one; expected one of JPEG'):
            load_image(tmp_path / 'a.jpg', backend)
    assert not started


@pytest.mark.parametrize('kind', ['MPO', *images.FORMATS])
def test_format_of_photographs_is_read_I7(tmp_path, kind):
    Image.new('RGB', (16, 12), (200, 40, 90)).save(tmp_path / 'a', kind)
    result = pixels_of(tmp_path / 'a', 'pillow')
    assert result.shape == (12, 16, 3) and np.abs(result - [200.0, 40.0, 90.0]).max() < 6


@pytest.mark.parametrize('backend', BACKENDS)
def test_written_numbers_with_comments_are_refused_I7(tmp_path, backend):
    """For each comment Pillow copies what is left of a megabyte."""
    numbers = b'P3 64 64 255\n' + b'7 ' * (3 * 64 * 64)
    (tmp_path / 'a.ppm').write_bytes(numbers)
    assert np.asarray(load_image(tmp_path / 'a.ppm', backend)).max() == 7
    (tmp_path / 'a.ppm').write_bytes(b'P3 64 64 255\n' + b'#\n' * 500_000 + numbers)
    start = time.process_time()
    with pytest.raises(ValueError, match='comments between them'):
        load_image(tmp_path / 'a.ppm', backend)
    assert time.process_time() - start < 5


def rle_bmp(width, height, content=b''):
    """A BMP file of run-length encoded palette indices; Pillow fills up what is missing."""
    palette = bytes(4 * 256)
    head = struct.pack('<IiiHHIIiiII', 40, width, height, 1, 8, 1, len(content), 0, 0, 256, 0)
    start = 14 + len(head) + len(palette)
    return (b'BM' + struct.pack('<IHHI', start + len(content), 0, 0, start) + head + palette
            + content)


@pytest.mark.parametrize('backend', BACKENDS)
def test_run_length_encoded_bmp_is_refused_I7(tmp_path, backend):
    """Read by a loop in Python, a second for two million pixels that need not be in the file."""
    (tmp_path / 'a.bmp').write_bytes(rle_bmp(9000, 9000, 9000 * b'\x01\x05\0\0' + b'\0\1'))
    begin = time.thread_time()
    with pytest.raises(ValueError, match='got a BMP file with run-length encoding'):
        load_image(tmp_path / 'a.bmp', backend)
    assert time.thread_time() - begin < 2


def test_truncated_images_are_not_filled_up():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


HUGE = {'png_100_million': png_of_size(10000, 10000),
        'png_just_above': png_of_size(MAX_PIXELS // 1000 + 1, 1000),
        'png_400_million': png_of_size(20000, 20000),
        'jpeg_4000_million': jpeg_of_size(65500, 65500)}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('kind', HUGE)
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_huge_image_is_refused_before_it_is_decoded_I4(tmp_path, monkeypatch, kind, backend):
    path = tmp_path / 'a.png'
    path = path.with_suffix('.jpg') if kind.startswith('jpeg') else path
    HUGE[kind](path)
    assert path.stat().st_size < 5000

    def decoded(*_):
        pytest.fail('decoded')

    monkeypatch.setattr(ImageFile.ImageFile, 'load', decoded)
    monkeypatch.setattr(cv2, 'imdecode', decoded)
    with pytest.raises((ValueError, Image.DecompressionBombError), match='pixels'):
        load_image(path, backend)


@pytest.mark.parametrize('backend', BACKENDS)
def test_limit_itself_is_accepted(tmp_path, monkeypatch, backend):
    picture(size=(40, 30)).save(tmp_path / 'a.jpg')
    monkeypatch.setattr(images, 'MAX_PIXELS', 1200)
    assert pixels_of(tmp_path / 'a.jpg', backend).shape == (30, 40, 3)
    monkeypatch.setattr(images, 'MAX_PIXELS', 1199)
    with pytest.raises(ValueError, match='got 40x30 pixels, expected at most 1199'):
        load_image(tmp_path / 'a.jpg', backend)


# What OpenCV decodes

@pytest.mark.parametrize('name, plain', [('rgb.jpg', True), ('grey.jpg', True),
                                         ('cmyk.jpg', False), ('rgb.png', False),
                                         ('rgb.webp', False)])
def test_opencv_decodes_only_plain_jpeg(tmp_path, monkeypatch, name, plain):
    mode = {'cmyk': 'CMYK', 'grey': 'L'}.get(name.split('.')[0], 'RGB')
    picture(mode).save(tmp_path / name)
    assert is_plain_jpeg((tmp_path / name).read_bytes()) == plain
    calls, imdecode = [], cv2.imdecode
    monkeypatch.setattr(cv2, 'imdecode', lambda *args: calls.append(args) or imdecode(*args))
    load_image(tmp_path / name, 'cv2')
    assert len(calls) == plain


@pytest.mark.parametrize('change, plain', [
    (lambda content: content + bytes(7), True),                          # padded
    (lambda content: content[:2] + b'\xff' * 3 + content[2:], True),     # fill bytes
    (lambda content: content + b'junk', False),
    (lambda content: content[:-1], False),
    (lambda content: b'\0' + content, False),
    (lambda content: content[:2] + content[15:], False),                  # within a segment
    (lambda content: b'', False),
])
def test_plain_jpeg_is_told_by_its_markers(tmp_path, change, plain):
    picture().save(tmp_path / 'a.jpg')
    assert is_plain_jpeg(change((tmp_path / 'a.jpg').read_bytes())) == plain


def test_what_opencv_cannot_decode_is_pillow_s_work(tmp_path, monkeypatch):
    path = tmp_path / 'a.jpg'
    picture().save(path)
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: None)
    assert np.array_equal(pixels_of(path, 'cv2'), by_pillow(path))


def test_older_opencv_reads_blue_first(tmp_path, monkeypatch):
    picture().save(tmp_path / 'a.jpg')
    expected = pixels_of(tmp_path / 'a.jpg', 'cv2')
    monkeypatch.setattr(jpeg, 'READ_RGB', False)
    monkeypatch.setattr(jpeg, 'READ_COLOR', cv2.IMREAD_COLOR)
    assert np.array_equal(pixels_of(tmp_path / 'a.jpg', 'cv2'), expected)
