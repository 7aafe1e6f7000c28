"""What test_sharding.py starts on several ranks: trains each case plainly and with TRAIN.SHARDING.

python -m paddle.distributed.launch --nproc_per_node N sharded_steps.py FOLDER CASE:STAGE...

Rank 0 writes what it has found to FOLDER/found.json.
"""
import json
import math
import os
import resource
import signal
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import paddle

from common.config import base_config
from common.core import dist
from common.core.environment import BACKEND
from common.core.processes import set_up_cpu
from common.layers.recompute import recompute_cells
from common.train.checkpoint import resume, save_checkpoint
from common.train.ema import Ema
from common.train.engine import train_one_epoch
from common.train.losses import build_loss
from common.train.optim import build_optimizer, optimizer_state, sharded, states_on_master
from common.train.precision import Precision
from common.train.schedule import Schedule
from common.train.sharding import unsharded
from common.train.split_model import parallel, whole
from common.train.state import Callbacks, EpochSteps, LoopOptions, TrainState
from common.zoo import create_model
from tests.loss_scaler import cpu_scaler

STEPS = 20
FACTS = {'epoch': 0, 'step': STEPS - 2, 'best': None, 'config': {}}
SIZES = {'vit_digits': {'depth': 2, 'embed_dim': 32, 'num_heads': 2}}
CASES = {
    'vit': ('vit_digits', {'LAYER_DECAY': 0.7, 'ACCUM_ITER': 2, 'GRAD_CLIP': 0.3}),
    'vitae': ('vitae_digits', {'RECOMPUTE': True, 'GRAD_CLIP': 0.3}),
    'vsa': ('vitaev2_vsa_digits', {'GRAD_CLIP': 0.3, 'LAYER_DECAY': 0.7}),
    'frozen': ('vit_digits', {'FREEZE': ['patch_embedding', 'encoder.layers.0']}),
    'SGD': ('vit_digits', {'OPTIMIZER.NAME': 'SGD', 'GRAD_CLIP': 0.3}),
    'skipped': ('vit_digits', {'MAX_SKIPPED': 2}),
    'scaler': ('vit_digits', {'GRAD_CLIP': 0.3, 'MAX_SKIPPED': 1}),
}


def float64_scaler():
    """Paddle's own GradScaler for gradients in float64, which it has no list for."""
    scaler = cpu_scaler(1024.0)
    scaler._scale = scaler._scale.astype('float64')
    paddle.base.core.eager.get_grads_lists = lambda parameters: (
        [], [], [p.grad for p in parameters if p.grad is not None])
    return scaler


def batches(broken, accum_iter):
    """Other images on each rank, from step 0 on; if broken, those of one step have a number that is
    not finite on rank 1."""
    random = np.random.default_rng(dist.rank())
    for step in range(STEPS):
        for _ in range(accum_iter):
            images = random.standard_normal((2, 3, 32, 32))
            if broken and step == 7 and dist.rank() == 1:
                images[0, 0, 0, 0] = np.inf
            yield paddle.to_tensor(images), paddle.to_tensor(random.integers(0, 10, 2))


