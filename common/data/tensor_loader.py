"""Batches as PaddleViT's data loaders give them: two tensors, images and labels.

For those who write their own loop. This project's training takes another way to the same pixels
(loader.py, batches.py), which also mixes, counts bad images and goes on in the middle of an epoch.
"""
import numpy as np
from paddle.io import Dataset

from common.config import ConfigNode
from common.core import dist
from common.data.batches import on_device
from common.data.datasets import is_training
from common.data.image_dataset import ImageDataset
from common.data.loader import Loader, build_sampler
from common.data.samplers import TrainSampler


class TensorLoader:
    """Iterable over batches [images float32 [B, 3, H, W], labels int64 [B]] as tensors.

    Each pass over training data is the next epoch, with another order and another augmentation;
    `set_epoch` chooses the epoch of the next pass, e.g. where a run goes on.

    Args:
        dataset: data set with items (image float32 [3, H, W], label) by an int.
        batch_sampler: TrainSampler or EvalSampler.
        num_workers: processes that load ahead; 0 loads in this one.
        timeout: seconds without a batch after which workers count as stuck.

    Raises, when iterated:
        InputError: an image cannot be read.
        RunError: a worker has died, is stuck, or has met another error.
    """

    def __init__(self, dataset, batch_sampler, num_workers=0, timeout=600.0):
        self.dataset = dataset
        self.batch_sampler = batch_sampler
        self.loader = Loader(ByKey(dataset), batch_sampler, num_workers, stack_items,
                             timeout=timeout)
        self.next_epoch = 1

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        if isinstance(self.batch_sampler, TrainSampler):
            self.batch_sampler.set_epoch(self.next_epoch)
        self.next_epoch += 1
        for images, labels in self.loader:
            yield [on_device(images), on_device(labels)]

    def set_epoch(self, epoch: int):
        """Chooses the epoch of the next pass, counted from 1."""
        self.next_epoch = epoch


class ByKey:
    """The items of a data set by the samplers' keys (epoch, number)."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, key):
        epoch, number = key
        if isinstance(self.dataset, ImageDataset):
            return self.dataset.item(epoch, number)
        return self.dataset[number % len(self.dataset)]  # of the user's own


def stack_items(items):
    """A list of (image, label) as arrays: float32 [B, 3, H, W], and int64 [B] or, multi-label,
    float32 [B, K]."""
    images, labels = zip(*items, strict=True)
    return np.stack(images), np.array(labels, np.float32 if np.ndim(labels[0]) else np.int64)


def get_dataloader(config: ConfigNode, dataset: Dataset, is_train: bool | str = True,
                   use_dist_sampler: bool = False, mode: str | None = None) -> TensorLoader:
    """The loader of a config, with the arguments of PaddleViT's function of this name.

    In training the order is this project's own: a permutation that SEED and the epoch decide, and
    images that make no full step are left out. In evaluation every image comes once, in the data
    set's order.

    Args:
        config: config of a run; BATCH_SIZE, BATCH_SIZE_EVAL, NUM_WORKERS count.
        dataset: what `get_dataset` gives, or a data set of your own with items (image float32
            [3, H, W], label) by an int.
        is_train: training or evaluation; 'train' and 'val' are understood too.
        use_dist_sampler: whether this process gets its rank's part only.
        mode: train | val, which older copies of PaddleViT have instead of `is_train`.

    Returns:
        An iterable over batches of two tensors, images float32 [B, 3, H, W], normalised, and
        labels int64 [B].

    Raises:
        InputError: the data set has less than one batch to train.

    Source: the function of this name in PaddleViT.

    Examples:
        >>> from argparse import Namespace
        >>> from common.config import update_config
        >>> from common.data.datasets import get_dataset
        >>> from common.data.tensor_loader import get_dataloader
        >>> from common.zoo import model_config
        >>> config = update_config(model_config('vit_digits'), Namespace(dataset='digits'))
        >>> loader = get_dataloader(config, get_dataset(config, False), False)
        >>> images, labels = next(iter(loader))
        >>> tuple(images.shape), tuple(labels.shape)
        ((128, 3, 32, 32), (128,))
    """
    rank, world_size = (dist.rank(), dist.world_size()) if use_dist_sampler else (0, 1)
    sampler = build_sampler(config, dataset, is_training(is_train, mode), rank, world_size)
    return TensorLoader(dataset, sampler, config.DATA.NUM_WORKERS, config.DATA.WORKER_TIMEOUT)
