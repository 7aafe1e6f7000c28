"""Figures of matplotlib as files."""
import io
import warnings

from common.core.errors import printable
from common.core.files import replace_atomically
from common.core.fonts import set_fonts


def save(figure, file, dpi=110):
    """Writes a figure as a PNG file, whole or not at all.

    Args:
        figure: matplotlib's.
        file: path.
        dpi: pixels of the picture on an inch of the figure.
    """
    with replace_atomically(file) as temporary:
        write_png(figure, temporary, dpi)


def png_bytes(figure, dpi=110):
    """A figure as the bytes of a PNG file."""
    target = io.BytesIO()
    write_png(figure, target, dpi)
    return target.getvalue()


def write_png(figure, target, dpi):
    """Writes a figure as PNG to a path or a stream."""
    set_fonts(figure)
    with warnings.catch_warnings():
        # characters that no font here has become boxes; matplotlib would warn of each
        warnings.filterwarnings('ignore', 'Glyph .* missing|Matplotlib currently does not support')
        figure.savefig(target, format='png', dpi=dpi)


def literal(text):
    """Makes a line with names in it fit for a figure, where a formula stands between two $."""
    return printable(text).replace('$', r'\$')
