import common  # noqa: F401 - loads Pillow before Paddle, see common/__init__.py
