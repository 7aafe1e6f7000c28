"""The folder of the weights that were fetched: one lock, and one pinned hash, for each file.

    HOST/PATH/FILE        what was downloaded of https://HOST/PATH/FILE
    FILE                  what a user has put there by hand
    ....json              its origin, size and sha256
    ....part, .part.json  what has come of it, and of which version
    ....lock              held by the process that downloads it, as long as that lives
"""
import base64
import contextlib
import hashlib
import json
import os

from common.core.caches import CACHE_VARIABLE
from common.core.errors import InputError, complain
from common.core.files import BLOCK, replace_atomically
from common.core.processes import wait_for_lock


def cannot_write(path, error):
    """The InputError of an OSError on a file of the cache."""
    return InputError(f'cannot write {path}: {error.strerror or error}; {CACHE_VARIABLE} names '
                      f'another folder for what is downloaded')


@contextlib.contextmanager
def locked(path, what):
    """Holds the lock of a cached file; others wait until this process leaves, or dies.

    Args:
        path: of the cached file; its folder is made.
        what: is downloaded, for the message of who waits.

    Raises:
        InputError: the lock cannot be written.
    """
    file = f'{path}.lock'
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        stream = open(file, 'a+')  # noqa: SIM115 - closed below
    except OSError as error:
        raise cannot_write(file, error) from None
    with stream:
        take_lock(stream, path, what)
        with contextlib.suppress(OSError):  # a full disk: the number is a help only
            stream.truncate(0)
            stream.write(f'{os.getpid()}\n')
            stream.flush()
        yield


def take_lock(stream, path, what):
    """Takes the lock of an opened file, however long another process has it."""
    def waiting():
        stream.seek(0)
        complain(f'waiting for process {stream.read().strip() or "?"}, which downloads {what}')

    def without_locks(error):
        complain(f'WARNING: {path} cannot be locked ({error.strerror}): two processes may download '
                 f'it at once')

    wait_for_lock(stream, waiting, without_locks)


def read_json(path):
    """A dict that write_json has written; {} if there is none, or anything else."""
    try:
        with open(path, encoding='utf-8') as stream:
            content = json.load(stream)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path, content):
    """Writes a dict, whole or not at all."""
    try:
        with replace_atomically(path) as temporary, open(temporary, 'w',
                                                         encoding='utf-8') as stream:
            json.dump(content, stream, indent=1)
            stream.write('\n')
    except OSError as error:
        raise cannot_write(path, error) from None


def is_as_pinned(path):
    """Whether a file is unchanged since its hash was pinned, by its size and time: no bytes are
    read, so a gigabyte costs nothing at each start."""
    pin = read_json(f'{path}.json')
    try:
        status = os.stat(path)
    except OSError:
        return False
    return bool(pin.get('sha256')) and pin.get('size') == status.st_size \
        and pin.get('changed_at') == status.st_mtime_ns


def pin(path, file, url, sha256):
    """Remembers what a file is.

    Args:
        path: the name that it has, or will have.
        file: where it is now; a later renaming keeps its time.
        url: its origin, or None if it was put there by hand.
        sha256: of its content.
    """
    status = os.stat(file)
    write_json(f'{path}.json', {'url': url, 'sha256': sha256, 'size': status.st_size,
                                'changed_at': status.st_mtime_ns})


def digests(path):
    """{'sha256': hexadecimal digits, 'md5': base64} of a file; md5 is what Google's storage tells.

    Raises:
        InputError: it cannot be read.
    """
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    try:
        with open(path, 'rb') as stream:
            while block := stream.read(BLOCK):
                sha256.update(block)
                md5.update(block)
    except OSError as error:
        raise InputError(f'{path}: cannot read it: {error.strerror}') from None
    return {'sha256': sha256.hexdigest(), 'md5': base64.b64encode(md5.digest()).decode()}
