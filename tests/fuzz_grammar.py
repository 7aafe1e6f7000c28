"""Builds weight files from a grammar: programs of pickle opcodes, zips, .npy and .safetensors
headers that are well-formed for the most part and extreme at one place.

A mutated file mostly breaks at its first wrong byte. These get past that: an extreme value (a tuple
that holds itself a billion times, a text of 8 MB, ...) stands where a key, a shape, a name, an
argument, a storage's key or a state is expected, alone or thousands of times by the memo.
"""
import io
import json
import pickle
import struct
import zipfile
import zlib

from common.weights.torch_format import TORCH_NAMES, TORCH_NUMBER
from common.weights.unpickle_names import INERT_NAMES

# What a file may mention, and what it may not.
NAMES = sorted([*TORCH_NAMES, *sorted(INERT_NAMES)[::5], 'mmengine.logging.HistoryBuffer',
                'torch.optim.AdamW', 'os.system', 'builtins.eval', 'numpy.load'])
SIZES = (1, 10, 1000, 1 << 16, 1 << 20, 8 << 20)
OPCODES = b'(.0NKMJGXUTBCcoRbstuelad])}\x81\x85\x86\x87\x88\x89\x8a\x8c\x8e\x90\x93\x94\x95QIFLSVgp'


def part(value):
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def named(name):
    """The opcodes that push what 'module.name' names."""
    module, _, name = name.rpartition('.')
    return f'c{module}\n{name}\n'.encode()


def text(size):
    return b'X' + struct.pack('<I', size) + b'a' * size


def put(place):
    return b'r' + struct.pack('<I', place)


def get(place):
    return b'j' + struct.pack('<I', place)


# Functions with the arguments that a writer gives them.
CALLS = {
    'numpy.core.multiarray._reconstruct': (named('numpy.ndarray'), part((0,)), part(b'b')),
    'numpy.core.multiarray.scalar': (
        named('numpy.dtype') + part(('f4', False, True)) + b'R', part('abcd')),
    'numpy.dtype': (part('f4'), b'\x89', b'\x88'),
    '_codecs.encode': (part('ab'), part('latin1')),
    'collections.OrderedDict': (part([['a', 1]]),),
    'collections.deque': (part([1]), part(5)),
    'builtins.tuple': (part([1]),),
    'builtins.getattr': (named('mmengine.logging.HistoryBuffer'), part('mean')),
}


