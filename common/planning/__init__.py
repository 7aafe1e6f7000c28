"""A run before it is started: what it keeps in memory, the largest batch, disk, the loader.

The step is traced piece by piece on the model (trace.py), put together for any batch (timeline.py),
added to what lies beside it (budget.py); choice.py picks the settings, loader.py says what the
loader must give, text.py what the user reads.
"""
