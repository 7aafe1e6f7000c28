"""From an image file to RGB pixels.

Pillow decodes, as timm and torchvision do it: transparency dropped, CMYK and palettes converted,
and no rotation by EXIF unless it is asked for (DATA.EXIF_ORIENTATION in common/config.py), but in
TIFF files, which Pillow turns by itself. Different: 16-bit grey is scaled to 8 bits (Pillow clips
it to white). Refused, with the reason: float and 32-bit pixels, which have no range; what is larger
than MAX_PIXELS, before it is decoded; other formats than FORMATS; and what is no file, such as a
pipe or a device.
Training may let OpenCV decode ordinary JPEG files, a fifth faster; pixels may then differ by what
two JPEG libraries differ. What it may decode of them for a crop is in jpeg.py.
"""
import importlib.util
import io
import os
import stat
from functools import partial

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.data.jpeg import (
    FRAMES,
    WAY_UPRIGHT,
    JpegFile,
    decode_by_opencv,
    segments,
    turned,
)

# Pillow's own limit for a warning; the largest image of ImageNet has 62 million pixels.
MAX_PIXELS = 89_478_485
MAX_BYTES = 8 * MAX_PIXELS  # so many pixels of four channels and 16 bits, not compressed

# The formats of photographs. Pillow reads more, some of them by other programs (EPS by Ghostscript)
# and many by code that is rarely used. JPEG includes MPO, PPM includes PGM and PBM.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP', 'PPM', 'GIF', 'JPEG2000',
           *(['AVIF'] if importlib.util.find_spec('PIL.AvifImagePlugin') else []))  # Pillow 11.3
# Where Pillow's mode I, 32-bit integers, is its way to hold 16 bits (of a PNG file before 11.0).
OF_16_BITS = ('PNG', 'PPM')
# Tags of a TIFF file, and what Pillow reads rightly.
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, UNSIGNED = 0, 1

ORIENTATION = 0x0112  # EXIF's tag


def load_image(path, backend='pillow', upright=False):
    """An image file as RGB.

    Args:
        path: file.
        backend: 'pillow' gives a Pillow image; 'cv2' or 'cv2_reduced' a uint8 array [H, W, 3].
        upright: whether the image is turned as its EXIF says.

    Raises:
        OSError, ValueError and what else Pillow raises on a bad file.
    """
    return whole(load_for_crop(path, backend, upright))


def load_for_crop(path, backend='pillow', upright=False):
    """An image file for a crop: as load_image gives it, or a JpegFile, which is decoded later.

    It is a JpegFile where the backend is 'cv2_reduced' and the file an ordinary JPEG file.
    """
    with open(path, 'rb', opener=open_regular) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_BYTES:
            raise ValueError(f'got {size} bytes, expected at most {MAX_BYTES}')
        if backend == 'pillow':
            return decode(stream, upright=upright)
        return decode_for_crop(stream.read(), backend, upright)


def decode_bytes(content, backend='pillow', upright=False):
    """The bytes of an image file as RGB; the arguments and results are those of load_image."""
    return whole(decode_for_crop(content, backend, upright))


def decode_for_crop(content, backend='pillow', upright=False):
    """The bytes of an image file for a crop; arguments and results are those of load_for_crop."""
    if backend == 'pillow':
        return decode(io.BytesIO(content), upright=upright)

    def by_pillow():
        return np.asarray(decode(io.BytesIO(content), upright=upright))

    if not is_plain_jpeg(content):
        return by_pillow()
    orientation = orientation_of_jpeg(content) if upright else 1
    if backend == 'cv2_reduced':
        return JpegFile(content, by_pillow, orientation)
    pixels = decode_by_opencv(content)
    return by_pillow() if pixels is None else turned(pixels, orientation)


def whole(image):
    """What load_for_crop gives -> all of its pixels."""
    return image.pixels() if isinstance(image, JpegFile) else image


def open_regular(path, flags):
    """The `opener` of open() that takes files only, and links to them.

    A pipe would be waited for, a device has no end; neither is read from.
    """
    file = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode):
        os.close(file)
        kind = next((kind for is_kind, kind in (
            (stat.S_ISDIR, 'folder'), (stat.S_ISFIFO, 'pipe'), (stat.S_ISCHR, 'device'),
            (stat.S_ISBLK, 'device')) if is_kind(mode)), 'special file')
        raise ValueError(f'got a {kind}, expected a file')
    return file


