"""From an image file to RGB pixels.

Pillow decodes, as timm and torchvision do it: transparency dropped, CMYK and palettes converted,
and no rotation by EXIF unless it is asked for (DATA.EXIF_ORIENTATION in common/config.py), but in
TIFF files, which Pillow turns by itself. Different: 16-bit grey is scaled to 8 bits (Pillow clips
it to white). Refused, with the reason: float and 32-bit pixels, which have no range; what is larger
than MAX_PIXELS, before it is decoded; other formats than FORMATS; and what is no file, such as a
pipe or a device.
Training may let OpenCV decode ordinary JPEG files, a fifth faster; pixels may then differ by what
two JPEG libraries differ.
"""
import importlib.util
import io
import os
import stat
from functools import partial

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

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

READ_RGB = hasattr(cv2, 'IMREAD_COLOR_RGB')  # OpenCV 4.11 and later
READ_COLOR = cv2.IMREAD_COLOR_RGB if READ_RGB else cv2.IMREAD_COLOR

# EXIF's orientation, and the way back from each of its values, as in ImageOps.exif_transpose.
ORIENTATION = 0x0112
WAY_UPRIGHT = {2: Image.FLIP_LEFT_RIGHT, 3: Image.ROTATE_180, 4: Image.FLIP_TOP_BOTTOM,
               5: Image.TRANSPOSE, 6: Image.ROTATE_270, 7: Image.TRANSVERSE, 8: Image.ROTATE_90}

# Markers of a JPEG file: frame headers, which hold the size; and those without a length.
FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


def load_image(path, backend='pillow', upright=False):
    """An image file as RGB.

    Args:
        path: file.
        backend: 'pillow' gives a Pillow image; 'cv2' a uint8 array [H, W, 3].
        upright: whether the image is turned as its EXIF says.

    Raises:
        OSError, ValueError and what else Pillow raises on a bad file.
    """
    with open(path, 'rb', opener=open_regular) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_BYTES:
            raise ValueError(f'got {size} bytes, expected at most {MAX_BYTES}')
        if backend == 'pillow':
            return decode(stream, upright=upright)
        return decode_bytes(stream.read(), backend, upright)


def decode_bytes(content, backend='pillow', upright=False):
    """The bytes of an image file as RGB; the arguments and results are those of load_image."""
    if backend == 'pillow':
        return decode(io.BytesIO(content), upright=upright)
    if is_plain_jpeg(content):
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8),
                              READ_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is not None:
            pixels = pixels if READ_RGB else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            return turned_as(content, pixels) if upright else pixels
    return np.asarray(decode(io.BytesIO(content), upright=upright))


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


def turned_as(content, pixels):
    """The pixels of a JPEG file, uint8 [H, W, 3], turned as its EXIF says.

    Pillow reads the EXIF here, too, so that OpenCV's decoder turns the same files.

    Args:
        content: bytes of the file.
        pixels: as the file has them.
    """
    try:
        with Image.open(io.BytesIO(content), formats=('JPEG',)) as image:  # the header only
            orientation = orientation_of(image)
    except Exception:  # noqa: BLE001 - as in orientation_of
        return pixels
    if orientation not in WAY_UPRIGHT:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(WAY_UPRIGHT[orientation]))


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
    offset = 2
    while offset + 9 < len(content) and content[offset] == 0xFF:
        marker = content[offset + 1]
        if marker in FRAMES:
            height = int.from_bytes(content[offset + 5:offset + 7], 'big')
            width = int.from_bytes(content[offset + 7:offset + 9], 'big')
            return content[offset + 9] in (1, 3) and 0 < width * height <= MAX_PIXELS
        if marker == 0xFF:  # fill byte
            offset += 1
        else:
            offset += 2 + int.from_bytes(content[offset + 2:offset + 4], 'big')
    return False
