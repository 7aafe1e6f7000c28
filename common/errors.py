"""The exceptions whose message is for the user."""
import contextlib
import sys


class InputError(ValueError):
    """A wrong config, list, image, weight file or flag.

    The message is one line: where, what, what was got and what was expected. The programs print
    it without a traceback and exit with code 1; Python callers get an ordinary ValueError.
    """


class RunError(RuntimeError):
    """What went wrong on the machine, in one line; the programs exit with code 3."""


def one_line(error):
    """What another library's exception says, on one line of at most 300 characters."""
    text = ' '.join(str(getattr(error, 'problem', None) or error).split())
    return text[:300] or type(error).__name__


@contextlib.contextmanager
def errors_of_a_tool():
    """Ends a tool with one line, and exit code 1, on what is wrong with its input or a file."""
    try:
        yield
    except InputError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(f'error: {error.filename or "file"}: {error.strerror or error}')
