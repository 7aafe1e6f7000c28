"""The exceptions whose message is for the user."""
import contextlib
import sys

MAX_MESSAGE = 4000


def printable(text, limit=MAX_MESSAGE):
    """A name or a text of a file as it is safe to show: one line of at most `limit` characters.

    What a terminal might obey or cannot show is written as a backslash and its number: control
    characters, line ends, marks that turn the direction of writing, and the bytes of a file name
    that are no UTF-8 (surrogates). What is printable stays, in any script.
    """
    shown = text if len(text) <= limit else f'{text[:limit - 3]}...'
    if shown.isprintable():
        return shown
    return ''.join(character if character.isprintable()
                   else character.encode('unicode_escape').decode() for character in shown)


class InputError(ValueError):
    """A wrong config, list, image, weight file or flag.

    The message is one printable line: where, what, what was got and what was expected. The
    programs print it without a traceback and exit with code 1; Python callers get an ordinary
    ValueError.
    """

    def __init__(self, message):
        super().__init__(printable(str(message)))


class RunError(RuntimeError):
    """What went wrong on the machine, in one line; the programs exit with code 3."""

    def __init__(self, message):
        super().__init__(printable(str(message)))


def one_line(error):
    """What another library's exception says, on one line of at most 300 characters."""
    text = ' '.join(str(getattr(error, 'problem', None) or error).split())
    return printable(text[:300]) or type(error).__name__


@contextlib.contextmanager
def errors_of_a_tool():
    """Ends a tool with one line, and exit code 1, on what is wrong with its input or a file."""
    try:
        yield
    except InputError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(printable(f'error: {error.filename or "file"}: {error.strerror or error}'))
