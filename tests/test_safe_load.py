"""The weight reader: equal to paddle.load on what Paddle writes, and no code is run from a file."""
import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from common.core.errors import InputError
from common.weights import unpickle as safe_load
from common.weights.load import NAME_TABLE, read_weights
from common.weights.unpickle import load_pickle
from tests.fuzz_grammar import get, named, part, put, text
from tests.fuzz_weights import outcomes

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def state_dict():
    paddle.seed(0)
    model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4),
                                 paddle.nn.Linear(5, 2))
    return model.state_dict()


CONTENTS = {
    'state dict': lambda: state_dict(),
    'checkpoint': lambda: {'model': state_dict(), 'epoch': 3, 'config': {'LR': 1e-3, 'NAME': 'a'},
                           'best': None, 'done': True},
    'optimizer': lambda: {'model': state_dict(),
                          'optimizer': {'0.weight': {'moment1_0': paddle.ones([2, 3])}}},
    'numpy': lambda: {'a': np.arange(6, dtype='int64').reshape(2, 3),
                      'b': np.array(7, 'int8'), 'c': np.ones([4, 2], 'float16')[::2],
                      'd': np.asfortranarray(np.arange(6.0).reshape(2, 3))},
    'empty array': lambda: {'a': np.zeros([0, 4], 'float32')},
    'types': lambda: {name: paddle.ones([2]).astype(name)
                      for name in ('float16', 'float64', 'int32', 'int64', 'uint8', 'bool')},
    'list': lambda: {'several': [paddle.ones([2]), paddle.zeros([3])], 'text': 'a\u732b'},
    'pair of tensors': lambda: {'pair': (paddle.ones([2]), paddle.zeros([3]))},
    'pair of arrays': lambda: {'pair': (np.ones([2]), np.zeros([3]))},
    'large': lambda: {'a': paddle.arange(200_000, dtype='float32')},
}


def assert_same(ours, paddles):
    if isinstance(paddles, dict):
        assert list(ours) == list(paddles)
        for name in paddles:
            assert_same(ours[name], paddles[name])
    elif isinstance(paddles, (list, tuple)):
        assert len(ours) == len(paddles)
        for one, other in zip(ours, paddles, strict=True):
            assert_same(one, other)
    elif isinstance(paddles, np.ndarray):
        assert isinstance(ours, np.ndarray) and ours.dtype == paddles.dtype
        assert ours.shape == paddles.shape and np.array_equal(ours, paddles)
    else:
        assert type(ours) is type(paddles) and ours == paddles


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('make', CONTENTS.values(), ids=CONTENTS)
def test_equals_paddle_load(tmp_path, make, protocol):
    file = str(tmp_path / 'a.pdparams')
    paddle.save(make(), file, protocol=protocol)
    ours = load_pickle(file)
    ours.pop(NAME_TABLE, None)
    assert_same(ours, paddle.load(file, return_numpy=True))


@pytest.mark.parametrize('wrap', [lambda state: state, lambda state: {'model': state, 'epoch': 1}])
def test_read_weights_gives_the_arrays_of_the_model(tmp_path, wrap):
    file, state = str(tmp_path / 'a.pdparams'), state_dict()
    paddle.save(wrap(state), file)
    expected = {name: value.numpy() for name, value in state.items()}
    kind, weights, notes, _ = read_weights(file)
    assert kind == 'paddle' and not notes
    assert_same(weights, expected)


# Files that are refused

def refusal(file):
    """The message of the InputError: it is one line and starts with the path."""
    with pytest.raises(InputError) as caught:
        load_pickle(str(file))
    message = str(caught.value)
    assert message.startswith(f'{file}: ') and '\n' not in message
    return message


def write(folder, content):
    file = folder / 'bad.pdparams'
    file.write_bytes(content)
    return file


def program(*opcodes):
    return b'\x80\x02' + b''.join(opcodes) + b'.'


def call(name, *args):
    return named(name) + part(args) + b'R'


