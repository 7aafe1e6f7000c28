"""Published weight formats, each written by the test as its own program writes it."""
import argparse
import collections
import contextlib
import datetime
import enum
import json
import re
import struct
import sys
import time
import tracemalloc
import types
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from common.core.errors import InputError
from common.weights.dialects import translate
from common.weights.formats import read_file
from common.weights.load import read_weights
from common.weights.torch_format import TORCH_NUMBER
from common.zoo import create_model, describe
from tests import fuzz_grammar
from tests.fuzz_grammar import Programs
from tests.reference import Case
from tests.torch_files import Tensor, write_pth

# case, model, writer
CASES = [
    ('paddlevit_vit_tiny_patch16_224', 'vit_tiny_patch16_224', 'pdparams'),
    ('timm_vit_tiny_patch16_384', 'vit_tiny_patch16_384', 'pth'),
    ('timm_vit_base_patch16_224', 'vit_base_patch16_224', 'safetensors'),
    ('mmpretrain_vit-base-p16_384', 'vit_base_patch16_384', 'legacy pth'),
    ('npz_ViT-B_16_224', 'vit_base_patch16_224', 'npz'),
    ('npz_R50+ViT-B_16_224', 'vit_base_r50_s16_224', 'npz'),
]


def write(path, weights, writer):
    """The file of a case, as its source publishes it."""
    path = str(path / f'weights.{writer.split()[-1]}')
    if writer == 'pdparams':
        paddle.save({name: paddle.to_tensor(value) for name, value in weights.items()}, path)
    elif writer == 'safetensors':
        save_file(weights, path, metadata={'format': 'pt'})
    elif writer == 'npz':
        np.savez(path, **weights)
    else:
        write_pth(path, {'meta': {'epoch': 3}, 'state_dict': weights}, legacy='legacy' in writer)
    return path


@pytest.mark.parametrize('case, name, writer', CASES, ids=[case for case, _, _ in CASES])
def test_file_gives_the_logits_of_its_reference_W8(case, name, writer, tmp_path):
    case = Case('fidelity', case)
    file = write(tmp_path, case.weights(), writer)
    for dtype, limit in (('float64', 1e-8),
                         ('float32', 10 * case.meta['f32_vs_f64']['logits']['max_abs'])):
        paddle.set_default_dtype(dtype)
        try:
            model = create_model(name, pretrained=file)
        finally:
            paddle.set_default_dtype('float32')
        model.eval()
        with paddle.no_grad():
            logits = model(paddle.to_tensor(case.images().astype(dtype))).numpy()
        assert np.abs(logits - case.arrays['logits_f64']).max() <= limit, dtype


def small_state(random, prefix=''):
    return {f'{prefix}{name}': random.standard_normal(shape).astype(np.float32)
            for name, shape in (('a', (3, 4)), ('b.weight', (5,)), ('c', ()))}


def same(got, expected):
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype and got[name].shape == value.shape, name
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.smoke
@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('dtype', ['float32', 'float64', 'float16', 'int64', 'uint8'])
def test_torch_file(legacy, dtype, tmp_path):
    array = np.arange(24).reshape(4, 6).astype(dtype)
    scalar = np.array(3).astype(dtype)
    content = {'state_dict': {'whole': array, 'rows': array[1:3], 'turned': array.T,
                              'some': array[::2, 1::3], 'scalar': scalar}, 'epoch': 7,
               'args': argparse.Namespace(lr=0.1, model='x')}
    write_pth(tmp_path / 'a.pth', content, legacy)
    kind, got = read_file(str(tmp_path / 'a.pth'))
    assert kind == 'torch' and got['epoch'] == 7 and got['args'] is None
    same(got['state_dict'], content['state_dict'])


@pytest.mark.smoke
@pytest.mark.parametrize('writer', ['pth', 'legacy', 'safetensors', 'npz', 'pdparams'])
def test_bfloat16_becomes_the_same_numbers_in_float32_L5(writer, tmp_path):
    values = np.array([[1, -2.5, 3e38], [1e-38, 0, 0.15625]], np.float32)
    values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    file = str(tmp_path / f'a.{writer}')
    if writer == 'safetensors':
        header = json.dumps({'x': {'dtype': 'BF16', 'shape': [2, 3], 'data_offsets': [0, 12]}})
        with open(file, 'wb') as stream:
            stream.write(struct.pack('<Q', len(header)) + header.encode() + halves.tobytes())
    elif writer == 'npz':
        np.savez(file, x=halves.view('V2'))
    elif writer == 'pdparams':
        paddle.save({'x': paddle.to_tensor(values).astype('bfloat16')}, file)
    else:
        write_pth(file, {'x': values}, legacy=writer == 'legacy', bfloat16=True)
    if writer == 'pdparams':
        from common.weights.load import read_weights
        got = read_weights(file)[1]
    else:
        got = read_file(file)[1]
    same(got, {'x': values})


