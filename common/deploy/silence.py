"""What other libraries print for their own developers."""
import contextlib
import os
import sys

from common.core.processes import LIBC

STDOUT, STDERR = 1, 2  # numbers of the files


@contextlib.contextmanager
def silenced(stream):
    """Drops what a block writes to a stream, also by C++ code.

    Args:
        stream: sys.stdout or sys.stderr.
    """
    stream.flush()
    number = STDOUT if stream is sys.stdout else STDERR
    before, nothing = os.dup(number), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    try:
        yield
    finally:
        stream.flush()
        LIBC.fflush(None)  # what C++ holds back
        os.dup2(before, number)
        os.close(before)
        os.close(nothing)
