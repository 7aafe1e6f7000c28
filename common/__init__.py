"""What the model families share: configuration, data, training loop, weights and tools.

Nothing in this package knows which family it serves, but for `zoo.py`.
"""