@pytest.mark.smoke
def test_tensor_outside_of_its_storage_is_refused(tmp_path):
    for change in ({'offset': 20}, {'shape': (5, 6)}, {'strides': (6, 5)}, {'count': 25}):
        tensor = Tensor(np.arange(24, dtype=np.float32).reshape(4, 6))
        vars(tensor).update(change)
        write_pth(tmp_path / 'a.pth', {'x': tensor})
        with pytest.raises(InputError, match=f'{tmp_path}/a.pth: refused: x: '):
            read_file(str(tmp_path / 'a.pth'))


@pytest.mark.smoke
@pytest.mark.parametrize('legacy', [False, True])
def test_torch_file_cannot_run_code_W1(legacy, tmp_path):
    class Evil:
        def __reduce__(self):
            import os
            return os.system, (f'touch {tmp_path}/canary',)

    write_pth(tmp_path / 'a.pth', {'state_dict': {'x': np.ones(3)}, 'meta': Evil()}, legacy)
    with pytest.raises(InputError, match='a.pth: refused: it asks for posix.system'):
        read_file(str(tmp_path / 'a.pth'))
    assert not (tmp_path / 'canary').exists()


@pytest.mark.smoke
def test_zip_bomb_and_strange_zips_are_refused_W4_W5(tmp_path):
    bomb = tmp_path / 'bomb.npz'
    with zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a.npy', b'\0' * (200 << 20))
    with pytest.raises(InputError, match='that unpacks to 209715200'):
        read_file(str(bomb))
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as archive:
        archive.writestr('readme.txt', 'no weights')
    with pytest.raises(InputError, match='neither a .pth nor a .npz'):
        read_file(str(tmp_path / 'other.zip'))
    np.savez(tmp_path / 'objects.npz', a=np.array([{}], dtype=object))
    with pytest.raises(InputError, match='a.npy: an array of object'):
        read_file(str(tmp_path / 'objects.npz'))


# Costs: bounded by the size of the file.

@pytest.mark.smoke
@pytest.mark.parametrize('legacy', [False, True])
def test_tensors_of_one_storage_share_its_memory_W10(legacy, tmp_path):
    array = np.arange(1000, dtype=np.float32)
    state = {f'x{number}': array for number in range(2001)}
    write_pth(tmp_path / 'a.pth', {**state, 'part': array.reshape(20, 50)[3:5, ::7]}, legacy)
    got = read_file(str(tmp_path / 'a.pth'))[1]
    assert len(got) == 2002 and all(np.shares_memory(got['x0'], value) for value in got.values())
    same(got, {**state, 'part': array.reshape(20, 50)[3:5, ::7]})


@pytest.mark.smoke
def test_large_tensor_under_many_names_is_refused_W10(tmp_path):
    array = np.zeros(1 << 20, np.float32)
    write_pth(tmp_path / 'a.pth', {f'x{number}': array for number in range(12)})
    with pytest.raises(InputError, match='names arrays of more than 44 MB in all'):
        read_file(str(tmp_path / 'a.pth'))


def torch_zip(path, program, storage=b''):
    """A .pth of a program of opcodes and one storage, '0'."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', b'\x80\x02' + program + b'.')
        archive.writestr('archive/data/0', storage)


@pytest.mark.smoke
def test_storages_of_strange_keys_and_views_are_refused_W10(tmp_path):
    programs = Programs(np.random.RandomState(0))
    deep = programs.doubled(b')', b'', b'\x86', 40)
    programs.extreme = lambda: deep
    for wrong in ('kind', 'key', 'count', 'offset', 'shape', 'strides'):
        torch_zip(tmp_path / 'a.pth', programs.tensor(wrong), bytes(16))
        with pytest.raises(InputError, match='a.pth: refused: '):
            read_file(str(tmp_path / 'a.pth'))
    # a view of 2^40 numbers, which are one; and one of none, with a size that no array has
    for shape, said in (((1 << 20, 1 << 20), 'outside of its 4 numbers'),
                        ((0, 1 << 73), 'shape .0, an integer of 74 bits'),
                        ((1,) * 70, 'whose shape is a tuple of 70')):
        programs.extreme = lambda shape=shape: fuzz_grammar.part(shape)
        opcodes = programs.tensor('shape').replace(
            fuzz_grammar.part((1,)), fuzz_grammar.part((0,) * len(shape)))
        torch_zip(tmp_path / 'a.pth', opcodes, bytes(16))
        with pytest.raises(InputError, match=said):
            read_file(str(tmp_path / 'a.pth'))


@pytest.mark.smoke
def test_keys_of_an_older_file_are_texts_W10(tmp_path):
    deep = Programs(None)
    pickles = [fuzz_grammar.part(1001), fuzz_grammar.part({'little_endian': True}), b'}',
               b'](' + deep.doubled(b')', b'', b'\x86', 40) + b'e']
    (tmp_path / 'a.pth').write_bytes(
        TORCH_NUMBER + b''.join(b'\x80\x02' + program + b'.' for program in pickles))
    with pytest.raises(InputError, match='storages that do not fit to the tensors'):
        read_file(str(tmp_path / 'a.pth'))


def npy(shape='(4,)', descr="'<f4'", data=bytes(16)):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b'\x93NUMPY\1\0' + struct.pack('<H', len(header)) + header + data


@pytest.mark.smoke
@pytest.mark.parametrize('shape', [
    '(1,\n', '\n  (4,)', '(' * 200 + ')' * 200, '(0, 9444732965739290427392)', '(-4,)', '4',
    '(' + '1, ' * 70 + ')', '(' + '9' * 500 + ',)', '(' + '9' * 9000 + ',)', '(4,) + (1,)', '(5,)'])
def test_strange_npy_header_is_refused_W11(shape, tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        archive.writestr('a.npy', npy(shape))
    with pytest.raises(InputError, match=f'{tmp_path}/a.npz: refused: '):
        read_file(str(tmp_path / 'a.npz'))


@pytest.mark.smoke
def test_npy_headers_of_other_writers_are_read(tmp_path):
    """Without a comma at the end, with Python 2's L, with more spaces."""
    values = np.arange(4, dtype=np.float32)
    for header in ("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}\n",
                   "{'descr': '<f4', 'fortran_order': False, 'shape': (4L,), }",
                   "{'descr':'<f4','fortran_order':True,'shape':(4,),}      \n"):
        with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
            archive.writestr('a.npy', b'\x93NUMPY\1\0' + struct.pack('<H', len(header))
                             + header.encode() + values.tobytes())
        same(read_file(str(tmp_path / 'a.npz'))[1], {'a': values})


