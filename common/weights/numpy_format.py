"""Reads the .npy members of numpy's .npz files."""
import re
import struct

import numpy as np

from common.core.bounds import Refused
from common.core.errors import printable
from common.weights.arrays import to_array

# numpy writes a Python dictionary before the numbers; this is how the three entries look.
NPY_HEADER = re.compile(
    r"\{\s*'descr': *'([<>|=]?[A-Za-z]\d{0,4})', *'fortran_order': *(True|False), *"
    r"'shape': *\(([0-9L, ]{0,1000})\),? *\}\s*")


def read_npy(data, name, budget):
    """The array in the bytes of a .npy file, which are a memoryview."""
    version, start = data[6:8], 10 if data[6:8] == b'\x01\x00' else 12
    if data[:6] != b'\x93NUMPY' or version not in (b'\x01\x00', b'\x02\x00'):
        raise Refused(f'{printable(name)}: no .npy file of version 1 or 2')
    length, = struct.unpack('<H' if start == 10 else '<I', data[8:start])
    header = str(data[start:start + min(length, 10_000)], 'latin1')
    match = NPY_HEADER.fullmatch(header)
    if not match or len(header) != length:
        raise Refused(f'{printable(name)}: a header that numpy does not write for numbers')
    dtype, fortran_order = np.dtype(match[1]), match[2] == 'True'
    shape = tuple(int(number.rstrip('L')) for number in match[3].replace(' ', '').split(',')
                  if number)
    kind = 'bfloat16' if dtype.str == '|V2' else dtype.str
    if dtype.kind not in 'biuf' and kind != 'bfloat16':
        raise Refused(f'{printable(name)}: an array of {dtype}, expected numbers')
    if kind != 'bfloat16' and dtype.byteorder == '>':
        raise Refused(f'{printable(name)}: numbers of another byte order')
    budget.spend(512)
    array = to_array(data[start + length:], kind,
                     shape[::-1] if fortran_order else shape, budget)
    return array.T if fortran_order else array
