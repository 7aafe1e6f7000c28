"""Pairs of images and masks, and one of them as a model gets it.

| layout     | images                                      | masks                               |
|------------|---------------------------------------------|-------------------------------------|
| ADE20K     | images/{training,validation}/*.jpg          | annotations/{training,validation}/* |
| Cityscapes | leftImg8bit/{train,val}/*/*_leftImg8bit.png | gtFine/..._gtFine_labelTrainIds.png |
| lists      | lines `image mask` in train.txt and val.txt | paths in the data folder            |
| folders    | images/{train,val}/ or {train,val}/images/  | masks/... with the same stem, .png  |

A mask has a class's number at each pixel, 0 to K - 1, and IGNORE where there is none. In ADE20K 0
means none, and classes count from 1; they are lowered by 1, as upstream's `reduce_zero_label`.
"""
import glob
import os
import random
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.core.errors import InputError, first_few, one_line, opened
from common.core.randomness import ORDER, SAMPLE, generator
from common.data.image_names import is_hidden, is_image
from common.data.images import load_image

IGNORE = 255
ADE20K, CITYSCAPES, LISTS, FOLDERS = 'ADE20K', 'Cityscapes', 'lists', 'folders'
OWN = 'own'  # of a recipe: lists or folders
CLASSES_OF = {ADE20K: 150, CITYSCAPES: 19}
CLASS_NAMES = 'classes.txt'  # beside one's own data: a name a line
CITYSCAPES_CLASSES = (
    'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign',
    'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle',
    'bicycle')
ADE20K_SPLITS = {'train': 'training', 'val': 'validation'}
MASK_MODES = {'1', 'L', 'P', 'I;16', 'I'}  # Pillow's, of one number a pixel
MOST_CHECKED = 2000  # masks whose values are looked at before a run; the others when they are read
LAYOUTS = ('images/training + annotations/training (ADE20K), leftImg8bit + gtFine (Cityscapes), '
           'train.txt + val.txt (lines: image mask), images/train + masks/train, or train/images + '
           'train/masks')


class Pairs(NamedTuple):
    """One split of a data set.

    Attributes:
        layout: ADE20K, CITYSCAPES, LISTS or FOLDERS.
        root: its folder.
        images, masks: lists of paths; the masks are None where nothing but images was asked for.
        class_names: list of str, or None.
    """
    layout: str
    root: str
    images: list
    masks: list
    class_names: list | None

    def name(self, index):
        """An image's path in the data's folder."""
        return os.path.relpath(self.images[index], self.root)


def find_pairs(root: str, split: str) -> Pairs:
    """Finds the images and masks of a data set, whose layout is known by its folders.

    Args:
        root: folder of the data set.
        split: 'train' or 'val'.

    Returns:
        Pairs, sorted by name; at least one.

    Raises:
        InputError: no such folder, none of the layouts, or an image without a mask.

    Source: the layouts are those of PaddleSeg's and MMSegmentation's documentation.

    Examples:
        >>> import numpy as np, os
        >>> from PIL import Image
        >>> from common.engines.segmentation.data import find_pairs
        >>> for kind in ('images', 'masks'):
        ...     os.makedirs(f'own/{kind}/val')
        ...     Image.fromarray(np.zeros([8, 8], np.uint8)).save(f'own/{kind}/val/a.png')
        >>> pairs = find_pairs('own', 'val')
        >>> pairs.layout, pairs.name(0)
        ('folders', 'images/val/a.png')
    """
    if not os.path.isdir(root):
        raise InputError(f'{root}: no such folder of data; -data_path names it, with {LAYOUTS}')
    if os.path.isdir(os.path.join(root, 'annotations')):
        layout, pairs = ADE20K, ade20k(root, ADE20K_SPLITS[split])
    elif os.path.isdir(os.path.join(root, 'gtFine')):
        layout, pairs = CITYSCAPES, cityscapes(root, split)
    elif os.path.isfile(os.path.join(root, f'{split}.txt')):
        layout, pairs = LISTS, listed(root, split)
    else:
        layout, pairs = FOLDERS, in_folders(root, split)
    names = list(CITYSCAPES_CLASSES) if layout == CITYSCAPES else read_class_names(root)
    if not pairs:
        raise InputError(f'{root}: got no images of the split {split}, expected some (layout '
                         f'{layout})')
    missing = [image for image, mask in pairs if not os.path.isfile(mask)]
    if missing:
        image, mask = next(pair for pair in pairs if pair[0] == missing[0])
        raise InputError(f'{image}: got no mask {mask}; {len(missing)} of {len(pairs)} images have '
                         f'none' + hint_of(layout, root, split))
    return Pairs(layout, root, [image for image, _ in pairs], [mask for _, mask in pairs], names)


