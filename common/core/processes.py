"""What a run asks of the operating system: parents and children, locks, memory. What it does about
signals is in signals.py."""
import contextlib
import ctypes
import fcntl
import os
import platform
import re
import signal
import sys
import time

from common.core.cores import set_up_cores
from common.core.errors import InputError, complain
from common.core.native import set_up_kernels

# Loaded here: a worker, which is forked, might wait for ever for the lock of the dynamic linker.
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# Options of glibc's mallopt: from what size on a block is a mapping of its own, and how much free
# memory at the heap's end goes back to the system.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
GIB = 1 << 30
POLL = 0.1  # seconds between two tries to get a lock
CPU_INFO = '/proc/cpuinfo'
# What MKL's kernels for AVX-512 need (Skylake's).
AVX512 = {'avx512f', 'avx512cd', 'avx512bw', 'avx512dq', 'avx512vl'}
MKL_VARIABLE = 'MKL_DEBUG_CPU_TYPE'
# Exit codes beside 0 and those of signals.py: wrong input, which a restart would not mend; anything
# else that went wrong.
WRONG_INPUT, FAILED = 1, 3


def set_up_cpu() -> None:
    """Makes Paddle faster on a CPU. It acts on the whole process, so programs call it, no import.

    - Strided views make a transpose some 30 times slower than a copy; a small ViT's training step
      takes 0.7 of the time without them.
    - MKL, which Paddle brings, leaves an AMD processor's AVX alone unless it is told to use it;
      products of matrices are then two (AVX2) to four (AVX-512) times as fast.
    - Kernels that the machine's C compiler builds once (native.py) take fewer passes over memory
      than Paddle's operators; training is some 1.08 times as fast.
    - All free cores compute, divided by the ranks on this machine, where OMP_NUM_THREADS says
      nothing (cores.py).
    - Memory that is freed stays with the process. Else each batch of images comes in fresh pages,
      and normalising it takes eight times as long, most of it in the kernel.
    """
    import paddle  # takes a second, and nothing else here needs it
    paddle.set_flags({'FLAGS_use_stride_kernel': False})
    set_up_mkl()
    set_up_cores()
    set_up_kernels(processor())
    with contextlib.suppress(AttributeError):  # a C library without mallopt
        LIBC.mallopt(M_MMAP_THRESHOLD, GIB)
        LIBC.mallopt(M_TRIM_THRESHOLD, 2 * GIB - 1)  # the largest int


def set_up_mkl() -> None:
    """Makes MKL use an AMD processor's vector instructions, before the first product of matrices.

    Paddle's MKL of 2019 (2.6 and 3.x have it) looks at the maker's name, and at this variable: 5 is
    AVX2, 7 AVX-512. A value that the user has set stays.
    """
    kernels = mkl_kernels()
    if kernels:
        os.environ.setdefault(MKL_VARIABLE, kernels)


def mkl_kernels():
    """What set_up_mkl sets MKL_VARIABLE to on this processor, or None for nothing."""
    words = cpu_info()  # compat: mkl-amd
    if {'AuthenticAMD', 'avx2'} <= words:
        return '7' if words >= AVX512 else '5'
    return None


def cpu_info():
    """The set of words that Linux says about the first processor, its flags among them."""
    with contextlib.suppress(OSError), open(CPU_INFO) as stream:
        return set(stream.read().partition('\n\n')[0].split())
    return set()


def processor():
    """The name of the first processor and what it can do, as one text: the same at each call, where
    cpu_info also has the frequency of the moment."""
    with contextlib.suppress(OSError), open(CPU_INFO) as stream:
        lines = dict(map(str.strip, line.split(':', 1)) for line in
                     stream.read().partition('\n\n')[0].splitlines() if ':' in line)
        return ' '.join(filter(None, map(lines.get, ('model name', 'flags', 'Features'))))
    return platform.machine()


def end_with_parent(number=signal.SIGKILL, parent=None):
    """Makes the system send this process a signal when its parent ends, in whatever way (Linux).

    Args:
        number: the signal.
        parent: the parent's process id, for where it may have ended already; None is the present
            parent's.
    """
    if sys.platform == 'linux':
        parent = parent or os.getppid()
        LIBC.prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it ended before the call
            os.kill(os.getpid(), number)


def end_with_launcher(number):
    """`end_with_parent` for a process that paddle.distributed.launch has started: where that is
    killed, its ranks would train on. (Others, a shell for one, may end before what they start.)"""
    parent = os.getppid()
    with contextlib.suppress(OSError), open(f'/proc/{parent}/cmdline', 'rb') as stream:
        command = stream.read()
        if b'paddle.distributed.launch' in command or b'fleetrun' in command:
            end_with_parent(number, parent)


def adopt_orphans():
    """Makes the processes whose parent ends before them children of this one, as long as it lives:
    all that come from it, in any generation (Linux)."""
    if sys.platform == 'linux':
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_of(exitcode):
    """Says how a process has ended: the name of the signal, or 'exit code N'."""
    if exitcode is not None and exitcode < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-exitcode).name
    return f'exit code {exitcode}'


def is_running(pid):
    """Whether there is a process with this id, anybody's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def is_stopped(pid):
    """Whether a process is stopped by a signal (SIGSTOP, ctrl-Z); not by a debugger."""
    with contextlib.suppress(OSError), open(f'/proc/{pid}/stat') as stream:
        return stream.read().rpartition(')')[2].split()[0] == 'T'
    return False


def sweep(folder, pattern):
    """Removes files of a folder that processes which are gone have left.

    Args:
        folder: path.
        pattern: regular expression of the whole name; its first group is the process's id.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            match = re.fullmatch(pattern, name)
            if match and not is_running(int(match[1])):
                with contextlib.suppress(OSError):  # another user's, or swept by another run
                    os.remove(os.path.join(folder, name))


def lock(folder):
    """Takes a run's folder for this process, as long as it lives.

    Raises:
        InputError: another process has it, or it cannot be written.
    """
    file = os.path.join(folder, 'lock')
    try:
        stream = open(file, 'a+')  # noqa: SIM115 - held until the process ends
        take(stream, folder)
        stream.truncate(0)
        stream.write(f'{os.getpid()}\n')
        stream.flush()
    except OSError as error:
        raise InputError(f'cannot write {file}: {error.strerror}') from None
    return stream


def wait_for_lock(file, waiting, without_locks):
    """Takes the lock of an open file, however long another process has it.

    Args:
        file: stream or descriptor; the lock is free when it is closed.
        waiting: called once if another process has the lock.
        without_locks: called with the OSError of a file system that has no locks.
    """
    said = False
    while True:
        try:
            # The system takes it away from a process that dies, whatever of. Not a waiting call:
            # a signal must be able to end it.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not said:
                waiting()
            said = True
            time.sleep(POLL)
        except OSError as error:  # some file systems of clusters have none
            without_locks(error)
            return


def take(stream, folder):
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        raise InputError(f'{folder}: process {stream.read().strip()} is running there') from None
    except OSError as error:  # some file systems of clusters have no locks
        complain(f'WARNING: {folder} cannot be locked ({error.strerror}): a second run in it would '
                 f'not be noticed')
