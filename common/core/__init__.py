"""What needs no model and no data: errors, files, processes, ranks, randomness, flags, names, keys.

Everything may import it; it imports nothing of `common` but itself.

| for | files |
|---|---|
| messages | `errors.py`, `figures.py` (pictures of matplotlib), `quiet_paddle.py` |
| files | `files.py` (atomic replacement, checksums), `yaml_files.py`, `modules.py` |
| processes | `environment.py`, `signals.py`, `processes.py`, `dist.py` (ranks), `devices.py` |
| what is read | `config_keys.py`, `class_names.py`, `bounds.py` (of a weight file's cost) |
| small helpers | `flags.py` (command lines), `randomness.py`, `sizes.py` |
"""
