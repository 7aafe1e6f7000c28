"""Writes a run's checkpoints, and remembers which of them could not be written."""
import os

from common.core import dist
from common.core.errors import InputError
from common.train.checkpoint import PREVIOUS
from common.weights.load import LAST


class CheckpointSaver:
    """Writes a run's checkpoints, on rank 0.

    A checkpoint that cannot be written (disk full) is a warning, so that the run goes on to the
    next one; at the end of the run it is an error.

    Args:
        folder: the run's, or None to write nothing.
        metadata: dict that each file holds beside the weights: seed, config, class_names, data and
            data_sets.
        log: RunLog.

    Attributes:
        failed: {name of a file: why its last writing failed}.
    """

    def __init__(self, folder, metadata, log):
        self.folder = folder
        self.metadata = metadata
        self.log = log
        self.failed = {}

    def save(self, name, writer, model, metadata, **state):
        """Writes one file.

        Args:
            name: of the file in the run's folder.
            writer: common.train.checkpoint.save_checkpoint or save_weights.
            model: a Layer.
            metadata: dict of what holds for this file only.
            state: what else the writer takes.
        """
        if self.folder is None or not dist.is_master():
            return
        metadata = {**metadata, **self.metadata}
        try:
            writer(os.path.join(self.folder, name), model, metadata=metadata, **state)
            self.failed.pop(name, None)
        except OSError as error:
            self.failed[name] = f'cannot write {error.filename or name}: {error.strerror}'
            self.log.warning(f'{self.failed[name]}; the file before it is kept')

    def what_is_left(self):
        """How the run can go on after a checkpoint that was not written, for a message."""
        if self.folder is None:
            return ''
        if any(os.path.exists(os.path.join(self.folder, name)) for name in (LAST, PREVIOUS)):
            return f'; -resume={self.folder} goes on from the one before'
        return '; there is none to go on with'

    def check(self, name):
        """Raises InputError if the last writing of a file failed."""
        if name in self.failed:
            raise InputError(self.failed[name])
