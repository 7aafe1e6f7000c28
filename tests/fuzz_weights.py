"""Mutates weight files of every format and loads them: never a crash, a hang or code that runs.

python -m tests.fuzz_weights [COUNT [SEED]]    2,000 files unless said; `make fuzz`
"""
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import paddle
from safetensors.numpy import save_file

from common.errors import InputError
from common.weights import read_weights
from tests.torch_files import write_pth

SECONDS_PER_FILE = 5
MEMORY = 6 << 30  # a child that asks for more gets a MemoryError


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


def fuzz(count, seed=0):
    """Loads `count` mutants; returns how many loaded and how many were refused.

    Raises:
        AssertionError: a mutant ran code, took too long, or raised anything but InputError.
    """
    random = np.random.RandomState(seed)
    loaded = refused = 0
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
        try:
            contents = seeds(Path(folder))
            for index in range(count):
                file = Path(folder) / 'mutant'
                file.write_bytes(mutate(contents[index % len(contents)], random))
                start = time.monotonic()
                try:
                    read_weights(str(file))
                    loaded += 1
                except InputError as error:
                    refused += 1
                    assert '\n' not in str(error), f'seed {seed}, mutant {index}: {error}'
                except Exception as error:
                    raise AssertionError(f'seed {seed}, mutant {index}: {error!r}') from error
                assert time.monotonic() - start < SECONDS_PER_FILE, f'seed {seed}, mutant {index}'
                assert not os.path.exists('canary'), f'seed {seed}, mutant {index} ran code'
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
            os.chdir(before)
    return loaded, refused


if __name__ == '__main__':
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print('{} mutants loaded, {} refused, none did harm'.format(
        *fuzz(number, int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
