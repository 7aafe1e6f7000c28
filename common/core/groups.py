"""The control groups (a container's limits) that this process is in (Linux)."""
import contextlib
import os


def group_folders(kind, proc='/proc', cgroups='/sys/fs/cgroup'):
    """Yields the folder of each group that this process is in, from the root on; some may not be
    there, since a container sees its own group as the root.

    Args:
        kind: 'memory', 'cpu' and so on for version 1, '' for version 2.
        proc, cgroups: where the system says so.
    """
    with contextlib.suppress(OSError), open(os.path.join(proc, 'self/cgroup')) as stream:
        for line in stream:
            _, kinds, path = line.rstrip('\n').split(':', 2)
            if kind in kinds.split(','):
                parts = path.strip('/').split('/')
                for depth in range(len(parts) + 1):
                    yield os.path.join(cgroups, kind, *parts[:depth])
