"""The members of an archive, and where their bytes are: .tar, also with .tar in it, and .zip.

Python's tarfile and zipfile read the headers. What is different here: a .tar with a wrong header in
its middle, or without its end mark, is an error (tarfile takes both for the end); and a header that
claims to be large is refused before it is read.
"""
import contextlib
import os
import struct
import tarfile
import zipfile
from typing import NamedTuple

from common.core.errors import InputError, one_line, printable
from common.data.images import open_regular

ARCHIVES = ('.tar', '.zip')
# Packed as a whole, so that no member can be read without all before it.
PACKED = {'.gz': 'gunzip', '.tgz': 'gunzip', '.bz2': 'bunzip2', '.xz': 'unxz', '.zst': 'unzstd'}
MAX_HEADER = 1 << 20  # bytes that tarfile may ask for at once; a real header has some hundred
MAX_NESTING = 4       # archives in archives
BEHIND = 2 * tarfile.RECORDSIZE  # bytes behind the end mark that are looked at
AHEAD = 4096          # bytes that are read for a header: of small members the next one's, too
LOCAL_HEADER = struct.Struct('<4s22x2H')  # signature, lengths of the name and the extra behind it
ENCRYPTED = 0x1


class Member(NamedTuple):
    """One regular file in an archive."""
    name: str    # with '/'; of an archive in the archive, 'inner.tar/path'
    offset: int  # of its bytes in the file
    size: int


class Window:
    """A part of an open file, for tarfile: it seeks, and reads no more than headers have."""

    def __init__(self, file, start, size):
        self.file, self.start, self.size = file, start, size
        self.position = 0
        self.kept_at, self.kept = 0, b''

    def tell(self):
        return self.position

    def seek(self, position, whence=os.SEEK_SET):
        if whence != os.SEEK_SET or position < 0:
            raise tarfile.ReadError('a header leads out of the archive')
        self.position = position
        return position

    def read(self, size):
        """The next bytes; fewer at the end."""
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f'a header of {size} bytes, expected at most {MAX_HEADER}')
        begin = self.position
        content = self.at(begin, max(min(size, self.size - begin), 0))
        self.position += len(content)
        return content

    def at(self, begin, size):
        """Some bytes of the part; the system is asked once for what lies close together."""
        offset = begin - self.kept_at
        if offset < 0 or offset + size > len(self.kept):
            wanted = min(max(size, AHEAD), self.size - begin)
            self.kept_at, self.kept = begin, os.pread(self.file, max(wanted, 0), self.start + begin)
            offset = 0
        return self.kept[offset:offset + size]


def is_archive(name: str) -> bool:
    """Whether a file's name ends as an archive's does."""
    return name.lower().endswith(ARCHIVES)


def without_ending(name: str) -> str:
    """'a' of 'a.tar' and 'a.zip', and of 'a'."""
    return name[:-4] if is_archive(name) else name


def refuse_packed(path):
    """Raises InputError for an archive that is packed as a whole."""
    ending = os.path.splitext(path)[1].lower()
    if ending in PACKED and os.path.isfile(path):
        cifar = '; or -dataset cifar10' if os.path.basename(path).startswith('cifar-') else ''
        raise InputError(f'{path}: got an archive that is packed as a whole, expected .tar or '
                         f'.zip, whose members can be read one by one: {PACKED[ending]} unpacks '
                         f'it{cifar}')


@contextlib.contextmanager
def opened_archive(path):
    """The descriptor of an archive's file. Whatever is wrong with the archive within the block is
    an InputError with its name."""
    try:
        file = open_regular(path, os.O_RDONLY)
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or one_line(error)
        raise InputError(f'{path}: cannot read the archive: {reason}') from None
    try:
        yield file
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged archive runs into
        raise InputError(f'{path}: damaged, or no archive of this kind: '
                         f'{one_line(error)}') from None
    finally:
        os.close(file)


def members_of(path, file, progress=None):
    """Yields the Members of an archive, in their order, those of archives in it in their place.

    Folders are passed over.

    Args:
        path: of the archive, for messages; its ending says what it is.
        file: descriptor of `opened_archive`.
        progress: function of a number of bytes, called as they are passed.

    Raises:
        InputError: the archive is cut or has a wrong header; a name is absolute, leaves the archive
            by '..' or is no UTF-8; or a member is a link, a device, a file with holes, packed or
            encrypted.
    """
    size = os.fstat(file).st_size
    done = 0
    for member in inside(path, file, 0, size, path, 1):
        if progress and member.offset > done:
            progress(member.offset - done)
            done = member.offset
        yield member
    if progress:
        progress(size - done)