class Command:
    """Pickles as the order to run a shell command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('wrap', [
    lambda command: command,
    lambda command: {'model': {'weight': command}},
    lambda command: {'weight': np.ones(3), 'x': [(1, command)]},
    lambda command: {'weight': np.array([command], dtype=object)},
], ids=['alone', 'state dict', 'list', 'array'])
def test_command_is_refused_and_not_run_W1(tmp_path, wrap, protocol):
    canary = tmp_path / 'canary'
    content = pickle.dumps(wrap(Command(f'touch {canary}')), protocol)
    refusal(write(tmp_path, content))
    assert not canary.exists()


def opening(canary):
    return f"open({str(canary)!r}, 'w')"


PROGRAMS = {
    'eval': lambda canary: call('builtins.eval', opening(canary)),
    'exec': lambda canary: call('builtins.exec', opening(canary)),
    'eval of Python 2': lambda canary: call('__builtin__.eval', opening(canary)),
    'open': lambda canary: call('builtins.open', str(canary), 'w'),
    'io.open': lambda canary: call('_io.open', str(canary), 'w'),
    'getattr': lambda canary: (named('builtins.getattr') + b'(' + named('collections.OrderedDict')
                               + part('fromkeys') + b'tR'),
    'partial': lambda canary: (named('functools.partial') + b'(' + named('builtins.eval')
                               + part(opening(canary)) + b'tR)R'),
    'map': lambda canary: (named('builtins.tuple') + b'(' + named('builtins.map') + b'('
                           + named('builtins.eval') + part([opening(canary)]) + b'tRtR'),
    'numpy.load': lambda canary: call('numpy.load', str(canary), None, True),
    'ndarray.tofile': lambda canary: call('numpy.ndarray.tofile', str(canary)),
    'dotted name': lambda canary: (part('numpy') + part('ndarray.tofile') + b'\x93'
                                   + part((np.ones(2), str(canary))) + b'R'),
    'stack global': lambda canary: (part('builtins') + part('eval') + b'\x93'
                                    + part((opening(canary),)) + b'R'),
    'INST': lambda canary: b'(' + part(opening(canary)) + b'ibuiltins\neval\n',
    'OBJ': lambda canary: b'(' + named('builtins.eval') + part(opening(canary)) + b'o',
    'NEWOBJ': lambda canary: named('subprocess.Popen') + part((['touch', str(canary)],)) + b'\x81',
    'extension': lambda canary: b'\x82\x01)R',
    'persistent id': lambda canary: b'Pstorage\n',
    'binary persistent id': lambda canary: part(('storage', 'x')) + b'Q',
    'unpickler': lambda canary: call('pickle.loads', program(call('builtins.eval',
                                                                  opening(canary)))),
    'module': lambda canary: call('importlib.import_module', 'antigravity'),
    'paddle.load': lambda canary: call('paddle.load', str(canary)),
    'zlib': lambda canary: call('_codecs.encode', 'a' * 9, 'zlib'),
    'codecs.encode': lambda canary: call('codecs.encode', 'a' * 9, 'latin1'),
    'encoding of bytes': lambda canary: call('_codecs.encode', b'a', 'latin1'),
    'huge array': lambda canary: (named('numpy.core.multiarray._reconstruct') + b'('
                                  + named('numpy.ndarray') + part((10 ** 9,)) + part(b'b') + b'tR'),
    'array type': lambda canary: (named('numpy.core.multiarray._reconstruct') + b'('
                                  + named('builtins.tuple') + part((0,)) + part(b'b') + b'tR'),
}


@pytest.mark.parametrize('make', PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize('inside', [False, True], ids=['alone', 'in a dict'])
def test_program_is_refused_and_not_run_W2(tmp_path, make, inside):
    canary = tmp_path / 'canary'
    opcodes = make(canary)
    if inside:
        opcodes = b'}' + part('weight') + opcodes + b's'
    refusal(write(tmp_path, program(opcodes)))
    assert not canary.exists()


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('array', [
    np.array([{}, 1], dtype=object),
    np.array(None, dtype=object),
    np.array(['a', 'b']),
    np.array([b'a', b'b']),
    np.array([(1, 2.0)], dtype=[('x', 'i4'), ('y', 'f8')]),
    np.array(['2020-01-01'], dtype='datetime64[D]'),
], ids=['object', 'object scalar', 'text', 'bytes', 'record', 'date'])
def test_array_of_other_than_numbers_is_refused_W5(tmp_path, array, protocol):
    refusal(write(tmp_path, pickle.dumps({'model': {'weight': array}}, protocol)))


@pytest.mark.parametrize('opcodes', [
    named('numpy.ndarray') + part(((3,), 'f4')) + b'R',
    named('numpy.ndarray') + part(((3,), 'f4')) + b'\x81',
    named('numpy.ndarray') + part(((3,), 'f4')) + b'}\x92',
], ids=['REDUCE', 'NEWOBJ', 'NEWOBJ_EX'])
def test_array_without_data_is_refused(tmp_path, opcodes):
    """It would be of any size, and hold what was in the memory before."""
    refusal(write(tmp_path, program(opcodes)))


def array(dtype, shape, data):
    """The opcodes of an array as numpy pickles it, with a type, shape and data of one's own."""
    return (named('numpy.core.multiarray._reconstruct') + b'(' + named('numpy.ndarray')
            + part((0,)) + part(b'b') + b'tR(' + part(1) + part(shape) + dtype + part(False)
            + part(data) + b'tb')