def change(path, places, new):
    """Writes `new` over the bytes of a zip's local and central entry, at two offsets in them."""
    content = bytearray(path.read_bytes())
    for signature, offset in zip((b'PK\3\4', b'PK\1\2'), places, strict=True):
        start = content.index(signature) + offset
        content[start:start + len(new)] = new
    path.write_bytes(content)


@pytest.mark.smoke
def test_broken_members_of_a_zip_are_refused_W11(tmp_path):
    path = tmp_path / 'a.npz'

    def refused(said):
        with pytest.raises(InputError, match=f'{path}: .*{said}'):
            read_file(str(path))

    np.savez_compressed(path, a=np.random.RandomState(0).randn(4000))
    whole = path.read_bytes()
    path.write_bytes(whole[:2000] + b'\xff' * 200 + whole[2200:])  # zlib.error, or the checksum
    refused('not a weight file, or a damaged one')
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, 'w', method) as archive:
            archive.writestr('a.npy', npy())
        refused('packed in a way that neither PyTorch nor numpy uses')
    path.write_bytes(whole)
    change(path, (6, 8), b'\1\0')                                        # encrypted
    refused('a.npy is encrypted')
    with zipfile.ZipFile(path, 'w') as archive, pytest.warns(UserWarning, match='Duplicate'):
        archive.writestr('a.npy', npy())
        archive.writestr('a.npy', npy())
    refused('two members of the name')


@pytest.mark.smoke
def test_sizes_that_a_zip_claims_W12(tmp_path):
    path, bound = tmp_path / 'a.npz', 3 * 10_000_000 + (32 << 20)
    np.savez_compressed(path, a=np.zeros(5_000_000, np.float32))          # 20 MB of 20 kB: fine
    assert read_file(str(path))[1]['a'].nbytes == 20_000_000
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(4):                                           # 40 times its size
            archive.writestr(f'{number}.npy', np.random.RandomState(number).bytes(300_000)
                             + bytes(12_000_000))
    assert path.stat().st_size < 10_000_000
    with pytest.raises(InputError, match='that unpacks to 49200000, .* save it without compress'):
        read_file(str(path))
    assert bound > 49_200_000  # the same, were it larger, would be read
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr('a.npy', bytes(200 << 20))
    change(path, (22, 24), struct.pack('<I', 100))                        # says that it is small
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match='damaged'):
            read_file(str(path))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a.npy', npy())
    content = path.read_bytes()
    start, end = content.index(b'PK\1\2'), content.index(b'PK\5\6')
    directory = content[start:end] * 60_000
    path.write_bytes(content[:start] + directory + content[end:end + 12]
                     + struct.pack('<IIH', len(directory), start, 0))
    with pytest.raises(InputError, match='a table of contents of 3060000 bytes'):
        read_file(str(path))


@pytest.mark.smoke
@pytest.mark.parametrize('header, said', [
    (b'{' + b','.join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number
                      for number in range(60_000)) + b'}', 'more than .* MB of objects'),
    (b'{' + b','.join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number
                      for number in range(200_000)) + b'}', 'a header of 11488891 bytes'),
    (b'{"a":' + b'[' * 200_000 + b']' * 200_000 + b'}', ''),
    (b'{"a":' + b'9' * 1_000_000 + b'}', 'a number of 1000000 digits'),
    (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
     b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 'two entries of one name'),
    (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
     b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 'do not follow the ones before'),
    (b'{"a":{"dtype":"F32","shape":[0,9444732965739290427392],"data_offsets":[0,0]}}', 'a number'),
    (b'{"a":{"dtype":"F32","shape":[0, 9223372036854775807],"data_offsets":[0,0]}}', 'too large'),
    (b'{"a":{"dtype":"F32","shape":[1,1,1],"data_offsets":[0,2]}}', 'with 2 bytes'),
    (b'[]', ''), (b'{"a":[]}', 'no array: a list of 0')],
    ids=['many', 'more', 'deep', 'digits', 'doubled', 'shared', 'shape', 'product', 'bytes', 'list',
         'entry'])