def hint_of(layout, root, split):
    """What may be the reason that masks are missing."""
    if layout == CITYSCAPES and glob.glob(os.path.join(glob.escape(root), 'gtFine', split, '*',
                                                       '*_gtFine_labelIds.png')):
        return '; cityscapesscripts writes labelTrainIds from labelIds: csCreateTrainIdLabelImgs'
    return ''


def ade20k(root, split):
    """(image, mask) of each image."""
    images = images_in(os.path.join(root, 'images', split))
    return [(image, os.path.join(root, 'annotations', split, f'{stem(image)}.png'))
            for image in images]


def cityscapes(root, split):
    """(image, mask) of each image."""
    pattern = os.path.join(glob.escape(root), 'leftImg8bit', split, '*', '*_leftImg8bit.png')
    return [(image, os.path.join(
        root, 'gtFine', split, os.path.basename(os.path.dirname(image)),
        os.path.basename(image).replace('_leftImg8bit', '_gtFine_labelTrainIds')))
        for image in sorted(glob.glob(pattern))]


def listed(root, split):
    """(image, mask) of each line."""
    file, pairs = os.path.join(root, f'{split}.txt'), []
    with opened(file) as stream:
        lines = stream.read().decode('utf-8', 'surrogateescape').splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        names = line.split('\t') if '\t' in line else line.split()
        if len(names) != 2:
            raise InputError(f'{file}:{number}: got {len(names)} names, expected two: image mask '
                             f'(with a tab between them where a name has spaces)')
        image, mask = (os.path.join(root, name.strip()) for name in names)
        if not os.path.isfile(image):
            raise InputError(f'{file}:{number}: no such image: {image}')
        pairs.append((image, mask))
    return pairs


def in_folders(root, split):
    """(image, mask) of each image."""
    for images, masks in ((('images', split), ('masks', split)), ((split, 'images'),
                                                                  (split, 'masks'))):
        folder = os.path.join(root, *images)
        if os.path.isdir(folder):
            return [(image, os.path.join(root, *masks, f'{stem(image)}.png'))
                    for image in images_in(folder)]
    raise InputError(f'{root}: found no images and masks of the split {split}, expected {LAYOUTS}')


def images_in(folder):
    """The image files of a folder, sorted."""
    if not os.path.isdir(folder):
        raise InputError(f'{folder}: no such folder of images')
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))
            if is_image(name) and not is_hidden(name)]


def stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def read_class_names(root):
    """The lines of ROOT/classes.txt, or None."""
    file = os.path.join(root, CLASS_NAMES)
    if not os.path.isfile(file):
        return None
    with opened(file) as stream:
        lines = stream.read().decode('utf-8', 'replace').splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_mask(path, layout, num_classes):
    """A mask as classes, uint8 [H, W]: 0 to num_classes - 1, or IGNORE.

    Raises:
        InputError: it is no mask, or has other values.
    """
    with open_mask(path) as image:
        try:
            mask = np.asarray(image).astype(np.int32)
        except Exception as error:  # noqa: BLE001 - Pillow raises many kinds
            raise InputError(f'{path}: {one_line(error)}') from None
    if layout == ADE20K:
        mask = np.where(mask == 0, IGNORE, mask - 1)
    bad = mask[(mask >= num_classes) & (mask != IGNORE) | (mask < 0)]
    if bad.size:
        shift = 1 if layout == ADE20K else 0
        values = first_few([str(value + shift) for value in np.unique(bad)])
        raise InputError(f'{path}: got {values} as classes at {bad.size} pixels, expected {shift} '
                         f'to {num_classes - 1 + shift}, or {0 if shift else IGNORE} for none '
                         f'(MODEL.NUM_CLASSES is {num_classes})')
    return mask.astype(np.uint8)


def open_mask(path):
    """A mask as a Pillow image of which the header was read."""
    try:
        image = Image.open(path)
    except Exception as error:  # noqa: BLE001 - Pillow raises many kinds
        raise InputError(f'{path}: {one_line(error)}') from None
    if image.mode not in MASK_MODES:
        image.close()
        raise InputError(f"{path}: got a mask in colours (Pillow's mode {image.mode}), expected "
                         f'one number a pixel: the class, grey or as a palette')
    return image