class Programs:
    """Random programs; `label` says what is special about the last one."""

    def __init__(self, random):
        self.random, self.label, self.places = random, [], 1000

    def choose(self, *things):
        return things[self.random.randint(len(things))]

    def extreme(self):
        """The opcodes that push a value that is hard on what walks, copies or prints it."""
        size = self.choose(*SIZES)
        doubled = ('doubled tuple', lambda: self.doubled(b')', b'', b'\x86', size))
        kind, opcodes = self.choose(
            doubled, doubled, doubled, doubled,
            ('doubled list', lambda: self.doubled(b']', b'](', b'e', size)),
            ('text', lambda: text(size)),
            ('text beyond Latin-1', lambda: text(size)[:-1] + b'\x7f' if size < 5 else
                b'X' + struct.pack('<I', size) + b'a' * (size - 4) + '\U0001f600'.encode()),
            ('bytes', lambda: b'B' + struct.pack('<I', size) + bytes(size)),
            ('wide tuple', lambda: b'(' + b'J\xff\xff\xff\x7f' * (size // 16) + b't'),
            ('wide tuple of ones', lambda: b'(' + b'K\x01' * (size // 8) + b't'),
            ('wide list', lambda: b'(' + b'K\x01' * (size // 8) + b'l'),
            ('list of pairs', lambda: b'(' + b'K\x01K\x01\x86' * (size // 16) + b'l'),
            ('nested', lambda: b')' + b'\x85' * (size // 4)),
            ('sizes', lambda: part(self.choose((0, 1 << 73), (1,) * 70, (1 << 20, 1 << 20), (-1,),
                                               (1 << 62,) * 3, (0, 0), (1 << 31,) * 3))),
            ('large integer', lambda: b'\x8a\xff' + b'\xff' * 254 + b'\x7f'),
            ('control characters', lambda: part('a\x1b[31m\n\u202e' * min(size, 100))),
            ('lone surrogate', lambda: b'X\x03\0\0\0\xed\xb2\x80'))
        self.label.append(f'{kind} {size}')
        return opcodes()

    def doubled(self, value, before, after, size):
        for _ in range(min(size, 40)):
            self.places += 1
            twice = get(self.places) * 2 if before else get(self.places)
            value += put(self.places) + before + twice + after
        return value

    def ordinary(self):
        return self.choose(
            b'N', b'\x88', b')', b']', b'}', b'K\x05', b'G?\xf0\0\0\0\0\0\0', part('latin1'),
            part(b'b'), part((0,)), part((2, 3)), part({'a': 1}), part([['a', 1], ['b', 2]]),
            named(self.choose(*NAMES)), self.array(), self.array())

    def value(self, extreme=0.3):
        return self.extreme() if self.random.rand() < extreme else self.ordinary()

    def array(self, wrong=None):
        """A numpy array as numpy pickles it; the part `wrong` is an extreme value."""
        parts = {'shape': part((2,)), 'code': part('f4'), 'state': b'(K\x03' + part('<') + b'NNN' +
                 part(-1) + part(-1) + b'K\0t', 'order': b'\x89', 'data': b'C\x08' + bytes(8)}
        if wrong:
            parts[wrong] = self.extreme()
            self.label.append(wrong)
        dtype = named('numpy.dtype') + parts['code'] + b'\x89\x88\x87R' + parts['state'] + b'b'
        return (named('numpy.core.multiarray._reconstruct') + named('numpy.ndarray') + part((0,))
                + part(b'b') + b'\x87R(K\x01' + parts['shape'] + dtype + parts['order']
                + parts['data'] + b'tb')

    def tensor(self, wrong=None, count=4):
        """A view of the storage '0', as PyTorch pickles it."""
        parts = {'kind': named('torch.FloatStorage'), 'key': part('0'), 'count': part(count),
                 'offset': part(0), 'shape': part((count,)), 'strides': part((1,))}
        if wrong:
            parts[wrong] = self.extreme()
            self.label.append(wrong)
        return (named('torch._utils._rebuild_tensor_v2') + b'((' + part('storage') + parts['kind']
                + parts['key'] + part('cpu') + parts['count'] + b'tQ' + parts['offset']
                + parts['shape'] + parts['strides'] + b'\x89}tR')

    def call(self):
        """A call with arguments of any kind, or with the right ones but for one of them."""
        if self.choose(0, 0, 1):
            name = self.choose(*NAMES)
            values = [self.value() for _ in range(self.random.randint(4))]
        else:
            name = self.choose(*CALLS)
            values = list(CALLS[name])
            values[self.random.randint(len(values))] = self.extreme()
        self.label.append(name)
        return named(name) + b'(' + b''.join(values) + b't' + self.choose(b'R', b'\x81')

    def again(self, times):
        """One function, key or value, made once and used again and again."""
        kind = self.choose('call', 'encode', 'tuple', 'dict', 'key', 'global', 'names')
        self.label.append(f'{kind} x{times}')
        long = self.choose(text(self.choose(*SIZES)), self.extreme())
        if kind == 'key':
            return long + put(1) + b'](' + (b'}' + get(1) + b'Ns') * times + b'e'
        if kind == 'global':
            return self.extreme() + put(1) + b'](' + (get(1) * 2 + b'\x93') * times + b'e'
        if kind == 'names':
            names = b''.join(part(f'n{index}') + get(1) for index in range(times))
            return self.choose(self.array(), self.tensor(None, self.choose(4, 1 << 18))) + put(1) \
                + b'}(' + names + b'u'
        name, arguments = {
            'encode': ('_codecs.encode', lambda: long + part('latin1') + b'\x86'),
            'tuple': ('__builtin__.tuple', lambda: self.extreme() + b'\x85'),
            'dict': ('collections.OrderedDict', lambda: self.extreme() + b'\x85')}.get(
            kind, (self.choose(*NAMES), lambda: self.value(0.8) + self.value() + b'\x86'))
        return (named(name) + put(1) + arguments() + put(2)
                + b'](' + (get(1) + get(2) + b'R') * times + b'e')

    def noise(self):
        return bytes(self.choose(*OPCODES) for _ in range(self.random.randint(300)))

    def program(self):
        """Opcodes that push one value."""
        kind = self.choose('key', 'array', 'array', 'tensor', 'tensor', 'call', 'call', 'again',
                           'again', 'again', 'build', 'persistent', 'repeat', 'noise', 'global')
        self.label.append(kind)
        if kind == 'key':
            return b'}' + self.extreme() + self.ordinary() + b's'
        if kind == 'array':
            return self.array(self.choose('shape', 'code', 'state', 'order', 'data'))
        if kind == 'tensor':
            return self.tensor(self.choose('kind', 'key', 'count', 'offset', 'shape', 'strides'))
        if kind == 'again':
            return self.again(int(self.choose(10, 2001, 20_000, 200_000)))
        if kind == 'build':
            return self.value(0) + self.value() + b'b'
        if kind == 'persistent':
            return b'(' + b''.join(self.value() for _ in range(5)) + b'tQ'
        if kind == 'repeat':
            one = self.choose(b')', b']', b'}', b'N', b'(', b'K\x01', b'\x94', b'}K\x01Ns', b'I1\n',
                              b']\x94', b'Va\n', self.ordinary())
            return b'](' + one * min(self.choose(*SIZES), (4 << 20) // len(one)) + b'e'
        if kind == 'noise':
            return self.noise()
        return self.call() if kind == 'call' else self.value(1) + self.value(1) + b'\x93'

    def whole(self):
        """A program with its value where a file has its weights."""
        value = self.program()
        before, after = self.choose((b'', b''), (b'}' + part('w'), b's'), (b'](', b'e'),
                                    (b'}' + part('model') + b'}' + part('w'), b'ss'))
        return b'\x80\x02' + before + value + after + b'.'


def pdparams(random):
    programs = Programs(random)
    return programs.whole(), ' '.join(['pdparams', *programs.label])


def pth(random):
    """A zip with a program, and a storage that is compressed or not."""
    programs = Programs(random)
    stream = io.BytesIO()
    numbers = bytes(programs.choose(16, 1 << 20))
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr('archive/data.pkl', programs.whole())
        archive.writestr('archive/data/0', numbers)
    return stream.getvalue(), ' '.join(['pth', *programs.label])


def legacy(random):
    programs = Programs(random)
    pickles = [part(1001), part({'little_endian': True}), programs.tensor(), part(['0'])]
    place = random.randint(1, 4)
    programs.label.append(f'part {place}')
    pickles[place] = programs.choose(b'](' + programs.extreme() + b'e', programs.program())
    content = TORCH_NUMBER + b''.join(b'\x80\x02' + program + b'.' for program in pickles)
    return content + struct.pack('<q', 4) + bytes(16), ' '.join(['legacy', *programs.label])


def npy(random):
    """A .npy file with a header that is well-formed or not quite."""
    def choose(*things):
        return things[random.randint(len(things))]

    shape = choose('(4,)', '(4,)', '(2, 2)', '()', '(0, 9444732965739290427392)', '(-1,)', '(4L,)',
                   '(' + '1,' * 70 + ')', '(1,\n', '\n  (4,)', '(' * 200 + ')' * 200, '(4.0,)',
                   '(' + '9' * 5000 + ',)', '[4]', '(4' + ' ' * 9000 + ',)', '1' * 900)
    descr = choose("'<f4'", "'<f4'", "'>f4'", "'|O'", "'|V2'", "'<M8[D]'", "[('a', '<f4')]",
                   "'f99999'", "'\x1b'", '-' * 2000 + '1', "'<f4")
    header = f"{{'descr': {descr}, 'fortran_order': {choose('True', 'False', '1')}, " \
             f"'shape': {shape}, }}".encode()
    length = choose(len(header), len(header), 0, 65535)
    data = bytes(choose(16, 16, 0, 1 << 16, 40 << 20))
    return (choose(b'\x93NUMPY\1\0', b'\x93NUMPY\1\0', b'\x93NUMPY\3\0') + struct.pack('<H', length)
            + header + data), f'{descr[:20]} {shape[:20]} {len(data)}'


def zip_entry(name, content, method, claims, place, flags):
    """A member's local part and its entry of the directory; `claims`: sizes or None for the true
    ones."""
    packed = content if method == 0 else zlib.compress(content, 1)[2:-4]
    sizes = claims or (len(packed), len(content))
    common = struct.pack('<HHHHHIIIHH', 20, flags, method, 0, 33, zlib.crc32(content), *sizes,
                         len(name), 0)
    return (b'PK\3\4' + common + name + packed,
            b'PK\1\2' + struct.pack('<H', 20) + common + struct.pack('<HHHII', 0, 0, 0, 0, place)
            + name)


def npz(random):
    """A zip whose members may be of any method, encrypted, doubled, or lie about their sizes."""
    def choose(*things):
        return things[random.randint(len(things))]

    local, directory, labels = b'', b'', ['npz']
    for number in range(choose(1, 1, 2, 5)):
        content, label = npy(random)
        name = choose(f'{number}.npy'.encode(), b'a.npy', b'a\x1b[31m\n.npy', b'n' * 5000 + b'.npy',
                      b'archive/data.pkl')
        method, flags = choose(0, 8, 8, 8, 12, 14, 93), choose(0, 0, 0, 1)
        claims = choose(None, None, None, (8, 1 << 30), (1 << 30, 16), (100, 100))
        first, entry = zip_entry(name, content, method, claims, len(local), flags)
        if choose(0, 0, 0, 1) and len(first) > 200:  # compressed data that are not
            first = first[:-100] + random.bytes(100)
        labels += [label, f'method {method} flags {flags} claims {claims}']
        local, directory = local + first, directory + entry * choose(1, 1, 1, 2, 2000, 60_000)
    count = min(directory.count(b'PK\1\2'), 65535)
    end = struct.pack('<HHHHIIH', 0, 0, count, count, len(directory), len(local), 0)
    return local + directory + b'PK\5\6' + end, ' '.join(labels)


def safetensors(random):
    """A JSON header that is well-formed or not quite, and some numbers."""
    def choose(*things):
        return things[random.randint(len(things))]

    def entry(offset):
        return json.dumps({
            'dtype': choose('F32', 'F32', 'BF16', 'Q9', 5),
            'shape': choose([2], [2], [0], [-1], [0, 2 ** 73], [1] * 70, 'x', [2.5], [2 ** 40] * 3),
            'data_offsets': choose([offset, offset + 8], [0, 0], [8, 0], [0], [0, 2 ** 70], 'x')})

    kind = choose('entries', 'entries', 'same name', 'many', 'deep', 'digits', 'other', 'wide')
    if kind == 'many':
        one = '"{}":' + json.dumps({'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]})
        header = '{' + ','.join(one.replace('{}', str(n), 1) for n in
                                range(choose(1000, 20_000, 200_000))) + '}'
    elif kind in ('entries', 'same name'):
        names = ['a'] * 3 if kind == 'same name' else [
            choose('x', '\\u001b', 'n' * 5000) + str(number) for number in range(3)]
        header = '{' + ','.join(f'"{name}":{entry(8 * number)}'
                                for number, name in enumerate(names)) + '}'
    else:
        size = choose(1000, 200_000, 2 << 20)
        header = {'deep': '{"a":' + '[' * size + ']' * size + '}',
                  'digits': '{"a":' + '9' * size + '}',
                  'wide': '{"__metadata__":{"a":"' + 'a' * size + '\U0001f600"}}',
                  'other': choose('{}', '{"a"', '[]')}[kind]
    header = header.encode()
    length = choose(len(header), len(header), len(header), 0, 1 << 40, len(header) - 1)
    return (struct.pack('<Q', length) + header + bytes(choose(24, 0, 8)),
            f'safetensors {kind} {len(header)}')


BUILDERS = (pdparams, pdparams, pdparams, pth, pth, pth, legacy, npz, safetensors)


def build(random):
    """(content, what is special about it) of a random file."""
    return BUILDERS[random.randint(len(BUILDERS))](random)
