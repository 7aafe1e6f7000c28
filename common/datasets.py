"""Data sets of images with labels, and which one a config asks for."""
import os

import numpy as np
from paddle.io import Dataset

from common.layers import to_pair
from common.lists import read_list
from common.randomness import SAMPLE, stream
from common.transforms import EvalTransform, TrainTransform, load_image


class ImageDataset(Dataset):
    """Images of an ImageList.

    An item is asked for by (epoch, index), and is a pure function of them and of the seed.
    It never raises: Paddle's loader would hang for ever (num_workers 0) or hide the cause. A bad
    image gives a black image with the error's text; the training loop raises it.

    Args:
        images: common.lists.ImageList.
        transform: callable (Pillow RGB image, numpy Generator) -> uint8 [H, W, 3].
        image_size: int or (H, W), of the transform's result.
        seed: of the augmentation.
    """

    def __init__(self, images, transform, image_size, seed=0):
        super().__init__()
        self.images = images
        self.transform = transform
        self.shape = (*to_pair(image_size), 3)
        self.seed = seed

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        """(epoch, index) -> (uint8 [H, W, 3], label, index, error text or '')."""
        epoch, index = key
        label = int(self.images.labels[index])
        try:
            image = load_image(self.images.path(index))
            image = self.transform(image, stream(SAMPLE, self.seed, epoch, index))
            return image, label, index, ''
        except Exception as error:  # noqa: BLE001 - anything: see the class
            reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
            text = (f'{self.images.where(index)}: cannot read {self.images.path(index)}: '
                    f'{" ".join(reason.split())}')
            return np.zeros(self.shape, np.uint8), label, index, text


def get_dataset(config, is_train=True):
    """The training or evaluation set that a config asks for, its labels checked.

    Raises:
        InputError: naming the file and line.
    """
    data = config.DATA
    name = 'train_list.txt' if is_train else 'val_list.txt'
    images = read_list(os.path.join(data.DATA_PATH, name))
    images.check_labels(config.MODEL.NUM_CLASSES)
    transform = train_transform(config) if is_train else eval_transform(config)
    return ImageDataset(images, transform, data.IMAGE_SIZE, config.SEED)


def train_transform(config):
    aug = config.AUG
    return TrainTransform(config.DATA.IMAGE_SIZE, aug.SCALE, aug.RATIO, aug.INTERPOLATION,
                          aug.HFLIP)


def eval_transform(config):
    data = config.DATA
    return EvalTransform(data.IMAGE_SIZE, data.CROP_PCT, data.INTERPOLATION)
