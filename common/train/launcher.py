"""The processes of a run: one that starts it again after a crash, one that starts a process for
each device, and those. What they do about signals is in signals.py."""
import contextlib
import errno
import glob
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from multiprocessing import connection, parent_process, resource_tracker

import paddle
import paddle.distributed as paddle_dist

from common.core import cores, dist, processes
from common.core.devices import pick_device
from common.core.environment import DEBUG, RUN_FOLDER, SUPERVISED
from common.core.errors import InputError, RunError, complain, one_line, set_up_output
from common.core.processes import FAILED, WRONG_INPUT
from common.core.signals import (
    STOPPED,
    Stopped,
    StopSignal,
    end_children,
    exit_code,
    held_back,
)
from common.data.recognise import data_lines
from common.train.describe import recipe_lines
from common.train.run_folder import choose_folder, discard, find_resumed
from common.train.sharding import check_stage
from common.train.worker import Run, worker
from common.zoo import fetch_weights

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Seconds that the other ranks have to end by themselves when one has ended.
GRACE = 8.0
# Seconds after which a rank that is stopped (SIGSTOP) while others run is taken for a stuck one.
STUCK = 30.0
POLL = 0.2  # seconds between two looks at the ranks
# Seconds more that one of them has which is writing a file, and that what is left of a crashed run
# has before the next start.
PATIENCE = 60.0
PAUSE = 1.0  # seconds between a crash and the next start
CHILD_POLL = 0.05  # seconds between two looks at whether the child of a supervisor has ended


@contextlib.contextmanager
def errors_in_one_line(signals):
    """Ends the process with one line on standard error, and with the exit code that says what
    kind of end it is; see common/core/processes.py."""
    set_up_output()
    try:
        yield
    except Stopped as stopped:
        if not signals.child:
            complain(f'stopped by {signal.Signals(stopped.number).name}')
        raise
    except Exception as error:  # noqa: BLE001 - the last one to see it
        if signals.number is not None and not signals.only_noted:
            raise Stopped(signals.number) from None  # another process went first, and broke a call
        if DEBUG in os.environ:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            error = InputError(f'cannot write {error.filename or "a file"}: {error.strerror}')
        if dist.world_size() > 1 and is_broken_connection(error):
            error = RunError(f'the connection to another process has broken, which has ended, or '
                             f'whose machine does not answer; its own log says why, and -resume '
                             f'goes on from the last checkpoint (Paddle says: {one_line(error)})')
        where = f' (process {dist.rank()})' if dist.world_size() > 1 and dist.rank() else ''
        text, code = str(error), WRONG_INPUT if isinstance(error, InputError) else FAILED
        if not isinstance(error, (InputError, RunError)):
            text = f'{type(error).__name__}: {one_line(error)} (-debug shows where)'
        complain(f'error{where}: {text}')
        sys.exit(code)


def is_broken_connection(error):
    """Whether an error is one of gloo, or of Paddle's store, that another process has gone."""
    text = str(error)
    return not isinstance(error, (InputError, RunError)) and any(
        part in text for part in ('/gloo/', 'Connection reset', 'tcp_utils', 'tcp_store'))


def supervise(config, max_restarts, signals):
    """Runs this command in a process of its own, again after a crash and then in the same run's
    folder.

    Args:
        config: the run's config.
        max_restarts: how often it is started again at most.
        signals: StopSignal.

    Returns:
        The exit code.
    """
    processes.adopt_orphans()
    folder = choose_folder(config)
    with cores.said_environment():
        environment = {**os.environ, SUPERVISED: str(os.getpid()), RUN_FOLDER: folder or ''}
    with signals.noted():
        for restart in range(max_restarts + 1):
            code = run_child(command_of_child(), environment, signals)
            if code in (0, WRONG_INPUT, *STOPPED):
                discard_unused(folder, code)
                return code
            if signals.number is not None or restart == max_restarts:
                break
            end_children(PATIENCE)  # ranks whose launcher has died
            complain(f'the run has ended with code {code}; restart {restart + 1} of {max_restarts}')
            time.sleep(PAUSE)
            if signals.number is not None:
                raise Stopped(signals.number)
    end_children(PATIENCE)
    why = 'no restart is left' if signals.number is None else 'no restart after a signal'
    complain(f'the run has ended with code {code}; {why}')
    return FAILED


