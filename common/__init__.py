"""What the model families share: configuration, data, training loop, weights and tools.

Nothing in this package knows which family it serves, but for `zoo.py`.
"""
# compat: zlib
# Paddle 2.6 exports the zlib that is built into it. When Paddle is loaded before Pillow, Pillow's
# PNG code calls Paddle's zlib and crashes; the other way round both keep their own.
import PIL.Image  # noqa: F401

from common.core import cores, quiet_paddle  # noqa: F401 - cores looks at the environment

quiet_paddle.install()