def dtype(name, *state):
    """The opcodes of a numpy type; an opcode string in the state stands for itself."""
    opcodes = named('numpy.dtype') + part((name, False, True)) + b'R'
    if state:
        opcodes += b'(' + b''.join(item if isinstance(item, bytes) else part(item)
                                   for item in state) + b'tb'
    return opcodes


OBJECT_FIELD = b'}' + part('x') + b'(' + dtype('O') + part(0) + b'ts'

# numpy trusts the state of its own types; with these it reads or frees memory that is not its own.
FORGED_ARRAYS = {
    'fewer objects than the shape': array(dtype('O'), (4,), []),
    'fewer objects, large shape': array(dtype('O'), (1 << 22,), []),
    'bytes as references': array(dtype('V8', 3, '|', None, ('x',), OBJECT_FIELD, 8, 1, 1), (1,),
                                 b'A' * 8),
    'number type that holds references': array(dtype('f8', 3, '<', None, None, None, -1, -1, 1),
                                               (1,), b'A' * 8),
    'all flags': array(dtype('f8', 3, '<', None, None, None, -1, -1, 63), (1,), b'A' * 8),
    'fewer bytes than the shape': array(dtype('f8'), (4,), b'A' * 8),
    'more bytes than the shape': array(dtype('f8'), (1,), b'A' * 32),
    'negative shape': array(dtype('f8'), (-1,), b'A' * 8),
    'shape beyond all memory': array(dtype('f8'), (1 << 62,), b'A' * 8),
}

LOAD = '''
import resource, sys
from common.core.errors import InputError
from common.weights.unpickle import load_pickle
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    print(load_pickle(sys.argv[1]))
except InputError as error:
    print('refused:', error)
'''


