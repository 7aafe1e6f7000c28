"""Sets up Paddle for a CPU: `from common.processes import set_up_cpu`, before it computes."""
from common.core.processes import set_up_cpu

__all__ = ['set_up_cpu']
