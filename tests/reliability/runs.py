"""Small runs that are stopped and gone on with, for the tests of this folder.

FAMILIES holds a small model of each family; `train` is the real program as a child process; `cut`
runs the program's own `run` in this process and stops it at a step, which is a hundred times
quicker than a new process.
"""
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout

import numpy as np

from common.runner import run
from common.train.trainer import Trainer
from common.weights.unpickle import load_pickle
from common.zoo import load_family_file
from tests.conftest import ROOT

FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['common.runner'])
# 12 steps an epoch, three epochs, and everything on that is drawn or averaged.
RECIPE = ['-batch_size=4', '-o', 'TRAIN.NUM_EPOCHS=3', '-o', 'TRAIN.WARMUP_EPOCHS=1',
          '-o', 'TRAIN.COOLDOWN_EPOCHS=0', '-o', 'REPORT_FREQ=5', '-o', 'MODEL.DROPPATH=0.2',
          '-o', 'AUG.AUTO_AUGMENT=rand-m5-n1', '-o', 'AUG.MIXUP=0.8', '-o', 'AUG.ERASING=0.3',
          '-o', 'TRAIN.EMA.DECAY=0.9', '-o', 'SAVE_FREQ=100', '-o', 'VALIDATE_FREQ=1',
          '-o', 'DATA.BATCH_SIZE_EVAL=8']
STEPS = 36
# A run that ends only when it is stopped, and does not save by itself.
LONG = ['-o', 'TRAIN.NUM_EPOCHS=500', '-o', 'VALIDATE_FREQ=1000']
FAMILIES = {
    'vit': ('vit', ['-cfg=./configs/vit_digits.yaml', '-o', 'MODEL.DEPTH=1',
                    '-o', 'MODEL.EMBED_DIM=32', '-o', 'MODEL.NUM_HEADS=2']),
    'vitae': ('vitae', ['-cfg=./configs/vitae_digits.yaml']),
    'vitaev2_vsa': ('vitaev2_vsa', ['-cfg=./configs/vitaev2_vsa_digits.yaml']),
}


def arguments(family, data, output, *more):
    return [*FAMILIES[family][1], '-dataset=list', f'-data_path={data}', f'-output={output}',
            *RECIPE, '-o', 'DATA.NUM_WORKERS=0', *more]


def start(family, data, output, *more, prefix=(), script='main_multi_gpu.py', **options):
    """The program as a process."""
    return subprocess.Popen(
        [sys.executable, *prefix, str(script),
         *arguments(family, data, output, *more)],
        cwd=ROOT / family, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **options)


def start_forked(family, data, output, *more):
    """(process, file of its standard output): `cut` as a process of its own, which is forked where
    Paddle is imported already, and so is there in a fifth of the time of `start`."""
    log = output.with_suffix('.log')
    log.write_text('')
    process = FORKS.Process(target=write_log, args=(log, family, data, output, *more))
    process.start()
    return process, log


def write_log(log, *args):
    """Runs `cut` as the whole of a process."""
    with open(log, 'w', buffering=1, encoding='utf-8') as stream, redirect_stdout(stream):
        sys.exit(cut(*args))


def wait_for_training(process):
    for line in process.stdout:
        if ' step ' in line:
            return
    raise AssertionError(process.stderr.read())


def children_of(pid):
    found = subprocess.run(['pgrep', '-P', str(pid)], capture_output=True, text=True).stdout
    return [int(child) for child in found.split()]


def is_alive(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        with open(f'/proc/{pid}/stat') as stream:
            return stream.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def all_ended(pids, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(is_alive, pids)):
            return True
        time.sleep(0.05)
    return False


def train(family, data, output, *more):
    """(exit code, stdout, stderr) of a whole run."""
    process = start(family, data, output, *more)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def cut(family, data, output, *more, stop_at=None, number=signal.SIGTERM):
    """The exit code of a run in this process, that gets a signal in optimiser step `stop_at`."""
    module = {name: load_family_file(family, name) for name in ('config', 'datasets', family)}
    argv = [flag.replace('./configs', str(ROOT / family / 'configs'))
            for flag in arguments(family, data, output, *more)]
    builder = getattr(module[family], f'build_{family}')
    after_update = Trainer.after_update
    seen = []

    def signalled(self, step, sums):
        seen.append(step)
        if len(seen) == stop_at:
            os.kill(os.getpid(), number)
        after_update(self, step, sums)

    Trainer.after_update = signalled
    try:
        run(module['config'].get_config, module['config'].update_config, builder,
            module['datasets'].get_dataset, argv)
        return 0
    except SystemExit as end:
        return end.code
    finally:
        Trainer.after_update = after_update


def run_folder(output):
    folder, = [folder for folder in output.iterdir() if folder.is_dir()]
    return folder


def content_of(output):
    return load_pickle(str(run_folder(output) / 'last.pdparams'))


def digest(value):
    """sha256 of all numbers of a checkpoint: weights, optimiser, average, best result."""
    result = hashlib.sha256()

    def add(name, item):
        if isinstance(item, dict):
            for key in sorted(item):
                add(f'{name}.{key}', item[key])
        elif isinstance(item, np.ndarray):
            result.update(f'{name} {item.dtype} {item.shape}'.encode() + item.tobytes())
        else:
            result.update(f'{name} {item!r}'.encode())

    add('', {key: value[key] for key in ('model', 'optimizer', 'ema', 'best', 'epoch', 'step')})
    return result.hexdigest()
