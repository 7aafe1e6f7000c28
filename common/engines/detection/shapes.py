"""The pictures of common/engines/shapes.py in COCO's layout: a data set from nothing."""
import json
import os

from PIL import Image

from common.core.errors import InputError
from common.core.files import replace_atomically
from common.engines.shapes import CLASSES, draw_pictures

VAL_SEED = 1 << 30  # of the held-out pictures: the seed + this


def write_shapes(folder: str | os.PathLike, train: int = 400, val: int = 100,
                 seed: int = 0) -> None:
    """Writes pictures of shapes with boxes and masks: train/, val/, annotations/*.json.

    Args:
        folder: a new one, or an empty one.
        train, val: how many pictures; those of val are others.
        seed: in [0, 2^30).

    Raises:
        InputError: the folder has something in it.

    Source: this project; the layout is COCO's.

    Examples:
        >>> import os
        >>> from common.engines.detection.shapes import write_shapes
        >>> write_shapes('shapes', train=2, val=1)
        >>> sorted(os.listdir('shapes'))
        ['annotations', 'train', 'val']
    """
    if os.path.isdir(folder) and os.listdir(folder):
        raise InputError(f'{folder}: has something in it, expected a new folder')
    os.makedirs(os.path.join(folder, 'annotations'), exist_ok=True)
    for split, count, seed_of_split in (('train', train, seed), ('val', val, seed + VAL_SEED)):
        os.makedirs(os.path.join(folder, split), exist_ok=True)
        content = {'info': {}, 'images': [], 'annotations': [],
                   'categories': [{'id': index + 1, 'name': name}
                                  for index, name in enumerate(CLASSES)]}
        for number, picture in enumerate(draw_pictures(count, seed_of_split), 1):
            name = f'{number:05d}.png'
            Image.fromarray(picture.image).save(os.path.join(folder, split, name))
            height, width = picture.mask.shape
            content['images'].append({'id': number, 'file_name': name, 'height': height,
                                      'width': width})
            for shape in picture.shapes:
                content['annotations'].append(annotation_of(
                    shape, number, len(content['annotations']) + 1))
        file = os.path.join(folder, 'annotations', f'{split}.json')
        with replace_atomically(file) as temporary, open(temporary, 'w') as stream:
            json.dump(content, stream)


def annotation_of(shape, image_id, number):
    """The annotation of a Shape."""
    x1, y1, x2, y2 = (float(value) for value in shape.box)
    return {'id': number, 'image_id': image_id, 'category_id': shape.label + 1, 'iscrowd': 0,
            'area': float(shape.mask.sum()), 'bbox': [x1, y1, x2 - x1, y2 - y1],
            'segmentation': [[round(float(value), 2) for value in shape.polygon.reshape(-1)]]}