def discard_unused(folder, code):
    """Removes the folder of a run whose process has ended before it could do so itself.

    Args:
        folder: the run's, or None.
        code: the process's exit code.
    """
    if folder and (code in STOPPED or not os.path.exists(os.path.join(folder, 'log.txt'))):
        discard(folder)


def command_of_child():
    """This command without -max_restarts."""
    command, skip = [sys.executable], False
    for argument in sys.orig_argv[1:]:
        if not skip and not re.fullmatch('--?max_restarts(=.*)?', argument):
            command.append(argument)
        skip = argument in ('-max_restarts', '--max_restarts')
    return command


def run_child(command, environment, signals):
    """The exit code of a command, which gets the signal that comes meanwhile; -n if it died of
    signal n, other than one that stops runs."""
    with held_back():
        child = subprocess.Popen(command, env=environment)
    passed_on = False
    while child.poll() is None:
        if signals.number is not None and not passed_on:
            child.send_signal(signals.number)
            passed_on = True
        time.sleep(CHILD_POLL)
    return exit_code(child.returncode)


def launch(config, nprocs, build_model, get_dataset, signals, report=None,
           profile=None):
    """Runs `worker` here (one process, or one of a launcher's), or spawns one for each device.

    Args:
        config: the run's config.
        nprocs: the number of processes that the command line asks for, or None.
        build_model: config -> Layer.
        get_dataset: (config, is_train) -> data set.
        signals: StopSignal.
        report, profile: see Run.
    """
    device = pick_device(config)
    if not config.EVAL:
        check_stage(config.TRAIN)
    nprocs = count_processes(nprocs, device)
    train_set = None if config.EVAL else get_dataset(config, is_train=True)
    val_set = get_dataset(config, is_train=False)
    if device == 'cpu':
        dist.use_gloo()
    folder = choose_folder(config)
    notes = [*data_lines(config, train_set, val_set), *recipe_lines(config, train_set)]
    config, note = find_resumed(config, folder)
    fetch_once(config, folder)
    run = Run(config, device, folder, [*notes, *([note] if note else [])], build_model, train_set,
              val_set, report, profile)
    if dist.is_launched() or nprocs == 1:
        if dist.is_launched():
            processes.end_with_launcher(signal.SIGTERM)
        worker(run, signals)
        return
    code = spawn(run, nprocs, signals)
    discard_unused(folder, code)
    if code:
        sys.exit(code)


def fetch_once(config, folder):
    """Fetches the weights that MODEL.PRETRAINED names, if they are not files: here, before the
    ranks of this machine are started. (Under a launcher each rank does it, one after the other.)"""
    if not config.MODEL.PRETRAINED or config.MODEL.RESUME:
        return
    try:
        fetch_weights(config.MODEL.PRETRAINED, config.MODEL.NAME)
    except (InputError, Stopped):
        if folder is not None:
            discard(folder)
        raise


def count_processes(nprocs, device):
    """How many processes this one starts, if it is not one of a launcher's itself.

    Raises:
        InputError: -nprocs asks for what cannot be.
    """
    if dist.is_launched() and nprocs is not None:
        raise InputError('-nprocs: got it under paddle.distributed.launch, which decides it itself')
    if nprocs is not None and nprocs < 1:
        raise InputError(f'-nprocs: got {nprocs}, expected at least 1')
    visible = paddle.device.cuda.device_count() if device == 'gpu' else None
    if visible and nprocs and nprocs > visible:
        raise InputError(f'-nprocs: got {nprocs}, expected at most the {visible} visible GPUs')
    return nprocs or visible or 1


