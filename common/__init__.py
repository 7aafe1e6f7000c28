"""What the model families share: configuration, data, training loop, weights and tools.

Nothing in this package knows which family it serves, but for `zoo.py`.
"""
import warnings

# Paddle 2.6 exports the zlib that is built into it. When Paddle is loaded before Pillow, Pillow's
# PNG code calls Paddle's zlib and crashes; the other way round both keep their own.
import PIL.Image  # noqa: F401

# Paddle 3 warns at its import that it found no ccache, a tool for those who compile its extensions.
# Paddle is not imported here, since the programs and some tools begin without it.
warnings.filterwarnings('ignore', 'No ccache found', UserWarning)
