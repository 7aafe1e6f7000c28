"""What the model families share: configuration, data, training loop, weights and tools.

Nothing in this package knows which family it serves, but for `zoo.py`.
"""
import sys
import warnings

# Paddle 2.6 exports the zlib that is built into it. When Paddle is loaded before Pillow, Pillow's
# PNG code calls Paddle's zlib and crashes; the other way round both keep their own.
import PIL.Image  # noqa: F401

# Paddle 3 warns at its import that it found no ccache, a tool for those who compile its extensions.
# Only this message is left out; Paddle is not imported here, since programs begin without it.
if 'paddle' not in sys.modules:
    warnings.filterwarnings('ignore', 'No ccache found', UserWarning)
