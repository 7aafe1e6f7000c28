"""Loads mutated and built weight files of every format: never a crash, a hang, code that runs, an
error that is no InputError of one printable line, or more memory than the rule of bounds.py.

python -m tests.fuzz_weights [COUNT [SEED]]    5,000 files unless said; `make fuzz`

The files are loaded in a child process, whose address space may grow by 4 x the file + 64 MB for
each; a child that dies or takes longer than SECONDS is reported with the file, and another one goes
on behind it.
"""
import contextlib
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import paddle
from safetensors.numpy import save_file

from common.core.errors import InputError, printable
from common.weights.load import read_weights
from tests.fuzz_grammar import build
from tests.torch_files import write_pth

SECONDS = 20
OUT_OF_MEMORY = 'not enough memory|MemoryError|Unable to allocate'
ROOT = Path(__file__).resolve().parent.parent


def seeds(folder):
    """One small file of each format, as bytes."""
    random = np.random.RandomState(0)
    state = {f'blocks.{index}.weight': random.randn(3, index + 1).astype(np.float32)
             for index in range(4)}
    tensors = {name: paddle.to_tensor(value) for name, value in state.items()}
    writers = {
        'pdparams': lambda file: paddle.save(tensors, file),
        'checkpoint': lambda file: paddle.save({'model': tensors, 'epoch': 3}, file, protocol=2),
        'pth': lambda file: write_pth(file, {'state_dict': state}),
        'legacy': lambda file: write_pth(file, {'state_dict': state}, legacy=True),
        'npz': lambda file: np.savez(file, **state),
        'safetensors': lambda file: save_file(state, file),
    }
    contents = []
    for name, write in writers.items():
        file = str(folder / f'seed.{name}')
        write(file + ('.npz' if name == 'npz' else ''))
        contents.append(Path(file + ('.npz' if name == 'npz' else '')).read_bytes())
    return contents


def mutate(content, random):
    """Some of: flipped bits, bytes of opcodes, large numbers, cut, doubled and joined pieces."""
    content = bytearray(content)
    for _ in range(random.randint(1, 6)):
        place = random.randint(0, max(len(content), 1))
        kind = random.randint(7)
        if kind == 0 and content:
            content[place] ^= 1 << random.randint(8)
        elif kind == 1 and content:
            content[place] = random.choice(list(b'(.NKMJGXUBCcoRbstuelaq\x8a\x8e\x93\x94\x95PQ'))
        elif kind == 2:
            content[place:place + 4] = random.choice([b'\xff' * 4, b'\0' * 4, b'\xff\xff\xff\x7f'])
        elif kind == 3:
            del content[place:place + random.randint(1, 40)]
        elif kind == 4:
            content[place:place] = content[max(place - 30, 0):place]
        elif kind == 5:
            content[place:place] = b'cos\nsystem\n(S\'touch canary\'\ntR'
        else:
            content = content[:max(place, 1)]
    return bytes(content)


def file_number(index, seed, contents):
    """(content, what it is) of a file: every second one is built, the others are mutants."""
    random = np.random.RandomState([seed, index])
    if index % 2:
        return build(random)
    return mutate(contents[index // 2 % len(contents)], random), 'mutant'


def load(file):
    """'loaded', 'refused', or what is wrong with how it was read."""
    try:
        weights = read_weights(file)[1]
    except InputError as error:
        message = str(error)
        if printable(message) != message:
            return f'a message that is not printable: {ascii(message)[:100]}'
        return 'out of memory' if re.search(OUT_OF_MEMORY, message) else f'refused {message}'
    except MemoryError:
        return 'out of memory'
    except Exception as error:  # noqa: BLE001 - that is the fault to find
        return f'raised {type(error).__name__} {ascii(str(error))[:100]}'
    return 'loaded' if all(name.isprintable() for name in weights) else 'a name with controls'


@contextlib.contextmanager
def memory_limit(size):
    """Lets the address space grow by 4 x `size` + 64 MB, and by no more."""
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    allowed = pages * resource.getpagesize() + 4 * size + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def child(first, *source):
    """Loads files from number `first` on, and prints a line before and after each.

    source: a folder, or a number of files and a seed, to make them of.
    """
    with tempfile.TemporaryDirectory() as folder:
        contents = seeds(Path(folder))
        os.chdir(folder)
        if len(source) == 1:
            files = ((path, path.name) for path in sorted(Path(source[0]).iterdir())[first:])
        else:
            count, seed = map(int, source)
            files = (write_file(index, seed, contents) for index in range(first, count))
        for path, what in files:
            print(f'| {ascii(what)[1:-1]:.300}', flush=True)
            with memory_limit(path.stat().st_size):
                outcome = load(str(path))
            print('| ran code' if os.path.exists('canary') else f'| {outcome}', flush=True)
        os.chdir('/')


def write_file(index, seed, contents):
    """(path, what it is) of a file that was made."""
    content, what = file_number(index, seed, contents)
    Path('file').write_bytes(content)
    return Path('file'), what


class Child:
    """A process that loads files; `line` reads what it prints, or says why there is nothing."""

    def __init__(self, first, *source):
        self.process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-m', 'tests.fuzz_weights', '--child', str(first),
             *map(str, source)], cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdout=subprocess.PIPE, bufsize=0)
        self.buffer, self.ended = b'', False

    def line(self, seconds):
        """The next line that starts with '| ' (a crash prints others), without that; None at the
        end, or after `seconds` without one."""
        while b'\n' not in self.buffer:
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                return None
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                self.ended = True
                return None
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b'\n')
        return line[2:].decode() if line.startswith(b'| ') else self.line(seconds)

    def end(self):
        """Ends it; 'hang', or how it died by itself."""
        self.process.kill()  # nothing, to one that has died
        code = self.process.wait()
        self.process.stdout.close()
        return f'exit code {code}' if self.ended else 'hang'


def outcomes(count, *source, seconds=SECONDS):
    """Yields (index, what the file is, outcome) of `count` files; source: see `child`."""
    process = None
    for index in range(count):
        process = process or Child(index, *source)
        what = process.line(10 * SECONDS)  # starting and building take their time too
        outcome = process.line(seconds) if what is not None else None
        if outcome is None:
            outcome, process = process.end(), None
        yield index, what, outcome
    if process:
        process.end()


def fuzz(count, seed=0):
    """Loads `count` files; returns how many loaded and how many were refused.

    Raises:
        AssertionError: with a line for each file that did harm.
    """
    found = list(outcomes(count, count, seed))
    faults = [f'seed {seed}, file {index}: {outcome}: {what}' for index, what, outcome in found
              if outcome != 'loaded' and not outcome.startswith('refused ')]
    assert not faults, '\n'.join(faults)
    loaded = sum(outcome == 'loaded' for _, _, outcome in found)
    return loaded, count - loaded


if __name__ == '__main__':
    if sys.argv[1:2] == ['--child']:
        child(int(sys.argv[2]), *sys.argv[3:])
    else:
        number, seed = map(int, (sys.argv[1:] + ['5000', '0'][len(sys.argv) - 1:]))
        print('{} files loaded, {} refused, none did harm'.format(*fuzz(number, seed)))
