"""Makes plain data of what a pickle holds: its records become arrays, its tuples lists."""
import numpy as np

from common.core.bounds import Refused
from common.core.errors import printable
from common.weights.unpickle_names import ArrayRecord, Inert

MAX_DEPTH = 64  # of lists and dictionaries in each other


def plain(content, budget):
    """Makes plain data of what an unpickler gives.

    Args:
        content: records, containers and values.
        budget: see common/core/bounds.py.

    Returns:
        Nested dicts, lists, numbers, strings and numpy arrays: records become arrays, Paddle's
        (name, array) pairs their array, tuples lists.

    Raises:
        Refused: the content is a whole object, or more than the budget allows.
    """
    if type(content) is Inert:
        raise Refused(f'a whole object of the class {printable(content.name)}, not a state dict; '
                      f'save what its state_dict() gives')
    return Converter(budget).to_plain(content, '', 0)


class Converter:
    """Converts the content of one file. It may refer to one value many times: lists and
    dictionaries are paid for each time, an array is made once."""

    def __init__(self, budget):
        self.budget = budget
        self.arrays = {}  # id of a record -> its array; the content keeps the records alive

    def to_plain(self, value, key, depth):
        """A value as plain data; `key` is where it stands, for messages."""
        self.budget.step()
        if depth > MAX_DEPTH:
            raise Refused(f'{printable(key)}: too deeply nested values')
        kind = type(value)
        if kind is dict:
            self.budget.spend(240 + 104 * len(value))
            return {name: self.to_plain(item, f'{key}.{name}'.lstrip('.')[:200], depth + 1)
                    for name, item in value.items() if type(name) is not Inert}
        if is_named_array(value):
            value = value[1]
        elif kind in (list, tuple):
            self.budget.spend(64 + 8 * len(value))
            return [self.to_plain(item, key, depth + 1) for item in value]
        if hasattr(value, 'array'):
            return self.array(value, key)
        if value is None or kind in (bool, int, float, str, bytes):
            return value
        if kind is Inert:
            return None
        raise Refused(f'{printable(key)}: an object that is not data')

    def array(self, record, key):
        if id(record) not in self.arrays:
            self.budget.spend(512)
            try:
                self.arrays[id(record)] = record.array()
            except Refused as error:
                raise Refused(f'{printable(key)}: {error}') from None
        array = self.arrays[id(record)]
        # Paddle's bfloat16 numbers come as uint16, and become float32.
        self.budget.name_array(array.nbytes * (2 if array.dtype == np.uint16 else 1))
        return array


def is_named_array(value):
    """Whether a value is a (name, array) pair, as Paddle pickles a tensor."""
    return (type(value) is tuple and len(value) == 2 and type(value[0]) is str
            and type(value[1]) is ArrayRecord)
