"""Signals that stop a run: SIGTERM, SIGINT (ctrl-C), and SIGHUP (its terminal is closed;
under nohup it is ignored). The rules, for every process of a run:

- Any process may get one, and several may get the same one twice: a terminal signals all processes
  in it, a process manager one or all of a service. So a request counts once, however often it
  comes, and whoever gets it tells those that it has started, once.
- Only a second SIGINT to the process that the user has started means "at once": it then ends, with
  all that it has started.
- As long as there is nothing to save (imports, lists, the model), a process ends where it is. In
  training and evaluation it takes note, and all ranks stop at the same place, after a checkpoint.
- The exit code is 128 + the signal's number. Who was signalled starts nothing again.
- A process is started with these signals held back, and lets them in when it can take them. So one
  that comes in between is neither lost nor deadly.

This file needs nothing but Python, so that it can act before the imports that take seconds.
"""
import contextlib
import glob
import os
import signal
import time

from common.core.environment import SUPERVISED, TRAINER_ID

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Exit codes of a run that a signal has stopped, as shells count.
STOPPED = {128 + number for number in STOP_SIGNALS}
POLL = 0.02  # seconds between two looks at whether children have ended


class Stopped(SystemExit):
    """A signal ends this process, with the exit code that says so."""

    def __init__(self, number):
        super().__init__(128 + number)
        self.number = number


def taken_signals():
    """Lists those of STOP_SIGNALS that a process takes."""
    return [number for number in STOP_SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def end_on_signal():
    """Makes a signal end this process without a word, until a StopSignal takes over."""
    for number in taken_signals():
        signal.signal(number, lambda number, frame: os._exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextlib.contextmanager
def held_back():
    """Holds the signals back until the end of the block. For a process that is started within it,
    they wait until it enters a StopSignal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_child():
    """Whether this process's parent passes signals on to it: this program's supervisor, or Paddle's
    launcher."""
    return SUPERVISED in os.environ or TRAINER_ID in os.environ


class StopSignal:
    """Takes the signals within a block: the first one raises Stopped where the program is,
    or is noted only, in a block of `noted`.

    Args:
        child: whether the parent passes signals on, so that a second SIGINT is the same request.

    Attributes:
        number: the number of the first signal that came, or None.
        only_noted: whether a signal is noted only.
    """

    def __init__(self, child=False):
        self.child = child
        self.number = None
        self.only_noted = False

    def __enter__(self):
        self.before = {number: signal.signal(number, self.take) for number in taken_signals()}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    def __exit__(self, *error):
        self.only_noted = True
        # A child has its exit code now; the same signal may come again while it ends, when Python
        # has taken its own handlers away.
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_IGN if self.child else handler)

    def take(self, number, frame):
        """The handler of the signals."""
        is_first = self.number is None
        self.number = self.number or number
        if is_first and not self.only_noted:
            raise Stopped(number)
        if number == signal.SIGINT and not is_first and not self.child:
            end_children()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @contextlib.contextmanager
    def noted(self):
        """Opens a block in which a signal is only noted: what runs there asks for `number`."""
        if self.number is not None:  # its Stopped was lost, in a __del__ for example
            raise Stopped(self.number)
        self.only_noted = True
        yield
        self.only_noted = False  # not after an error, which then counts for more


def exit_code(returncode):
    """Turns a process's returncode, where -n is a death by signal n, into an exit code."""
    return 128 - returncode if -returncode in STOP_SIGNALS else returncode


def children():
    """Lists the processes that this one has started or adopted (Linux). Python's own, which frees
    the semaphores of the others and ends when they have ended, is left out."""
    found = []
    for file in glob.glob('/proc/self/task/*/children'):
        with contextlib.suppress(OSError), open(file) as stream:
            found += map(int, stream.read().split())
    return [child for child in found if b'resource_tracker' not in command_of(child)]


def command_of(process):
    """The command line of a process as bytes; empty if it has ended (Linux)."""
    with contextlib.suppress(OSError), open(f'/proc/{process}/cmdline', 'rb') as stream:
        return stream.read()
    return b''


def end_children(patience=0.0, limit=5.0):
    """Waits until all children have ended.

    Args:
        patience: seconds after which they get SIGKILL.
        limit: seconds that they then have to end.
    """
    start = time.monotonic()
    while (left := children()) and (waited := time.monotonic() - start) < patience + limit:
        for child in left:
            with contextlib.suppress(OSError):  # it ended meanwhile
                if waited >= patience:
                    os.kill(child, signal.SIGKILL)
                os.waitpid(child, os.WNOHANG)
        time.sleep(POLL)