def test_headers_of_safetensors_W11_W12(header, said, tmp_path):
    file = tmp_path / 'a.safetensors'
    file.write_bytes(struct.pack('<Q', len(header)) + header + bytes(4))
    with pytest.raises(InputError, match=f'^{file}: .*{said}'):
        read_file(str(file))


@pytest.mark.smoke
def test_safetensors_may_start_with_any_number(tmp_path):
    """A header of 559,903 bytes starts as gzip does."""
    header = b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'.ljust(0x088b1f)
    (tmp_path / 'a.safetensors').write_bytes(struct.pack('<Q', len(header)) + header + bytes(4))
    same(read_file(str(tmp_path / 'a.safetensors'))[1], {'x': np.zeros(1, np.float32)})


# What other programs leave beside the weights.

class HistoryBuffer:
    """As mmengine's: its state holds arrays, and its class's own methods."""

    methods = {}

    def __init__(self):
        self.log_history, self.count_history = np.ones(3), np.ones(3, np.int64)

    def mean(self):
        pytest.fail('a method of a class that a file names was called')

    def __getstate__(self):
        return {**self.__dict__, 'statistics_methods': {'mean': HistoryBuffer.mean}}

    def __setstate__(self, state):
        pytest.fail('a state was set')


class Stage(enum.Enum):
    TRAIN = 'train'


class ConfigDict(dict):
    pass


@contextlib.contextmanager
def classes_of(module, *classes):
    """The classes as those of a module, which is there inside of the block only."""
    found = types.ModuleType(module)
    with pytest.MonkeyPatch.context() as patch:
        for thing in (*classes, HistoryBuffer.mean):
            patch.setattr(thing, '__module__', module)
            setattr(found, thing.__name__, thing)
        packages = module.split('.')
        for number in range(len(packages)):
            patch.setitem(sys.modules, '.'.join(packages[:number + 1]), found)
        yield


@pytest.mark.smoke
@pytest.mark.parametrize('legacy', [False, True])
def test_objects_of_a_training_program_are_left_out_W13(legacy, tmp_path):
    """An epoch_N.pth of mmpretrain 1.x, and what others leave."""
    file, state = str(tmp_path / 'epoch_3.pth'), small_state(np.random.RandomState(0))
    with classes_of('mmengine.logging.history_buffer', HistoryBuffer, Stage, ConfigDict):
        write_pth(file, {
            'meta': {'cfg': 'model = dict()', 'seed': 3, 'time': datetime.datetime(2024, 1, 2),
                     'dataset_meta': {'classes': ('cat', 'dog')}, 'where': Path('a/b'),
                     'kinds': {'a', 'b'}, 'complex': 1j,
                     'dicts': [collections.Counter('aab'), collections.defaultdict(list, a=[1]),
                               collections.OrderedDict(a=1), ConfigDict(a=1)], 'type': np.float32},
            'state_dict': collections.OrderedDict(state),
            'message_hub': {
                'log_scalars': collections.OrderedDict(loss=HistoryBuffer(), lr=HistoryBuffer()),
                'runtime_info': {'stage': Stage.TRAIN, 'lr': np.float64(0.5),
                                 'last': collections.deque([1, 2], 5)}},
            'optimizer': {'state': {0: {'step': 3, 'exp_avg': state['a']}},
                          'param_groups': [{'lr': 0.1, 'betas': (0.9, 0.99), 'params': [0]}]},
            'param_schedulers': [{'last_step': 3, '_get_lr_called_within_step': False}]}, legacy)
    assert 'mmengine' not in sys.modules
    kind, weights, _, _ = read_weights(file)
    assert kind == 'torch' and 'mmengine' not in sys.modules
    same(weights, state)
    content = read_file(file)[1]
    assert content['message_hub'] == {
        'log_scalars': {'loss': None, 'lr': None},
        'runtime_info': {'stage': None, 'lr': 0.5, 'last': [1, 2]}}
    assert content['meta'] == {
        'cfg': 'model = dict()', 'seed': 3, 'time': None, 'where': None, 'type': None,
        'dataset_meta': {'classes': ['cat', 'dog']}, 'kinds': None, 'complex': None,
        'dicts': [{'a': 2, 'b': 1}, {'a': [1]}, {'a': 1}, None]}
    assert content['optimizer']['state'][0]['step'] == 3
    np.testing.assert_array_equal(content['optimizer']['state'][0]['exp_avg'], state['a'])


@pytest.mark.smoke
def test_object_of_a_training_program_is_no_weight_W13(tmp_path):
    file = str(tmp_path / 'a.pth')
    with classes_of('mmengine.logging.history_buffer', HistoryBuffer):
        write_pth(file, {'state_dict': {'x': np.ones(3, np.float32), 'y': HistoryBuffer()}})
        with pytest.raises(InputError, match=f"{file}: 'y': got a NoneType, expected a name with"):
            read_weights(file)
        write_pth(file, HistoryBuffer())
    with pytest.raises(InputError, match='a whole object of the class mmengine.logging.history_buf'
                                         'fer.HistoryBuffer, not a state dict'):
        read_weights(file)
    with classes_of('subprocess_tools', HistoryBuffer):
        write_pth(file, {'state_dict': {'x': np.ones(3, np.float32)}, 'y': HistoryBuffer()})
    with pytest.raises(InputError, match='it asks for subprocess_tools.HistoryBuffer, which is no'):
        read_weights(file)