def check_pairs(pairs, num_classes):
    """Raises InputError for the first pair whose sizes differ, or mask that has a wrong value.

    All sizes are compared; of more than MOST_CHECKED masks the values of some only, evenly spread:
    the others' are when they are read.
    """
    for image, mask in zip(pairs.images, pairs.masks, strict=True):
        try:
            with Image.open(image) as picture:
                size = picture.size
        except Exception as error:  # noqa: BLE001 - Pillow raises many kinds
            raise InputError(f'{image}: {one_line(error)}') from None
        with open_mask(mask) as picture:
            check_size(image, size, mask, picture.size)
    step = -(-len(pairs.masks) // MOST_CHECKED)
    for mask in pairs.masks[::step]:
        read_mask(mask, pairs.layout, num_classes)


def check_size(image, size, mask, mask_size):
    """Raises InputError unless an image and its mask are of one size, (width, height)."""
    if size != mask_size:
        raise InputError(f'{mask}: got {mask_size[0]}x{mask_size[1]} pixels, expected '
                         f'{size[0]}x{size[1]} as in {image}')


class Item(NamedTuple):
    """What a model gets of a pair.

    Attributes:
        image: float32 [3, H, W].
        mask: int64 [H, W], or the file's size for an evaluation.
        way: int64 [n, 3]: the sizes (kind, height, width) that the changes started from; kind is an
            index of WAYS.
        index: int64 [], of the pair.
    """
    image: np.ndarray
    mask: np.ndarray
    way: np.ndarray
    index: np.ndarray


WAYS = ('resize', 'padding')  # PaddleSeg's names


class SegmentationData:
    """Pairs with the changes of a recipe.

    Args:
        pairs: Pairs.
        transforms: list of functions of PaddleSeg's dict.
        num_classes: K.
        is_train: whether the mask changes with the image, and both depend on the epoch.
        seed: of the run.
    """

    def __init__(self, pairs, transforms, num_classes, is_train, seed=0):
        self.pairs, self.transforms, self.num_classes = pairs, transforms, num_classes
        self.is_train, self.seed = is_train, seed

    def __len__(self):
        return len(self.pairs.images)

    def __getitem__(self, key):
        """The Item of a key (epoch, index): a function of the seed and the key."""
        epoch, index = key
        seed_globally(generator(SAMPLE, self.seed, epoch, index))
        pixels = read_pixels(self.pairs.images[index])                 # [H, W, 3]
        mask = read_mask(self.pairs.masks[index], self.pairs.layout, self.num_classes)
        check_size(self.pairs.images[index], pixels.shape[1::-1], self.pairs.masks[index],
                   mask.shape[::-1])
        data = changed(pixels, self.transforms, mask if self.is_train else None)
        mask = data.get('label', mask)
        return Item(data['img'], mask.astype(np.int64), way_of(data), np.asarray(index))


def seed_globally(random_numbers):
    """Seeds what PaddleSeg's transforms draw from: Python's and numpy's global generators."""
    random.seed(int(random_numbers.integers(1 << 32)))
    np.random.seed(int(random_numbers.integers(1 << 32)))


def read_pixels(path):
    """An image file as uint8 [H, W, 3]."""
    try:
        return np.asarray(load_image(path))
    except Exception as error:  # noqa: BLE001 - Pillow raises many kinds
        raise InputError(f'{path}: {one_line(error)}') from None


def changed(pixels, transforms, mask=None):
    """PaddleSeg's dict of an image [H, W, 3], and of its mask if one is given, after all changes;
    `img` is float32 [3, H, W]."""
    data = {'img': pixels.astype(np.float32), 'trans_info': [], 'gt_fields': []}
    if mask is not None:
        data |= {'label': mask, 'gt_fields': ['label']}
    for transform in transforms:
        data = transform(data)
    data['img'] = np.ascontiguousarray(data['img'].transpose(2, 0, 1), np.float32)
    return data


def way_of(data):
    """The sizes in `trans_info`, int64 [n, 3]."""
    return np.array([(WAYS.index(kind), *size[:2]) for kind, size in data['trans_info']],
                    np.int64).reshape(-1, 3)


def stack(items):
    """Items of one size as a batch."""
    return Item(*(np.stack(arrays) for arrays in zip(*items, strict=True)))


def train_order(count, seed, batch_size, first, end, rank=0, world_size=1):
    """Yields the keys (epoch, index) of each batch of the steps `first` to `end` on one rank.

    An epoch follows the other without a gap: a batch may have the end of one and the start of the
    next.
    """
    epoch, order = -1, None
    for step in range(first, end):
        keys = []
        start = (step * world_size + rank) * batch_size
        for place in range(start, start + batch_size):
            if place // count != epoch:
                epoch = place // count
                order = generator(ORDER, seed, epoch).permutation(count)
            keys.append((epoch, int(order[place % count])))
        yield keys
