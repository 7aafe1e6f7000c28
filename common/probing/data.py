"""The images of both splits of a data set, as an evaluation sees them."""
import numpy as np

from common.core.errors import InputError
from common.data.datasets import eval_transform
from common.data.image_dataset import ImageDataset
from common.data.layouts import find_layout, read_source


def data_config(config, data_path, dataset=None, batch_size=32, workers=None):
    """A model's config with a data set to evaluate on.

    Args:
        config: of the model.
        data_path: folder of the data set; None for the digits.
        dataset: as DATA.DATASET; None decides by what is in the folder.
        batch_size: images in a forward pass.
        workers: loader processes; None is the config's.

    Raises:
        InputError: the folder is of no layout.
    """
    config = config.clone()
    config.defrost()
    if data_path is None and dataset != 'digits':
        raise InputError('DATA: got none, expected the folder of a data set')
    config.DATA.DATASET = dataset or find_layout(data_path)
    config.AUG.BACKEND = 'pillow'  # training images are read as those of an evaluation
    config.DATA.MULTI_LABEL = False  # whatever the model was trained for
    if data_path is not None:
        config.DATA.DATA_PATH = data_path
    config.DATA.BATCH_SIZE_EVAL = batch_size
    if workers is not None:
        config.DATA.NUM_WORKERS = workers
    config.freeze()
    return config


def read_splits(config):
    """Both splits of a config's data set, by the path of an evaluation: no augmentation.

    Args:
        config: of `data_config`.

    Returns:
        {'train': ImageDataset, 'val': ImageDataset}.

    Raises:
        InputError: a split cannot be read, or the training images are of one class only.
    """
    data, splits = config.DATA, {}
    for split in ('train', 'val'):
        images, names = read_source(config, split == 'train')
        splits[split] = ImageDataset(images, eval_transform(config), data.IMAGE_SIZE, config.SEED,
                                     class_names=names, mean=data.IMAGENET_MEAN,
                                     std=data.IMAGENET_STD)
    present = np.unique(splits['train'].images.labels)
    if len(present) < 2:
        raise InputError(f'{data.DATA_PATH}: got training images of {len(present)} class, expected '
                         f'at least 2')
    return splits