@pytest.mark.smoke
@pytest.mark.parametrize('writer', ['pth', 'legacy pth', 'safetensors', 'npz'])
def test_truncated_files_are_refused_W6(writer, tmp_path):
    file = write(tmp_path, small_state(np.random.RandomState(0)), writer)
    content = Path(file).read_bytes()
    for twentieth in range(20):
        with open(file, 'wb') as stream:
            stream.write(content[:len(content) * twentieth // 20])
        with pytest.raises(InputError, match=f'{file}: '):
            read_file(file)


@pytest.fixture(scope='module')
def tiny():
    """A small ViT, its weights, and their names in timm's dialect, torch's layout."""
    paddle.seed(3)
    model = create_model('vit_digits', depth=1)
    own = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    timm = {}
    for name, value in own.items():
        linear = value.ndim == 2
        for ours, theirs in (('position_embedding', 'pos_embed'), ('encoder.layers.', 'blocks.'),
                             ('patch_embedding.patch_embedding.', 'patch_embed.proj.'),
                             ('attn_norm', 'norm1'), ('mlp_norm', 'norm2'),
                             ('attn.out', 'attn.proj'), ('encoder.encoder_norm', 'norm'),
                             ('classifier', 'head')):
            name = name.replace(ours, theirs)
        timm[name] = np.ascontiguousarray(value.T) if linear else value
    return own, timm


def loads(file, own, **options):
    model = create_model('vit_digits', pretrained=str(file), depth=1, **options)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), own[name], err_msg=name)


@pytest.mark.smoke
def test_wrappers_of_checkpoints_L1(tiny, tmp_path):
    own, timm = tiny
    other = {name: value + 1 for name, value in timm.items()}
    for content in (timm, {'state_dict': timm, 'epoch': 3}, {'model': timm},
                    {'state_dict': other, 'state_dict_ema': timm},
                    {'state_dict': {f'module.{name}': value for name, value in timm.items()}}):
        write_pth(tmp_path / 'a.pth', content)
        loads(tmp_path / 'a.pth', own)


@pytest.mark.smoke
def test_mae_encoder_gets_a_new_head(tiny, tmp_path):
    own, timm = tiny
    encoder = {name: value for name, value in timm.items() if not name.startswith('head.')}
    encoder.update({'mask_token': np.zeros((1, 1, 8), np.float32),
                    'decoder_embed.weight': np.zeros((8, 96), np.float32)})
    write_pth(tmp_path / 'mae.pth', {'model': encoder})
    with pytest.raises(InputError, match='2 missing .classifier.weight, classifier.bias'):
        create_model('vit_digits', pretrained=str(tmp_path / 'mae.pth'), depth=1)
    model = create_model('vit_digits', pretrained=str(tmp_path / 'mae.pth'), depth=1,
                         num_classes=10)
    np.testing.assert_array_equal(model.cls_token.numpy(), own['cls_token'])


