"""Imports Paddle without the remarks that it makes then for developers: that it found no ccache
(Paddle 3), and that OMP_NUM_THREADS is set. Anything else that is said meanwhile is shown.

Paddle is imported when a program needs it first, not here: programs begin without it.
"""
import contextlib
import importlib.machinery
import io
import sys
import warnings

# compat: remarks
NO_CCACHE = 'No ccache found'
REMARKS = ('WARNING: OMP_NUM_THREADS set to ', 'PLEASE USE OMP_NUM_THREADS WISELY.')


class QuietPaddle:
    """Finds the module `paddle`, once; an entry of sys.meta_path."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != 'paddle':
            return None
        sys.meta_path.remove(cls)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_quietly(module):
                with without_remarks():
                    load(module)

            spec.loader.exec_module = load_quietly
        return spec


def install():
    """Makes the first `import paddle` of this process quiet, if there was none yet."""
    if 'paddle' not in sys.modules and QuietPaddle not in sys.meta_path:
        sys.meta_path.insert(0, QuietPaddle)


@contextlib.contextmanager
def without_remarks():
    """Hides REMARKS and NO_CCACHE within a block; the user's filters stay as they are."""
    warnings.filterwarnings('ignore', NO_CCACHE, UserWarning)
    rule, said = warnings.filters[0], io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    finally:
        if rule in warnings.filters:
            warnings.filters.remove(rule)
        others = ''.join(line for line in said.getvalue().splitlines(keepends=True)
                         if not line.startswith(REMARKS))
        if others and sys.stderr:
            with contextlib.suppress(OSError):
                sys.stderr.write(others)
