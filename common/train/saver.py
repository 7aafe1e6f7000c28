"""Writes a run's checkpoints, and remembers which of them could not be written."""
import os
import threading
import time

from common.core import dist
from common.core.errors import InputError
from common.core.memory import available_memory
from common.core.signals import held_back
from common.train.checkpoint import PREVIOUS, write_checkpoint
from common.train.snapshot import Snapshot, size_of
from common.weights.load import LAST

SHARE = 0.5  # of the memory that is free: what a copy may take of it
GB = 1e9


class CheckpointSaver:
    """Writes a run's checkpoints, on rank 0.

    A checkpoint that cannot be written (disk full) is a warning, so that the run goes on to the
    next one; at the end of the run it is an error. Any other error is raised at the next step.

    Files are written one after the other, in the order of `save`. One of `beside` is written by a
    thread, from a copy; `wait` waits until it is on the disk, and so does the next `save`, and the
    end of a `with` block of the saver, whatever ends it.

    Args:
        folder: the run's, or None to write nothing.
        metadata: dict that each file holds beside the weights: seed, config, class_names, cores,
            data and data_sets.
        log: RunLog.
        beside: whether checkpoints are written beside the training where there is memory for a
            copy.

    Attributes:
        failed: {name of a file: why its last writing failed}; complete after `wait`.
        seconds: that the last writing took; after `wait`.
    """

    def __init__(self, folder, metadata, log, beside=False):
        self.folder = folder
        self.metadata = metadata
        self.log = log
        self.beside = beside
        self.failed = {}
        self.snapshot = None
        self.thread = self.error = None
        self.seconds = 0.0

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        """Waits for the thread. An error of its own is raised, unless another one is under way."""
        try:
            self.wait()
        except Exception as own:  # noqa: BLE001 - the other one ends the run
            if kind is None:
                raise
            self.log.warning(f'a checkpoint could not be written: {own!r}')

    def prepare(self, make_content):
        """Takes the memory for copies, beside the training, if there is enough.

        Args:
            make_content: gives what a checkpoint will hold.
        """
        if not self.beside or self.folder is None or not dist.is_master():
            return
        size, free = size_of(make_content()), available_memory()
        if free is not None and size > SHARE * free:
            self.log.info(f'SAVE_ASYNC is off: a copy of a checkpoint takes {size / GB:.3g} GB, '
                          f'and {free / GB:.3g} GB are free, of which it may take half; training '
                          f'waits while one is written')
            return
        self.snapshot = Snapshot()
        self.start(self.take_memory, size)

    def take_memory(self, size):
        """Takes memory for copies, or none if the system refuses it."""
        try:
            self.snapshot.take(size)
        except OSError as error:
            self.snapshot = None
            self.log.warning(f'SAVE_ASYNC is off: {size / GB:.3g} GB for a copy of a checkpoint: '
                             f'{error.strerror}; training waits while one is written')

    def save(self, name, writer, model, metadata, beside=False, **state):
        """Writes one file.

        Args:
            name: of the file in the run's folder.
            writer: common.train.checkpoint.save_checkpoint or save_weights.
            model: a Layer.
            metadata: dict of what holds for this file only.
            beside: whether to write it beside the training; of save_checkpoint, after `prepare`.
            state: what else the writer takes.
        """
        if self.folder is None or not dist.is_master():
            return
        self.wait()
        path, metadata = os.path.join(self.folder, name), {**metadata, **self.metadata}
        copies = []

        def copy(content, path):
            """Called in place of write_checkpoint."""
            self.take_memory(size_of(content))  # it may have grown
            if self.snapshot:
                copies.append(self.snapshot.copy(content))
            else:
                write_checkpoint(content, path)

        if beside and self.snapshot:
            state['write'] = copy
        self.attempt(name, writer, path, model, metadata=metadata, **state)
        if copies:
            self.start(self.attempt, name, write_checkpoint, *copies, path)

    def attempt(self, name, function, *args, **options):
        """Calls what writes a file, and keeps an OSError."""
        self.failed.pop(name, None)
        start = time.perf_counter()
        try:
            function(*args, **options)
            self.seconds = time.perf_counter() - start
        except OSError as error:
            self.failed[name] = f'cannot write {error.filename or name}: {error.strerror}'
            self.log.warning(f'{self.failed[name]}; the file before it is kept')

    def start(self, function, *args):
        """Calls a function in the thread."""
        def run():
            try:
                function(*args)
            except BaseException as error:  # noqa: BLE001 - raised by check_error
                self.error = error

        thread = threading.Thread(target=run, name='checkpoint')
        with held_back():  # the signals come to the training's thread
            thread.start()
        self.thread = thread

    def is_writing(self):
        """Whether the thread is at work."""
        return self.thread is not None and self.thread.is_alive()

    def wait(self):
        """Waits until all is written.

        Raises:
            What the thread has raised.
        """
        if self.thread:
            self.thread.join()
            self.thread = None
        self.check_error()

    def check_error(self):
        """Raises what the thread has raised, without waiting for it."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def what_is_left(self):
        """How the run can go on after a checkpoint that was not written, for a message."""
        if self.folder is None:
            return ''
        if any(os.path.exists(os.path.join(self.folder, name)) for name in (LAST, PREVIOUS)):
            return f'; -resume={self.folder} goes on from the one before'
        return '; there is none to go on with'

    def check(self, name):
        """Raises InputError if the last writing of a file failed."""
        self.wait()
        if name in self.failed:
            raise InputError(self.failed[name])
