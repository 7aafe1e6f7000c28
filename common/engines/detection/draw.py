"""Pictures of what a detector finds: boxes, masks and names on the image."""
import colorsys

import numpy as np
from PIL import Image, ImageDraw

from common.core.fonts import pillow_font

OPACITY = 0.45  # of a mask
LEAST_SIDE = 320  # smaller images are enlarged, pixel by pixel
GOLDEN = 0.618034  # of the circle of hues lies between two classes
LUMA = (0.299, 0.587, 0.114)  # parts of red, green and blue in how bright a colour is


def colour_of(label):
    """The colour of a class, (R, G, B); neighbours differ."""
    hue = (0.08 + label * GOLDEN) % 1.0
    return tuple(int(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.85, 1.0))


def draw(image, prediction, class_names, threshold=0.5):
    """Draws the detections of at least a score into an image.

    Args:
        image: uint8 [H, W, 3], RGB.
        prediction: Prediction.
        class_names: list of str.
        threshold: least score.

    Returns:
        Pillow image; small ones are enlarged.
    """
    height, width = image.shape[:2]
    times = max(1, -(-LEAST_SIDE // min(height, width)))
    pixels = image.astype(np.float32)
    shown = np.flatnonzero(prediction.scores >= threshold)
    for index in shown[::-1]:  # the surest on top
        mask = prediction.pasted(index, (height, width))
        colour = np.array(colour_of(prediction.labels[index]), np.float32)
        pixels[mask] = (1 - OPACITY) * pixels[mask] + OPACITY * colour
    pixels = pixels.round().astype(np.uint8).repeat(times, 0).repeat(times, 1)
    picture = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(picture)
    line = max(2, min(picture.size) // 200)
    for index in shown[::-1]:
        box = [float(value) * times for value in prediction.boxes[index]]
        colour = colour_of(prediction.labels[index])
        canvas.rectangle(box, outline=colour, width=line)
        name = class_names[prediction.labels[index]]
        write(canvas, f'{name} {100 * prediction.scores[index]:.0f}', box, colour, picture.size)
    return picture


def write(canvas, text, box, colour, size):
    """Writes a line above a box, or within it where there is no space."""
    font = pillow_font(text, max(12, min(size) // 32))
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    x = min(max(box[0], 0), max(size[0] - right, 0))
    y = box[1] - bottom - 2 if box[1] >= bottom + 2 else box[1] + 2
    canvas.rectangle([x, y, x + right + 2, y + bottom + 2], fill=colour)
    is_dark = np.dot(colour, LUMA) < 128
    canvas.text((x + 1, y), text, fill=(255,) * 3 if is_dark else (0, 0, 0), font=font)