@pytest.mark.smoke
def test_hugging_face_with_separate_q_k_v(tiny, tmp_path):
    own, timm = tiny
    state = {}
    for name, value in timm.items():
        name = name.replace('blocks.0.attn.proj', 'blocks.0.attention.output.dense')
        for theirs, face in (('pos_embed', 'vit.embeddings.position_embeddings'),
                             ('cls_token', 'vit.embeddings.cls_token'),
                             ('patch_embed.proj', 'vit.embeddings.patch_embeddings.projection'),
                             ('blocks.', 'vit.encoder.layer.'), ('norm1', 'layernorm_before'),
                             ('norm2', 'layernorm_after'), ('mlp.fc1', 'intermediate.dense'),
                             ('mlp.fc2', 'output.dense'), ('head.', 'classifier.')):
            name = name.replace(theirs, face)
        if name.startswith('norm.'):
            name = 'vit.layernorm.' + name[5:]
        if '.attn.qkv.' in name:
            for part, values in zip(('query', 'key', 'value'), np.split(value, 3), strict=True):
                state[name.replace('attn.qkv', f'attention.attention.{part}')] = values.copy()
        else:
            state[name] = value
    state['vit.pooler.dense.weight'] = np.zeros((96, 96), np.float32)
    save_file(state, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    loads(tmp_path / 'model.safetensors', own)  # the key biases too, which no logit shows
    del state['vit.encoder.layer.0.attention.attention.key.bias']
    save_file(state, tmp_path / 'model.safetensors')
    with pytest.raises(InputError, match='1 missing .encoder.layers.0.attn.qkv.bias.; 2 unexpect'):
        create_model('vit_digits', pretrained=str(tmp_path / 'model.safetensors'), depth=1)


@pytest.mark.parametrize('prefix', ['opt/target/', 'params/'])
def test_flax_prefixes_and_key_biases(prefix, tmp_path):
    case = Case('fidelity', 'npz_ViT-B_16_224')
    weights = case.weights()
    np.savez(tmp_path / 'a.npz', **{prefix + name: value for name, value in weights.items()},
             **{f'{prefix}pre_logits/kernel': np.zeros((768, 768), np.float32)})
    model = create_model('vit_base_patch16_224', pretrained=str(tmp_path / 'a.npz'),
                         num_classes=1000)  # the pre-training layer goes with its classifier
    flax = 'Transformer/encoderblock_5/MultiHeadDotProductAttention_1/'
    attention = model.encoder.layers[5].attn
    for index, part in enumerate(('query', 'key', 'value')):
        columns = slice(768 * index, 768 * (index + 1))
        np.testing.assert_array_equal(attention.qkv.bias.numpy()[columns],
                                      weights[f'{flax}{part}/bias'].ravel())
        np.testing.assert_array_equal(attention.qkv.weight.numpy()[:, columns],
                                      weights[f'{flax}{part}/kernel'].reshape(768, 768))


@pytest.mark.smoke
@pytest.mark.parametrize('header, data', [
    (b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}', b'\0' * 8),   # not json
    (b'{"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', b'\0' * 8),  # too little
    (b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}', b'\0' * 8),  # outside
    (b'{"x": {"dtype": "Q99", "shape": [2], "data_offsets": [0, 8]}}', b'\0' * 8),
    (b'{"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}', b'\0' * 8),
    (b'{"x": 5}', b''), (b'{"x": "\xff"}', b''), (b'{' * 10_000, b'')])
def test_bad_safetensors_are_refused_W8(header, data, tmp_path):
    file = tmp_path / 'a.safetensors'
    file.write_bytes(struct.pack('<Q', len(header)) + header + data)
    with pytest.raises(InputError, match=f'{file}: '):
        read_file(str(file))
    for length in (len(header) + len(data) + 1, 1 << 40, (1 << 64) - 1):  # beyond the file
        file.write_bytes(struct.pack('<Q', length) + header + data)
        with pytest.raises(InputError, match=f'{file}: refused: a header of {length} bytes'):
            read_file(str(file))


# Names of other codes

def refused(file, **options):
    with pytest.raises(InputError) as caught:
        create_model('vit_digits', pretrained=str(file), depth=1, **options)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.smoke
@pytest.mark.parametrize('prefix', ['', '_layers.'])
def test_first_names_of_paddlevit_L12(prefix, tiny, tmp_path):
    own, _ = tiny
    old = {'position_embedding': 'patch_embedding.position_embeddings',
           'cls_token': 'patch_embedding.cls_token'}
    file = str(tmp_path / 'a.pdparams')
    paddle.save({prefix + old.get(name, name): value for name, value in own.items()}, file)
    loads(file, own)
    assert create_model('vit_digits', pretrained=file, depth=1).notes[0] == \
        'names of the first PaddleViT'


@pytest.mark.smoke
@pytest.mark.parametrize('prefix', ['_orig_mod.', 'model.', 'module.module.', 'net.', '_layers.',
                                    'anything.at.all.'])
@pytest.mark.parametrize('names', ['own', 'timm'])
def test_one_prefix_before_all_names_L12(prefix, names, tiny, tmp_path):
    own, timm = tiny
    state = {f'{prefix}{name}': value
             for name, value in (own if names == 'own' else timm).items()}
    save_file(state, tmp_path / 'a.safetensors',
              metadata={'format': 'paddle' if names == 'own' else 'pt'})
    loads(tmp_path / 'a.safetensors', own)
    notes = create_model('vit_digits', pretrained=str(tmp_path / 'a.safetensors'), depth=1).notes
    assert f'names behind the prefix {prefix!r}' in notes
    del state[f'{prefix}cls_token']
    save_file(state, tmp_path / 'a.safetensors')
    assert '1 missing (cls_token)' in refused(tmp_path / 'a.safetensors')


@pytest.mark.smoke
def test_prefix_of_the_other_families_L12(tmp_path):
    for name in ('vitae_digits', 'vitaev2_vsa_digits'):
        source = create_model(name)
        file = str(tmp_path / f'{name}.pdparams')
        paddle.save({f'net.{key}': value for key, value in source.state_dict().items()}, file)
        model = create_model(name, pretrained=file)
        for key, value in source.state_dict().items():
            np.testing.assert_array_equal(model.state_dict()[key].numpy(), value.numpy())


@pytest.mark.smoke
def test_other_modules_beside_the_model_L12(tiny, tmp_path):
    """Of teacher and student the average is taken; a wrapper's own classifier belongs to it; what
    has another prefix is left out and named, what has the model's is not."""
    own, timm = tiny
    file = tmp_path / 'a.safetensors'
    save_file({**{f'student.{name}': value + 1 for name, value in timm.items()},
               **{f'teacher.{name}': value for name, value in timm.items()},
               'criterion.weight': np.zeros(3, np.float32)}, file)
    loads(file, own)
    notes = create_model('vit_digits', pretrained=str(file), depth=1).notes
    assert any(f'{len(timm) + 1} arrays beside the model are left out' in note for note in notes)
    save_file({name if name.startswith('head.') else f'backbone.{name}': value
               for name, value in timm.items()}, file)
    loads(file, own)
    save_file({**{f'net.{name}': value for name, value in timm.items()},
               'net.extra': np.zeros(3, np.float32)}, file)
    assert '1 unexpected (extra)' in refused(file)


def mmcls(timm):
    """The names of MMClassification."""
    names = {}
    for name, value in timm.items():
        for theirs, ours in (('patch_embed.proj.', 'patch_embed.projection.'),
                             ('blocks.', 'layers.'), ('.norm1.', '.ln1.'), ('.norm2.', '.ln2.'),
                             ('.mlp.fc1.', '.ffn.layers.0.0.'), ('.mlp.fc2.', '.ffn.layers.1.')):
            name = name.replace(theirs, ours)
        name = name.replace('norm.', 'ln1.') if name.startswith('norm.') else name
        name = name.replace('pre_logits.fc.', 'head.layers.pre_logits.')
        name = re.sub(r'^head\.(weight|bias)', r'head.layers.head.\1', name)
        names[name if name.startswith('head.') else f'backbone.{name}'] = value
    return names


@pytest.mark.smoke
@pytest.mark.parametrize('names', ['own', 'timm', 'mmcls', 'flax'])
def test_layer_before_the_classifier_goes_with_it_L12(names, tiny, tmp_path):
    own, timm = tiny
    random = np.random.RandomState(0)
    layer = {'pre_logits.fc.weight': random.standard_normal((96, 96)).astype(np.float32),
             'pre_logits.fc.bias': np.zeros(96, np.float32)}
    state = {**timm, **layer, 'head.weight': np.zeros((50, 96), np.float32),
             'head.bias': np.zeros(50, np.float32)}
    file = tmp_path / 'a.safetensors'
    if names == 'flax':
        file = tmp_path / 'a.npz'
        np.savez(file, **google({**state}))
    elif names == 'own':
        save_file({**own, 'pre_logits.0.weight': layer['pre_logits.fc.weight'],
                   'pre_logits.0.bias': layer['pre_logits.fc.bias'],
                   'classifier.weight': np.zeros((96, 50), np.float32),
                   'classifier.bias': np.zeros(50, np.float32)}, file,
                  metadata={'format': 'paddle'})
    else:
        save_file(mmcls(state) if names == 'mmcls' else state, file)
    text = refused(file)
    assert '-o MODEL.REPRESENTATION_SIZE=96' in text and 'nothing was loaded' in text
    for classes in (10, 50):  # the classifier is of no use without the layer
        model = create_model('vit_digits', pretrained=str(file), depth=1, num_classes=classes)
        assert model.notes[-2:] == ['pre_logits: left out; the file has [96, 96]',
                                    f'classifier: new, [96, {classes}]; the file has [96, 50]']
        assert model.classifier.weight.numpy().any()
        np.testing.assert_array_equal(model.encoder.encoder_norm.weight.numpy(),
                                      own['encoder.encoder_norm.weight'])
    model = create_model('vit_digits', pretrained=str(file), depth=1, num_classes=50,
                         representation_size=96)
    np.testing.assert_array_equal(
        model.pre_logits[0].weight.numpy(),
        layer['pre_logits.fc.weight'] if names == 'own' else layer['pre_logits.fc.weight'].T)


def google(timm):
    """Google's names and layouts of one block."""
    found = {}
    for name, value in timm.items():
        part = name.replace('blocks.0.', 'Transformer/encoderblock_0/').replace('.', '/')
        for theirs, ours in (('pos_embed', 'Transformer/posembed_input/pos_embedding'),
                             ('patch_embed/proj', 'embedding'), ('cls_token', 'cls'),
                             ('norm1/weight', 'LayerNorm_0/scale'), ('norm1', 'LayerNorm_0'),
                             ('norm2/weight', 'LayerNorm_2/scale'), ('norm2', 'LayerNorm_2'),
                             ('attn', 'MultiHeadDotProductAttention_1'), ('/proj', '/out'),
                             ('mlp/fc1', 'MlpBlock_3/Dense_0'), ('mlp/fc2', 'MlpBlock_3/Dense_1'),
                             ('pre_logits/fc', 'pre_logits')):
            part = part.replace(theirs, ours)
        part = re.sub('^norm/', 'Transformer/encoder_norm/', part)
        part = part.replace('encoder_norm/weight', 'encoder_norm/scale')
        part = part.replace('weight', 'kernel')
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            value = value.T
        if 'qkv' in part:
            for one, piece in zip(('query', 'key', 'value'), np.split(value, 3, -1), strict=True):
                found[part.replace('qkv', one)] = piece
        else:
            found[part] = value
    return found


@pytest.mark.smoke
@pytest.mark.parametrize('names', ['timm', 'timm features'])
def test_swin_of_timm_since_0_9_L12_L16(names, tmp_path):
    """A merging belongs to the stage after it there, so that the shapes show a wrong table, too."""
    small = {'depths': [1, 1, 1, 1], 'image_size': 64, 'num_classes': 3}
    source = create_model('swin_tiny', **small)
    linear = {f'{name}.weight' for name, layer in source.named_sublayers()
              if isinstance(layer, paddle.nn.Linear)}
    state = {}
    for name, value in source.state_dict().items():
        value = value.numpy().T if name in linear else value.numpy()
        name = re.sub(r'^layers\.(\d)\.downsample',
                      lambda m: f'layers.{int(m[1]) + 1}.downsample', name)
        name = re.sub('^head', 'head.fc', name)
        state[name.replace('layers.', 'layers_') if names != 'timm' else name] = \
            np.ascontiguousarray(value)
    save_file(state, tmp_path / 'a.safetensors')
    model = create_model('swin_tiny', pretrained=str(tmp_path / 'a.safetensors'), **small)
    assert model.notes == ['names of timm']
    for name, value in source.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), value.numpy())


