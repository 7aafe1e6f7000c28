"""Reads .safetensors files: a length, a header in JSON, and the numbers of all arrays in a row."""
import json
import struct

from common.core.bounds import Budget, Refused, check_key
from common.core.errors import printable, shown
from common.weights.arrays import to_array

MAX_HEADER = 4 << 20  # bytes of the header, some 30,000 arrays
SAFETENSORS_TYPES = {
    'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'I64': 'int64',
    'I32': 'int32', 'I16': 'int16', 'I8': 'int8', 'U8': 'uint8', 'BOOL': 'bool'}


def read_safetensors(stream, size):
    """Reads an opened .safetensors file; returns (layout, content) as formats.read_file does."""
    budget = Budget(size)
    length, = struct.unpack('<Q', stream.read(8))
    if length > min(MAX_HEADER, size - 8):
        raise Refused(f'a header of {length} bytes')
    header = read_json(stream.read(length), budget)
    metadata = header.pop('__metadata__', None)
    data, end, content = memoryview(stream.read(size - 8 - length)), 0, {}
    for name, entry in sorted(header.items(), key=lambda item: offsets_of(*item)):
        begin, last = offsets_of(name, entry)
        shape = entry.get('shape')
        if begin != end or last > len(data) or entry.get('dtype') not in SAFETENSORS_TYPES \
                or type(shape) is not list:
            raise Refused(f'{printable(name)}: an array of {shown(entry.get("dtype"))} whose bytes '
                          f'do not follow the ones before, or are outside of the file')
        budget.spend(512)
        content[name] = to_array(data[begin:last], SAFETENSORS_TYPES[entry['dtype']],
                                 tuple(shape), budget)
        end = last
    if end != len(data):
        raise Refused(f'{len(data) - end} bytes of no array')
    paddle = type(metadata) is dict and metadata.get('format') == 'paddle'
    return 'paddle' if paddle else 'torch', {name: content[name] for name in header}


def offsets_of(name, entry):
    """The (first, last + 1) of an array's bytes, as a safetensors header has them."""
    offsets = entry.get('data_offsets') if type(entry) is dict else None
    if type(offsets) is not list or len(offsets) != 2 or not all(
            type(offset) is int and offset >= 0 for offset in offsets) or offsets[0] > offsets[1]:
        raise Refused(f'{printable(name)}: no array: {shown(entry)}')
    return tuple(offsets)


def read_json(text, budget):
    """The dictionary of a JSON text, each key of it there once."""
    # An upper bound of what each value and key costs: they have one of these letters before them.
    budget.spend(150 * sum(map(text.count, (b',', b'[', b'{', b':'))))

    def unique(pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Refused('a header with two entries of one name')
        for key in found:
            check_key(key)
        return found

    def number(digits):
        if len(digits) > 20:
            raise Refused(f'a number of {len(digits)} digits')
        return int(digits)

    header = json.loads(text, object_pairs_hook=unique, parse_int=number)
    if type(header) is not dict:
        raise Refused('a header that is no dictionary')
    return header
