"""Builds the kernels, kernels.c, with the machine's compiler, once, and loads them.

What is built is kept in the cache folder, under a hash of all that it depends on: the source with
what it includes, the compiler and its flags, the processor, Paddle. set_up_cpu does it, on Linux
with an x86-64 processor. Without a compiler, or where it fails, the callers have their plain forms,
and the log of a training says why. PADDLE_VITAE_KERNELS=0 switches it off; CC names the compiler,
also with flags.
"""
import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys

from common.core.caches import CACHE_VARIABLE, cache_folder
from common.core.errors import one_line
from common.core.files import replace_atomically

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'kernels.c')
SWITCH = 'PADDLE_VITAE_KERNELS'
COMPILERS = ('cc', 'gcc', 'clang')
# Vectors of 512 bits where the processor has them; sums may be reordered only where the source says
# so, and NaN and infinity stay what they are.
FLAGS = ('-std=gnu11', '-O3', '-march=native', '-mprefer-vector-width=512', '-ffp-contract=fast',
         '-fno-math-errno', '-fno-trapping-math', '-fopenmp', '-fPIC')
LIMIT = 120  # seconds
CAN_BUILD = sys.platform == 'linux' and platform.machine() == 'x86_64'


class Kernels:
    """The library of kernels.c; None before set_up_cpu, and where the plain forms are to run, with
    the reason in a line."""

    library, missing = None, 'set_up_cpu was not called'


def set_up_kernels(processor):
    """Builds the kernels if they are not there, and loads them.

    Args:
        processor: a text about it.
    """
    if Kernels.library is None:
        Kernels.library, Kernels.missing = load(SOURCE, processor)


@functools.cache
def load(source, processor):
    """(library of a C file, None), or (None, why there is none)."""
    if os.environ.get(SWITCH) == '0':
        return None, f'{SWITCH}=0'
    if not CAN_BUILD:
        return None, 'they are for Linux on x86-64'
    try:
        return ctypes.CDLL(built(source, processor)), None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return None, reason(error)


def reason(error):
    """Why nothing was built, in one line."""
    said = (getattr(error, 'stderr', None) or '').splitlines()
    return next((line for line in said if 'error' in line), one_line(error))


def built(source, processor):
    """The path of the library of a C file, which is built if it is not there.

    Args:
        processor: a text about it; what is built for another one is another file.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: no compiler, or it failed.
    """
    command, libraries = compiler(), paddle_libraries()
    parts = [*texts(source), *(word.encode() for word in (
        *command, *FLAGS, version(command), processor, *libraries))]
    name = hashlib.sha256(b'\0'.join(parts)).hexdigest()[:32]
    path = os.path.join(cache_folder(), 'kernels', f'{name}.so')
    if not os.path.exists(path):
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            raise OSError(f'cannot write {path}: {error.strerror}; {CACHE_VARIABLE} names another '
                          f'folder') from None
        with replace_atomically(path) as temporary:  # of several ranks, each may build its own
            program, *more = command
            call([program, *FLAGS, *more, '-c', source, '-o', f'{temporary}.o'])
            try:  # without -fopenmp, which would bring the compiler's own
                call([program, *more, '-shared', f'{temporary}.o', '-o', temporary, *libraries,
                      '-lm'])
            finally:
                os.remove(f'{temporary}.o')
    return path


def texts(source):
    """What stands in a C file, and in those that it includes from its folder."""
    with open(source, 'rb') as stream:
        found = [stream.read()]
    for name in re.findall(rb'^#include "(.+)"$', found[0], re.MULTILINE):
        found += texts(os.path.join(os.path.dirname(source), os.fsdecode(name)))
    return found


def compiler():
    """CC as a list of words, or the first compiler that is there."""
    named = shlex.split(os.environ.get('CC', ''))
    found = named or [name for name in COMPILERS if shutil.which(name)][:1]
    if not found:
        raise OSError(f'found none of the C compilers {", ".join(COMPILERS)}')
    return found


@functools.cache
def paddle_libraries():
    """The paths of Paddle's OpenMP and MKL. A second OpenMP would have threads of its own, and each
    would wait for the other's."""
    import paddle  # takes a second, and nothing else here needs it
    folder = os.path.join(os.path.dirname(paddle.__file__), 'libs')
    found = [os.path.join(folder, name) for name in ('libiomp5.so', 'libmklml_intel.so')]
    for path in found:
        if not os.path.exists(path):
            raise OSError(f'found no {os.path.basename(path)} in Paddle')
    return found


def version(command):
    """What a compiler says about itself."""
    return call([command[0], '--version']).stdout


def call(command):
    environment = {**os.environ, 'LC_ALL': 'C'}
    return subprocess.run(command, check=True, capture_output=True, text=True, errors='replace',
                          stdin=subprocess.DEVNULL, timeout=LIMIT, env=environment)
