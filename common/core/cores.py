"""The cores of the processor: how many are free, how many this process uses, and how its threads
are told.

Paddle uses one core where OMP_NUM_THREADS says nothing. A program that calls set_up_cpu uses all
that are free, divided by the ranks on this machine; OMP_NUM_THREADS still says otherwise.
"""
import contextlib
import ctypes
import functools
import os
import sys

from common.core.environment import MACHINES, TRAINER_ID, TRAINERS_NUM
from common.core.errors import InputError
from common.core.groups import group_folders

VARIABLE = 'OMP_NUM_THREADS'
WAIT_VARIABLES = ('KMP_BLOCKTIME', 'OMP_WAIT_POLICY', 'KMP_LIBRARY')
# Of both versions of control groups: the files of a quota, in microseconds, and of its period.
QUOTAS = {'': ('cpu.max',), 'cpu': ('cpu.cfs_quota_us', 'cpu.cfs_period_us')}


def free_cores(proc='/proc', cgroups='/sys/fs/cgroup'):
    """How many cores this process may use at a time, at least 1: those that it may run on, and of
    each control group (a container's limit) that it is in the whole cores of the quota.

    Args:
        proc, cgroups: where the system says so.
    """
    if hasattr(os, 'sched_getaffinity'):  # Linux
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    for kind, files in QUOTAS.items():
        for folder in group_folders(kind, proc, cgroups):
            # no such group; 'max' and -1 are no quota
            with contextlib.suppress(OSError, ValueError):
                words = []
                for name in files:
                    with open(os.path.join(folder, name)) as stream:
                        words += stream.read().split()
                quota, period = map(int, words)
                if quota > 0 and period > 0:
                    count = min(count, quota // period)
    return max(count, 1)


def said_by_user():
    """OMP_NUM_THREADS as the user has set it, or None. `import paddle` writes 1 where there is
    nothing, which the processes that are started afterwards have, too."""
    value = os.environ.get(VARIABLE)
    if value == '1' and 'paddle' in sys.modules:
        value = at_start('self', value)
    if value == '1' and TRAINER_ID in os.environ:  # paddle.distributed.launch imports Paddle
        value = at_start(os.getppid(), value)
    return value


def at_start(pid, value):
    """OMP_NUM_THREADS as a process had it when it was started; `value` where that is not known."""
    with contextlib.suppress(OSError), open(f'/proc/{pid}/environ', 'rb') as stream:
        variables = dict(line.partition(b'=')[::2] for line in stream.read().split(b'\0'))
        found = variables.get(VARIABLE.encode())
        return None if found is None else found.decode(errors='replace')
    return value


SAID = said_by_user()  # now: Paddle may be imported next


@contextlib.contextmanager
def said_environment():
    """The environment without what Paddle has written into it, for processes that are started."""
    written = os.environ.pop(VARIABLE, None) if SAID is None else None
    try:
        yield
    finally:
        if written is not None:
            os.environ[VARIABLE] = written


class Cores:
    """How many cores this process uses; None before set_up_cpu, when it is OMP_NUM_THREADS or 1."""

    count = None


def core_count():
    """How many cores this process uses on a CPU.

    Raises:
        InputError: OMP_NUM_THREADS is no number.
    """
    return Cores.count or (1 if SAID is None else number_of(SAID))


def number_of(text):
    """The number of threads that OMP_NUM_THREADS says: of a list, one for each level, the first."""
    first = text.partition(',')[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise InputError(f'{VARIABLE}: got {text!r}, expected a number of at least 1')
    return int(first)


def ranks_here():
    """How many ranks of a run this machine has, by what the launcher says."""
    ranks, machines = (int(os.environ.get(name, '1')) for name in (TRAINERS_NUM, MACHINES))
    return max(1, ranks // max(machines, 1))


def set_up_cores():
    """Makes Paddle use the cores that are this process's, from the calling thread on.

    Threads of OpenMP that have no work spin for a millisecond, then sleep; by default they spin for
    0.2 s, in which they keep others from a core. Waking them for each operator of a small model
    takes longer than one core needs for it; measured in common/README.md, "What did not help".
    """
    if SAID is not None:
        Cores.count = number_of(SAID)  # Paddle has read it, too
    elif Cores.count is None:
        import paddle  # takes a second, and nothing else here needs it
        Cores.count = max(1, free_cores() // ranks_here())
        if Cores.count > 1:
            paddle.base.core.set_num_threads(Cores.count)
    use_cores()


def use_cores():
    """Makes the loops of the calling thread take this process's cores: OpenMP keeps its numbers for
    each thread."""
    if Cores.count and Cores.count > 1 and libraries():
        openmp, _ = libraries()
        openmp.omp_set_num_threads(Cores.count)
        if not any(name in os.environ for name in WAIT_VARIABLES):
            openmp.kmp_set_blocktime(1)


@functools.cache
def libraries():
    """Paddle's OpenMP and MKL, or None where it has others (not x86-64, not Linux)."""
    import paddle  # as above
    folder = os.path.join(os.path.dirname(paddle.__file__), 'libs')
    with contextlib.suppress(OSError):
        return [ctypes.CDLL(os.path.join(folder, f'lib{name}.so'))
                for name in ('iomp5', 'mklml_intel')]
    return None


@contextlib.contextmanager
def threads_of_this_thread(count):
    """In a thread that the caller has made: products and loops take `count` threads, whatever the
    others take. At the end the buffers go that MKL keeps for each thread."""
    openmp, mkl = libraries()
    openmp.omp_set_num_threads(count)
    mkl.MKL_Set_Num_Threads_Local(count)
    try:
        yield
    finally:
        mkl.MKL_Thread_Free_Buffers()
