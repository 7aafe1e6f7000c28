"""The exceptions whose message is for the user, and how text reaches a terminal."""
import contextlib
import functools
import io
import os
import re
import signal
import sys
import warnings

# Bytes of a file's name that are no UTF-8, as Python holds them.
RAW_BYTES = re.compile('[\udc80-\udcff]+')
# What moves a terminal's cursor, ends a line, turns the direction of text, or cannot be written.
UNPRINTABLE = re.compile('[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
# As shells count it: ended because nobody reads its output.
OUTPUT_LOST = 128 + signal.SIGPIPE
MAX_MESSAGE = 4000  # characters of an error's line
MAX_FOREIGN = 300  # the same, of what another library says


class InputError(ValueError):
    """A wrong config, list, image, weight file or flag.

    The message is one printable line: where, what, what was got and what was expected. The
    programs print it without a traceback and exit with code 1; Python callers get an ordinary
    ValueError.
    """

    def __init__(self, message):
        super().__init__(printable(message, MAX_MESSAGE))


class RunError(RuntimeError):
    """Something went wrong on the machine. The message is one line; programs exit with code 3."""

    def __init__(self, message):
        super().__init__(printable(message, MAX_MESSAGE))


def one_line(error):
    """Shortens what another library's exception says to one line of MAX_FOREIGN characters."""
    text = ' '.join(str(getattr(error, 'problem', None) or error).split())
    return printable(text[:MAX_FOREIGN]) or type(error).__name__


def printable(text, limit=None):
    r"""Makes text with names of files or classes in it fit for a terminal, a file or a picture.

    It is one line of characters that UTF-8 can write. A byte of a name that is no UTF-8 stands as
    \xb2, and so does each byte of a control character (a line feed is \x0a); every other character
    stays, also a backslash, so that what is printable already is not changed.

    Args:
        text: str, or anything that str() takes.
        limit: how many characters of it are kept at most, the last three '...' if it has more; None
            keeps all.
    """
    text = str(text)
    if limit is not None and len(text) > limit:
        text = f'{text[:limit - 3]}...'
    text = RAW_BYTES.sub(lambda found: found[0].encode('utf-8', 'surrogateescape').decode(
        'utf-8', 'backslashreplace'), text)
    return UNPRINTABLE.sub(lambda found: ''.join(
        f'\\x{byte:02x}' for byte in found[0].encode('utf-8', 'surrogatepass')), text)


def shown(value, length=100):
    """Shows a value that a file holds, for a message, in a bounded time.

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


def first_few(names, count=5, length=100, quoted=False):
    """The first of many names, for a message: 'a, b, c, ...'.

    Args:
        names: list of str.
        count: how many of them are shown at most.
        length: how many characters of each; None is all.
        quoted: whether each stands in quotes, as names with spaces in them need it.
    """
    if quoted:
        texts = [repr(name[:length]) for name in names[:count]]
    else:
        texts = [printable(name, length) for name in names[:count]]
    if len(names) > count:
        texts.append('...')
    return ', '.join(texts)


@contextlib.contextmanager
def opened(file):
    """Opens an input file to read bytes. Raises InputError when it cannot be read, as without the
    permission."""
    try:
        with open(file, 'rb') as stream:
            yield stream
    except OSError as error:
        raise InputError(f'{file}: cannot read it: {error.strerror}') from None


def set_up_output():
    """Prepares this process's output for any terminal. Programs call it, no import.

    - A character that the terminal lacks is shown by its number, \\u6d4b, and is no exception.
    - What a shell has closed (`>&-`) takes everything and keeps nothing; else the next file that is
      opened would take its place.
    - Pillow's warnings of odd images are not shown, unless by the user's own -W: who reads an image
      says what is wrong with it.
    """
    sys.stdout = sys.stdout or open(os.devnull, 'w')  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or open(os.devnull, 'w')  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    warnings.filterwarnings('ignore', module=r'PIL\.', append=True)


def drop_output():
    """Stops writing to standard output, which takes no more; also at the exit."""
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def say(text):
    """Prints a line of a tool that writes files: it goes on when nobody reads the line."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output()


def complain(text):
    """Prints a line on standard error, if there is anybody to read it."""
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


@functools.cache
def complain_once(text):
    """As `complain`, but a process says each line once."""
    complain(text)


@contextlib.contextmanager
def errors_of_a_tool():
    """Ends a tool with one line, and exit code 1, on what is wrong with its input or a file.

    When whoever reads its output has gone (`| head`), it ends without a word.
    """
    set_up_output()
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        sys.exit(f'error: {error}')
    except BrokenPipeError:
        sys.exit(OUTPUT_LOST)
    except OSError as error:
        sys.exit(f'error: {printable(error.filename or "the output")}: {error.strerror or error}')
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # said above
            drop_output()
