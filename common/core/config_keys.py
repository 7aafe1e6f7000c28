"""A key of a config: its default, and what else it may be.

    Key(768, low=1)                   # a whole number, at least 1
    Key(None, kind=str)               # a string, or None
    Key('cosine', choices=('cosine', 'linear', 'constant'))
    Key(None, kind=str, choices=('balanced',), numbers=True)  # [0.5, 2.0] too
"""
import ast
import dataclasses
import os
import re
import reprlib
import sys

from common.core.errors import InputError

# What a text that becomes a part of a file's name is like, as a whole and in words.
FILE_NAME = (re.compile(r'(?:[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,99})?'),
             'up to 100 letters, digits and _.+=- that begin with a letter or a digit')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """A key's default, and what else it may be.

    Args:
        default: the value where neither yaml, flag nor option gives another. The key takes values
            of its type, and None if it is None. In a list all entries have the type of the
            default's first one; they are strings if it is empty.
        kind: int, float, str or bool: the type beside None of a key whose default is None.
        low, high: closed range of a number, or of every entry of a list; None leaves it open.
        choices: the strings that it may be.
        length: the number of entries of a list.
        ascending: whether the entries of a list must ascend.
        pair: whether [height, width] may stand for a whole number.
        numbers: whether a list of numbers in low..high may stand for a string.
        pattern: (regular expression for the whole string, the same in words).
        only_in: the MODEL.TYPE of the model that has it, where its family has others without it.
    """

    default: object = dataclasses.field(kw_only=False)
    kind: type = None
    low: float = None
    high: float = None
    choices: tuple = None
    length: int = None
    ascending: bool = False
    pair: bool = False
    numbers: bool = False
    pattern: tuple = None
    only_in: str = None

    def __post_init__(self):
        if (self.default is None) != (self.kind is not None):
            raise TypeError(f'Key({self.default!r}, kind={self.kind}): expected a kind for a '
                            f'default of None, and for no other')

    def __deepcopy__(self, memo):  # the copies of a config share its keys, which nobody changes
        return self

    def check(self, name, value, where):
        """A value in the key's type.

        Args:
            name: the dotted key, for messages.
            value: of yaml, a flag or a Python caller.
            where: where the value stands, for messages.

        Raises:
            InputError: the value is of another type ('10' and 224.0 are no whole numbers) or
                outside of what the key may be.
        """
        if value is None:
            if self.default is None:
                return None
            raise wrong(where, name, value, type_name(type(self.default)))
        value = self.to_type(name, value, where)
        expected = self.expectation(value)
        if expected:
            raise wrong(where, name, value, expected)
        return value

    def to_type(self, name, value, where):
        """A value in the key's type, whatever its range."""
        kind = self.kind or type(self.default)
        if self.pair:
            return to_size(name, value, where)
        if kind is float:
            return to_float(name, value, where)
        if self.numbers and isinstance(parse_literal(value), (list, tuple)):
            return [to_float(f'{name}[]', item, where) for item in parse_literal(value)]
        if kind in (list, tuple):
            return self.to_list(name, value, where)
        if type(value) is not kind:
            raise wrong(where, name, value,
                        self.choices_text() if self.numbers else type_name(kind))
        return value

    def to_list(self, name, value, where):
        value = parse_literal(value)  # '(0.9, 0.999)' is a string in yaml
        if not isinstance(value, (list, tuple)):
            raise wrong(where, name, value, 'a list')
        kind = type(self.default[0]) if self.default else str
        if kind is float:
            return [Key(0.0).check(f'{name}[]', item, where) for item in value]
        if not all(type(item) is kind for item in value):
            raise wrong(where, name, value, f'a list of {type_name(kind)}s')
        return list(value)

    def choices_text(self):
        return 'one of ' + ', '.join(self.choices) + ' or a list of numbers' * self.numbers

    def expectation(self, value):
        """What a value of the right type should be and is not, in words; None if all is well."""
        entries = value if isinstance(value, list) else [value]
        if self.length is not None and len(entries) != self.length:
            return f'{self.length} numbers'
        if self.choices and value not in self.choices and not isinstance(value, list):
            return self.choices_text()
        if self.pattern and not self.pattern[0].fullmatch(value):
            return self.pattern[1]
        if isinstance(value, str) and not is_file_name(value):
            return 'text that a file can have as its name'
        if self.ascending and entries != sorted(entries):
            return 'the smaller one first'
        low, high = self.low, self.high
        if self.numbers and isinstance(value, str):
            return None
        if any((low is not None and entry < low) or (high is not None and entry > high)
               for entry in entries):
            return f'at least {low}' if high is None else f'{low} to {high}'
        return None


def to_size(name, value, where):
    """A whole number, or [height, width]."""
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not all(type(item) is int for item in (value if is_pair else [value])):
        raise wrong(where, name, value, 'a whole number or [height, width]')
    return list(value) if is_pair else value


def to_float(name, value, where):
    value = parse_literal(value)  # 1e-3 is a string in YAML 1.1
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise wrong(where, name, value, 'a number')
    return float(value)


def parse_literal(value):
    """The Python value that a string is the text of, or the value itself."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def is_file_name(text):
    """Whether a file could be called so: the functions for files raise errors of their own at a
    zero byte, and at half a character."""
    try:
        return b'\0' not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def type_name(kind):
    return {int: 'whole number', float: 'number', str: 'string', bool: 'true or false',
            list: 'list'}.get(kind, kind.__name__)


def wrong(where, key, value, expected):
    """The InputError of a value that a key may not be."""
    try:
        shown = reprlib.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        shown = 'a very long number'
    return InputError(f'{where}: {key}: got {shown}, expected {expected}')
