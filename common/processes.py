"""What a program sets up before Paddle computes: `from common.processes import set_up_cpu`."""
from common.core.processes import set_up_cpu

__all__ = ['set_up_cpu']
