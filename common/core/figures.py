"""Figures of matplotlib as files."""
import warnings

from common.core.errors import printable
from common.core.files import replace_atomically


def save(figure, file, dpi=110):
    """Writes a figure as a PNG file, whole or not at all.

    Args:
        figure: matplotlib's.
        file: path.
        dpi: pixels of the picture on an inch of the figure.
    """
    with replace_atomically(file) as temporary, warnings.catch_warnings():
        # matplotlib's font has no Chinese, for one; it draws boxes, and warns of each character
        warnings.filterwarnings('ignore', 'Glyph .* missing|Matplotlib currently does not support')
        figure.savefig(temporary, format='png', dpi=dpi)


def literal(text):
    """Makes a line with names in it fit for a figure, where a formula stands between two $."""
    return printable(text).replace('$', r'\$')
