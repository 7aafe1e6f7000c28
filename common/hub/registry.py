"""The lists of published weights: FAMILY/weights.yaml, and a user's own.

    MODEL:
        TAG:
            url: https://..., or hf:OWNER/NAME; http:// only of this machine
            page, file: in place of url, where programs cannot fetch it: the page that a browser
                opens, and the name under which the file is looked for in the cache
            format: npz | pth | pdparams | safetensors
            origin: who publishes it
            size: bytes, or as published: 330.29 MiB
            sha256: its 64 hexadecimal digits, or the first 8 of them and more
            image_size: pixels of the position embedding
            trained_on: the images
            config: values of MODEL keys in which the file differs from the model's yaml
            acc1, acc5, accuracy_of: per cent on ImageNet-1k, and who has measured them
            licence, note

All but url (or page and file), format, origin and image_size may be missing: it is not known then.
The first tag of a model is its default.
"""
import functools
import os
import re
from typing import NamedTuple

import yaml

from common.core.errors import InputError, one_line, opened, shown

# A yaml of the same form, whose entries go before the project's: mirrors, an institute's own.
REGISTRY_VARIABLE = 'PADDLE_VITAE_REGISTRY'
FORMATS = ('npz', 'pth', 'pdparams', 'safetensors')
UNITS = {'B': 1, 'KiB': 1 << 10, 'MiB': 1 << 20, 'GiB': 1 << 30}
SIZE = re.compile(r'(\d+)(?:\.(\d+))? (KiB|MiB|GiB)')
SHA256 = re.compile('[0-9a-f]{8,64}')
MAX_BYTES = 1 << 20


class Entry(NamedTuple):
    """A published weight file; the fields are the keys of the yaml."""

    model: str
    tag: str
    format: str
    origin: str
    image_size: int
    url: str | None = None
    page: str | None = None
    file: str | None = None
    size: int | str | None = None
    sha256: str | None = None
    trained_on: str | None = None
    config: dict | None = None
    acc1: float | None = None
    acc5: float | None = None
    accuracy_of: str | None = None
    licence: str | None = None
    note: str | None = None


# {model: {tag: Entry}}
Registry = dict[str, dict[str, Entry]]


def read_registries(files: list[str]) -> Registry:
    """The entries of several files, and of the user's own, which goes before them.

    Args:
        files: paths of the families' lists.

    Returns:
        {model: {tag: Entry}}.

    Raises:
        InputError: a list that is missing, or no such list.
    """
    own = os.environ.get(REGISTRY_VARIABLE)
    registry = dict(read_registry(own)) if own else {}
    for file in files:
        for model, entries in read_registry(file).items():
            registry[model] = {**registry.get(model, {}),
                               **{tag: entry for tag, entry in entries.items()
                                  if tag not in registry.get(model, {})}}
    return registry


def read_registry(file):
    """The entries of one file, {model: {tag: Entry}}, in its order; read again when it changes."""
    try:
        status = os.stat(file)
    except OSError as error:
        raise InputError(f'{file}: cannot read it: {error.strerror}') from None
    return parse_registry(os.fspath(file), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def parse_registry(file, changed_at, size):
    """read_registry of a file of this size that was changed at this time."""
    if size > MAX_BYTES:
        raise InputError(f'{file}: got {size} bytes, expected a list of weights of at most '
                         f'{MAX_BYTES}')
    with opened(file) as stream:
        try:
            content = yaml.safe_load(stream)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputError(f'{file}: no list of weights: {one_line(error)}') from None
    if not isinstance(content, dict) or not all(
            isinstance(model, str) and isinstance(tags, dict) for model, tags in content.items()):
        raise InputError(f'{file}: got no mapping of models to tags')
    return {model: {tag: make_entry(file, model, tag, values) for tag, values in tags.items()}
            for model, tags in content.items()}


def make_entry(file, model, tag, values):
    """The Entry of a tag's values. Raises InputError, with the place, for what it cannot be."""
    where = f'{file}: {model}: {tag}'
    if not isinstance(tag, str) or not isinstance(values, dict):
        raise InputError(f'{where}: got {shown(values)}, expected a tag with its keys')
    known = set(Entry._fields) - {'model', 'tag'}
    for key in values:
        if key not in known:
            raise InputError(f'{where}: {shown(key)}: no such key; expected some of '
                             f'{", ".join(sorted(known))}')
    for key in ('format', 'origin', 'image_size'):
        if key not in values:
            raise InputError(f'{where}: {key}: is missing')
    entry = Entry(model, tag, **values)
    if bool(entry.url) == bool(entry.page) or bool(entry.page) != bool(entry.file):
        raise InputError(f'{where}: expected a url, or a page with a file')
    if entry.file and (os.path.basename(entry.file) != entry.file or entry.file.startswith('.')):
        raise InputError(f'{where}: file: got {shown(entry.file)}, expected the name of a file')
    if entry.format not in FORMATS:
        raise InputError(f'{where}: format: got {shown(entry.format)}, expected one of '
                         f'{", ".join(FORMATS)}')
    if entry.sha256 is not None and not (isinstance(entry.sha256, str)
                                         and SHA256.fullmatch(entry.sha256)):
        raise InputError(f'{where}: sha256: got {shown(entry.sha256)}, expected 8 to 64 '
                         f'hexadecimal digits in quotes')
    if entry.size is not None and not isinstance(entry.size, int) and not SIZE.fullmatch(
            str(entry.size)):
        raise InputError(f'{where}: size: got {shown(entry.size)}, expected bytes, or 12.3 MiB')
    return entry


def size_range(size):
    """The least and the largest number of bytes that a published size stands for.

    Args:
        size: bytes, or text as '330.29 MiB', which is rounded.
    """
    if isinstance(size, int):
        return size, size
    whole, digits, unit = SIZE.fullmatch(size).groups()
    digits = digits or ''
    value, half = float(f'{whole}.{digits or 0}'), 0.5 * 10 ** -len(digits)
    # tools cut or round: a whole step in each direction
    return int((value - 2 * half) * UNITS[unit]), int((value + 2 * half) * UNITS[unit])


def find_entry(registry: Registry, model: str, tag: str | None) -> Entry:
    """The entry of a model and tag.

    Args:
        registry: see read_registries.
        model: name.
        tag: or None for the model's default.

    Raises:
        InputError: there is none; it says which there are.
    """
    entries = registry.get(model)
    if not entries:
        raise InputError(f'hub: no published weights of {model!r} are known; there are some of '
                         f'{", ".join(registry)}, which hub:MODEL/TAG names')
    if tag is None:
        return next(iter(entries.values()))
    if tag not in entries:
        raise InputError(f'hub:{tag}: no such tag of {model}; expected one of '
                         f'{", ".join(entries)}')
    return entries[tag]
