"""Pictures of images: one for all of them, or one for each in a folder."""
import os
from typing import Any, Protocol

from common.apis import Preprocessing, pixel_batches
from common.core.errors import InputError, complain
from common.core.flags import check_not_read

MOST_IMAGES = 16  # in one picture


class ImagePictures(Protocol):
    """A kind of picture that shows images, each as a row."""

    def row(self, model, pixels, name) -> Any:
        """What `figure` needs of an image, uint8 [1, 3, H, W]."""

    def figure(self, model, rows):
        """The matplotlib figure of some images' rows."""


def check_count(output, files):
    """Raises InputError if the pictures of some images cannot go where they shall."""
    if output.is_folder:
        return
    check_not_read('output', output.path, files)
    if len(files) > MOST_IMAGES:
        raise InputError(f'-output: got one file for {len(files)} images, expected a folder, or at '
                         f'most {MOST_IMAGES} images')


def draw_images(kind, model, files, output, name):
    """Draws what can be read of some images; the others are named on standard error.

    Args:
        kind: ImagePictures.
        model: of init_model.
        files: paths of images.
        output: Output.
        name: of the picture; in a folder each is IMAGE_NAME.png.

    Returns:
        How many images could not be read.
    """
    rows, failed = [], 0
    batches = pixel_batches(Preprocessing.of(model.config), files, batch_size=1)
    for file, (pixels, errors) in zip(files, batches, strict=True):
        if errors[0]:
            complain(f'error: {errors[0]}')
            failed += 1
            continue
        image_name = os.path.basename(file)
        row = kind.row(model, pixels, image_name)
        if output.is_folder:
            output.save(kind.figure(model, [row]), f'{os.path.splitext(image_name)[0]}_{name}')
        else:
            rows.append(row)
    if rows:
        output.save(kind.figure(model, rows), name)
    return failed
