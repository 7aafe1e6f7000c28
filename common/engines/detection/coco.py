"""Annotations in COCO's layout: read, and checked before anything is trained or evaluated.

A file is what instances_train2017.json is: `images`, `annotations` and `categories`. Class k is the
k-th category in the order of the ids, as in pycocotools and PaddleDetection.
"""
import hashlib
import json
import os
from typing import NamedTuple

import numpy as np

from common.core.errors import InputError, first_few, one_line, shown

LEAST_SIDE = 1e-3  # pixels of a box


class Annotations(NamedTuple):
    """What a file says.

    Attributes:
        file: its path.
        images: list of dicts with id, file_name, height, width.
        objects: {id of an image: list of dicts with category_id, bbox, segmentation, iscrowd};
            without those of width or height 0.
        class_names: list of str, in the order of the categories' ids.
        class_of: {category id: class}.
        sha256: of the file.
        notes: sentences about what is left out.
    """
    file: str
    images: list
    objects: dict
    class_names: list
    class_of: dict
    sha256: str
    notes: list


def read_annotations(file: str | os.PathLike, num_classes: int | None = None) -> Annotations:
    """Reads and checks a file of annotations.

    Args:
        file: path of a json in COCO's layout.
        num_classes: how many categories the model is for; None takes any number.

    Raises:
        InputError: no such file, another layout, another number of categories, an annotation of an
            unknown image or category, a box or mask that is none or of another image's size.
    """
    content, sha256 = read_json(file)
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{file}: got no list '{key}', expected COCO's layout: images, "
                             f'annotations and categories')
    categories = {need(item, 'id', int, file, 'categories'): need(item, 'name', str, file,
                                                                  'categories')
                  for item in content['categories']}
    if num_classes is not None and len(categories) != num_classes:
        raise InputError(f'{file}: got {len(categories)} categories '
                         f'({first_few(list(categories.values()))}), expected MODEL.NUM_CLASSES '
                         f'{num_classes}; -o MODEL.NUM_CLASSES={len(categories)} trains for them')
    class_of = {category: index for index, category in enumerate(sorted(categories))}
    images = {}
    for image in content['images']:
        for key, kind in (('id', int), ('file_name', str), ('height', int), ('width', int)):
            need(image, key, kind, file, 'images')
        if image['id'] in images:
            raise InputError(f'{file}: images: got the id {image["id"]} twice')
        images[image['id']] = image
    objects, flat = {}, 0
    for item in content['annotations']:
        check_object(item, images, categories, file)
        if min(item['bbox'][2:]) < LEAST_SIDE:
            flat += 1
        else:
            objects.setdefault(item['image_id'], []).append(item)
    notes = [f'{file}: {flat} boxes without width or height are left out'] if flat else []
    return Annotations(os.fspath(file), list(images.values()), objects,
                       [categories[category] for category in sorted(categories)], class_of, sha256,
                       notes)


def read_json(file):
    """(content, sha256) of a json file."""
    try:
        with open(file, 'rb') as stream:
            text = stream.read()
    except OSError as error:
        raise InputError(f'{file}: cannot read it: {error.strerror}; expected annotations in '
                         f"COCO's layout (-data_path, DATA.TRAIN_JSON, DATA.VAL_JSON)") from None
    try:
        return json.loads(text), hashlib.sha256(text).hexdigest()
    except (ValueError, RecursionError) as error:
        raise InputError(f'{file}: no json: {one_line(error)}') from None


def need(item, key, kind, file, where):
    """A value of an entry. Raises InputError if it is missing or of another kind."""
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f'{file}: {where}: got {key} {shown(value)}, expected '
                         f'{"a whole number" if kind is int else "a text"}')
    return value


def check_object(item, images, categories, file):
    """Raises InputError for an annotation that is not one of these images and categories."""
    number = need(item, 'id', int, file, 'annotations')
    where = f'{file}: annotation {number}'
    image = images.get(need(item, 'image_id', int, file, 'annotations'))
    if image is None:
        raise InputError(f'{where}: got image_id {item["image_id"]}, which is not among the images')
    if need(item, 'category_id', int, file, 'annotations') not in categories:
        known = first_few([str(category) for category in sorted(categories)])
        raise InputError(f'{where}: got category_id {item["category_id"]}, expected one of the '
                         f'categories: {known}')
    box = item.get('bbox')
    if not isinstance(box, list) or len(box) != 4 or not all(
            isinstance(value, (int, float)) and np.isfinite(value) for value in box):
        raise InputError(f'{where}: got bbox {shown(box)}, expected [x, y, width, height]')
    x, y, width, height = box
    if width < 0 or height < 0 or x >= image['width'] or y >= image['height'] \
            or x + width <= 0 < width or y + height <= 0 < height:
        raise InputError(f'{where}: got bbox {box}, expected one within the {image["width"]}x'
                         f'{image["height"]} pixels of {image["file_name"]}')
    mask = item.get('segmentation')
    if isinstance(mask, dict):
        if mask.get('size') != [image['height'], image['width']]:
            raise InputError(f'{where}: got a mask of {shown(str(mask.get("size")))}, expected '
                             f'[height, width] of {image["file_name"]}: '
                             f'[{image["height"]}, {image["width"]}]')
    elif not isinstance(mask, list) or not mask or not all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
            for polygon in mask):
        raise InputError(f'{where}: got segmentation {shown(mask)}, expected polygons '
                         f'[[x1, y1, x2, y2, x3, y3, ...], ...] or a run-length code')
