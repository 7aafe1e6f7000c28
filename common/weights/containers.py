"""Where in a checkpoint the weights are: under which of its keys, however deep."""
import re

import numpy as np

# What checkpoints call their weights; the first of these that is there is taken. Averaged weights
# come first: published accuracies are mostly theirs.
KEYS = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'model_ema_state_dict', 'ema_model',
        'ema', 'teacher', 'state_dict', 'model', 'model_state_dict', 'model_state', 'net',
        'network', 'params', 'weights', 'module', 'student')
OTHER = re.compile(r'optim|sched|scaler|loss|config|args|meta|callback', re.I)
MAX_DEPTH = 3  # of dictionaries in each other


def find_state(content):
    """Finds the weights in a file's content.

    Args:
        content: dict, with arrays or other dicts under its keys.

    Returns:
        The dict with the arrays, or what comes nearest; and notes that say which was taken, where
        it is not plain.
    """
    if 'format_version' in content and isinstance(content.get('model'), dict):
        return content['model'], []  # this project's own; its average goes on in training only
    candidates = {}
    collect(content, (), candidates)
    if not candidates:
        known = [key for key in KEYS if isinstance(content.get(key), dict)]
        return (content[known[0]] if known else content), []
    best = min(candidates, key=lambda path: (rank(path), -len(candidates[path])))
    others = [dotted(path) for path in candidates if path != best and rank(path) < len(KEYS)]
    notes = []
    if others:
        notes = [f'weights of {dotted(best)}; the file also has {", ".join(others[:5])}']
    elif len(best) > 1 or best and rank(best) == len(KEYS):
        notes = [f'weights of {dotted(best)}']
    return candidates[best], notes


def collect(node, path, candidates):
    """Puts the dicts in `node` that hold an array into `candidates`, {path: dict}; a path is the
    tuple of the keys that lead there."""
    if any(isinstance(value, np.ndarray) for value in node.values()):
        candidates[path] = node
    if len(path) < MAX_DEPTH:
        for key, value in node.items():
            if isinstance(value, dict) and isinstance(key, str) and not OTHER.search(key):
                collect(value, (*path, key), candidates)


def rank(path):
    """How early in KEYS the best of a path's keys comes; len(KEYS) if none is there."""
    return min((KEYS.index(key) for key in path if key in KEYS), default=len(KEYS))


def dotted(path):
    """A path as text, for a message."""
    return repr('.'.join(path)[:80]) if path else 'its first level'
