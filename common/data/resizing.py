"""Resizing of training images by OpenCV."""
import math

import cv2
import numpy as np


def resize_by_cv2(pixels, size):
    """uint8 [h, w, 3] -> [H, W, 3] by area averages when a side shrinks to 4/5 or less, else
    bilinear, or bicubic when both sides grow.

    On two photographs and scales from 1/4 to 6 the result differs from Pillow's antialiased
    bicubic filter by 0.3 to 2.6 of 255 in the mean, about as Pillow's bilinear one does;
    OpenCV's bicubic alone differs by up to 12.
    """
    height, width, _ = pixels.shape
    shrink = max(height / size[0], width / size[1])
    method = cv2.INTER_CUBIC if shrink <= 1 else cv2.INTER_LINEAR if shrink < 1.25 \
        else cv2.INTER_AREA
    return cv2.resize(pixels, size[::-1], interpolation=method)


def resize_part_by_cv2(pixels, box, size):
    """A box of a picture at a reduced scale, whose sides lie between its pixels -> [H, W, 3].

    Bilinear at the very places, of the mean of as many pixels as there are for one of the result.
    A box rounded to whole pixels, which cv2.resize needs, would shift the result by up to half a
    pixel: on photographs at 1/2, 1/4 that alone is a mean difference of 3 to 4 of 255.

    Args:
        pixels: uint8 [h, w, 3].
        box: (left, top, width, height) in pixels, no whole numbers.
        size: (H, W) of the result, at most the box's.
    """
    left, top, width, height = box
    across, down = width / size[1], height / size[0]
    count = max(round(across), 1), max(round(down), 1)  # of pixels that are averaged
    if count != (1, 1):
        # the box and what the filters look at around it
        x, y = max(math.floor(left) - count[0], 0), max(math.floor(top) - count[1], 0)
        right, bottom = math.ceil(left + width), math.ceil(top + height)
        # cv2.blur of two pixels makes 0 of some that are 255 (OpenCV 4.11, 5.0), and takes longer
        pixels = cv2.filter2D(pixels[y:bottom + count[1], x:right + count[0]], -1,
                              np.full(count[::-1], 1 / (count[0] * count[1]), np.float32),
                              anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)
        # the mean of pixels 0 to n - 1 is that of the place (n - 1) / 2
        left, top = left - x - (count[0] - 1) / 2, top - y - (count[1] - 1) / 2
    # the centre of the result's pixel (x, y) -> its place in the picture
    places = np.array([[across, 0.0, left + across / 2 - 0.5], [0.0, down, top + down / 2 - 0.5]])
    return cv2.warpAffine(pixels, places, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)
