"""Writes .pth files, of both kinds, without torch: what torch.save of the same arrays writes."""
import contextlib
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

NAMES = {'float32': 'Float', 'float64': 'Double', 'float16': 'Half', 'bfloat16': 'BFloat16',
         'int64': 'Long', 'uint8': 'Byte'}
MAGIC, PROTOCOL = 0x1950a86a20f9469cfc6c, 1001


class Tensor:
    """An array, or some of its strided view, to be written as a tensor.

    `bfloat16` writes float32 values as their upper halves.
    """

    def __init__(self, array, bfloat16=False):
        base = array if array.base is None else array.base
        self.base = base
        self.shape = tuple(array.shape)
        self.strides = tuple(stride // array.itemsize for stride in array.strides)
        self.offset = (array.__array_interface__['data'][0]
                       - base.__array_interface__['data'][0]) // array.itemsize
        self.kind = 'bfloat16' if bfloat16 else base.dtype.name
        numbers = np.ascontiguousarray(base.reshape(-1))
        if bfloat16:
            numbers = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        self.data = numbers.tobytes()
        self.count = base.size


@contextlib.contextmanager
def fake_torch():
    """The modules that the pickler looks the names up in; they hold nothing but names."""
    def named(module, name, call=False):
        thing = type(name, (), {}) if not call else types.FunctionType((lambda: None).__code__, {})
        thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
        return thing

    torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
    for name in NAMES.values():
        setattr(torch, f'{name}Storage', named('torch', f'{name}Storage'))
    for name in ('_rebuild_tensor_v2', '_rebuild_parameter'):
        setattr(utils, name, named('torch._utils', name, call=True))
    torch._utils = utils
    saved = {name: sys.modules.get(name) for name in ('torch', 'torch._utils')}
    sys.modules.update({'torch': torch, 'torch._utils': utils})
    try:
        yield torch
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class Pickler(pickle._Pickler):
    """Tensors become _rebuild_tensor_v2 of a storage, which is written beside the pickle."""

    def __init__(self, stream, torch, legacy, parameters=False):
        super().__init__(stream, protocol=2)
        self.torch, self.legacy, self.parameters = torch, legacy, parameters
        self.storages = {}

    def persistent_id(self, item):
        if isinstance(item, tuple) and len(item) == 2 and item[0] == 'storage of':
            tensor = item[1]
            key = str(id(tensor.base))
            self.storages[key] = tensor
            kind = getattr(self.torch, f'{NAMES[tensor.kind]}Storage')
            return ('storage', kind, key, 'cpu', tensor.count, *((None,) if self.legacy else ()))
        return None

    def reducer_override(self, item):
        if isinstance(item, Tensor):
            from collections import OrderedDict
            arguments = (('storage of', item), item.offset, item.shape, item.strides, False,
                         OrderedDict())
            return self.torch._utils._rebuild_tensor_v2, arguments
        return NotImplemented

    def save(self, item, save_persistent_id=True):
        if isinstance(item, Tensor):
            return self.save_reduce(*self.reducer_override(item), obj=item)
        return super().save(item, save_persistent_id)


def tensors_of(content, bfloat16=False):
    """A nested dict with its arrays as Tensors."""
    if isinstance(content, dict):
        return {name: tensors_of(value, bfloat16) for name, value in content.items()}
    return Tensor(content, bfloat16) if isinstance(content, np.ndarray) else content


def write_pth(path, content, legacy=False, bfloat16=False):
    """Writes a nested dict of arrays as torch.save does; `legacy` is the format before 1.6."""
    content = tensors_of(content, bfloat16)
    with fake_torch() as torch:
        stream = io.BytesIO()
        pickler = Pickler(stream, torch, legacy)
        pickler.dump(content)
    if not legacy:
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('archive/data.pkl', stream.getvalue())
            archive.writestr('archive/byteorder', 'little')
            for key, tensor in pickler.storages.items():
                archive.writestr(f'archive/data/{key}', tensor.data)
            archive.writestr('archive/version', '3\n')
        return
    with open(path, 'wb') as file:
        for part in (MAGIC, PROTOCOL, {'protocol_version': PROTOCOL, 'little_endian': True,
                                       'type_sizes': {'short': 2, 'int': 4, 'long': 4}}):
            pickle.dump(part, file, protocol=2)
        file.write(stream.getvalue())
        pickle.dump(list(pickler.storages), file, protocol=2)
        for tensor in pickler.storages.values():
            file.write(struct.pack('<q', tensor.count) + tensor.data)
