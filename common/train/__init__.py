"""Training: the loop, optimiser, schedule, losses, checkpoints, the log, and a run's processes.

| for | files |
|---|---|
| the loop | `trainer.py` (epochs), `engine.py` (steps), `state.py` (what the loop is given) |
| the recipe | `optim.py`, `schedule.py`, `losses.py`, `ema.py`, `precision.py` |
| what is kept | `checkpoint.py`, `saver.py`, `run_folder.py`, `same_run.py` |
| what is said | `describe.py`, `log.py`, `plot.py`, `evaluation.py` |
| processes | `launcher.py` (restarts, ranks), `worker.py` (one rank, from a config to a Trainer) |

It may import core, config, layers, weights, zoo and data.
"""