def inside(name, file, start, size, where, depth):
    """The Members of an archive that is a part of a file, with those of archives in it.

    Args:
        name: the archive's; its ending says what it is.
        start, size: of the part.
        where: the archive, for messages.
        depth: of archives in archives.
    """
    if depth > MAX_NESTING:
        raise InputError(f'{where}: got more than {MAX_NESTING} archives in each other')
    kind = zip_members if name.lower().endswith('.zip') else tar_members
    for member in kind(file, start, size, where):
        if kind is zip_members or not member.name.lower().endswith('.tar'):
            yield member
        else:
            for inner in inside(member.name, file, member.offset, member.size,
                                f'{where}/{member.name}', depth + 1):
                yield inner._replace(name=f'{member.name}/{inner.name}')


def tar_members(file, start, size, where):
    """The Members of a .tar; offsets are those in the file."""
    window = Window(file, start, size)
    if size >= 2 and window.at(0, 2) == b'\x1f\x8b':
        raise InputError(f'{where}: got gzip, expected a plain .tar: gunzip unpacks it')
    with tarfile.TarFile(fileobj=window, mode='r', encoding='utf-8',
                         errors='surrogateescape') as archive:
        last = -1
        while (found := archive.next()) is not None:
            archive.members = []  # or it would keep each of 14 million
            if archive.offset <= last or found.size < 0:
                raise InputError(f'{where}: got a header that leads back, at byte {found.offset}')
            last = archive.offset
            if found.isdir():
                continue
            name = checked_name(found.name, where)
            if not found.isreg() or found.issparse():
                kind = 'link' if found.islnk() or found.issym() else \
                    'file with holes' if found.issparse() else 'device or pipe'
                raise InputError(f'{where}: {printable(name)}: got a {kind}, expected a file '
                                 f'(tar --hard-dereference -h writes links as files)')
            if found.offset_data + found.size > size:
                raise InputError(f'{where}: cut: {printable(name)} ends at byte '
                                 f'{found.offset_data + found.size} of {size}')
            yield Member(name, start + found.offset_data, found.size)
    check_end(window, archive.offset, where)


def check_end(window, offset, where):
    """Raises InputError unless tarfile has stopped at an end mark, a block of zeros."""
    block = window.at(offset, max(min(tarfile.BLOCKSIZE, window.size - offset), 0))
    if not block:
        raise InputError(f'{where}: cut: it has no end mark behind byte {offset}')
    if any(block) or len(block) < tarfile.BLOCKSIZE:
        raise InputError(f'{where}: got a wrong header at byte {offset} of {window.size}')
    if any(window.at(offset, min(BEHIND, window.size - offset))):
        raise InputError(f'{where}: got more behind its end mark at byte {offset}, as where one '
                         f'archive is appended to another; expected one archive')


def zip_members(file, start, size, where):
    """The Members of a .zip whose members are stored; offsets are those in the file."""
    with open(os.dup(file), 'rb') as stream, zipfile.ZipFile(stream) as archive:
        for found in archive.infolist():
            if found.is_dir():
                continue
            name = checked_name(found.filename, where)
            if found.flag_bits & ENCRYPTED:
                raise InputError(f'{where}: {printable(name)}: got an encrypted file')
            if (found.external_attr >> 28) == 0o12:
                raise InputError(f'{where}: {printable(name)}: got a link, expected a file')
            if found.compress_type != zipfile.ZIP_STORED:
                raise InputError(f'{where}: {printable(name)}: got a packed file, expected stored '
                                 f'ones, which are read where they lie (zip -0 -r writes them)')
            header = os.pread(file, LOCAL_HEADER.size, found.header_offset)
            signature, length, extra = LOCAL_HEADER.unpack(header)
            offset = found.header_offset + LOCAL_HEADER.size + length + extra
            if signature != b'PK\x03\x04' or found.file_size != found.compress_size:
                raise InputError(f'{where}: {printable(name)}: got a wrong header at byte '
                                 f'{found.header_offset}')
            if offset + found.file_size > size:
                raise InputError(f'{where}: cut: {printable(name)} ends at byte '
                                 f'{offset + found.file_size} of {size}')
            yield Member(name, offset, found.file_size)


def checked_name(name, where):
    """A member's name without './'; raises InputError for one that leaves the archive."""
    try:
        name.encode('utf-8')
    except UnicodeEncodeError:
        raise InputError(f'{where}: got the name {printable(name)}, expected UTF-8') from None
    parts = [part for part in name.split('/') if part not in ('', '.')]
    if name.startswith('/') or '..' in parts or '\0' in name or '\\' in name or not parts:
        raise InputError(f'{where}: got the name {name[:200]!r}, expected a path inside the '
                         f"archive, with '/' and without '..'")
    return '/'.join(parts)
