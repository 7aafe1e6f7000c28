"""paddle-vitae env: what a report of a fault needs, without names of users, machines or folders.

It needs nothing but Python, and says what is missing or fails to be imported, Paddle too, which is
tried in a process of its own. So it works where an installation is broken.
"""
import argparse
import contextlib
import getpass
import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import sys

from paddle_vitae.version import VERSION

NEEDED = ('numpy', 'opencv-python-headless', 'opencv-python', 'pillow', 'pyyaml', 'yacs',
          'matplotlib', 'tqdm', 'safetensors', 'httpx')
OPTIONAL = ('scikit-learn', 'scipy', 'huggingface_hub', 'paddle2onnx', 'onnx', 'onnxruntime',
            'openvino', 'fastapi', 'uvicorn', 'python-multipart', 'visualdl', 'setuptools')
PADDLES = ('paddlepaddle', 'paddlepaddle-gpu')
# Kinds of SIMD, by the words of /proc/cpuinfo.
SIMD = (('AVX', 'avx'), ('AVX2', 'avx2'), ('FMA', 'fma'), ('AVX-512', 'avx512f'),
        ('AVX-512 VNNI', 'avx512_vnni'), ('AVX-512 BF16', 'avx512_bf16'), ('AMX', 'amx_tile'),
        ('AMX BF16', 'amx_bf16'), ('NEON', 'asimd'))
VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'MKL_DEBUG_CPU_TYPE', 'CUDA_VISIBLE_DEVICES')
PADDLE_LIMIT = 120  # seconds for the import of Paddle
# What the process that imports Paddle runs; it looks for modules where this one does.
PADDLE_PROGRAM = '''
import sys
sys.path[:] = {path!r}
import json
import paddle
gpu = paddle.is_compiled_with_cuda()
print(json.dumps({{
    'version': paddle.__version__, 'cuda': paddle.version.cuda() if gpu else None,
    'cudnn': paddle.version.cudnn() if gpu else None,
    'gpus': [paddle.device.cuda.get_device_name(index)
             for index in range(paddle.device.cuda.device_count())] if gpu else []}}))
'''


def main(argv=None):
    """The command line. Args: argv: list of arguments; None is the command line's."""
    argparse.ArgumentParser(
        prog='paddle-vitae env', epilog='example:\n  paddle-vitae env',
        description='Prints what a report of a fault needs; no names of users, machines, folders.',
        formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    lines = [f'{name + ":":<22}{value}' for name, value in rows()]
    try:
        print('\n'.join(lines), flush=True)
    except BrokenPipeError:  # | head; nothing more is to be written, at the exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def rows():
    """Yields (name, text) of all that is printed."""
    installed = os.path.isdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'common'))
    yield 'paddle-vitae', f'{VERSION}, {"installed" if installed else "a checkout"}'
    yield 'Python', f'{platform.python_version()}, {platform.python_implementation()}'
    found = {name: version_of(name) for name in (*NEEDED, *OPTIONAL, *PADDLES)}
    yield 'Paddle', without_places(paddle_row(found))
    for kind, names in (('packages', NEEDED), ('optional packages', OPTIONAL)):
        yield kind, ', '.join(f'{name} {found[name]}' for name in names if found[name])
    yield 'not installed', ', '.join(name for name in (*NEEDED, *OPTIONAL) if not found[name])
    yield 'system', f'{platform.system()} {platform.release()} {platform.machine()}, {libc()}'
    words, model = cpu()
    yield 'CPU', f'{model}; {usable_cores()} of {os.cpu_count()} cores usable'
    yield 'SIMD', ', '.join(name for name, word in SIMD if word in words) or 'not known'
    for name in VARIABLES:
        yield name, without_places(os.environ.get(name, 'not set'))
    yield 'set_up_cpu', without_places(set_up_row())
    yield 'NVIDIA driver', driver_row()


