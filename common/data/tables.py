"""Tables as people make them: text in UTF-8, of which each line has fields."""
import csv

from common.core.errors import InputError, one_line
from common.data.images import open_regular


def read_table(file, delimiters=','):
    """The lines of a table that are not blank.

    Args:
        file: path of the table; a byte order mark is fine.
        delimiters: what may stand between the fields: the one that is in the first line most often.

    Returns:
        A list of (line number from 1, fields without spaces around them).

    Raises:
        InputError: the file cannot be read, or is no such text.
    """
    try:
        with open(file, encoding='utf-8-sig', newline='', opener=open_regular) as stream:
            first = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(delimiters, key=first.count))
            return [(reader.line_num, [field.strip() for field in row]) for row in reader
                    if ''.join(row).strip()]
    except OSError as error:
        raise InputError(f'{file}: cannot read it: {error.strerror}') from None
    except UnicodeDecodeError:
        raise InputError(f'{file}: expected text in UTF-8; iconv -f GBK -t UTF-8 converts a file '
                         f'in GBK') from None
    except (ValueError, csv.Error) as error:
        raise InputError(f'{file}: not a text file with fields: {one_line(error)}') from None
