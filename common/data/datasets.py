"""Which data set a config asks for, and how its images are transformed."""
from common.config import ConfigNode
from common.core.class_names import check_count, user_labels
from common.core.errors import InputError
from common.core.sizes import to_pair
from common.data.augment import ColorJitter, build_auto_augment
from common.data.erasing import build_erasing
from common.data.image_dataset import ImageDataset
from common.data.layouts import read_source
from common.data.subset import Subset, take_fraction
from common.data.transforms import EvalTransform, TrainTransform

MODES = {'train': True, 'val': False}  # PaddleViT's names


def get_dataset(config: ConfigNode, is_train: bool | str = True,
                mode: str | None = None) -> ImageDataset:
    """The training or evaluation set that a config asks for, its labels checked.

    With EVAL, where the data set has class names, the weights decide which labels are right; see
    common.core.class_names.match_labels.

    Args:
        config: config of a run.
        is_train: the training or the evaluation images; 'train' and 'val' are understood too.
        mode: train | val, which older copies of PaddleViT have instead of `is_train`.

    Returns:
        ImageDataset. `dataset[index]` is (image float32 [3, H, W], label); the label is an int, or
        float32 [K] of zeros and ones with DATA.MULTI_LABEL. In a loop of your own
        over paddle.io.DataLoader, call `dataset.set_epoch` before each pass, or each epoch has the
        same augmentation. `get_dataloader` (tensor_loader.py) does it by itself, and stops at an
        image that cannot be read; Paddle's loader (2.6.2, 3.3.1) with num_workers=0 waits for ever
        when any data set raises an error, and with workers it stops, too.

    Raises:
        InputError: naming the file and line.

    Source: the function of this name in PaddleViT.

    Examples:
        >>> from argparse import Namespace
        >>> from common.config import update_config
        >>> from common.data.datasets import get_dataset
        >>> from common.zoo import model_config
        >>> config = update_config(model_config('vit_digits'), Namespace(dataset='digits'))
        >>> dataset = get_dataset(config, is_train=False)
        >>> image, label = dataset[0]
        >>> len(dataset), image.shape
        (355, (3, 32, 32))
    """
    is_train = is_training(is_train, mode)
    data, classes = config.DATA, config.MODEL.NUM_CLASSES
    if not classes:
        raise InputError('MODEL.NUM_CLASSES: got 0, a model without a classifier, expected at '
                         'least 1 to train or evaluate')
    images, names = read_source(config, is_train)
    if data.MULTI_LABEL:
        images.labels.num_classes = classes
    if names is None or not config.EVAL:
        images.check_labels(classes)
    if data.CLASS_NAMES:
        names = user_labels(images, names, config)
    elif names is not None and not config.EVAL:
        check_count(names, classes, data.DATA_PATH)
    if is_train and data.TRAIN_FRACTION < 1.0:
        images = Subset(images, take_fraction(images.labels, data.TRAIN_FRACTION, config.SEED))
    transform = train_transform(config) if is_train else eval_transform(config)
    erasing = build_erasing(config) if is_train else None
    return ImageDataset(images, transform, data.IMAGE_SIZE, config.SEED, erasing, names,
                        replace_bad=is_train and data.MAX_BAD_IMAGES > 0,
                        mean=data.IMAGENET_MEAN, std=data.IMAGENET_STD)


def is_training(is_train, mode=None):
    """Whether training data are meant, by PaddleViT's newer argument or its older one."""
    asked = is_train if mode is None else mode
    if asked in (True, False):
        return bool(asked)
    if asked not in MODES:
        raise InputError(f'mode: got {asked!r}, expected one of {", ".join(MODES)}')
    return MODES[asked]


def train_transform(config):
    """The augmentation of a config's AUG node, but for erasing and mixing."""
    aug, size = config.AUG, to_pair(config.DATA.IMAGE_SIZE)
    augment = build_auto_augment(aug.AUTO_AUGMENT, size, config.DATA.IMAGENET_MEAN,
                                 aug.INTERPOLATION)
    if augment is None and aug.COLOR_JITTER:
        augment = ColorJitter(aug.COLOR_JITTER)
    return TrainTransform(size, aug.SCALE, aug.RATIO, aug.INTERPOLATION, aug.HFLIP, augment,
                          aug.BACKEND)


def eval_transform(config):
    """The resize and centre crop of a config's evaluation."""
    data = config.DATA
    return EvalTransform(data.IMAGE_SIZE, data.CROP_PCT, data.INTERPOLATION)
