"""Training: the loop, optimiser, schedule, losses, checkpoints, the log, and a run's processes.

| for | files |
|---|---|
| the loop | `trainer.py` (epochs), `engine.py` (steps), `state.py` (what the loop is given) |
| recipe | `optim.py`, `schedule.py`, `losses.py`, `class_weights.py`, `ema.py`, `precision.py` |
| what is kept | `checkpoint.py`, `saver.py`, `run_folder.py`, `same_run.py` |
| evaluation | `evaluation.py`, `multi_label.py`, `results.py`, `patience.py` (early stopping) |
| what is said | `describe.py`, `log.py`, `plot.py`, `eta.py` |
| processes | `launcher.py` (restarts, ranks), `worker.py` (one rank, from a config to a Trainer) |

It may import core, config, layers, weights, zoo and data.
"""
