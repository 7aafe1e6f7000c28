"""Measures what TRAIN.SHARDING saves, and what a save takes, for docs/scale.md.

python -m paddle.distributed.launch --nproc_per_node 2 FILE FOLDER STAGE [NAME [KEY=VALUE ...]]

Three steps with one image on each rank, and a checkpoint; each rank prints MB of tensors, by
Paddle's own count, and rank 0 what a plan says.
"""
import itertools
import sys
import time
import tracemalloc
from pathlib import Path

import paddle
import paddle.nn.functional as F

from common.benchmarks.memory import peak_of_tensors
from common.config import set_options
from common.core import dist
from common.core.processes import set_up_cpu
from common.layers.recompute import recompute_cells
from common.planning.budget import Budget, Setting
from common.planning.check import in_process
from common.train.checkpoint import save_checkpoint
from common.train.engine import train_one_epoch
from common.train.optim import build_optimizer, optimizer_state, sharded, states_on_master
from common.train.precision import Precision
from common.train.split_model import parallel, whole
from common.train.state import Callbacks, EpochSteps, LoopOptions, TrainState
from common.zoo import build_model, model_config
from tests.sharded_steps import join

STEPS = 3
MB = 2 ** 20


def config_with(sharding, name, options):
    config = model_config(name).clone()
    config.defrost()
    set_options(config, [f'TRAIN.SHARDING={sharding}', *options])
    config.freeze()
    return config


def planned(*arguments):
    """What a plan says of a step, in MB; its traces take memory, so in a process of their own."""
    config = config_with(*arguments)
    set_up_cpu()
    train = config.TRAIN
    return Budget(config).total(
        1, Setting(2, train.RECOMPUTE, train.SHARDING, train.ACCUM_ITER)) / MB


def main(folder, sharding, name='vit_base_patch16_224', *options):
    join()
    config = config_with(sharding, name, options)
    model = build_model(config)
    optimizer = sharded(config.TRAIN, build_optimizer(config.TRAIN, model), model)
    if config.TRAIN.RECOMPUTE:
        recompute_cells(model)
    state = TrainState(model, F.cross_entropy, optimizer, lambda step: 1e-3, Precision())
    parallel(state, config.TRAIN.SHARDING)
    batch = paddle.randn([1, 3, 224, 224]), paddle.to_tensor([1])
    train_one_epoch(state, itertools.repeat(batch), LoopOptions.from_config(config),
                    EpochSteps(1, STEPS), Callbacks())
    own = optimizer_state(optimizer, model)
    states = sum(tensor.numpy().nbytes for slots in own.values() for tensor in slots.values()) / MB
    peak = peak_of_tensors()
    dist.Barrier('saving')()
    tracemalloc.start()
    start = time.perf_counter()
    with whole(state), states_on_master(optimizer, model):
        if dist.is_master():
            save_checkpoint(str(Path(folder) / 'last.pdparams'), model, optimizer, None, {})
    seconds = time.perf_counter() - start
    if dist.is_master():
        print(f'PLANNED TRAIN.SHARDING {sharding}: '
              f'{in_process(planned, sharding, name, options):.0f} MB')
    print(f'MEASURED rank {dist.rank()}, TRAIN.SHARDING {sharding}: states {states:.0f} MB, peak '
          f'of tensors {peak:.0f} MB, after the save {peak_of_tensors():.0f} MB, arrays of the '
          f'save {tracemalloc.get_traced_memory()[1] / MB:.0f} MB, {seconds:.1f} s', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
