"""What models are made of: layers that more than one model has, and the base of all models.

| for | files |
|---|---|
| the base, with the table of what a model offers | `classifier.py`, `stages.py` |
| attention | `attention.py` (the one function that computes it), `windows.py`, `vsa.py` |
| the rest of a block | `basic.py` (MLP, dropouts), `prm_performer.py`, `recompute.py` |
| position embeddings | `position.py`, `conditional_position.py` |
| weights at the start, counts | `init.py`, `macs.py`, `model_table.py` |
| forms of layers that a CPU runs faster, behind plain names | `fast/`, `flash_attention.py` |

It may import core and config.
"""
