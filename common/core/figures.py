"""Figures of matplotlib as files."""
import warnings

from common.core.errors import printable
from common.core.files import replace_atomically


def save(figure, file, dpi=110):
    """Writes a figure as a PNG file: the whole one or none."""
    with replace_atomically(file) as temporary, warnings.catch_warnings():
        # matplotlib's font has no Chinese, for one; it draws boxes, and warns of each character
        warnings.filterwarnings('ignore', 'Glyph .* missing|Matplotlib currently does not support')
        figure.savefig(temporary, format='png', dpi=dpi)


def literal(text):
    """A line with names in it for a figure, where a formula would stand between two $."""
    return printable(text).replace('$', r'\$')
