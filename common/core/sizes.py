"""Sizes of images."""


def to_pair(size):
    """An int or a pair (height, width) as a tuple of two ints."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
