"""HTML that is put together from elements: what is no Markup is text, and escaped."""
import base64
import html

from common.core.errors import printable

VOID = {'img', 'input', 'source', 'br', 'meta'}  # elements without an end tag


class Markup(str):
    """Text that is HTML already."""


def markup(text):
    """Any text as Markup: escaped, unless it is Markup."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(text)))


def joined(parts):
    """Texts and Markup one after the other, as Markup."""
    return Markup(''.join(map(markup, parts)))


def element(name, *children, **attributes):
    """An element as Markup.

    Args:
        name: e.g. 'td'.
        children: texts and Markup.
        attributes: their names with _ for -, and one _ at the end of a Python keyword; True is an
            attribute without a value, None leaves it out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            key = key.rstrip('_').replace('_', '-')
            words.append(key if value is True else f'{key}="{markup(str(value))}"')
    if name in VOID:
        return Markup(f'<{" ".join(words)}>')
    return Markup(f'<{" ".join(words)}>{joined(children)}</{name}>')


def data_uri(content, kind):
    """The bytes of a picture as an address that holds them. kind: 'jpeg' or 'png'."""
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def row(*cells, header=False):
    """A row of a table. Numbers stand to the right; with `header` the first cell is the row's."""
    made = []
    for place, cell in enumerate(cells):
        if isinstance(cell, Markup) and cell.startswith(('<td', '<th')):
            made.append(cell)
        elif header and place == 0:
            made.append(element('th', cell, scope='row'))
        else:
            made.append(element('td', cell))
    return element('tr', *made)


def number_cell(text, value=None):
    """A cell with a number. value: what a column is sorted by, if not by the text."""
    return element('td', text, class_='number', data_value=value)


def table(caption, columns, rows, **attributes):
    """A table that scrolls sideways in itself where it is too wide.

    Args:
        caption: what it shows.
        columns: headers; one that begins with '#' is of a column of numbers.
        rows: Markup of `row`.
        attributes: of the table.
    """
    head = element('tr', *(element('th', column.lstrip('#'), scope='col',
                                   class_='number' if column.startswith('#') else None)
                           for column in columns))
    return element('div', element('table', element('caption', caption), element('thead', head),
                                  element('tbody', *rows), **attributes),
                   class_='scroll', tabindex='0', role='region', aria_label=caption)
