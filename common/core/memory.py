"""Memory: how much of it is free, and arrays that lie in one block of it."""
import contextlib
import itertools
import math
import mmap
import os

import numpy as np

from common.core.groups import group_folders

ALIGNMENT = 64  # bytes: each array starts on a cache line
TOUCHED = 1 << 22  # bytes that are written at once to have their pages from the system


def places(kinds):
    """Packs arrays one after another.

    Args:
        kinds: (type, shape) of each.

    Returns:
        The bytes at which they start, a list, and where the last one ends.
    """
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in kinds]
    *starts, end = itertools.accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes),
                                        initial=0)
    return starts, end


def arrays_in(memory, kinds, starts):
    """The arrays of some kinds that lie in a buffer from these bytes on."""
    return [np.ndarray(shape, dtype, memory, start)
            for (dtype, shape), start in zip(kinds, starts, strict=True)]


def take_memory(size):
    """Takes memory of this process alone: no copy of it is made for processes that are forked.

    The system gives the pages when they are written first; `touch` does that.

    Raises:
        OSError: there is not so much.
    """
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # Linux
        memory.madvise(mmap.MADV_DONTFORK)
    return memory


def touch(memory):
    """Writes memory once. Other threads run meanwhile."""
    content = np.frombuffer(memory, np.uint8)
    for start in range(0, len(content), TOUCHED):
        np.copyto(content[start:start + TOUCHED], 0)


def available_memory(proc='/proc', cgroups='/sys/fs/cgroup'):
    """How many bytes of memory this process can still get without swapping: of the machine, and of
    each group of processes (a container's limit) that it is in; None where that is not known
    (Linux).

    Args:
        proc, cgroups: where the system says so.
    """
    found = [*machine_memory(proc), *group_memory(proc, cgroups)]
    return min(found) if found else None


def machine_memory(proc):
    """Yields what is free on the machine, if that is known."""
    with contextlib.suppress(OSError), open(os.path.join(proc, 'meminfo')) as stream:
        for line in stream:
            if line.startswith('MemAvailable:'):
                yield int(line.split()[1]) * 1024


# Of both versions of control groups: limit, use, and of the use the files that can go.
GROUPS = {'': ('memory.max', 'memory.current', 'inactive_file'),
          'memory': ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')}


def group_memory(proc, cgroups):
    """Yields what is left of the limit of each control group that this process is in."""
    for kind, files in GROUPS.items():
        for folder in group_folders(kind, proc, cgroups):
            yield from left_of(folder, *files)


def left_of(folder, limit, use, files):
    """Yields what is left of one group's limit, if it has one."""
    with contextlib.suppress(OSError, ValueError):  # no such group; 'max' is no number
        largest, used = (int(read(folder, name)) for name in (limit, use))
        counts = dict(line.split() for line in read(folder, 'memory.stat').splitlines())
        yield max(largest - used + int(counts.get(files, 0)), 0)


def read(folder, name):
    with open(os.path.join(folder, name)) as stream:
        return stream.read()
