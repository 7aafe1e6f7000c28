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
    """The weights of a file's content.

    Args:
        content: dict, with arrays or other dicts under its keys.

    Returns:
        the dict with the arrays, or what comes nearest; and notes that say which was taken, where
        it is not plain.
    """
    if 'format_version' in content and isinstance(content.get('model'), dict):
        return content['model'], []  # this project's own; its average goes on in training only
    found = {}
    collect(content, (), found)
    if not found:
        named = [key for key in KEYS if isinstance(content.get(key), dict)]
        return (content[named[0]] if named else content), []
    place = min(found, key=lambda place: (rank(place), -len(found[place])))
    others = [dotted(other) for other in found if other != place and rank(other) < len(KEYS)]
    notes = []
    if others:
        notes = [f'weights of {dotted(place)}; the file also has {", ".join(others[:5])}']
    elif len(place) > 1 or place and rank(place) == len(KEYS):
        notes = [f'weights of {dotted(place)}']
    return found[place], notes


def collect(node, place, found):
    """Puts the dicts in `node` that hold an array into `found`, {keys that lead there: dict}."""
    if any(isinstance(value, np.ndarray) for value in node.values()):
        found[place] = node
    if len(place) < MAX_DEPTH:
        for key, value in node.items():
            if isinstance(value, dict) and isinstance(key, str) and not OTHER.search(key):
                collect(value, (*place, key), found)


def rank(place):
    return min((KEYS.index(key) for key in place if key in KEYS), default=len(KEYS))


def dotted(place):
    return repr('.'.join(place)[:80]) if place else 'its first level'