def child_output(file):
    """What a process with 2 GiB of address space prints; a crash would end the test run."""
    done = subprocess.run([sys.executable, '-c', LOAD, str(file)], cwd=ROOT, timeout=60,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout.rstrip('\n')


@pytest.mark.parametrize('opcodes', FORGED_ARRAYS.values(), ids=FORGED_ARRAYS)
def test_forged_array_is_refused_without_a_crash_W5(tmp_path, opcodes):
    file = write(tmp_path, program(b'}' + part('weight') + opcodes + b's'))
    assert child_output(file).startswith(f'refused: {file}: ')


@pytest.mark.parametrize('opcodes', [
    b'\x8e' + (1 << 33).to_bytes(8, 'little'),
    b'\x8d' + (1 << 33).to_bytes(8, 'little'),
    b'\x96' + (1 << 33).to_bytes(8, 'little'),
    b'T\xff\xff\xff\x7f',
    b'\x8b\xff\xff\xff\x7f',
    b'\x95' + (1 << 33).to_bytes(8, 'little'),
], ids=['bytes', 'text', 'bytearray', 'string', 'integer', 'frame'])
def test_length_beyond_the_file_takes_no_memory_W4(tmp_path, opcodes):
    file = write(tmp_path, program(opcodes + b'abc'))
    assert child_output(file).startswith(f'refused: {file}: ')


def test_large_memo_index_takes_no_memory_W4(tmp_path):
    file = write(tmp_path, program(b'}r\xff\xff\xff\xff'))
    assert child_output(file) == '{}'


def test_values_that_multiply_are_refused_W4(tmp_path):
    """60 lists, each twice in the next: 2^60 values."""
    lists = []
    for _ in range(60):
        lists = [lists, lists]
    refusal(write(tmp_path, pickle.dumps({'weight': lists}, 2)))


# Files of some bytes to some megabytes that made the reader work without end, or take gigabytes.
# The rule of common/core/bounds.py is held by a child process, which is ended after 20 s.

def doubled(times=40):
    """Opcodes of a tuple that holds itself 2^times times."""
    return b')' + b''.join(put(place) + get(place) + b'\x86' for place in range(times))


def thousands(function, arguments, times=20_000):
    """Opcodes of a list of calls with the same arguments, by the memo."""
    return (named(function) + put(1) + arguments + put(2)
            + b'](' + (get(1) + get(2) + b'R') * times + b'e')


MEGABYTE = text(1 << 20)
NUMPY = 'numpy.core.multiarray._reconstruct'
COSTLY = {
    'key that is a tuple': (b'}' + doubled() + b'Ns', 'a dictionary key that is a tuple of 2'),
    'key in an OrderedDict': (named('collections.OrderedDict') + b']((' + doubled() + b'Nle\x85R',
                              'a dictionary key that is a tuple of 2'),
    'keys of one hash': (b'}(' + b''.join(part(n * (2 ** 61 - 1)) + b'N' for n in range(100_000))
                         + b'u', 'a dictionary key that is an integer of 65 bits'),
    'large numbers as keys': (b'}(' + b''.join(part(n << 40) + b'N' for n in range(1, 20_000))
                              + b'u', 'more than 10000 dictionary keys that are large'),
    'large numbers in the memo': (b'N' + b''.join(
        b'r' + struct.pack('<I', n << 18) for n in range(1, 12_000)), 'more than 10000 dictionary'),
    'tuple in a message': (named(NUMPY) + named('numpy.ndarray') + doubled() + part(b'b')
                           + b'\x87R', 'an array constructor'),
    'tuple as the type of numbers': (
        b'}' + part('w') + array(named('numpy.dtype') + doubled() + b'\x85R', (1,), b'abcd')
        + b's', 'w: an array of type a tuple of 2'),
    'tuple as an encoding': (named('_codecs.encode') + part('a') + doubled() + b'\x86R',
                             'the text encoding a tuple of 2'),
    'shape of a million sizes': (
        array(dtype('f4'), (1 << 31,) * 1_000_000, b''), 'whose shape is a tuple of 1000000'),
    'a tuple made again and again': (
        thousands('builtins.tuple', b'(' + b'K\x01' * (1 << 17) + b'l\x85'), 'more than .* MB'),
    'a text encoded again and again': (
        thousands('_codecs.encode', MEGABYTE + part('latin1') + b'\x86'), 'more than .* MB'),
    'a dict made again and again': (
        thousands('collections.OrderedDict', b'(' + b''.join(
            part((n, n)) for n in range(100_000)) + b'l\x85'), 'more than .* MB'),
    'name of 8 MB in 200,000 places': (
        text(8 << 20) + put(1) + b'](' + (b'}' + get(1) + b'Ns') * 200_000 + b'e',
        r'a dictionary key that is .* \(8388608 long\)'),
    'global of 8 MB in 200,000 places': (
        text(8 << 20) + put(1) + b'](' + (get(1) * 2 + b'\x93') * 200_000 + b'e',
        'asks for a name of 16777216 characters'),
    'array under 2,001 names': (
        b'}(' + part('x') + array(dtype('f4'), (1 << 18,), bytes(1 << 20)) + put(9) + b''.join(
            part(f'x{n}') + get(9) for n in range(2000)) + b'u', 'names arrays of more than'),
    'letters of four bytes': (text(8 << 20)[:-4] + '\U0001f600'.encode(), 'a text of 8388608'),
    'open lists': (b']' * 8_000_000, 'more than .* MB'),
    'memo': (b'N' + b'\x94' * 8_000_000, 'more than .* MB'),
    'single dicts': (b'](' + b'}K\x01Ns' * 1_000_000 + b'e', 'more than .* MB'),
    'nothing, eight million times': (b'N' * 8_000_000, 'more than 3000000 operations'),
}


@pytest.fixture(scope='module')
def costs(tmp_path_factory):
    """{name: how the file was read} of COSTLY."""
    folder = tmp_path_factory.mktemp('costly')
    for number, (opcodes, _) in enumerate(COSTLY.values()):
        (folder / f'{number:02d}').write_bytes(program(opcodes))
    found = [outcome for _, _, outcome in outcomes(len(COSTLY), folder)]
    return dict(zip(COSTLY, found, strict=True))


@pytest.mark.parametrize('name', COSTLY)
def test_cost_is_bounded_by_the_size_of_the_file_W10(name, costs):
    assert re.match(f'refused .*: refused: .*{COSTLY[name][1]}', costs[name]), costs[name]


def test_names_of_a_file_do_not_steer_the_terminal_W14(tmp_path):
    file = tmp_path / 'a.pdparams'
    for name in ('a\n\x1b[31mbest', 'a\x9b31m', 'a\u2028b', 'a\u202eb', 'a\udc80'):
        file.write_bytes(pickle.dumps({name: np.ones(1, 'f4')}, 2))
        with pytest.raises(InputError, match='a name with control characters') as caught:
            read_weights(str(file))
        assert str(caught.value).isprintable()
        file.write_bytes(pickle.dumps({'x': {name: np.array(['text'])}}, 2))
        assert refusal(file).isprintable()
        file.write_bytes(program(part(name) * 2 + b'\x93'))
        assert refusal(file).isprintable()


@pytest.mark.parametrize('start, said', [
    (b'<!DOCTYPE html><html><body>Quota exceeded</body></html>', 'a web page, not weights'),
    (b'\n  <HTML>', 'a web page, not weights'),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", 'a web page, not weights'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n', 'a Git LFS pointer'),
    (b'\x1f\x8b\x08\0\0\0\0\0', 'packed with gzip'),
    (b'\x89HDF\r\n\x1a\n', 'an HDF5 file')])
def test_other_file_is_named_W14(start, said, tmp_path):
    for file in (tmp_path / 'a.pdparams', tmp_path / 'a.pth'):
        file.write_bytes(start)
        for read in (load_pickle, read_weights):
            with pytest.raises(InputError, match=f'^{file}: {said}'):
                read(str(file))


def test_only_regular_files_are_opened_W11(tmp_path):
    os.mkfifo(tmp_path / 'fifo')
    (tmp_path / 'link').symlink_to('/dev/zero')
    for file in (tmp_path / 'fifo', tmp_path / 'link', '/dev/zero', '/proc/self/mem'):
        for read in (load_pickle, read_weights):
            with pytest.raises(InputError, match=f'^{file}: '):
                read(str(file))


def test_state_of_a_dict_has_no_effect(tmp_path):
    opcodes = named('collections.OrderedDict') + b')R}' + part('items') + part(1) + b'sb'
    assert load_pickle(str(write(tmp_path, program(opcodes)))) == {}


@pytest.mark.parametrize('content', [
    program(b']q\x00h\x00a'),                                              # a = [a]
    program(b'}q\x09' + part('a') + b'h\x09s'),                            # a = {'a': a}
    program(b'(' * 3000),
    program(b']' * 3000 + b'a' * 2999),
    b'\x80\x63N.',                                                         # protocol 99
    b'\x80\x04\x95' + b'\xff' * 8 + b'N.',                                 # a frame of 2^64 bytes
    b'\x80\x04\x8e' + b'\xff' * 8 + b'N.',                                 # bytes, 2^64 of them
], ids=['list in itself', 'dict in itself', 'open tuples', 'nested lists',
        'protocol', 'frame', 'length'])
def test_malformed_pickle_is_refused(tmp_path, content):
    refusal(write(tmp_path, content))


@pytest.mark.parametrize('name', ['numpy.core.multiarray._reconstruct', 'numpy.dtype'])
def test_file_cannot_change_the_reader_W2(tmp_path, name):
    """What stands in for numpy's functions gets no state from a file."""
    before = safe_load.NAMES[name].make
    refusal(write(tmp_path, program(named(name) + b'N}' + part('make') + part(1) + b's\x86b')))
    assert safe_load.NAMES[name].make is before


def test_attributes_of_an_ordered_dict_have_no_effect(tmp_path):
    """PyTorch's state dicts carry _metadata in this way."""
    content = named('collections.OrderedDict') + b')R}' + part('items') + part(1) + b'sb'
    assert load_pickle(str(write(tmp_path, program(content)))) == {}


def saved(folder, protocol=4):
    file = folder / 'good.pdparams'
    paddle.save({'model': state_dict(), 'epoch': 1}, str(file), protocol=protocol)
    return file.read_bytes()


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_truncated_file_is_refused_W6(tmp_path, protocol):
    content = saved(tmp_path, protocol)
    for twentieth in range(20):
        refusal(write(tmp_path, content[:len(content) * twentieth // 20]))
    refusal(write(tmp_path, content[:-1]))


@pytest.mark.parametrize('junk', [b'\0', b'.', b'\n', b'junk' * 100_000])
def test_bytes_after_the_end_are_refused_W6(tmp_path, junk):
    refusal(write(tmp_path, saved(tmp_path) + junk))


def test_two_files_in_one_are_refused_W6(tmp_path):
    refusal(write(tmp_path, saved(tmp_path) * 2))


@pytest.mark.parametrize('content', [
    b'<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n',
    b'{"model": {}}',
    b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n',
    b'PK\x03\x04' + b'\0' * 100,
    b'\x93NUMPY\x01\0',
    'caf\xe9\n'.encode('latin-1'),
    b'\n',
    b'.',
    b'\x80\x04',
    b'\x80\x04.',
], ids=['HTML', 'JSON', 'LFS pointer', 'zip', 'npy', 'latin-1', 'newline', 'stop', 'header',
        'empty pickle'])
def test_other_file_is_refused_W6(tmp_path, content):
    refusal(write(tmp_path, content))


@pytest.mark.parametrize('seed', range(20))
def test_random_bytes_are_refused_W6(tmp_path, seed):
    refusal(write(tmp_path, np.random.default_rng(seed).bytes(5000)))


def test_missing_file_and_folder_are_named_W6(tmp_path):
    refusal(tmp_path / 'missing.pdparams')
    refusal(tmp_path)


# The sources

SOURCES = sorted([*ROOT.glob('common/**/*.py'), *ROOT.glob('vit*/**/*.py')])


@pytest.mark.parametrize('file', SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_source_unpickles_nothing_W3(file):
    text = file.read_text(encoding='utf-8')
    for call_text in ('paddle.load(', 'pickle.load(', 'pickle.loads(', 'torch.load(', 'yaml.load(',
                      'yaml.unsafe_load(', 'yaml.full_load(', 'FullLoader', 'UnsafeLoader',
                      'jit.load(', 'allow_pickle=True'):
        assert call_text not in text
    if file.name == 'unpickle.py':  # a class of its own, and pickle's error
        assert set(re.findall(r'class \w+\(pickle\.(\w+)\)', text)) <= {
            'Unpickler', '_Unpickler', 'UnpicklingError'}
        assert not re.search(r'pickle\._?(?:Unpickler|loads?)\(', text)
        assert 'def find_class' in text and '.find_class(' not in text
    else:
        text = text.replace('\nfrom pickle import Pickler\n', '\n')  # which only writes
        assert not re.search(r'^\s*(?:import|from)\s+.*\b_?c?pickle\b', text, re.M)
        assert not re.search(r'\b(?:pickle|dill|joblib|cloudpickle|shelve|marshal)\.\w', text)
