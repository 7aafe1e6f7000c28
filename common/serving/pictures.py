"""Reads pictures of anybody: what would take long to decode, or much memory, is refused before."""
import io
import math
from functools import partial

from PIL import Image, UnidentifiedImageError

from common.core.errors import one_line
from common.data.images import decode
from common.serving.answers import Refused

# These limits hold for one picture. The page makes a larger one smaller before it sends it again.
MAX_BODY = 16 << 20      # bytes
MAX_PIXELS = 12_500_000  # as many as a phone's camera has; decoding takes some 12 bytes a pixel
MAX_SIDE = 8192
# Pillow reads more formats, but some of them by other programs or by code that few have tested.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP')
# A progressive JPEG has some ten scans. Each costs a pass over all pixels, and may have 20 bytes.
MAX_SCANS = 100
START_OF_SCAN = b'\xff\xda'  # the marker in a JPEG file
# Steps in which Pillow may read a file: so many, and one for so many bytes. A PNG file of an
# ordinary program has four steps in 8 KiB or more.
MIN_STEPS, STEP_BYTES = 5000, 256
# How much more memory than an ordinary picture's a pixel takes while it is decoded.
COST_OF_16_BITS = 4  # they become 64 on the way
COST_OF_WEBP = 2     # it is decoded to an animation first


class PictureFile(io.BytesIO):
    """The bytes of a file, which can be read in a limited number of steps.

    Pillow goes through a file's parts in Python; one of 16 MiB may have four million of them.
    """

    def __init__(self, content):
        super().__init__(content)
        self.steps = MIN_STEPS + len(content) // STEP_BYTES

    def read(self, size=-1):
        self.steps -= 1
        if self.steps < 0:
            raise Refused(413, 'picture: got a file of very many small parts')
        return super().read(size)


def read_picture(content, upright=True):
    """Decodes a picture.

    Args:
        content: bytes of the file.
        upright: whether it is turned as its EXIF says.

    Returns:
        A Pillow RGB image.

    Raises:
        Refused: it is no picture, or is broken or too large.
    """
    try:
        return decode(PictureFile(content), FORMATS, partial(check_picture, content), upright)
    except Refused:
        raise
    except UnidentifiedImageError:
        raise Refused(415, f'picture: got another file, expected one of '
                           f'{", ".join(FORMATS)}') from None
    except Image.DecompressionBombError:
        raise Refused(413, f'picture: expected at most {MAX_PIXELS} pixels') from None
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
        raise Refused(400, f'picture: cannot be read: {one_line(error)}') from None


def check_picture(content, image):
    """Raises Refused for a picture that would take long to decode, or much memory.

    Args:
        content: bytes of the file.
        image: the Pillow image, of which the header is read only.
    """
    cost = 1
    if image.mode.startswith('I'):
        cost = COST_OF_16_BITS
    elif image.format == 'WEBP':
        cost = COST_OF_WEBP
    check_size(*image.size, cost)
    if image.format in ('JPEG', 'MPO') and content.count(START_OF_SCAN) > MAX_SCANS:
        raise Refused(413, f'picture: got a JPEG file of more than {MAX_SCANS} scans')


def check_size(width, height, cost=1):
    """Raises Refused for a picture that is too large.

    Args:
        width, height: in pixels.
        cost: memory that a pixel takes, relative to one of an ordinary picture.
    """
    most = MAX_PIXELS // cost
    if max(width, height) > MAX_SIDE or width * height > most:
        raise Refused(413, f'picture: got {width}x{height} pixels, expected at most {MAX_SIDE} on '
                           f'a side and {most} in all')


def seen_box(preprocessing, width, height):
    """The part of a picture that EvalTransform leaves of it, which is what the model sees.

    Args:
        preprocessing: Preprocessing of common/apis.py.
        width, height: of the picture in pixels.

    Returns:
        left, top, width and height, as fractions of the picture's width and height.
    """
    H, W = preprocessing.image_size
    cover_height, cover_width = (math.floor(side / preprocessing.crop_pct) for side in (H, W))
    scale = max(cover_width / width, cover_height / height)
    across, down = W / (width * scale), H / (height * scale)
    return [(1 - across) / 2, (1 - down) / 2, across, down]
