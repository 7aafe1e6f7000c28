"""Measures what TRAIN.SHARDING saves, and what a save takes, for docs/scale.md.

python -m paddle.distributed.launch --nproc_per_node 2 FILE FOLDER SPLIT [NAME]

Three steps of AdamW with one image on each rank, and a checkpoint; each rank prints MB of tensors,
by Paddle's own count.
"""
import sys
import time
import tracemalloc
from pathlib import Path

import paddle
import paddle.nn.functional as F

from common.benchmarks.memory import peak_of_tensors
from common.config import base_config
from common.core import dist
from common.core.processes import set_up_cpu
from common.train.checkpoint import save_checkpoint
from common.train.optim import build_optimizer, optimizer_state, sharded, states_on_master
from common.zoo import create_model

STEPS = 3
MB = 2 ** 20


def main(folder, sharding, name='vit_base_patch16_224'):
    paddle.set_device('cpu')
    set_up_cpu()
    dist.use_gloo()
    dist.join_group()
    model = create_model(name)
    train = base_config().TRAIN
    train.SHARDING = int(sharding)
    optimizer = sharded(train, build_optimizer(train, model), model)
    parallel = dist.data_parallel(model)
    for _ in range(STEPS):
        F.cross_entropy(parallel(paddle.randn([1, 3, 224, 224])), paddle.to_tensor([1])).backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    own = optimizer_state(optimizer, model)
    states = sum(tensor.numpy().nbytes for slots in own.values() for tensor in slots.values()) / MB
    peak = peak_of_tensors()
    dist.Barrier('saving')()
    tracemalloc.start()
    start = time.perf_counter()
    with states_on_master(optimizer, model):
        if dist.is_master():
            save_checkpoint(str(Path(folder) / 'last.pdparams'), model, optimizer, None, {})
    seconds = time.perf_counter() - start
    print(f'MEASURED rank {dist.rank()}, TRAIN.SHARDING {sharding}: states {states:.0f} MB, peak '
          f'of tensors {peak:.0f} MB, after the save {peak_of_tensors():.0f} MB, arrays of the '
          f'save {tracemalloc.get_traced_memory()[1] / MB:.0f} MB, {seconds:.1f} s', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
