"""Files of the Hugging Face hub, by huggingface_hub: its cache, tokens, mirrors, offline mode."""
import os
import re

from common.core.caches import CACHE_VARIABLE, cache_folder
from common.core.errors import InputError, one_line
from common.hub.download import Unreachable, check_reachable
from common.hub.references import HubFile

# What a repository's weights are called, the safer form first.
WEIGHTS = ('model.safetensors', 'pytorch_model.bin')
BLOB = re.compile('[0-9a-f]{64}')
MISSING = 'hf:...: huggingface_hub is missing; pip install huggingface_hub (the extra "hub")'


def library():
    """The module huggingface_hub. Raises InputError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(MISSING) from None
    return huggingface_hub


def files_of(hub_file):
    return [hub_file.file] if hub_file.file else WEIGHTS


def folder():
    """Where the files are kept: the hub's own cache (HF_HOME), which timm and transformers use too,
    unless PADDLE_VITAE_CACHE moves all."""
    return os.path.join(cache_folder(), 'huggingface') if os.environ.get(CACHE_VARIABLE) else None


def page_of(hub_file):
    """The URL at which a browser finds the file."""
    endpoint = os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'
    return (f'{endpoint}/{hub_file.repo}/resolve/{hub_file.revision or "main"}/'
            f'{files_of(hub_file)[0]}')


def by_hand(hub_file):
    """How a user gets the file without this program."""
    return f'fetch {page_of(hub_file)} (size unknown) by hand and give the path of that file'


def sha256_of(path):
    """The hash of a file in the hub's cache, or None: large files are kept under it."""
    blob = os.path.basename(os.path.realpath(path))
    return blob if BLOB.fullmatch(blob) else None


def cached(hub_file: HubFile) -> str | None:
    """The file in the cache, or None; without any network, and without the package too."""
    try:
        import huggingface_hub
    except ImportError:
        return None
    for name in files_of(hub_file):
        found = huggingface_hub.try_to_load_from_cache(
            hub_file.repo, name, cache_dir=folder(), revision=hub_file.revision)
        if isinstance(found, str):
            return found
    return None


def fetch_hf(hub_file: HubFile) -> tuple[str, str | None]:
    """Downloads a file of the hub, if it is not in the cache.

    Args:
        hub_file: see common.hub.references.parse_hf.

    Returns:
        (path, sha256 or None).

    Raises:
        InputError: huggingface_hub is missing, there is no such file, or no connection.
    """
    hub = library()
    names = files_of(hub_file)
    path = cached(hub_file)
    if path is not None:
        return path, sha256_of(path)
    if not hub.constants.HF_HUB_OFFLINE:
        try:
            check_reachable(page_of(hub_file))  # the library itself tries for half a minute
        except Unreachable as error:
            raise InputError(f'{error}; {by_hand(hub_file)}') from None
    for name in names:
        try:
            path = hub.hf_hub_download(hub_file.repo, name, revision=hub_file.revision,
                                       cache_dir=folder())
        except hub.errors.LocalEntryNotFoundError as error:
            why = 'HF_HUB_OFFLINE is set' if hub.constants.HF_HUB_OFFLINE else \
                'no connection to the hub' if error.__cause__ is None else one_line(error.__cause__)
            raise InputError(f'hf:{hub_file.repo}: not in the cache of huggingface_hub, and {why}; '
                             f'{by_hand(hub_file)}') from None
        except hub.errors.RepositoryNotFoundError:
            raise InputError(f'hf:{hub_file.repo}: no such repository, or it is not public '
                             f'(HF_TOKEN opens your own)') from None
        except hub.errors.RevisionNotFoundError:
            raise InputError(f'hf:{hub_file.repo}: no such revision: {hub_file.revision}') from None
        except hub.errors.EntryNotFoundError:
            continue
        except Exception as error:  # noqa: BLE001 - of its own, of its transport, of the disk
            raise InputError(f'hf:{hub_file.repo}: {one_line(error)}') from None
        return path, sha256_of(path)
    raise InputError(f'hf:{hub_file.repo}: has no {" or ".join(names)}; '
                     f'hf:{hub_file.repo}/FILE names another one')