@pytest.mark.smoke
def test_look_alikes_are_named_L16(tiny, tmp_path):
    _, timm = tiny
    file = tmp_path / 'a.safetensors'
    for name, what in (('dist_token', 'a distilled DeiT, .*without "distilled" in its name'),
                       ('reg_token', 'register tokens'), ('blocks.0.ls1.gamma', 'LayerScale'),
                       ('fc_norm.weight', 'averages its patch tokens')):
        save_file({**timm, name: np.zeros((1, 1, 96), np.float32)}, file)
        assert re.search(f'the file is of .*{what}', refused(file))
    # such a file has a place more in its position embedding
    save_file({**timm, 'dist_token': np.zeros((1, 1, 96), np.float32),
               'pos_embed': np.zeros((1, 18, 96), np.float32)}, file)
    assert 'got 18 tokens' in refused(file) and 'a distilled DeiT' in refused(file)


# Containers

@pytest.mark.smoke
def test_copy_that_fits_is_taken_L13(tiny, tmp_path):
    """A teacher may be a larger model; an average may be of the parameters only."""
    own, timm = tiny
    larger = {**{name: np.zeros((2, *value.shape[1:]), np.float32) for name, value in timm.items()},
              'blocks.1.norm1.weight': np.ones(96, np.float32)}
    part = {name: value + 1 for name, value in timm.items() if 'bias' not in name}
    for other in (larger, part):
        for one, two in (('student', 'teacher'), ('model', 'ema_model.module')):
            save_file({**{f'{one}.{name}': value for name, value in timm.items()},
                       **{f'{two}.{name}': value for name, value in other.items()}},
                      tmp_path / 'a.safetensors')
            loads(tmp_path / 'a.safetensors', own)
            notes = create_model('vit_digits', pretrained=str(tmp_path / 'a.safetensors'),
                                 depth=1).notes
            assert f"names behind the prefix '{one}.'" in notes
            assert f'{len(other)} arrays beside the model are left out: {two}.' in notes[-1]


