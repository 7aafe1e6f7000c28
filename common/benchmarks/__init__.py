"""Measurements of `python -m common.benchmark`: times and memory, each as a markdown table.

`steps.py` times functions that take turns; `model.py`, `engine.py` (the training loop),
`baseline.py` (a plain transformer beside the model), `memory.py` and `data.py` (the loader) make
the tables. It may import everything but the commands.
"""
