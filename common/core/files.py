"""Files that are whole or not there: atomic replacement, checksums."""
import contextlib
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor

from common.core.errors import InputError


@contextlib.contextmanager
def replace_atomically(path):
    """Gives a temporary path, to be written, which becomes `path` at the end of the block.

    An OSError in the block names `path`, not the temporary file that its user does not know.
    """
    temporary = f'{path}.tmp{os.getpid()}'
    with contextlib.suppress(FileNotFoundError):
        os.remove(temporary)  # it might be another name of a file that is needed
    try:
        yield temporary
        with open(temporary, 'rb+') as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename = path
        raise
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# What this project's own files have behind the pickle, before their sha256.
CHECKSUM_MARK = b'\nsha256:'
SMALL = 1 << 16  # bytes
BLOCK = 1 << 22  # bytes that are read at once


class ChecksumFile(io.BytesIO):
    """A file that is written with the sha256 of its content behind it. (paddle.save takes no other
    objects than a BytesIO; nothing is kept in it.)

    The digest is computed in a second thread, while the block is written: of a checkpoint of 1 GB
    it would take as long as all the rest.
    """

    def __init__(self, path):
        super().__init__()
        self.file = open(path, 'wb')  # noqa: SIM115 - closed in __exit__
        self.digest = hashlib.sha256()
        self.pool = ThreadPoolExecutor(1)

    def write(self, data):
        if len(data) < SMALL:  # not worth a second thread
            self.digest.update(data)
            return self.file.write(data)
        updated = self.pool.submit(self.digest.update, data)
        try:
            return self.file.write(data)
        finally:
            updated.result()

    def __exit__(self, kind, *error):
        self.pool.shutdown()
        with self.file:
            if kind is None:
                self.file.write(CHECKSUM_MARK + self.digest.digest())


def check_checksum(stream, size, file):
    """Compares a file with the checksum behind its content, if it has one.

    Args:
        stream: the file, open to read bytes, at its start; it is there again afterwards.
        size: of the file in bytes.
        file: its name for messages.

    Returns:
        The size of the content.

    Raises:
        InputError: the checksum is of another content.
    """
    trailer = len(CHECKSUM_MARK) + hashlib.sha256().digest_size
    stream.seek(max(size - trailer, 0))
    end = stream.read()
    stream.seek(0)
    if not end.startswith(CHECKSUM_MARK):
        return size
    if sha256(stream, size - trailer) != end[len(CHECKSUM_MARK):]:
        raise InputError(f'{file}: damaged: the content does not fit to its checksum')
    stream.seek(0)
    return size - trailer


def sha256(stream, size):
    """Computes the sha256 of the next `size` bytes of a stream."""
    digest = hashlib.sha256()
    while size > 0:
        block = stream.read(min(size, BLOCK))
        size -= len(block)
        digest.update(block)
    return digest.digest()
