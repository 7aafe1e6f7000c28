"""The names that a pickle of weights may mention, and what stands for them.

- NAMES: what Paddle, numpy and PyTorch write for arrays and containers. Each stands for a function
  of this file, never for the real one: a forged array state would otherwise reach memory that is
  not its own.
- INERT_NAMES, INERT_PACKAGES: things of training programs; an epoch_N.pth of mmpretrain has some
  beside its weights. They stand for inert objects: whatever is done with one gives itself, nothing
  is imported, and it is left out of what is read.
- All other names are refused, with the file: os, subprocess, functools, the functions of builtins
  and so on have no business in a weight file, nor has anything that is in no list.
"""
import re

import numpy as np

from common.core.bounds import Refused, check_key, check_shape
from common.core.errors import shown

MAX_ARGUMENTS = 100


def names_in(modules, names):
    return {f'{module}.{name}' for module in modules.split() for name in names.split()}


# Things of training programs that may lie beside the weights, and say nothing about them.
INERT_NAMES = {
    *names_in('argparse', 'Namespace'), *names_in('types', 'SimpleNamespace'),
    *names_in('copyreg copy_reg', '_reconstructor'),
    *names_in('datetime', 'date datetime time timedelta timezone'),
    *names_in('pathlib pathlib._local', 'Path PosixPath WindowsPath PurePath PurePosixPath '
                                        'PureWindowsPath'),
    *names_in('builtins __builtin__', 'bool bytearray complex dict float frozenset int list long '
                                      'object range set slice str type unicode xrange'),
    *names_in('numpy torch', 'bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 '
                             'float32 float64 complex64 complex128'),
    *names_in('torch', 'device Generator bfloat16 half float double strided contiguous_format '
                       'channels_last preserve_format'),
}
INERT_PACKAGES = (
    'mmengine.', 'mmcv.', 'mmcls.', 'mmpretrain.', 'mmselfsup.', 'mmdet.', 'mmseg.', 'timm.',
    'torchvision.', 'torchmetrics.', 'apex.', 'deepspeed.', 'fairscale.', 'accelerate.',
    'transformers.', 'detectron2.', 'fvcore.', 'iopath.', 'yacs.', 'omegaconf.', 'addict.',
    'easydict.', 'ml_collections.', 'pytorch_lightning.', 'lightning.', 'lightning_fabric.',
    'lightning_utilities.', 'torch.nn.', 'torch.optim.', 'torch.amp.', 'torch.cuda.amp.',
    'torch.distributed.', 'torch.utils.data.', 'numpy.random.', '__main__.')


class Name:
    """A function or class that a file may name; calling it makes data, by make(budget, ...)."""

    __slots__ = ('make',)

    def __init__(self, make=None):
        self.make = make

    def __call__(self, budget, arguments):
        if self.make is None:
            raise Refused('a call of what is a value')
        if len(arguments) > MAX_ARGUMENTS:
            raise Refused(f'a call with {len(arguments)} arguments')
        return self.make(budget, *arguments)


class Inert:
    """Stands for a class, function or object of a training program. What is called on it, taken
    from it or put into it has no effect."""

    __slots__ = ('name',)

    def __init__(self, name):
        self.name = name


class ArrayRecord:
    """What a numpy array was pickled as; `array` makes it."""

    __slots__ = ('state',)

    def __init__(self):
        self.state = None

    def array(self):
        if type(self.state) is not tuple or len(self.state) != 5:
            raise Refused('an array without data')
        _, shape, dtype, fortran_order, data = self.state
        if type(dtype) is not DtypeRecord or type(data) is not bytes:
            raise Refused('an array of objects, not of numbers')
        return make_array(data, dtype.dtype(), shape, 'F' if fortran_order is True else 'C')


