"""Whether this processor computes in bfloat16."""
from common.core.errors import InputError
from common.core.processes import CPU_INFO, cpu_info


def check_cpu_bfloat16():
    """Raises InputError where bfloat16 would be slower than float32, or does not exist."""
    if not {'avx512_bf16', 'amx_bf16'} & cpu_info():
        raise InputError('bf16: this CPU does not multiply bfloat16, expected avx512_bf16 or '
                         f'amx_bf16 in {CPU_INFO}; use fp32')


def check_precision(precision):
    """Raises InputError unless a runtime's precision is fp32, or bf16 on a processor that has it.
    """
    if precision not in ('fp32', 'bf16'):
        raise InputError(f"precision: got {precision!r}, expected 'fp32' or 'bf16'")
    if precision == 'bf16':
        check_cpu_bfloat16()
