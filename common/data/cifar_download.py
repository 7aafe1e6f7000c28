"""The download of the archives of CIFAR-10 and CIFAR-100, which nothing else does."""
import hashlib
import http.client
import os
import sys
import urllib.request

from tqdm import tqdm

from common.core.errors import InputError, one_line
from common.core.files import replace_atomically
from common.data.cifar_source import layout_of

BASE_URL = 'https://www.cs.toronto.edu/~kriz/'
TIMEOUT = 30       # seconds without an answer of the server
BLOCK = 1 << 16    # bytes that are read at a time


def download_cifar(name: str, folder: str) -> str:
    """Downloads an archive into a folder; one that is there is kept.

    Args:
        name: cifar10 | cifar100.
        folder: where the archive goes; it is made if it is missing.

    Returns:
        The path of the archive.

    Raises:
        InputError: there is no network, or the file's md5 is not the one that the data set's page
            gives.
    """
    layout = layout_of(name)
    url, path = BASE_URL + layout.archive, os.path.join(folder, layout.archive)
    try:
        if os.path.exists(path):
            with open(path, 'rb') as stream:
                copy(stream, None, layout.md5, f'{path} (remove it to download it again)')
            return path
        os.makedirs(folder, exist_ok=True)
        with replace_atomically(path) as temporary, open(temporary, 'wb') as target, \
                urllib.request.urlopen(url, timeout=TIMEOUT) as source:
            copy(source, target, layout.md5, url)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f'{url}: cannot download it to {path}: {one_line(error)}') from None
    return path


def copy(source, target, md5, where):
    """Copies a stream, with a progress bar on a terminal, and compares the md5."""
    digest = hashlib.md5(usedforsecurity=False)
    with tqdm(unit='B', unit_scale=True, leave=False, disable=not sys.stderr.isatty()) as bar:
        while block := source.read(BLOCK):
            digest.update(block)
            if target:
                target.write(block)
            bar.update(len(block))
    if digest.hexdigest() != md5:
        raise InputError(f'{where}: got md5 {digest.hexdigest()}, expected {md5}')
