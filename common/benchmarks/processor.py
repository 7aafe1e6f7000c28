"""What kind of processor figures are of, and how to act as another kind."""
import contextlib
import datetime
import re

from common.core.errors import printable
from common.core.processes import AVX512, CPU_INFO, MKL_VARIABLE, cpu_info

# What makes libraries leave AVX-512 and AMX alone: Paddle's MKL; PyTorch's own kernels and those
# that torch.compile writes; oneDNN in both. PyTorch's MKL knows its variable on Intel's processors;
# on AMD's it runs AVX2 in any case. ONNX Runtime and OpenVINO look at the processor alone. Paddle's
# other kernels are built for AVX; the compiler builds ours (core/native.py) for what CC says.
AS = {'avx2': {MKL_VARIABLE: '5', 'MKL_ENABLE_INSTRUCTIONS': 'AVX2',
               'ATEN_CPU_CAPABILITY': 'avx2', 'ONEDNN_MAX_CPU_ISA': 'AVX2',
               'CC': 'cc -mno-avx512f'}}


def kind_of_processor(words):
    """'AVX2', 'AMD with AVX-512', 'Intel with AVX-512', 'Intel with AMX', or what there is.

    Args:
        words: set, of `cpu_info`.
    """
    if 'amx_tile' in words:
        return 'Intel with AMX'
    if words >= AVX512:
        return f'{"AMD" if "AuthenticAMD" in words else "Intel"} with AVX-512'
    if 'avx2' in words:
        return 'AVX2'
    return 'x86 without AVX2' if words & {'sse2', 'avx'} else 'no x86'


def processor(acting_as=None):
    """A line on the processor: its name, its kind, what it acts as."""
    name = None
    with contextlib.suppress(OSError), open(CPU_INFO, errors='replace') as stream:
        name = re.search(r'^model name\s*:\s*(.+)$', stream.read(), re.MULTILINE)
    name = printable(name[1].strip()) if name else 'a processor'
    text = f'{name} ({kind_of_processor(cpu_info())})'
    return f'{text} acting as {acting_as.upper()}' if acting_as else text


def today():
    """The date, as 2026-11-30."""
    return datetime.date.today().isoformat()