def spawn(run, nprocs, signals):
    """Runs `worker` in a process for each device; the exit code."""
    options = {'backend': 'gloo'} if run.device == 'cpu' else {}
    with signals.noted():
        with held_back():  # Python's own process ignores SIGTERM and SIGINT; it never gets SIGHUP
            resource_tracker.ensure_running()  # it lets the other two in
        with held_back(), warnings.catch_warnings(), cores.said_environment():
            # what this run's own log says, too: that it computes on the CPU
            warnings.filterwarnings('ignore', 'Your model will be trained under CPUONLY mode')
            context = paddle_dist.spawn(spawned_worker, args=(run,), nprocs=nprocs, join=False,
                                        **options)
        return wait_for(context.processes, signals, run.folder)


def spawned_worker(run):
    """Runs `worker` as the whole of a process."""
    with StopSignal(child=True) as signals, errors_in_one_line(signals):
        processes.end_with_parent(signal.SIGTERM, parent_process().pid)
        worker(run, signals)


def wait_for(ranks, signals, folder):
    """Waits for the processes of a run, and passes on to all of them the signal that this process
    or one of them has got.

    Args:
        ranks: the processes.
        signals: StopSignal.
        folder: the run's, or None.

    Returns:
        The exit code: 0, or that of the first one that ended with another; the others then have
        GRACE seconds, and PATIENCE more to write a file that they have begun. (They have agreed on
        a stop in training and evaluation.)
    """
    code, deadline, passed_on = 0, None, False
    stopped_for = dict.fromkeys(ranks, 0.0)
    while running := [rank for rank in ranks if rank.is_alive()]:
        connection.wait([rank.sentinel for rank in running], timeout=POLL)
        end_stuck(ranks, running, stopped_for)
        if not code and (code := first_code(ranks)):
            deadline = time.monotonic() + GRACE
        number = signals.number or (code - 128 if code in STOPPED else None)
        if number is not None and not passed_on:
            passed_on = True
            for rank in running:
                if rank.is_alive():
                    os.kill(rank.pid, number)
        late = 0.0 if deadline is None else time.monotonic() - deadline
        for rank in running if late > 0.0 else ():
            if late > PATIENCE or not is_writing(rank.pid, folder):
                rank.kill()
    return code or first_code(ranks)


def is_writing(pid, folder):
    """Whether a process is writing a file of a folder; see common/core/files.py."""
    return folder is not None and bool(
        glob.glob(os.path.join(glob.escape(folder), f'*.tmp{pid}')))


def end_stuck(ranks, running, stopped_for):
    """Kills a rank that has been stopped for STUCK seconds while another one runs, which would wait
    for it for ever.

    Args:
        ranks: all processes of the run.
        running: those that have not ended.
        stopped_for: {rank: seconds}, which are counted here: by looks, not by a clock, since this
            process may be stopped with all of them (ctrl-Z).
    """
    are_stopped = {rank: processes.is_stopped(rank.pid) for rank in running}
    for rank, is_stopped in are_stopped.items():
        waits = is_stopped and not all(are_stopped.values())
        stopped_for[rank] = stopped_for[rank] + POLL if waits else 0.0
        if stopped_for[rank] > STUCK:
            complain(f'error: process {ranks.index(rank)} has been stopped (SIGSTOP) for '
                     f'{STUCK:.0f} s, and the others wait for it')
            rank.kill()


def first_code(ranks):
    """The exit code other than 0 of a process that has ended, or 0. One that was stopped comes
    first, then one that was killed: the others may have failed for the want of it."""
    ended = {index: exit_code(rank.exitcode) for index, rank in enumerate(ranks) if rank.exitcode}
    if not ended:
        return 0
    stopped = [index for index, code in ended.items() if code in STOPPED]
    killed = [index for index, code in ended.items() if code < 0]
    index = [*stopped, *killed, *ended][0]
    if ended[index] < 0:
        complain(f'error: process {index} was ended by {processes.end_of(ended[index])}')
        return FAILED
    return ended[index]