@pytest.mark.smoke
@pytest.mark.parametrize('keys', ['model_state_dict', 'net', 'params', 'teacher', 'network',
                                  'model.state_dict', 'state_dict.model', 'a.b.c', 'module'])
def test_containers_of_any_name_L13(keys, tiny, tmp_path):
    own, timm = tiny
    content = timm
    for key in reversed(keys.split('.')):
        content = {key: content, 'epoch': 3}
    optimizer = {'state': {0: {'exp_avg': np.zeros(3, np.float32)}},
                 'big': {f'x{index}': np.zeros(1, np.float32) for index in range(500)}}
    write_pth(tmp_path / 'a.pth', {**content, 'optimizer': optimizer})
    loads(tmp_path / 'a.pth', own)


@pytest.mark.smoke
def test_container_that_was_taken_is_named_L13(tiny, tmp_path):
    own, timm = tiny
    other = {name: value + 1 for name, value in timm.items()}
    for content, note in (
            ({'student': other, 'teacher': timm}, "weights of 'teacher'; .* also has 'student'"),
            ({'model': other, 'model_ema': timm}, "weights of 'model_ema'; .* also has 'model'"),
            ({'state_dict': {f'model.{name}': value for name, value in timm.items()},
              'callbacks': {}}, 'names of timm'),
            ({'model': {'state_dict': timm}}, "weights of 'model.state_dict'")):
        write_pth(tmp_path / 'a.pth', content)
        loads(tmp_path / 'a.pth', own)
        notes = create_model('vit_digits', pretrained=str(tmp_path / 'a.pth'), depth=1).notes
        assert re.search(note, notes[0])


@pytest.mark.smoke
def test_many_names_that_look_like_a_model_s_take_time_in_proportion_L12():
    """Each has a prefix, or a stage, of its own; comparing all with all would take minutes."""
    one = np.zeros(1, np.float32)
    begin = time.thread_time()
    for pattern in ('{}.blocks.0.norm1.weight', 'layers.{}.blocks.0.norm1.weight',
                    'encoder.layers.{}.attn_norm.weight'):
        state = {pattern.format(index): one for index in range(20_000)}
        translate(create_model('vit_digits', depth=1), state, 'torch')
        assert describe(state, 'torch') == ''
    assert time.thread_time() - begin < 30
