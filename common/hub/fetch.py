"""The local file of a reference to weights: in the cache and unchanged, or downloaded, checked."""
import contextlib
import os
from collections.abc import Callable
from typing import NamedTuple

from common.core.caches import cache_folder
from common.core.errors import InputError
from common.hub import cache
from common.hub.download import Unreachable, discard, download
from common.hub.huggingface import cached, fetch_hf
from common.hub.references import (
    HF,
    HUB,
    is_reference,
    parse_hf,
    parse_hub,
    parse_url,
    path_of_url,
    shown_url,
)
from common.hub.registry import Entry, Registry, find_entry, size_range


class Fetched(NamedTuple):
    """A weight file, and where it is from.

    Attributes:
        file: its path.
        origin: a sentence for logs and checkpoints, with URL and sha256; None for a file that
            the user has named by its path.
    """

    file: str
    origin: str | None = None


class Source(NamedTuple):
    """What is known of a file before it is there.

    Attributes:
        url: where programs fetch it (https://, hf:), or None.
        path: where it is in the cache; None for hf:, whose cache is another.
        hashes: {who says so: sha256, or the first digits of it}.
        size: bytes or text of the registry, or None.
        page: where a browser finds it.
    """

    url: str | None
    path: str | None
    hashes: dict[str, str]
    size: int | str | None
    page: str


def fetch(reference: str, model: str, registry: Callable[[], Registry]) -> Fetched:
    """Gives the file of a reference; downloads it if it is not there.

    Args:
        reference: hub, hub:TAG, hub:MODEL/TAG, https://..., hf:OWNER/NAME; or a path, which is
            given back.
        model: name of the model that the weights are for.
        registry: gives {model: {tag: Entry}}, see common/hub/registry.py; called for hub only.

    Returns:
        Fetched.

    Raises:
        InputError: no such entry, no network, or a file that is not what it should be. Nothing
            is kept then but what a later call can go on with.
    """
    if not is_reference(reference):
        return Fetched(reference)
    if reference.startswith(HUB) and '://' not in reference:
        source = source_of(find_entry(registry(), *parse_hub(reference, model)))
    elif reference.startswith(HF):
        source = Source(reference, None, {}, None, reference)
    else:
        url, sha256 = parse_url(reference)
        source = Source(url, os.path.join(cache_folder(), path_of_url(url)),
                        {'the URL': sha256} if sha256 else {}, None, shown_url(url))
    return fetch_source(source)


def source_of(entry: Entry) -> Source:
    """The Source of an entry of the registry."""
    hashes = {'the registry': entry.sha256} if entry.sha256 else {}
    if entry.url and entry.url.startswith(HF):
        return Source(entry.url, None, hashes, entry.size, entry.url)
    if entry.url:
        url, sha256 = parse_url(entry.url)
        hashes = hashes or ({'the registry': sha256} if sha256 else {})
        return Source(url, os.path.join(cache_folder(), path_of_url(url)), hashes,
                      entry.size, shown_url(url))
    return Source(None, os.path.join(cache_folder(), entry.file), hashes, entry.size,
                  entry.page)


def find_cached(source: Source) -> str | None:
    """The file of a source, if it is there; nothing is checked."""
    if source.path is None:
        return cached(parse_hf(source.url))
    return source.path if os.path.isfile(source.path) else None


def fetch_source(source: Source) -> Fetched:
    """`fetch` of a Source."""
    if source.path is None:
        path, sha256 = fetch_hf(parse_hf(source.url))
        return Fetched(path, origin_of(source.url, sha256))
    path = source.path
    if not cache.is_as_pinned(path):
        if os.path.isfile(path):  # put there by hand, or changed since
            adopt(source)
        elif source.url is None:
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(path), exist_ok=True)
            raise InputError(by_hand(source))
        else:
            with cache.locked(path, source.page):
                if not os.path.isfile(path):  # another process may have been first
                    get(source)
    return Fetched(path, origin_of(source.page, cache.read_json(f'{path}.json').get('sha256')))


def origin_of(url, sha256):
    return f'{url} (sha256 {sha256})' if sha256 else url


def by_hand(source):
    """How a user gets the file without this program."""
    size = f'{source.size} bytes' if isinstance(source.size, int) else source.size or 'size unknown'
    if source.url is None:
        return (f'only a browser can fetch these weights: open {source.page}, download the file '
                f'({size}) and save it as {source.path}, where it is found')
    return f'fetch {source.page} ({size}) by hand and save it as {source.path}, where it is found'


def adopt(source: Source) -> str:
    """Checks a file of the cache as it is, and pins its hash if none was; returns its sha256.

    Raises:
        InputError: it is not what the registry, or the pinned hash, says.
    """
    check_published_size(source, os.path.getsize(source.path))
    found = cache.digests(source.path)
    check_hashes(found, known_hashes(source), source.path,
                 'remove it and it is fetched again')
    pinned = cache.read_json(f'{source.path}.json')
    with contextlib.suppress(InputError):  # a cache that is not to be written: checked each time
        cache.pin(source.path, source.path, pinned.get('url'), found['sha256'])
    return found['sha256']


def check_published_size(source, size):
    if source.size is None:
        return
    low, high = size_range(source.size)
    if not low <= size <= high:
        raise InputError(f'{source.path}: got {size} bytes, expected {source.size} as published; '
                         f'remove it and fetch it again')


def known_hashes(source):
    """{who says so: sha256 or its first digits}: what is published, or else what was pinned."""
    pinned = cache.read_json(f'{source.path}.json').get('sha256')
    return source.hashes or ({'the first download': pinned} if pinned else {})


def check_hashes(found, known, what, advice):
    """Raises InputError unless a file's digests are the known ones."""
    for who, expected in known.items():
        if not found['sha256'].startswith(expected):
            got = found['sha256'][:max(len(expected), 16)]
            raise InputError(f'{what}: sha256 is {got}, expected {expected} of {who}; {advice}')


def get(source):
    """Downloads a source into the cache, under its lock."""
    path, part = source.path, f'{source.path}.part'
    known = known_hashes(source)
    sizes = size_range(source.size) if source.size else None
    try:
        told = download(source.url, part, sizes, bool(known))
    except Unreachable as error:
        raise InputError(f'{error}; {by_hand(source)}') from None
    found = cache.digests(part)
    try:
        pinned = '' if source.hashes else f'; removing {path}.json accepts another version'
        check_hashes(found, known, source.page, f'nothing was kept{pinned}')
        if any(found[kind] != value for kind, value in told.items()):
            raise InputError(f'{source.page}: the content does not fit to the hash that the server '
                             f'tells; nothing was kept')
    except InputError:
        discard(part)
        raise
    try:
        with open(part, 'rb+') as stream:
            os.fsync(stream.fileno())
        cache.pin(path, part, source.page, found['sha256'])
        os.replace(part, path)
    except OSError as error:
        raise cache.cannot_write(path, error) from None
    discard(part)  # what described it
