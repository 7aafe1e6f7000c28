"""What a training run keeps in the memory of one device, and the largest batch that fits.

All sizes are bytes. Beside the step's own (planning/timeline.py) there are:

| part       | bytes                                                                             |
|------------|-----------------------------------------------------------------------------------|
| parameters | of all, with BatchNorm's running statistics; at TRAIN.SHARDING 3 of the blocks'   |
|            | trained ones / ranks, and in a step one block's                                   |
| gradients  | of what is trained: made in the backward pass, gone after the step; / ranks from  |
|            | TRAIN.SHARDING 2 on                                                               |
| ranks      | DataParallel keeps two copies of all gradients between steps (counted on a CPU,   |
|            | over gloo); from TRAIN.SHARDING 2 on there is none                                |
| optimiser  | AdamW two numbers for each trained one, SGD one, AMP at O2 one more; / ranks from |
|            | TRAIN.SHARDING 1 on                                                               |
| average    | TRAIN.EMA, of all parameters in float32, on every rank                            |
| images     | the batch                                                                         |
"""
import dataclasses
import functools
import itertools
import math

import paddle

from common.core.sizes import to_pair
from common.layers.macs import count_parameters
from common.planning.timeline import Timeline
from common.planning.trace import bytes_of
from common.train.optim import freeze, trainable_parameters
from common.train.sharding import owners_of
from common.train.split_model import split_parameters
from common.zoo import build_model

SLOTS = {'AdamW': 2, 'SGD': 1}  # numbers that an optimiser keeps for each trained one
REDUCER_COPIES = 2              # of all gradients, which DataParallel keeps
UPDATE_COPIES = 2               # of one parameter, at most at a time, for clipping or the average
LARGEST_BATCH = 1 << 16         # that is looked for


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a run uses its devices.

    Attributes:
        devices: ranks.
        recompute: TRAIN.RECOMPUTE.
        sharding: TRAIN.SHARDING, 0 to 3.
        accum_iter: TRAIN.ACCUM_ITER.
    """
    devices: int = 1
    recompute: bool = False
    sharding: int = 0
    accum_iter: int = 1


class Budget:
    """The memory of training one model.

    Args:
        config: of the run; AMP counts on a GPU.
        target: cpu | gpu, where it is to be.

    Attributes:
        precision: of the passes, a text.
        parameters, trained, average: bytes of all, of what is trained, of the moving average.
        count: how many numbers the parameters are.
        optimizer: bytes of the optimiser's state.
    """

    def __init__(self, config, target='cpu'):
        self.config, self.target = config, target
        amp = config.AMP and target == 'gpu'
        self.precision = 'half types (-amp)' if amp else 'float32'
        with paddle.LazyGuard():
            model = build_model(config)
        freeze(model, config.TRAIN.FREEZE)
        self.count = count_parameters(model)
        self.trainable = [one for _, one in trainable_parameters(model)]
        trained = [bytes_of(one) for one in self.trainable]
        everything = [bytes_of(value) for value in model.state_dict().values()]
        self.parameters, self.trained = sum(everything), sum(trained)
        self.width = 1.0  # of a number of the weights, to float32
        self.cells = [parameters for _, parameters in split_parameters(model)]
        self.largest = max(trained)
        self.optimizer = SLOTS[config.TRAIN.OPTIMIZER.NAME] * self.trained
        self.average = self.parameters if config.TRAIN.EMA.DECAY is not None else 0
        if amp and config.AMP_LEVEL == 'O2':  # but for the norms, which are small
            self.optimizer += self.trained  # the float32 weights
            self.parameters, self.trained = self.parameters // 2, self.trained // 2
            self.largest //= 2
            self.width = 0.5
        height, width = to_pair(config.DATA.IMAGE_SIZE)
        self.image = 4 * (3 * height * width + config.MODEL.NUM_CLASSES)

    @functools.cached_property
    def plain(self):
        """The Timeline without gradient checkpointing."""
        return Timeline(self.config, False, self.target)

    @functools.cached_property
    def recomputed(self):
        """The Timeline with it."""
        return Timeline(self.config, True, self.target)

    def timeline(self, setting):
        return self.recomputed if setting.recompute else self.plain

    def share(self, setting, stage):
        """The largest share of a rank in the gradients or states, which are split from a stage of
        TRAIN.SHARDING on; it is one of whole parameters."""
        if setting.sharding < stage:
            return 1.0
        sizes = [0] * setting.devices
        for owner, one in zip(owners_of(self.trainable, setting.devices), self.trainable,
                              strict=True):
            sizes[owner] += math.prod(one.shape)
        return max(sizes) / sum(sizes)

    def away(self, setting):
        """Bytes of the weights that other ranks have, on the one that has most itself."""
        if setting.sharding < 3 or setting.devices == 1:
            return 0.0
        owner = dict(zip(map(id, self.trainable), owners_of(self.trainable, setting.devices),
                         strict=True))
        sizes = [0] * setting.devices
        for one in itertools.chain(*self.cells):
            sizes[owner[id(one)]] += bytes_of(one)
        return self.width * (sum(sizes) - max(sizes))

    def resident(self, setting):
        """{part: bytes} of what is there between two steps."""
        found = {'parameters': self.parameters - self.away(setting),
                 'optimiser': self.optimizer * self.share(setting, 1),
                 'average': self.average}
        if setting.devices > 1 and setting.sharding < 2:
            found['ranks'] = REDUCER_COPIES * self.trained
        return found

    def total(self, batch: int, setting: Setting) -> float:
        """The most bytes of tensors on a device in training.

        Args:
            batch: images of a micro-batch on the device.
            setting: see Setting.
        """
        start = sum(self.resident(setting).values()) + batch * self.image
        # The reducer's copies stand for the gradients of the parameters, which follow the step's.
        counted_before = setting.devices > 1 and setting.sharding < 2
        away = self.away(setting)
        accumulate = setting.accum_iter > 1 and not counted_before
        gradients = self.trained * self.share(setting, 2)
        step = self.timeline(setting).peak(batch, self.share(setting, 2),
                                           accumulate or counted_before)
        if away:  # the block that runs has all of its weights, and so has an evaluation
            step += self.width * max(sum(map(bytes_of, cell)) for cell in self.cells)
        update = UPDATE_COPIES * self.largest + (0 if counted_before else gradients)
        return start + max(step + accumulate * gradients, update + bool(self.average) * away, away)

    def largest_batch(self, memory: float, setting: Setting) -> int:
        """The most images of a micro-batch with which a device's memory is enough; 0 for none.

        Args:
            memory: bytes for tensors.
            setting: see Setting.
        """
        if self.total(1, setting) > memory:
            return 0
        least, most = 1, LARGEST_BATCH + 1  # fits, does not
        while most - least > 1:
            middle = (least + most) // 2
            if self.total(middle, setting) <= memory:
                least = middle
            else:
                most = middle
        return least

    def checkpoints(self):
        """Bytes on the disk: {file: bytes}, `writing` for the one that replaces another."""
        whole = self.parameters + self.optimizer + self.average
        return {'last.pdparams': whole, 'previous.pdparams': whole,
                'best.pdparams': self.parameters, 'writing': whole}


def gib(number):
    """Bytes as text in GiB."""
    return f'{number / 2 ** 30:.2f} GiB' if number < 10 * 2 ** 30 else f'{number / 2 ** 30:.1f} GiB'


