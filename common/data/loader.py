"""The loader: which batches of a data set come in which order, made here or by workers."""
import logging
import sys

from paddle.profiler import RecordEvent

from common.core import dist
from common.data.balance import build_picker
from common.data.collate import Collate
from common.data.mixup import build_mixup
from common.data.samplers import EvalSampler, TrainSampler
from common.data.workers import Workers


class Loader:
    """Iterable over the batches of a data set, in the order of a sampler.

    Args:
        dataset: ImageDataset, or what has items for the sampler's keys.
        batch_sampler: iterable of lists of keys, with a length.
        num_workers: processes that load ahead; 0 loads in this one. They live as long as an
            iterator, or with keep_workers as long as the loader.
        collate: function of a list of items that gives a tuple of numpy arrays; None is Collate().
        timeout: seconds without a batch after which workers count as stuck.

    Yields what collate gives. The arrays may lie in memory that is used again: they hold until
    the next batch is taken.

    Raises, when iterated:
        RunError: a worker has died, is stuck, or has met an error.
    """

    def __init__(self, dataset, batch_sampler, num_workers=0, collate=None, keep_workers=False,
                 timeout=600.0):
        self.dataset = dataset
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        if num_workers and sys.platform != 'linux':
            logging.getLogger('loader').warning(
                'loader: %d workers need Linux; images are loaded by the training process',
                num_workers)
            self.num_workers = 0
        self.collate = collate or Collate()
        self.keep_workers = keep_workers
        self.timeout = timeout
        self.kept = None

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        if self.num_workers == 0:
            for keys in self.batch_sampler:
                with RecordEvent('loading images'):
                    batch = self.load(keys)
                yield batch
            return
        workers, self.kept = self.kept, None
        workers = workers or Workers(self.load, self.num_workers, self.timeout)
        yield from workers.run(self.batch_sampler)
        if self.keep_workers:
            self.kept = workers
        else:
            workers.close()

    def load(self, keys):
        """The batch of some keys of the data set."""
        return self.collate([self.dataset[key] for key in keys])


def build_loader(config, dataset, is_train=True):
    """The Loader of a config's training or evaluation, for this rank's part of the data set."""
    sampler = build_sampler(config, dataset, is_train, dist.rank(), dist.world_size())
    options = {'num_workers': config.DATA.NUM_WORKERS, 'timeout': config.DATA.WORKER_TIMEOUT}
    if not is_train:
        return Loader(dataset, sampler, keep_workers=True, **options)
    collate = Collate(build_mixup(config), config.AUG.MIXUP_LAST_EPOCH, config.SEED,
                      config.TRAIN.LABEL_SMOOTHING)
    return Loader(dataset, sampler, collate=collate, **options)


def build_sampler(config, dataset, is_train, rank, world_size):
    """The batches of keys of a data set for one of `world_size` ranks."""
    data = config.DATA
    if is_train:
        return TrainSampler(len(dataset), data.BATCH_SIZE, config.TRAIN.ACCUM_ITER, config.SEED,
                            rank, world_size, config.AUG.REPEATS, build_picker(config, dataset))
    return EvalSampler(len(dataset), data.BATCH_SIZE_EVAL or data.BATCH_SIZE, rank, world_size)
