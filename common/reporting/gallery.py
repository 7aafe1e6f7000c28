"""Small pictures of single images for the page: what the model sees, and where it looks."""
import io

import numpy as np
from PIL import Image

from common.apis import Preprocessing
from common.attention_maps import attention_maps
from common.core.errors import InputError, complain, one_line
from common.inspection.drawing import enlarge, overlay
from common.reporting.html import data_uri

SIDE = 224     # pixels, longest side of a small picture
QUALITY = 82   # of its JPEG


class Gallery:
    """Makes small pictures of images of a data set. Each is read when it is asked for, and only the
    address with its JPEG is kept.

    Args:
        model: of init_model.
        images: ImageSource.
        attention: whether there are pictures of attention.
    """

    def __init__(self, model, images, attention=True):
        self.model = model
        self.images = images
        self.transform = Preprocessing.of(model.config).transform()
        self.attention = attention
        self.made = {}

    def pictures(self, index):
        """The addresses of an image's pictures: what the model sees of it, and the attention of the
        last layer over it, the mean of the heads; None for one that cannot be made."""
        if index not in self.made:
            self.made[index] = self.make(index)
        return self.made[index]

    def make(self, index):
        pixels = self.read(self.images, index)
        if pixels is None:
            return None, None
        weights = self.weights(pixels)
        return thumbnail(enlarge(pixels)), \
            None if weights is None else thumbnail(overlay(pixels, weights))

    def plain(self, images, index):
        """The address of a picture of another data set's image, or None."""
        pixels = self.read(images, index)
        return None if pixels is None else thumbnail(enlarge(pixels))

    def read(self, images, index):
        """What the model sees of an image, uint8 [H, W, 3]; None, and a line, if it is bad."""
        try:
            return np.ascontiguousarray(self.transform(as_image(images.load(index))))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
            complain(f'{images.where(index)}: no picture of {images.name(index)}: '
                     f'{one_line(error)}')
            return None

    def weights(self, pixels):
        """Attention float [h, w] of uint8 [H, W, 3]; None where the model has none."""
        if not self.attention:
            return None
        try:
            maps = attention_maps(self.model, pixels.transpose(2, 0, 1)[np.newaxis])  # [n, h, w]
        except InputError as error:
            complain(f'no attention is drawn: {error}')
            self.attention = False
            return None
        return maps.mean(axis=0)


def as_image(image):
    """What an ImageSource loads, as a Pillow image."""
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def thumbnail(pixels):
    """uint8 [H, W, 3] as the address of a JPEG of at most SIDE pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.BOX if min(image.size) < 2 * SIDE else Image.LANCZOS,
                    reducing_gap=None)
    target = io.BytesIO()
    image.save(target, 'JPEG', quality=QUALITY, optimize=True)
    return data_uri(target.getvalue(), 'jpeg')
