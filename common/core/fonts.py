"""Fonts of pictures: names of classes and files may be Chinese, which most fonts have not."""
import functools
import os
import re

from common.core.errors import complain

# Chinese, Japanese and Korean characters, with their punctuation and full-width letters.
EAST_ASIAN = re.compile('[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef'
                        '\U00020000-\U0003ffff]')
PROBES = '火箭'  # what such a font must have
# Beginnings of the file names of fonts that have them, sans serif first; in lower case.
FILES = ('notosanscjk', 'notosanssc', 'notosanshans', 'sourcehansans', 'pingfang', 'hiragino',
         'msyh', 'wqy-', 'simhei', 'stheiti', 'arial unicode', 'droidsansfallback', 'notoserifcjk',
         'sourcehanserif', 'simsun', 'songti', 'uming', 'ukai')
MISSING = ('pictures: this system has no font with Chinese characters, they are drawn as boxes; '
           'the package fonts-noto-cjk brings one (Fedora: google-noto-sans-cjk-fonts)')


def set_fonts(figure):
    """Gives the texts of a figure that are in Chinese, Japanese or Korean a font that has them.

    Where the system has none, a line on standard error says which package brings one, once.

    Args:
        figure: matplotlib's; no other figure, and no setting of matplotlib, is changed.
    """
    from matplotlib.text import Text

    for axes in figure.axes:  # labels of ticks get their words only when they are asked for
        axes.get_xticklabels(), axes.get_yticklabels()
    texts = [text for text in figure.findobj(Text) if EAST_ASIAN.search(text.get_text())]
    file = east_asian_font() if texts else None
    if file is None:
        return
    for text in texts:
        properties = text.get_fontproperties().copy()
        properties.set_file(file)
        text.set_fontproperties(properties)


def pillow_font(text, size):
    """A font of Pillow that has a text's characters, as set_fonts finds it for matplotlib.

    Args:
        text: what is to be written with it.
        size: height of a letter in pixels.
    """
    from PIL import ImageFont

    file = east_asian_font() if EAST_ASIAN.search(text) else None
    if file is None:
        from matplotlib import font_manager
        file = font_manager.findfont('DejaVu Sans')
    return ImageFont.truetype(file, size)


@functools.cache
def east_asian_font():
    """The file of a font of this system with Chinese characters; None, and a line, without one.

    The files are looked at, not matplotlib's list of them, which is of the day it was first used.
    """
    from matplotlib.font_manager import findSystemFonts

    files = {}
    for file in sorted(findSystemFonts()):
        name = os.path.basename(file).lower()
        rank = next((rank for rank, start in enumerate(FILES) if name.startswith(start)), None)
        if rank is not None:
            files[rank, 'regular' not in name, name] = file
    for _, file in sorted(files.items()):
        if has_probes(file):
            return file
    complain(MISSING)
    return None


def has_probes(file):
    """Whether a font can be read, and has PROBES."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return all(font.get_char_index(ord(character)) for character in PROBES)
    except Exception:  # noqa: BLE001 - a damaged font, or of a kind that FreeType does not know
        return False
