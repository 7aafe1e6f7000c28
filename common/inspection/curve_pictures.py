"""Loss and accuracy of a run, or of several runs in one picture."""
import os

from common.core.errors import complain
from common.train.plot import METRICS, read_metrics, run_figure, runs_figure


def curves_picture(folders):
    """The figure of some runs; one run has more details.

    Args:
        folders: of the runs. Their names are shown, or their paths if two have one name.
    """
    runs = {os.path.normpath(folder): read_lines(folder) for folder in folders}
    if len(runs) == 1:
        return run_figure(*runs.values())
    names = {folder: os.path.basename(folder) for folder in runs}
    if len(set(names.values())) == len(runs):
        runs = {names[folder]: lines for folder, lines in runs.items()}
    return runs_figure(runs)


def read_lines(folder):
    """The figures of a run's folder; a note about what cannot be read goes to standard error."""
    lines, note = read_metrics(os.path.join(folder, METRICS))
    if note:
        complain(f'WARNING: {note}')
    return lines
