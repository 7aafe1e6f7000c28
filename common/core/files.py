"""Files that are whole or not there: atomic replacement, checksums."""
import contextlib
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor

from common.core.errors import InputError


@contextlib.contextmanager
def replace_atomically(path):
    """A temporary path beside `path`, to be written; takes its place at the end of the block.

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
        if len(data) < 1 << 16:
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
    """The size of the content before a checksum, which is compared; the stream is at its start."""
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
    """The digest of the next `size` bytes of a stream."""
    digest = hashlib.sha256()
    while size > 0:
        block = stream.read(min(size, 1 << 22))
        size -= len(block)
        digest.update(block)
    return digest.digest()
