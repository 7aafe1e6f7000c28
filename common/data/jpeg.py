"""JPEG files by OpenCV: whole, or what a training crop needs of one.

With AUG.BACKEND cv2_reduced the crop is drawn from the size in the header, before the file is
decoded. Then

- a crop of at least 2, 4 or 8 times the size that it is resized to is decoded at 1/2, 1/4 or 1/8,
  which libjpeg makes of the low frequencies of each block. So no crop is enlarged that was not.
- the rows below the crop are left out. That changes no bit of what is above: the file is given a
  smaller height, and ends where its only scan does.

The rows above the crop and the columns beside it are decoded all the same: neither OpenCV nor
Pillow has a call for libjpeg-turbo's jpeg_skip_scanlines and jpeg_crop_scanline.
"""
import cv2
import numpy as np
from PIL import Image

from common.data.resizing import resize_by_cv2, resize_part_by_cv2

READ_RGB = hasattr(cv2, 'IMREAD_COLOR_RGB')  # OpenCV 4.11 and later
READ_COLOR = cv2.IMREAD_COLOR_RGB if READ_RGB else cv2.IMREAD_COLOR
# What IMREAD_REDUCED_COLOR_2, _4 and _8 add to the flags.
REDUCED = {1: 0, **{factor: flag & ~cv2.IMREAD_COLOR for factor, flag in (
    (2, cv2.IMREAD_REDUCED_COLOR_2), (4, cv2.IMREAD_REDUCED_COLOR_4),
    (8, cv2.IMREAD_REDUCED_COLOR_8))}}

# Markers: frame headers, which hold the size, those of one pass by Huffman codes first; where
# restart markers come, where a scan starts, and the end.
SEQUENTIAL = (0xC0, 0xC1)
FRAMES = {*SEQUENTIAL, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
RESTARTS, SCAN, END = 0xDD, 0xDA, b'\xff\xd9'

# The way back from each of EXIF's orientations, as in ImageOps.exif_transpose.
WAY_UPRIGHT = {2: Image.FLIP_LEFT_RIGHT, 3: Image.ROTATE_180, 4: Image.FLIP_TOP_BOTTOM,
               5: Image.TRANSPOSE, 6: Image.ROTATE_270, 7: Image.TRANSVERSE, 8: Image.ROTATE_90}


class JpegFile:
    """A JPEG file of grey or three channels that is decoded when the crop is known.

    Args:
        content: its bytes, of which common.data.images.is_plain_jpeg says that they are one.
        by_pillow: function without arguments that gives the pixels, upright, where OpenCV cannot.
        orientation: EXIF's, 1 to 8, where the image is to be turned upright; else 1.

    Attributes:
        size: (width, height) in pixels, upright.
    """

    def __init__(self, content, by_pillow, orientation=1):
        self.content = content
        self.by_pillow = by_pillow
        self.orientation = orientation
        self.markers = dict(reversed(list(segments(content))))  # the first of each
        self.frame = next(at for marker, at in self.markers.items() if marker in FRAMES)
        self.stored = tuple(int.from_bytes(content[self.frame + at:self.frame + at + 2], 'big')
                            for at in (7, 5))
        self.swapped = orientation >= 5  # rows become columns
        self.size = self.stored[::-1] if self.swapped else self.stored

    def pixels(self):
        """The whole image, upright, as uint8 [H, W, 3]."""
        pixels = decode_by_opencv(self.content)
        return self.by_pillow() if pixels is None else turned(pixels, self.orientation)

    def crop(self, box, size):
        """A part of the image, resized.

        Args:
            box: (left, top, width, height) in whole pixels of the image, upright.
            size: (H, W) of the result.

        Returns:
            uint8 [H, W, 3]: that of `resize_by_cv2`, or where the scale is reduced of
            `resize_part_by_cv2`.
        """
        factor = reduction(box, size)
        left, top, width, height = self.as_stored(box)
        pixels = self.rows(top + height, factor)
        if pixels is None:
            left, top, width, height = box
            return resize_by_cv2(self.by_pillow()[top:top + height, left:left + width], size)
        if factor == 1:
            part = pixels[top:top + height, left:left + width]
            return resize_by_cv2(turned(part, self.orientation), size)
        part = tuple(side / factor for side in (left, top, width, height))
        resized = resize_part_by_cv2(pixels, part, size[::-1] if self.swapped else size)
        return turned(resized, self.orientation)

    def as_stored(self, box):
        """(left, top, width, height) in the image upright -> the same in the image as stored."""
        left, top, width, height = box
        if self.swapped:
            left, top, width, height = top, left, height, width
        if self.orientation in (2, 3, 7, 8):
            left = self.stored[0] - left - width
        if self.orientation in (3, 4, 6, 7):
            top = self.stored[1] - top - height
        return left, top, width, height

    def rows(self, bottom, factor):
        """The pixels as stored at 1/factor, at least the rows above `bottom`; None: OpenCV cannot.

        The rows of the whole image are counted, from 0.
        """
        least = self.least_height(bottom)
        if least:
            at = self.frame + 5
            end = self.content.find(END, self.markers[SCAN])
            pixels = decode_by_opencv(self.content[:at] + least.to_bytes(2, 'big')
                                      + self.content[at + 2:end], factor)
            if pixels is not None:  # else the file is damaged, and ends before its end mark
                return pixels
        return decode_by_opencv(self.content, factor)

    def least_height(self, bottom):
        """The height of the file when it is cut below a row: of whole blocks, and one row more,
        from which libjpeg interpolates colours. 0: it cannot be cut, or not by a block."""
        content, frame, scan = self.content, self.frame, self.markers.get(SCAN)
        components = content[frame + 9]
        # one scan of all components; restart markers would be in what is left over, and reported
        if content[frame + 1] not in SEQUENTIAL or scan is None or RESTARTS in self.markers \
                or content[scan + 4] != components:
            return 0
        factors = content[frame + 11:frame + 11 + 3 * components:3]  # across and down, 4 bits each
        block = 8 * max(factor & 15 for factor in factors)
        height = (bottom // block + 1) * block if block else 0
        return height if height < self.stored[1] else 0


def reduction(box, size):
    """The largest of 8, 4, 2 and 1 by which a crop can be reduced without being enlarged.

    Args:
        box: (left, top, width, height) in pixels.
        size: (H, W) that it is resized to.
    """
    shrink = min(box[2] / size[1], box[3] / size[0])
    return next((factor for factor in (8, 4, 2) if factor <= shrink), 1)


def segments(content):
    """Yields (marker, its place) of a JPEG file's segments, to the first scan's."""
    offset = 2
    while offset + 9 < len(content) and content[offset] == 0xFF:
        marker = content[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        yield marker, offset
        if marker == SCAN:
            return
        offset += 2 + int.from_bytes(content[offset + 2:offset + 4], 'big')


def decode_by_opencv(content, factor=1):
    """A JPEG file's bytes -> uint8 [ceil(H / factor), ceil(W / factor), 3] RGB, or None."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8),
                          READ_COLOR | REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or READ_RGB:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def turned(pixels, orientation):
    """uint8 [H, W, 3] as stored -> the same upright, by EXIF's orientation."""
    if orientation not in WAY_UPRIGHT:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(WAY_UPRIGHT[orientation]))
