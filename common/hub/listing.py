"""The published weights as a table, and the check of one that is in the cache."""
import os

from common.core.errors import InputError
from common.hub.cache import read_json
from common.hub.fetch import adopt, by_hand, find_cached, source_of
from common.hub.registry import Entry, Registry

COLUMNS = ('Model', 'Tag', 'Format', 'Size', 'Acc@1', 'Acc@5', 'Accuracy of', 'Trained on',
           'Licence', 'In the cache', 'From')


def table(registry: Registry) -> str:
    """A markdown table of {model: {tag: Entry}}; '-' is what is not known."""
    rows = [row(entry) for entries in registry.values() for entry in entries.values()]
    lines = [COLUMNS, ['---'] * len(COLUMNS), *rows]
    return '\n'.join(f'| {" | ".join(map(str, cells))} |' for cells in lines)


def row(entry):
    """The cells of an entry."""
    source = source_of(entry)
    page = source.page if entry.url else f'{entry.page} (browser; save as {entry.file})'
    cells = (entry.model, entry.tag, entry.format, entry.size, entry.acc1, entry.acc5,
             entry.accuracy_of, entry.trained_on, entry.licence, state_of(source), page)
    return ['-' if cell is None else cell for cell in cells]


def state_of(source):
    """What is in the cache: yes, a part with its bytes, or no."""
    if find_cached(source):
        return 'yes'
    part = f'{source.path}.part' if source.path else ''
    if not os.path.exists(part):
        return 'no'
    size = read_json(f'{part}.json').get('size')
    whole = f' of {size}' if isinstance(size, int) else ''
    return f'{os.path.getsize(part)}{whole} bytes'


def check_cached(entry: Entry) -> tuple[str, list[str]]:
    """Compares a cached file with what is known of it, byte by byte.

    Args:
        entry: of the registry.

    Returns:
        (path, sentences about what was seen).

    Raises:
        InputError: it is not there, or not the file.
    """
    source = source_of(entry)
    path = find_cached(source)
    if path is None:
        how = by_hand(source) if source.path else f'-pretrained={source.url} fetches it'
        raise InputError(f'{entry.model}/{entry.tag}: not in the cache; {how}')
    lines = [f'{entry.model}/{entry.tag}: {path}, {os.path.getsize(path)} bytes']
    if source.path is None:  # the hub's own cache, which keeps it under its hash
        return path, [*lines, 'kept and checked by huggingface_hub']
    first = 'sha256' not in read_json(f'{path}.json')
    sha256 = adopt(source)
    if source.hashes:
        said_by = 'the registry' if len(entry.sha256) == 64 else \
            f'the registry, which knows {len(entry.sha256)} digits'
    else:
        said_by = 'nobody: none is published, so it is pinned now' if first else \
            'the first download'
    return path, [*lines, f'sha256 {sha256}, as told by {said_by}']
