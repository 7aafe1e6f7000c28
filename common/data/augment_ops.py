"""The operations of RandAugment, AutoAugment and colour jitter, each on one image.

A step is (name of an op, its argument, interpolation). The meaning is timm 0.4.12's.
"""
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageOps

from common.data.transforms import FILTERS

MAX_LEVEL = 10
BLACK = (0, 0, 0)


class Op(NamedTuple):
    """An operation, and its argument at a level: start +- span * level / 10.

    Attributes:
        apply: function (image[, argument]) -> image; a geometric one also takes the filter and the
            fill colour.
        start, span: see above; a span of 0 is no argument, None is the transform's translate_const
            in pixels.
        whole: whether the change from `start` is truncated to a whole number.
        signed: whether the change is negated in half of the draws.
        geometric: whether pixels move.
    """
    apply: Callable
    start: float = 0.0
    span: float | None = 0.0
    whole: bool = False
    signed: bool = False
    geometric: bool = False


def posterize(image, bits):
    """Keeps the top `bits` bits of every value; 0 bits is black, which Pillow 13 refuses."""
    if bits == 0:
        return Image.new('RGB', image.size)
    return image if bits >= 8 else ImageOps.posterize(image, bits)


def solarize_add(image, amount):
    """Adds `amount` to the values below 128."""
    return image.point([min(255, value + amount) if value < 128 else value
                        for value in range(256)] * 3)


def enhance(kind, image, factor):
    """Pillow's enhancement of a kind, e.g. ImageEnhance.Color; a factor of 1 changes nothing."""
    return kind(image).enhance(factor)


def rotate(image, degrees, resample, fill):
    """Turns the image counter-clockwise around its centre."""
    return image.rotate(degrees, resample, fillcolor=fill)


def affine(coefficient, relative, image, value, resample, fill):
    """The identity map with one of its coefficients (a, b, c, d, e, f) set to a value.

    Pixel (x, y) of the result is (ax + by + c, dx + ey + f) of the source.

    Args:
        coefficient: index of the coefficient, 0 to 5.
        relative: whether the value is a fraction of the width (a, b, c) or height (d, e, f).
    """
    matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    matrix[coefficient] = value * image.size[coefficient // 3] if relative else value
    return image.transform(image.size, Image.AFFINE, matrix, resample, fillcolor=fill)


whole = partial(Op, whole=True)
signed = partial(Op, signed=True)
geometric = partial(Op, signed=True, geometric=True)
color, contrast, brightness, sharpness = (partial(enhance, kind) for kind in (
    ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Sharpness))

# An 'Increasing' op changes the image more at a higher level; its plain form does not.
OPS = {
    'AutoContrast': Op(ImageOps.autocontrast),
    'Equalize': Op(ImageOps.equalize),
    'Invert': Op(ImageOps.invert),
    'Rotate': geometric(rotate, span=30.0),                            # degrees
    'Posterize': whole(posterize, 0, 4),                               # bits kept
    'PosterizeIncreasing': whole(posterize, 4, -4),
    'PosterizeOriginal': whole(posterize, 4, 4),
    'Solarize': whole(ImageOps.solarize, 0, 256),                      # smallest value inverted
    'SolarizeIncreasing': whole(ImageOps.solarize, 256, -256),
    'SolarizeAdd': whole(solarize_add, 0, 110),
    'Color': Op(color, 0.1, 1.8),                                      # factor; 1 changes nothing
    'ColorIncreasing': signed(color, 1.0, 0.9),
    'Contrast': Op(contrast, 0.1, 1.8),
    'ContrastIncreasing': signed(contrast, 1.0, 0.9),
    'Brightness': Op(brightness, 0.1, 1.8),
    'BrightnessIncreasing': signed(brightness, 1.0, 0.9),
    'Sharpness': Op(sharpness, 0.1, 1.8),
    'SharpnessIncreasing': signed(sharpness, 1.0, 0.9),
    'ShearX': geometric(partial(affine, 1, False), span=0.3),
    'ShearY': geometric(partial(affine, 3, False), span=0.3),
    'TranslateX': geometric(partial(affine, 2, False), span=None),     # pixels
    'TranslateY': geometric(partial(affine, 5, False), span=None),
    'TranslateXRel': geometric(partial(affine, 2, True), span=0.45),   # fraction of the side
    'TranslateYRel': geometric(partial(affine, 5, True), span=0.45),
}


def level_to_arg(name, level, sign=1, translate_const=0):
    """The argument of an op at a level; None for an op without one.

    Args:
        name: name in OPS.
        level: number in 0..10.
        sign: 1 or -1, the direction of a signed op.
        translate_const: pixels by which TranslateX and TranslateY move at level 10.
    """
    op = OPS[name]
    if op.span == 0.0:
        return None
    change = level / MAX_LEVEL * (translate_const if op.span is None else op.span)
    if op.signed:
        change *= sign
    return op.start + (int(change) if op.whole else change)


def apply_op(image, name, argument=None, interpolation=None, fill=BLACK):
    """One op of OPS on a Pillow RGB image.

    Args:
        image: Pillow RGB image.
        name: name in OPS.
        argument: final argument (see `level_to_arg`); None for an op without one.
        interpolation: bilinear | bicubic, for a geometric op.
        fill: colour (r, g, b) in 0..255 of what a geometric op uncovers.
    """
    op = OPS[name]
    if op.geometric:
        return op.apply(image, argument, FILTERS[interpolation], fill)
    return op.apply(image) if argument is None else op.apply(image, argument)


def replay(image, steps, fill=BLACK):
    """Applies steps (op, argument, interpolation) one after another."""
    for name, argument, interpolation in steps:
        image = apply_op(image, name, argument, interpolation, fill)
    return image
