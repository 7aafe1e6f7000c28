"""From an image file to RGB pixels.

Pillow decodes, as timm and torchvision do it: no rotation by EXIF, transparency dropped, CMYK and
palettes converted. Different: 16-bit grey is scaled to 8 bits (Pillow clips it to white), float
images have no range and are refused, and so is what is larger than MAX_PIXELS, before it is
decoded. Training may let OpenCV decode ordinary JPEG files, a fifth faster; pixels may then differ
by what two JPEG libraries differ.
"""
import cv2
import numpy as np
from PIL import Image

# Pillow's own limit for a warning; the largest image of ImageNet has 62 million pixels.
MAX_PIXELS = 89_478_485

READ_RGB = hasattr(cv2, 'IMREAD_COLOR_RGB')  # OpenCV 4.11 and later
READ_COLOR = cv2.IMREAD_COLOR_RGB if READ_RGB else cv2.IMREAD_COLOR
cv2.setNumThreads(0)  # the loader's processes are the threads

# Markers of a JPEG file: frame headers, which hold the size; and those without a length.
FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


def load_image(path, backend='pillow'):
    """An image file as RGB.

    Args:
        path: file.
        backend: 'pillow' gives a Pillow image; 'cv2' a uint8 array [H, W, 3].

    Raises:
        OSError, ValueError and what else Pillow raises on a bad file.
    """
    with open(path, 'rb') as stream:
        if backend == 'pillow':
            return decode(stream)
        content = stream.read()
        if is_plain_jpeg(content):
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8),
                                  READ_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if pixels is not None:
                return pixels if READ_RGB else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        stream.seek(0)
        return np.asarray(decode(stream))


def decode(stream):
    """An open image file -> Pillow RGB image."""
    with Image.open(stream) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f'got {width}x{height} pixels, expected at most {MAX_PIXELS}')
        if image.mode == 'F':
            raise ValueError('got float pixels, expected 8 or 16 bits')
        if image.mode.startswith('I'):
            values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
            return Image.fromarray(values.astype(np.uint8)).convert('RGB')
        return image.convert('RGB')


def is_plain_jpeg(content):
    """Whether a file's bytes are a complete JPEG of grey or three channels and not too large.

    OpenCV fills up what is cut off, so the end must be there; the rest is Pillow's work.
    """
    if content[:2] != b'\xff\xd8' or content.rstrip(b'\0')[-2:] != b'\xff\xd9':
        return False
    place = 2
    while place + 9 < len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in FRAMES:
            height = int.from_bytes(content[place + 5:place + 7], 'big')
            width = int.from_bytes(content[place + 7:place + 9], 'big')
            return content[place + 9] in (1, 3) and 0 < width * height <= MAX_PIXELS
        if marker == 0xFF:  # fill byte
            place += 1
        else:
            place += 2 + int.from_bytes(content[place + 2:place + 4], 'big')
    return False