class Case:
    """A model, its optimiser and what belongs to them, with TRAIN.SHARDING as said."""

    def __init__(self, case, sharding):
        name, keys = CASES[case]
        config = base_config()
        config.TRAIN.SHARDING = sharding
        for key, value in keys.items():
            node = config.TRAIN.OPTIMIZER if '.' in key else config.TRAIN
            node[key.rpartition('.')[2]] = value
        paddle.seed(3)
        self.model = create_model(name, **SIZES.get(name, {}))
        precision = Precision()
        precision.scaler = float64_scaler() if case == 'scaler' else None
        self.optimizer = sharded(config.TRAIN, build_optimizer(config.TRAIN, self.model),
                                 self.model)
        if config.TRAIN.RECOMPUTE:
            recompute_cells(self.model)
        self.ema = Ema(self.model, 0.9)
        self.state = TrainState(
            self.model, build_loss(config.TRAIN), self.optimizer,
            Schedule(1e-2, 1, STEPS, warmup_epochs=0.2), precision, self.ema)
        parallel(self.state, sharding)
        self.options = LoopOptions.from_config(config)
        self.broken = case in ('skipped', 'scaler')
        self.most = {'gradients': 0, 'weights': 0}  # numbers that were here at a step, at most
        self.step, unsharded(self.optimizer).step = unsharded(self.optimizer).step, self.counted

    def counted(self):
        """A step of the optimiser."""
        here = {'gradients': [p.grad for p in self.state.parameters if p.grad is not None],
                'weights': [p for p in self.model.parameters() if p._is_initialized()]}
        for kind, tensors in here.items():
            count = sum(math.prod(tensor.shape) for tensor in tensors)
            self.most[kind] = max(self.most[kind], count)
        self.step()

    def least(self):
        """What `most` must be: of the gradients and the weights of the blocks this rank's share."""
        whole = sum(math.prod(p.shape) for p in self.model.parameters())
        split = self.state.split
        if not split:
            return {'gradients': sum(math.prod(p.shape) for p in self.state.parameters),
                    'weights': whole}
        away = sum(math.prod(p.shape) for cell in split.cells
                   for p, owner in zip(cell.parameters, cell.owners, strict=True)
                   if owner != dist.rank())
        return {'gradients': self.optimizer.sizes[dist.rank()], 'weights': whole - away}

    def train(self, first, end):
        train_one_epoch(self.state, batches(self.broken, self.options.accum_iter), self.options,
                        EpochSteps(1, STEPS, first, end), Callbacks())

    def numbers(self):
        """{kind: {name: array}} on rank 0; others have no states there."""
        with states_on_master(self.optimizer, self.model):
            states = {f'{path}.{slot}': value.numpy() for path, slots in optimizer_state(
                self.optimizer, self.model).items() for slot, value in slots.items()} \
                if dist.is_master() else {}
        with whole(self.state):
            weights = {key: value.numpy() for key, value in self.model.state_dict().items()}
        return {'weights': weights,
                'average': {key: value.numpy() for key, value in self.ema.average.items()},
                'states': states}

    def held(self):
        """How many numbers this rank has as the optimiser's states of each parameter: a list."""
        own = optimizer_state(self.optimizer, self.model)
        return [sum(value.numpy().size for value in slots.values()) for slots in own.values()]

    def save(self, file, limit=None):
        """(bytes of Python and numpy at their peak, whether it was written) on rank 0."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        tracemalloc.start()
        written = True
        with whole(self.state), states_on_master(self.optimizer, self.model):
            if dist.is_master():
                try:
                    if limit:
                        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
                    save_checkpoint(file, self.model, self.optimizer, None, FACTS, self.ema)
                except OSError:
                    written = False
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, written

    def load(self, file):
        with whole(self.state):
            resume(file, self.model, self.optimizer, None, self.ema)


def largest_difference(first, second):
    """{kind: the largest difference of any number}."""
    found = {}
    for kind, values in first.items():
        assert values.keys() == second[kind].keys()
        found[kind] = max((float(np.abs(value - second[kind][key]).max())
                           for key, value in values.items()), default=0.0)
        assert all(np.isfinite(value).all() for value in values.values())
    return found


def compare(case, stage, folder):
    """What differs between plain and split states: after STEPS - 2 steps, and after two more, each
    from the other's checkpoint."""
    plain, split = Case(case, 0), Case(case, stage)
    for each in (plain, split):
        each.train(0, STEPS - 2)
    differences = [largest_difference(plain.numbers(), split.numbers())]
    files = [f'{folder}/{case}{name}.pdparams' for name in ('plain', 'split')]
    plain.save(files[0])
    full = split.save(files[1], limit=10_000)[1]
    peak, written = split.save(files[1])
    dist.Barrier(f'{case}{stage}')()
    loaded = Case(case, 0), Case(case, stage)
    for each, file in zip(loaded, reversed(files), strict=True):
        each.load(file)
        each.train(STEPS - 2, STEPS)
    differences.append(largest_difference(*(each.numbers() for each in loaded)))
    plain.train(STEPS - 2, STEPS)
    differences.append(largest_difference(plain.numbers(), loaded[1].numbers()))
    with whole(loaded[1].state):
        sums = dist.gather_texts(repr([p.abs().sum().item() for p in loaded[1].state.parameters]))
    held = [int(number) for number in dist.gather_texts(str(sum(split.held())))]
    kept = dist.gather_texts(json.dumps([split.most, split.least(), plain.most, plain.least()]))
    return {'differences': differences, 'held': held, 'all': sum(plain.held()),
            'largest': max(plain.held()), 'kinds_of_ranks': len(set(sums)), 'peak': peak,
            'written': [full, written], 'kept': [json.loads(text) for text in kept]}


def join():
    """Joins the ranks on CPUs where the launcher was told to use gloo, else on a GPU each."""
    if os.environ.get(BACKEND) == 'gloo':
        paddle.set_device('cpu')
        set_up_cpu()
    else:
        paddle.set_device('gpu')
    dist.join_group()


def main(folder, *cases):
    join()
    paddle.set_default_dtype('float64')
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    found = {}
    for name in cases:
        case, stage = name.split(':')
        found[name] = compare(case, int(stage), folder)
    if dist.is_master():
        (Path(folder) / 'found.json').write_text(json.dumps(found))


if __name__ == '__main__':
    main(*sys.argv[1:])
