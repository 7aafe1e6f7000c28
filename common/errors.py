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
    return printable(text[:300]) or type(error).__name__


def printable(text):
    """A text with its control characters, line ends and lone surrogates escaped: what a file says
    must not steer the terminal that shows it."""
    return ''.join(letter if letter.isprintable()
                   else letter.encode('unicode_escape').decode('ascii') for letter in text)


def shown(value, length=100):
    """A value that a file holds, for a message, in a bounded time.

    Texts and numbers are shown up to `length` characters; of a list, tuple or dictionary only its
    kind and size, since it may hold itself a billion times.
    """
    if isinstance(value, (str, bytes)):
        text = printable(repr(value[:length]))
        return text if len(value) <= length else f'{text}... ({len(value)} long)'
    if isinstance(value, int) and value.bit_length() > 64:
        return f'an integer of {value.bit_length()} bits'
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    size = f' of {len(value)}' if isinstance(value, (list, tuple, dict)) else ''
    return f'a {type(value).__name__}{size}'


@contextlib.contextmanager
def errors_of_a_tool():
    """Ends a tool with one line, and exit code 1, on what is wrong with its input or a file."""
    try:
        yield
    except InputError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(f'error: {error.filename or "file"}: {error.strerror or error}')
