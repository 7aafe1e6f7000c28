"""Where what can be made or fetched again is kept."""
import os
import sys

CACHE_VARIABLE = 'PADDLE_VITAE_CACHE'


def cache_folder() -> str:
    """The folder: PADDLE_VITAE_CACHE, or else paddle_vitae in the platform's place for caches."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return os.path.abspath(os.path.expanduser(named))
    if sys.platform == 'darwin':
        return os.path.expanduser('~/Library/Caches/paddle_vitae')
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return os.path.join(base, 'paddle_vitae')
