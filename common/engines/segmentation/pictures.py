"""Colours of classes, and pictures with them."""
import colorsys

import cv2
import numpy as np
from PIL import Image, ImageDraw

from common.core.fonts import pillow_font
from common.engines.segmentation.data import IGNORE

GOLDEN = (5 ** 0.5 - 1) / 2  # neighbouring classes get hues far apart
BACKGROUND = 'background'    # a class of this name, or None beside it, is left as it is
GREY = (128, 128, 128)       # of pixels without a label
GAP = 6                      # pixels between two pictures
LETTERS = 12                 # height of the names of classes in pixels


def palette(num_classes):
    """uint8 [num_classes, 3]: colours that can be told apart, in an order that never changes."""
    colours = []
    for number in range(num_classes):
        ring = number // 12
        hue, saturation = (0.58 + number * GOLDEN) % 1.0, (0.85, 0.55)[ring % 2]
        colours.append(colorsys.hsv_to_rgb(hue, saturation, (1.0, 0.75, 0.55)[ring % 3]))
    return (np.array(colours) * 255).round().astype(np.uint8)


def overlay(image: np.ndarray, classes: np.ndarray, num_classes: int,
            class_names: list | None = None, opacity: float = 0.65) -> np.ndarray:
    """Lays the colours of classes over a picture, with a line where two classes meet.

    Args:
        image: uint8 [H, W, 3], RGB.
        classes: uint8 [H, W]: 0 to num_classes - 1, or 255 for none, which is grey.
        num_classes: K.
        class_names: a class with the name background is left as it is.
        opacity: of the colours.

    Returns:
        uint8 [H, W, 3].

    Source: this project.

    Examples:
        >>> import numpy as np
        >>> from common.engines.segmentation.pictures import overlay
        >>> image = np.zeros([8, 8, 3], np.uint8)
        >>> overlay(image, np.eye(8, dtype=np.uint8), 2).shape
        (8, 8, 3)
    """
    colours = np.concatenate([palette(num_classes),
                              np.zeros([IGNORE + 1 - num_classes, 3], np.uint8)])
    colours[IGNORE] = GREY
    mixed = (1 - opacity) * image + opacity * colours[classes]             # [H, W, 3]
    if class_names and BACKGROUND in class_names:
        is_background = classes == class_names.index(BACKGROUND)
        mixed[is_background] = image[is_background]
    mixed = mixed.round().astype(np.uint8)
    mixed[borders(classes)] = (255, 255, 255)
    return mixed


def borders(classes):
    """Which pixels have another class at the right or below: bool [H, W]."""
    found = np.zeros(classes.shape, bool)
    found[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    found[:-1] |= classes[:-1] != classes[1:]
    return found


def beside(rows, height=120):
    """One picture of many: rows of pictures, all enlarged or made smaller to one height.

    Args:
        rows: list of lists of uint8 [H, W, 3].
        height: pixels of a row.
    """
    lines = []
    for pictures in rows:
        scaled = [cv2.resize(picture, (round(picture.shape[1] * height / picture.shape[0]), height),
                             interpolation=cv2.INTER_AREA) for picture in pictures]
        gap = np.full([height, GAP, 3], 255, np.uint8)
        parts = [part for picture in scaled for part in (picture, gap)]
        lines.append(np.concatenate(parts[:-1], 1))
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, GAP), (0, width - line.shape[1]), (0, 0)), constant_values=255)
              for line in lines]
    return np.concatenate(padded)[:-GAP]


def with_legend(picture, class_names, num_classes):
    """A picture with the colours' names below it, where there are at most ten."""
    names = [(number, name) for number, name in enumerate(class_names or ())
             if name != BACKGROUND]
    if not names or len(names) > 10:
        return picture
    colours = palette(num_classes)
    font = pillow_font(''.join(name for _, name in names), LETTERS)
    widths = [round(font.getlength(name)) for _, name in names]
    needed = GAP + sum(15 + width + 14 for width in widths)
    if needed > picture.shape[1]:
        picture = np.pad(picture, ((0, 0), (0, needed - picture.shape[1]), (0, 0)),
                         constant_values=255)
    strip = Image.new('RGB', (picture.shape[1], 24), (255, 255, 255))
    canvas, left = ImageDraw.Draw(strip), GAP
    for (number, name), width in zip(names, widths, strict=True):
        canvas.rectangle([left, 7, left + 10, 17], fill=tuple(colours[number].tolist()))
        canvas.text((left + 15, 12), name, fill=(40, 40, 40), font=font, anchor='lm')
        left += 15 + width + 14
    return np.concatenate([picture, np.asarray(strip)])
