"""Reads weight files of every format into numpy arrays; the format is found in the file's bytes.

| file         | layout                               | what                   | first bytes |
|--------------|--------------------------------------|------------------------|-------------|
| .pdparams    | paddle                               | a pickle               | 0x80        |
| .pth         | torch                                | a zip with a pickle    | PK          |
| .pth, older  | torch                                | a row of pickles       | 0x80 ...    |
| .npz         | flax                                 | a zip of .npy files    | PK          |
| .safetensors | as its metadata's `format`, or torch | json, then the numbers | a length, { |

Neither torch nor flax is needed. bfloat16 values become float32, which holds them exactly. What
reading may cost is bounded by the file's size, see bounds.py; so a zip may be compressed, but not
so that it unpacks to more than 3 x its size + 32 MB.
"""
import os
import zipfile

from common.core.bounds import Budget, Refused, reading
from common.weights.numpy_format import read_npy
from common.weights.safetensors_format import read_safetensors
from common.weights.torch_format import TORCH_NUMBER, read_torch_legacy, read_torch_zip
from common.weights.unpickle import read_pickle
from common.weights.zip_members import check_directory, check_members, member


def read_file(file):
    """Reads a weight file of any known format.

    Args:
        file: path.

    Returns:
        (layout, content): the layout of the arrays is paddle | torch | flax; the content is a
        nested dict of numpy arrays (views of what was read), numbers, strings and lists.

    Raises:
        InputError: the file is missing, of no known format, damaged, or asks for more than data.
    """
    with reading(file) as stream:
        size = os.path.getsize(file)
        head = stream.read(len(TORCH_NUMBER))
        stream.seek(0)
        if head.startswith(b'PK\x03\x04'):
            return read_zip(stream, size)
        if head == TORCH_NUMBER:
            return 'torch', read_torch_legacy(stream, size)
        if len(head) > 8 and head[8:9] == b'{':
            return read_safetensors(stream, size)
        return 'paddle', read_pickle(stream, size, file)


def read_zip(stream, size):
    """Reads an opened .pth or .npz; returns (layout, content) as read_file does."""
    check_directory(stream)
    budget = Budget(size)
    with zipfile.ZipFile(stream) as archive:
        check_members(archive, size, budget)
        names = archive.namelist()
        pickles = [name for name in names if name.split('/', 1)[-1] == 'data.pkl']
        if len(pickles) == 1:
            return 'torch', read_torch_zip(archive, pickles[0], budget)
        if names and all(name.endswith('.npy') for name in names):
            return 'flax', {name[:-len('.npy')]: read_npy(member(archive, name), name, budget)
                            for name in names}
    raise Refused('a zip, but neither a .pth nor a .npz')