def version_of(package):
    """The version of an installed package, or None."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def paddle_row(found):
    """What Paddle says about itself, or why it does not."""
    packages = ' and '.join(f'{name} {found[name]}' for name in PADDLES if found[name])
    program = PADDLE_PROGRAM.format(path=[str(place) for place in sys.path])
    try:
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, errors='replace',
                              timeout=PADDLE_LIMIT)
    except subprocess.TimeoutExpired:
        return f'{packages}; its import does not end within {PADDLE_LIMIT} s'
    if done.returncode:
        if not packages and 'ModuleNotFoundError' in done.stderr:
            return "MISSING: pip install 'paddle-vitae[cpu]' (or [gpu])"
        return f'{packages or "no package of it"}; FAILS to be imported: {reason(done)}'
    facts = json.loads(done.stdout.splitlines()[-1])
    text = f'{facts["version"]} ({packages or "no package of this name"}), built for '
    if facts['cuda'] is None:
        return f'{text}CPUs'
    gpus = ', '.join(facts['gpus']) or 'none'
    return f'{text}CUDA {facts["cuda"]}, cuDNN {facts["cudnn"]}; GPUs that it sees: {gpus}'


def reason(done):
    """Why a process has failed: the signal, or the last line that it said."""
    if done.returncode < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-done.returncode).name
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f'exit code {done.returncode}'


def libc():
    """The C library and its version."""
    return ' '.join(filter(None, platform.libc_ver())) or 'another C library than glibc'


def cpu():
    """(set of the words of /proc/cpuinfo about the first processor, its model)."""
    text = ''
    with contextlib.suppress(OSError), open('/proc/cpuinfo', errors='replace') as stream:
        text = stream.read().partition('\n\n')[0]
    model = re.search(r'^model name\s*: (.*)$', text, re.MULTILINE)
    return set(text.split()), model[1].strip() if model else platform.machine()


def usable_cores():
    """How many cores this process may use: a number, of a container's quota one with a part."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    with contextlib.suppress(OSError, ValueError), open('/sys/fs/cgroup/cpu.max') as stream:
        quota, period = map(int, stream.read().split())  # 'max' of no quota is no number
        return min(count, round(quota / period, 1))
    return count


def set_up_row():
    """What the programs' set_up_cpu does on this processor."""
    try:
        from paddle_vitae.common.core.processes import MKL_VARIABLE, mkl_kernels
    except Exception as error:  # noqa: BLE001 - whatever is broken, the rest is printed
        return f'not known: {type(error).__name__}: {error}'
    kernels = mkl_kernels()
    if kernels is None:
        return 'leaves MKL as it is; no strided views; keeps freed memory'
    mkl = f'sets {MKL_VARIABLE}={kernels}'
    if MKL_VARIABLE in os.environ:
        mkl = f'would set {MKL_VARIABLE}={kernels}, and leaves what is set'
    return f'{mkl}; no strided views; keeps freed memory'


def driver_row():
    """NVIDIA's driver, as Linux shows it."""
    with contextlib.suppress(OSError), \
            open('/proc/driver/nvidia/version', errors='replace') as stream:
        return ' '.join(stream.readline().partition(':')[2].split())
    return 'none'


def without_places(text):
    """The text on one line, without folders, names of the user and the machine, numbers of GPUs."""
    text = re.sub(r'\b(GPU|MIG)-[\w-]+', r'\1-...', ' '.join(str(text).split()))
    places = [os.path.expanduser('~'), sys.prefix, sys.base_prefix, os.getcwd(), *sys.path]
    for place in sorted({place for place in places if len(place) > 1}, key=len, reverse=True):
        text = text.replace(place, '...')
    text = re.sub(r'(?<![\w.])/(?:[^\s/:\'"]+/)+', '.../', text)
    with contextlib.suppress(Exception):  # a user without a name
        text = re.sub(rf'\b{re.escape(getpass.getuser())}\b', 'USER', text)
    return re.sub(rf'\b{re.escape(platform.node())}\b', 'HOST', text) if platform.node() else text
