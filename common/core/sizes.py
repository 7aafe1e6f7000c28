"""Sizes of images."""


def to_pair(size) -> tuple[int, int]:
    """A size as (height, width).

    Args:
        size: int, or a pair (height, width), in pixels.
    """
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
