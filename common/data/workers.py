"""Processes that make a data loader's batches ahead of the training loop (Linux).

They stand in for the workers of paddle.io.DataLoader, which wait for ever in about one start of a
hundred: they make tensors, in a new thread, and Paddle's statistics of memory then need a lock
that some thread of the parent may have held in the moment of the fork. Here a worker runs numpy,
OpenCV and Pillow only. A batch comes through memory without a name (memfd), so that nothing of it
can stay behind, and the size of /dev/shm does not matter.
"""
import contextlib
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from multiprocessing.util import Finalize

import cv2

from common.core.errors import InputError, RunError, one_line
from common.core.memory import arrays_in, places
from common.core.processes import end_of, end_with_parent
from common.core.signals import STOP_SIGNALS

# Paddle's handlers of these print the stack, for which they take memory: a process that crashes
# while it takes some itself would wait for ever instead of ending.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)

AHEAD = 2  # batches that each worker makes ahead
NO_TASK = object()


class Workers:
    """Processes that run a function, until this object is closed or goes.

    Args:
        function: function of a task that gives a tuple, or NamedTuple, of numpy arrays.
        count: number of processes.
        timeout: seconds without a result after which a worker counts as stuck.

    Raises:
        RunError: they cannot be started here.
    """

    def __init__(self, function, count, timeout=600.0):
        self.timeout = timeout
        self.workers = []
        self.owner = os.getpid()
        try:
            with one_thread_of_opencv():
                for _ in range(count):
                    self.workers.append(Worker(function))
        except OSError as error:
            self.close()
            raise RunError(f'loader: cannot start worker {len(self.workers) + 1} of {count}: '
                           f'{one_line(error)}; DATA.NUM_WORKERS says how many') from None

    def run(self, tasks):
        """Yields function(task) of each task, in order.

        A result's arrays lie in memory that is used again: they hold until the next one is taken.
        Leaving off before the last result closes the workers.

        Raises:
            InputError: the function has raised it.
            RunError: a worker has died, is stuck, or the function has raised another error.
        """
        tasks = iter(tasks)
        busy = deque()  # the workers that have tasks, in the tasks' order

        def send_next_task(worker):
            """Gives a worker the next task, if there is one."""
            task = next(tasks, NO_TASK)
            if task is not NO_TASK:
                worker.send(task)
                busy.append(worker)

        try:
            for _ in range(AHEAD):
                for worker in self.workers:
                    send_next_task(worker)
            while busy:
                worker = busy.popleft()
                result = worker.receive(self.timeout)
                send_next_task(worker)
                yield result
        except BaseException:
            self.close()
            raise

    def close(self):
        """Ends the processes."""
        for worker in self.workers:
            worker.close()
        self.workers = []

    def __del__(self):
        if self.owner == os.getpid():  # not in a copy that a fork has made
            self.close()


@contextlib.contextmanager
def one_thread_of_opencv():
    """Processes that are forked here have no threads of OpenCV; they are the threads.

    It is set before the fork: in the new process the call may wait for ever, for a lock that some
    thread has held in that moment.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


class Worker:
    """One process, with the memory for the results that it makes ahead and the one in use."""

    def __init__(self, function):
        context = multiprocessing.get_context('fork')
        self.slots = [Slot() for _ in range(AHEAD + 1)]
        self.next_slot = itertools.cycle(self.slots)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(function, theirs, self.slots),
                                       daemon=True)
        try:
            self.process.start()
        except OSError:
            self.process = None
            self.close()
            raise
        finally:
            theirs.close()
        # At its exit Python would end them by SIGTERM, which they leave to the run.
        Finalize(self, end, args=(self.process,), exitpriority=0)

    def send(self, task):
        """Gives the process a task."""
        with contextlib.suppress(OSError):  # it has died; `receive` says so
            self.connection.send(task)

    def receive(self, timeout):
        """The result of the oldest task, or its error."""
        try:
            # Second by second: a process that was stopped meanwhile has waited for one of them.
            if not any(self.connection.poll(min(1.0, timeout)) for _ in range(math.ceil(timeout))):
                raise RunError(f'loader: no batch for {timeout} s (DATA.WORKER_TIMEOUT); its '
                               f'workers are stuck and have been ended')
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise RunError(f'loader: a worker has died ({end_of(self.process.exitcode)}); too '
                           f'little memory does that; -o DATA.NUM_WORKERS=0 works without '
                           f'workers') from None
        if isinstance(answer, InputError):
            raise answer
        if isinstance(answer, str):
            print(answer, file=sys.stderr, end='')
            raise RunError(f'loader: an error in a worker: {answer.splitlines()[-1]}')
        return next(self.next_slot).read(answer)

    def close(self):
        """Ends the process and gives its memory back."""
        if self.process:
            end(self.process)
        self.connection.close()
        for slot in self.slots:
            slot.close()


def end(process):
    """Ends a process and waits for it."""
    process.kill()  # it has nothing to lose
    process.join()


def serve(function, connection, slots):
    """What a worker does: it answers each task with where its result lies, or with an error."""
    end_with_parent()
    for number in STOP_SIGNALS:  # to all of a group: the run ends its workers when it has stopped
        signal.signal(number, signal.SIG_IGN)
    for number in CRASHES:
        signal.signal(number, signal.SIG_DFL)
    for slot in itertools.cycle(slots):
        task = connection.recv()
        try:
            answer = slot.write(function(task))
        except InputError as error:
            answer = error
        except Exception:  # noqa: BLE001 - the parent raises it
            answer = traceback.format_exc()
        connection.send(answer)


class Slot:
    """Memory for one result, which two processes share, each with a mapping of its own.

    It grows when it must. The arrays lie in it one after another; `write` packs them, and what it
    returns tells `read` in the other process how to unpack them.
    """

    def __init__(self):
        self.file = os.memfd_create('batch')
        self.memory = None

    def map(self, kinds):
        """Arrays of some kinds, (type, shape), that lie in the memory, which is made to fit."""
        starts, end = places(kinds)
        end = max(end, 1)
        if self.memory is None or len(self.memory) < end:
            if os.fstat(self.file).st_size < end:
                os.ftruncate(self.file, end)
            self.memory = mmap.mmap(self.file, end)
        return arrays_in(self.memory, kinds, starts)

    def write(self, arrays):
        """Copies a tuple of arrays into the memory.

        Returns:
            The tuple's class and the arrays' kinds, for `read`.
        """
        kinds = [(array.dtype.str, array.shape) for array in arrays]
        for shared, array in zip(self.map(kinds), arrays, strict=True):
            shared[...] = array
        return type(arrays), kinds

    def read(self, written):
        """The tuple that the other process has written; its arrays lie in the memory."""
        kind, kinds = written
        arrays = self.map(kinds)
        return kind._make(arrays) if hasattr(kind, '_make') else kind(arrays)

    def close(self):
        """Gives the memory back; arrays that lie in it keep it until they go."""
        os.close(self.file)
        self.memory = None  # unmapped when the last array in it goes
