"""Measurements of `python -m common.benchmark`: times and memory, each as a markdown table.

`steps.py` times functions that take turns, `turns.py` processes that do (`own.py` is ours,
`foreign.py` PyTorch's or OpenVINO's); `model.py`, `engine.py` (the training loop), `baseline.py` (a
plain transformer beside the model), `rivals.py` (other libraries), `growth.py` (over batch,
image, threads), `device.py` and `device_figures.py` (a GPU), `memory.py` and `data.py` (the loader)
make the tables; `processor.py` says what they are of. It may import everything but the commands.
"""