class DtypeRecord:
    """What a numpy dtype was pickled as."""

    __slots__ = ('code', 'state')

    def __init__(self, code):
        self.code = code
        self.state = None

    def dtype(self):
        if type(self.code) is not str or not re.fullmatch('[biufc][0-9]{1,2}', self.code):
            raise Refused(f'an array of type {shown(self.code)}, expected numbers')
        if self.state is None:
            return np.dtype(self.code)
        # (version, byte order, and what only types of several fields or of objects have)
        if type(self.state) is not tuple or len(self.state) != 8 \
                or self.state[2:] != (None, None, None, -1, -1, 0) \
                or self.state[:2] not in ((3, '<'), (3, '>'), (3, '|'), (3, '=')):
            raise Refused('an array of a type that numpy does not write for numbers')
        return np.dtype(self.state[1] + self.code)


def make_array(data, dtype, shape, order='C'):
    """A numpy array, a view of bytes; their number must be what the shape needs."""
    if check_shape(shape, dtype.itemsize) * dtype.itemsize != len(data):
        raise Refused(f'an array of the shape {list(shape)} with {len(data)} bytes of {dtype}')
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def reconstruct(budget, kind, shape, typecode):
    """numpy's array constructor, with the arguments that numpy writes."""
    if kind is not ND_ARRAY or shape != (0,) or typecode not in (b'b', 'b'):
        raise Refused('an array constructor with other arguments than numpy writes: '
                      f'{shown(shape)}, {shown(typecode)}')
    return ArrayRecord()


def encode(budget, text, encoding='utf-8'):
    """The bytes of an array in pickle protocol 2."""
    if encoding != 'latin1' or type(text) is not str:
        raise Refused(f'the text encoding {shown(encoding)}')
    budget.spend(len(text))
    return text.encode('latin1')


def scalar(budget, dtype, data):
    """A numpy scalar, as Python's."""
    if type(dtype) is not DtypeRecord or type(data) is not bytes:
        raise Refused('a numpy scalar of objects')
    return make_array(data, dtype.dtype(), ()).item()


def items_of(budget, items):
    """The items of a list or tuple, which a new one will hold."""
    if type(items) not in (list, tuple):
        raise Refused(f'a list of {shown(items)}')
    budget.spend(8 * len(items))
    return items


def make_dict(budget, items=()):
    """A dict of a dict or of pairs (an OrderedDict of Python 2)."""
    pairs = items.items() if type(items) is dict else items_of(budget, items)
    made = {}
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise Refused('a dictionary of what are no pairs')
        set_items(budget, made, pair)
    return made


def set_items(budget, target, items):
    """Puts [key, value, key, value, ...] into a dict."""
    budget.spend(160 + 52 * len(items))
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not Inert:
            check_key(key)
            budget.count_key(key)
        target[key] = value


def attribute(budget, thing, name):
    """getattr, of inert things only: how pickle 2 names the methods of a class."""
    if type(thing) is not Inert:
        raise Refused('it asks for builtins.getattr, which is not data')
    return thing


ND_ARRAY = Name()
NAMES = {
    'collections.OrderedDict': Name(make_dict),
    'collections.Counter': Name(make_dict),
    'collections.defaultdict': Name(lambda budget, *_: {}),
    'collections.deque': Name(lambda budget, items=(), *_: list(items_of(budget, items))),
    '__builtin__.bytes': Name(lambda budget: b''),  # an empty array in protocol 2
    'builtins.tuple': Name(lambda budget, items=(): tuple(items_of(budget, items))),
    'builtins.getattr': Name(attribute),
    'numpy.ndarray': ND_ARRAY,
    'numpy.dtype': Name(lambda budget, code, *_: DtypeRecord(code)),
    '_codecs.encode': Name(encode),
    **{f'numpy.{core}.multiarray.{name}': Name(make) for core in ('core', '_core')
       for name, make in (('_reconstruct', reconstruct), ('scalar', scalar))},
}
NAMES.update({f'__builtin__.{name}': NAMES[f'builtins.{name}'] for name in ('tuple', 'getattr')})
