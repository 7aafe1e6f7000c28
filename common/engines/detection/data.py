"""Images with their objects, as batches for PaddleDetection's models."""
import collections
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import paddle

from common.core.errors import InputError, one_line
from common.core.randomness import SAMPLE, generator
from common.data.images import load_image
from common.engines.detection.coco import read_annotations
from common.engines.detection.transforms import augment, normalize, pad_batch, resize

AHEAD = 2  # batches that are loaded ahead, for each thread's good
LEAST_CORNERS = 3


class CocoImages:
    """The images of a file of annotations; items are samples (see transforms.py) with im_id.

    Args:
        annotations: Annotations.
        folder: of the images.
        data: the DATA node of a config.
        is_train: whether images without an object are left out, and samples are augmented.
        seed: of the augmentation.

    Raises:
        InputError: the folder is missing, or nothing is left to train on.
    """

    def __init__(self, annotations, folder, data, is_train=False, seed=0):
        if not os.path.isdir(folder):
            raise InputError(f'{folder}: no such folder; expected the images of {annotations.file} '
                             f'(-data_path, DATA.TRAIN_IMAGES, DATA.VAL_IMAGES)')
        self.annotations, self.folder, self.data = annotations, folder, data
        self.is_train, self.seed = is_train, seed
        self.images, self.notes = annotations.images, list(annotations.notes)
        if is_train:
            self.images = [image for image in self.images if self.objects_of(image)]
            empty = len(annotations.images) - len(self.images)
            if empty:
                self.notes.append(f'{annotations.file}: {empty} images without an object are left '
                                  f'out')
        if not self.images:
            raise InputError(f'{annotations.file}: got no image{" with an object" * is_train}, '
                             f'expected at least one')

    def __len__(self):
        return len(self.images)

    def objects_of(self, image):
        """The annotations of an image, but for crowds."""
        return [item for item in self.annotations.objects.get(image['id'], [])
                if not item.get('iscrowd')]

    def __getitem__(self, key):
        epoch, index = key
        image = self.images[index]
        sample = self.read(image)
        if self.is_train:
            sample = augment(sample, self.data, generator(SAMPLE, self.seed, epoch, index))
        else:
            sample = resize(sample, self.data.TEST_SHORT_SIDE, self.data.MAX_SIDE)
        return {**sample, 'im_id': image['id'], 'size': (image['height'], image['width'])}

    def read(self, image):
        """The sample of an image, as it is."""
        file = os.path.join(self.folder, image['file_name'])
        try:
            pixels = load_image(file, 'cv2')                                   # [H, W, 3]
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
            reason = getattr(error, 'strerror', None) or one_line(error)
            raise InputError(f'{file}: cannot read the image: {reason}') from None
        size = [image['height'], image['width']]
        if list(pixels.shape[:2]) != size:
            raise InputError(f'{file}: got {pixels.shape[0]}x{pixels.shape[1]} pixels (height x '
                             f'width), expected the {size[0]}x{size[1]} of {self.annotations.file}')
        objects = self.objects_of(image)
        boxes = np.array([item['bbox'] for item in objects], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = boxes.clip(0, np.array([size[1], size[0]] * 2, np.float32))
        labels = [self.annotations.class_of[item['category_id']] for item in objects]
        return {'image': pixels, 'boxes': boxes, 'labels': np.array(labels, np.int32),
                'polygons': [polygons_of(item['segmentation']) for item in objects]}


def polygons_of(mask):
    """The outlines of a mask: list of float64 [m, 2]. A run-length code's are found; holes in it
    are filled, since the engine knows outlines only."""
    if isinstance(mask, list):
        return [np.array(polygon, np.float64).reshape(-1, 2) for polygon in mask]
    from pycocotools import mask as codes
    if isinstance(mask['counts'], list):
        mask = codes.frPyObjects(mask, *mask['size'])
    contours, _ = cv2.findContours(codes.decode(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = [contour.reshape(-1, 2) + 0.5 for contour in contours if len(contour) >= LEAST_CORNERS]
    return found or [np.zeros([LEAST_CORNERS, 2])]


def to_batch(samples, data):
    """Samples as arrays: what PaddleDetection's models take, but for the tensors."""
    images = [sample['image'] for sample in samples]
    sizes = np.array([image.shape[:2] for image in images], np.float32)      # [B, 2]
    originals = np.array([sample['size'] for sample in samples], np.float32)
    return {'image': pad_batch([normalize(image, data) for image in images]),
            'im_shape': sizes, 'scale_factor': sizes / originals,
            'im_id': np.array([[sample['im_id']] for sample in samples]),
            'gt_bbox': [sample['boxes'] for sample in samples],
            'gt_class': [sample['labels'][:, np.newaxis] for sample in samples],
            # lists: the engine moves arrays in their place, once for each box
            'gt_poly': [[[polygon.reshape(-1).tolist() for polygon in polygons]
                         for polygons in sample['polygons']] for sample in samples]}


def to_tensors(batch):
    """A batch of `to_batch` with tensors instead of arrays; polygons stay."""
    return {key: value if key == 'gt_poly' else
            [paddle.to_tensor(item) for item in value] if isinstance(value, list) else
            paddle.to_tensor(value) for key, value in batch.items()}


def load_batches(images, keys, data, threads):
    """Yields the batches of `to_batch` in the order of their keys; threads load ahead.

    Args:
        images: CocoImages.
        keys: iterable of lists of (epoch, index), one list for a batch.
        data: the DATA node of a config.
        threads: how many.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting, keys = collections.deque(), iter(keys)

        def start():
            for batch in keys:
                waiting.append([pool.submit(images.__getitem__, key) for key in batch])
                return

        for _ in range(AHEAD * threads):
            start()
        try:
            while waiting:
                samples = [future.result() for future in waiting.popleft()]
                start()
                yield to_batch(samples, data)
        finally:
            for futures in waiting:
                for future in futures:
                    future.cancel()


def open_images(config, is_train):
    """The training or validation images of a config."""
    data = config.DATA
    part = 'TRAIN' if is_train else 'VAL'
    if not os.path.isdir(data.DATA_PATH):
        raise InputError(f'-data_path: got {data.DATA_PATH}, which is no folder; expected one with '
                         f'{data[f"{part}_JSON"]} and {data[f"{part}_IMAGES"]}/')
    annotations = read_annotations(os.path.join(data.DATA_PATH, data[f'{part}_JSON']),
                                   config.MODEL.NUM_CLASSES)
    return CocoImages(annotations, os.path.join(data.DATA_PATH, data[f'{part}_IMAGES']), data,
                      is_train, config.SEED)
