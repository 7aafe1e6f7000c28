"""The predictions of a plan beside what training really needs: what `python -m common.benchmark
plan` prints."""
import itertools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import paddle

from common.benchmarks.memory import peak_memory, peak_of_tensors
from common.config import ConfigNode, set_options
from common.core.errors import InputError
from common.core.processes import set_up_cpu
from common.core.sizes import to_pair
from common.data.samplers import TrainSampler
from common.planning.budget import Budget, Setting
from common.train.engine import train_one_epoch
from common.train.precision import Precision
from common.train.state import Callbacks, EpochSteps, LoopOptions
from common.train.worker import build_state
from common.zoo import build_model, model_config

STEPS = 2  # the optimiser's state comes with the first
BATCH = 8


class Case(NamedTuple):
    """A training whose peak is predicted and measured."""
    name: str
    image_size: int | None  # pixels; None is the model's own
    batch: int
    options: tuple = ()


def case_of(text):
    """The Case of 'NAME', 'NAME:SIZE', 'NAME:SIZE:BATCH' or 'NAME:SIZE:BATCH:KEY=VALUE'.

    Raises:
        InputError: another text.
    """
    name, *numbers = text.split(':', 3)
    options = tuple(numbers[2:])
    if not all(number.isdigit() and int(number) for number in numbers[:2]):
        raise InputError(f'case: got {text}, expected NAME:SIZE:BATCH, as {name}:224:8')
    size, batch = [*map(int, numbers[:2]), *(None, BATCH)[len(numbers[:2]):]]
    return Case(name, size, batch, options)


def config_of(case: Case) -> ConfigNode:
    """The config of a Case."""
    config = model_config(case.name).clone()
    config.defrost()
    size = [f'DATA.IMAGE_SIZE={case.image_size}'] if case.image_size else []
    set_options(config, [*size, *case.options])
    config.freeze()
    return config


def setting_of(config):
    """The Setting of a config on one device."""
    return Setting(1, config.TRAIN.RECOMPUTE, 0, config.TRAIN.ACCUM_ITER)


def predict(case):
    """Bytes at the peak by the plan, and the seconds that it took, with the process's peak."""
    set_up()
    start, config = time.perf_counter(), config_of(case)
    total = Budget(config).total(case.batch, setting_of(config))
    return total, time.perf_counter() - start, peak_memory() * 2 ** 20


def measure(case):
    """Bytes at the peak of Paddle's tensors and of the process, in STEPS steps of the training
    loop."""
    set_up()
    config = config_of(case)
    accum_iter = config.TRAIN.ACCUM_ITER
    sampler = TrainSampler(case.batch * accum_iter * STEPS, case.batch, accum_iter)
    state = build_state(config, build_model(config), sampler, Precision())
    K = config.MODEL.NUM_CLASSES
    batch = (paddle.randn([case.batch, 3, *to_pair(config.DATA.IMAGE_SIZE)]),
             paddle.full([case.batch, K], 1.0 / K))
    train_one_epoch(state, itertools.repeat(batch), LoopOptions.from_config(config),
                    EpochSteps(1, STEPS), Callbacks())
    return peak_of_tensors() * 2 ** 20, peak_memory() * 2 ** 20


def set_up():
    if not paddle.device.get_device().startswith('gpu'):
        set_up_cpu()


def check_table(cases) -> str:
    """Predicts and measures, each in a process of its own.

    Args:
        cases: list of Case.

    Returns:
        A markdown table.
    """
    lines = ['| Model | Image | Batch | Options | Predicted MB | Measured MB | Ratio | Process MB '
             '| Plan s | Plan MB |', '|---' * 10 + '|']
    for case in cases:
        predicted, seconds, own = in_process(predict, case)
        measured, process = in_process(measure, case)
        size = config_of(case).DATA.IMAGE_SIZE
        lines.append(f'| {case.name} | {size} | {case.batch} | '
                     f'{" ".join(case.options)} | {predicted / 2 ** 20:.0f} | '
                     f'{measured / 2 ** 20:.0f} | {predicted / measured:.3f} | '
                     f'{process / 2 ** 20:.0f} | {seconds:.1f} | {own / 2 ** 20:.0f} |')
    return '\n'.join(lines)


def in_process(function, *arguments):
    """The result of a function in a new process, whose memory nothing else has used."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as processes:
        return processes.submit(function, *arguments).result()
