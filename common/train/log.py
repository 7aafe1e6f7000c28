"""What a run writes: log.txt, metrics.jsonl, curves.png, and the progress bar on a terminal."""
import contextlib
import errno
import json
import logging
import os
import sys
import time

from tqdm import tqdm

from common.core.errors import InputError, complain, drop_output, printable
from common.core.files import replace_atomically

CURVES_INTERVAL = 60.0  # seconds between two pictures of the curves


class TqdmHandler(logging.Handler):
    """Writes lines to standard output that do not tear a progress bar.

    A run outlives its terminal (`| head`, a connection that ends): from then on it is silent.

    Args:
        lose: called with the OSError when nobody reads the lines any more.
    """

    def __init__(self, lose):
        super().__init__()
        self.lose = lose
        self.lost = False

    def emit(self, record):
        """Writes one line, unless nobody reads."""
        if self.lost:
            return
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            if error.errno == errno.ENOSPC:  # a file on a full disk, where there may be space again
                self.handleError(record)
                return
            self.lost = True
            drop_output()
            self.lose(error)


class RunLog:
    """The log of one run; on ranks other than 0 every method does nothing.

    Args:
        folder: where the files go; None writes to the terminal only.
        active: whether this is rank 0.
        visualdl: whether the figures are written for VisualDL too (package visualdl).

    Raises:
        InputError: a file cannot be opened for writing.
    """

    def __init__(self, folder=None, active=True, visualdl=False):
        self.active = active
        self.folder = folder
        self.logger = logging.Logger('run', logging.INFO)  # not one that is kept by its name
        self.metrics = self.scalars = None
        self.last_curves = 0.0
        self.lost = False
        if not active:
            return
        handlers = [TqdmHandler(self.lose_terminal)]
        if folder:
            try:
                handlers.append(self.open_files(visualdl))
            except OSError as error:
                raise InputError(f'cannot write {error.filename or folder}: {error.strerror}') \
                    from None
        for handler in handlers:
            handler.handleError = lambda record: self.lose(sys.exc_info()[1])
            handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%m-%d %H:%M:%S'))
            self.logger.addHandler(handler)

    def open_files(self, visualdl):
        """Opens the files of the figures, and gives the handler of log.txt."""
        handler = logging.FileHandler(os.path.join(self.folder, 'log.txt'), encoding='utf-8')
        self.metrics = open(os.path.join(self.folder, 'metrics.jsonl'), 'a')  # noqa: SIM115
        if visualdl:
            from visualdl import LogWriter  # an optional extra
            self.scalars = LogWriter(logdir=os.path.join(self.folder, 'visualdl'))
        return handler

    def info(self, text):
        """Writes a line to the terminal and log.txt."""
        if self.active:
            self.logger.info(printable(text))

    def warning(self, text):
        self.info(f'WARNING: {text}')

    def metric(self, kind, at, **figures):
        """Writes one line of metrics.jsonl: {"kind": ..., figures}; floats keep 6 significant
        digits.

        Args:
            kind: train, eval, eval_ema, best or bad_images.
            at: the step or epoch on VisualDL's axis, a whole number.
            figures: numbers by their names; also texts, which VisualDL does not get.
        """
        if self.metrics:
            rounded = {name: float(f'{value:.6g}') if isinstance(value, float) else value
                       for name, value in figures.items()}
            try:
                self.metrics.write(json.dumps({'kind': kind, **rounded}) + '\n')
                self.metrics.flush()
                if self.scalars:
                    for name, value in rounded.items():
                        if isinstance(value, str):
                            continue
                        self.scalars.add_scalar(tag=f'{kind}/{name}', value=value, step=at)
            except OSError as error:
                self.lose(error)

    def lose(self, error):
        """Says once that the log cannot be written (disk full); the run is worth more."""
        if not self.lost:
            self.lost = True
            complain(f'WARNING: the log cannot be written: {error}')

    def lose_terminal(self, error):
        """Says in log.txt why the terminal has no further line."""
        self.warning(f'standard output cannot be written ({error.strerror}); the run goes on')

    def progress(self, total, text, initial=0):
        """Makes a progress bar over `total` steps, which shows only on a terminal."""
        return tqdm(total=total, desc=text, initial=initial, leave=False, dynamic_ncols=True,
                    disable=not (self.active and sys.stderr.isatty()))

    def cut(self, epoch, step):
        """Takes the figures out of metrics.jsonl that come after `step` of the epoch that follows
        `epoch`: the run goes on there, and writes them again."""
        if not self.metrics:
            return
        self.metrics.close()
        file = os.path.join(self.folder, 'metrics.jsonl')
        with open(file, errors='replace') as source:  # a crash of the machine may leave anything
            lines = [line for line in source if is_before(line, epoch, step)]
        with replace_atomically(file) as temporary, open(temporary, 'w') as target:
            target.writelines(lines)
        self.metrics = open(file, 'a')  # noqa: SIM115

    def draw_curves(self, force=False):
        """Draws curves.png from metrics.jsonl, at most every CURVES_INTERVAL unless forced."""
        is_due = force or time.monotonic() - self.last_curves > CURVES_INTERVAL
        if not self.metrics or not is_due:
            return
        from common.train.plot import draw  # matplotlib takes half a second to import
        try:
            draw(self.folder)
        except (OSError, InputError) as error:
            self.lose(error)
        self.last_curves = time.monotonic()

    def close(self):
        """Closes all files; the log is not used afterwards."""
        for stream in filter(None, [self.metrics, self.scalars, *self.logger.handlers]):
            with contextlib.suppress(OSError):  # what could not be written is still tried
                stream.close()


def is_before(line, epoch, step):
    """Whether a line of metrics.jsonl is whole, and not after `step` of the epoch that follows
    `epoch`."""
    try:
        figures = json.loads(line)
        return figures['epoch'] <= epoch or (
            figures['epoch'] == epoch + 1 and figures.get('step', step + 1) <= step)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
