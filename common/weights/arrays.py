"""Numpy arrays of the bytes in a weight file."""
import numpy as np

from common.core.bounds import Refused, check_shape


def to_array(data, dtype, shape, budget):
    """Bytes as an array of a named type; their number must be what the shape needs."""
    stored = np.dtype('uint16' if dtype == 'bfloat16' else dtype).newbyteorder('<')
    if check_shape(shape, stored.itemsize) * stored.itemsize != len(data):
        raise Refused(f'an array {list(shape)} of {dtype} with {len(data)} bytes')
    array = np.frombuffer(data, stored).reshape(shape)
    if dtype != 'bfloat16':
        return array
    budget.spend(2 * len(data))
    return from_bfloat16(array)


def from_bfloat16(bits):
    """uint16 bit patterns of bfloat16 -> float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