def decode(stream, formats=FORMATS, check=None, upright=False):
    """An open image file -> Pillow RGB image.

    Args:
        formats: names of Pillow's formats that are read.
        check: function of the Pillow image before it is decoded; raises an error of its own.
        upright: whether the image is turned as its EXIF says.
    """
    try:
        image = Image.open(stream, formats=formats)  # reads the header only
    except UnidentifiedImageError:
        raise UnidentifiedImageError(f'got no image, or a damaged one; expected one of '
                                     f'{", ".join(formats)}') from None
    with image:
        if check:
            check(image)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f'got {width}x{height} pixels, expected at most {MAX_PIXELS}')
        if image.tile and image.tile[0][0] == 'bmp_rle':
            raise ValueError('got a BMP file with run-length encoding, which Pillow takes seconds '
                             'to read; expected one without')
        if image.tile and image.tile[0][0] == 'ppm_plain':
            stream.seek(image.tile[0][2])
            if any(b'#' in block for block in iter(partial(stream.read, 1 << 20), b'')):
                raise ValueError('got a PPM file of written numbers with comments between them, '
                                 'each of which Pillow takes long to skip; expected one without')
        return upright_rgb(image) if upright else as_rgb(image)


def upright_rgb(image):
    """A Pillow image of any mode -> the same in RGB, turned as its EXIF says.

    What is said beside the pixels stays behind, so that nobody turns the result again.
    """
    rgb = as_rgb(image)
    # Pillow turns TIFF files itself when it decodes them; before 10.1 it keeps the tag all the same
    orientation = 1 if image.format == 'TIFF' else orientation_of(image)
    if orientation in WAY_UPRIGHT:
        rgb = rgb.transpose(WAY_UPRIGHT[orientation])
    rgb.info = {}
    return rgb


def orientation_of(image):
    """EXIF's orientation of a Pillow image, 1 to 8; 1, upright, where it is missing or broken."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # noqa: BLE001 - the picture is there, whatever is wrong with its EXIF
        return 1
    return orientation if type(orientation) is int and 1 <= orientation <= 8 else 1


def orientation_of_jpeg(content):
    """EXIF's orientation of the bytes of a JPEG file, as in orientation_of.

    Pillow reads the EXIF here, too, so that OpenCV's decoder turns the same files.
    """
    try:
        with Image.open(io.BytesIO(content), formats=('JPEG',)) as image:  # the header only
            return orientation_of(image)
    except Exception:  # noqa: BLE001 - as in orientation_of
        return 1


def as_rgb(image):
    """A Pillow image of any mode -> the same in RGB.

    Raises:
        ValueError: the image has no pixels, or their range is not known.
    """
    if 0 in image.size:
        raise ValueError(f'got {image.width}x{image.height} pixels, expected some')
    check_range(image)
    if image.mode.startswith('I'):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert('RGB')
    return image.convert('RGB')


def check_range(image):
    """Raises ValueError unless the pixels of a Pillow image are 0 to 255, or 0 to 65535 of grey.

    The format and the depth decide, never the values: images of one data set are read alike.
    """
    if image.mode == 'F':
        raise ValueError('got float pixels, expected 8 or 16 bits')
    if image.mode == 'I' and image.format not in OF_16_BITS:
        raise ValueError('got integer pixels of 32 bits or with a sign, expected 8 or 16 bits')
    tags = getattr(image, 'tag_v2', {})
    if set(tags.get(SAMPLE_FORMAT, ())) - {UNSIGNED}:
        raise ValueError('got pixels with a sign, expected 8 or 16 bits')
    if image.mode.startswith('I;16') and (
            set(tags.get(BITS, (16,))) != {16} or tags.get(PHOTOMETRIC) == WHITE_IS_ZERO):
        raise ValueError('got grey of 12 bits or with 0 as white, expected 8 or 16 bits')


def is_plain_jpeg(content):
    """Whether a file's bytes are a complete JPEG of grey or three channels and not too large.

    OpenCV fills up what is cut off, so the end must be there; the rest is Pillow's work.
    """
    if content[:2] != b'\xff\xd8' or content.rstrip(b'\0')[-2:] != b'\xff\xd9':
        return False
    for marker, at in segments(content):
        if marker in FRAMES:
            height = int.from_bytes(content[at + 5:at + 7], 'big')
            width = int.from_bytes(content[at + 7:at + 9], 'big')
            return content[at + 9] in (1, 3) and 0 < width * height <= MAX_PIXELS
    return False
