"""What stands in the place of a weight file: hub, hub:TAG, hub:MODEL/TAG, https://..., hf:..."""
import hashlib
import os
import re
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from common.core.errors import InputError

HUB, HF = 'hub', 'hf:'
FORMS = 'hub, hub:TAG, hub:MODEL/TAG, https://..., hf:OWNER/NAME'
# OWNER/NAME[@REVISION][/FILE] of the Hugging Face hub
HF_FORM = re.compile(r'(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?'
                     r'(?:/(?P<file>[\w./-]+))?')
SHA256_FRAGMENT = re.compile('sha256=([0-9a-f]{64})')


def is_reference(text: object) -> bool:
    """Whether text names weights to be fetched, not a file: a file of such a name is ./hub."""
    return isinstance(text, str) and (
        text == HUB or text.startswith((f'{HUB}:', HF)) or '://' in text)


def parse_hub(reference: str, model: str | None) -> tuple[str | None, str | None]:
    """(model, tag or None) of hub, hub:TAG and hub:MODEL/TAG, used for a model."""
    rest = reference.removeprefix(HUB).removeprefix(':')
    if not rest:
        if reference != HUB:
            raise InputError(f'{reference}: got no tag, expected hub or hub:TAG')
        return model, None
    other, slash, tag = rest.rpartition('/')
    return (other, tag) if slash else (model, tag)


def model_of_reference(reference: object) -> str | None:
    """The model that a reference itself names, as hub:MODEL/TAG does; None for other ones.

    Raises:
        InputError: it is for the published weights of a model, and names none.
    """
    if reference is True or isinstance(reference, str) and is_reference(reference) \
            and reference.startswith(HUB) and '://' not in reference:
        model, _ = parse_hub(HUB if reference is True else reference, None)
        if model is None:
            raise InputError(f'{HUB if reference is True else reference}: got no model, expected '
                             f'its name (-cfg NAME), or hub:MODEL/TAG')
        return model
    return None


class HubFile(NamedTuple):
    """A file of the Hugging Face hub; `file` None is the weights of the repository."""

    repo: str
    revision: str | None
    file: str | None


def parse_hf(reference: str) -> HubFile:
    """The parts of hf:OWNER/NAME[@REVISION][/FILE]."""
    match = HF_FORM.fullmatch(reference.removeprefix(HF))
    if not match or '..' in reference:
        raise InputError(f'{reference}: expected hf:OWNER/NAME, hf:OWNER/NAME@REVISION or '
                         f'hf:OWNER/NAME/FILE')
    return HubFile(match['repo'], match['revision'], match['file'])


def parse_url(reference: str) -> tuple[str, str | None]:
    """(URL without fragment, sha256 or None) of https://...#sha256=DIGITS."""
    if not reference.isprintable() or ' ' in reference:
        raise InputError(f'{reference}: no URL: got spaces or control characters in it')
    try:
        parts = urlsplit(reference)
        parts.port  # noqa: B018 - raises ValueError
        host = parts.hostname
    except ValueError as error:
        raise InputError(f'{reference}: no URL: {error}') from None
    if not host or not is_allowed(parts.scheme, host):
        raise InputError(f'{shown_url(reference)}: expected https://HOST/..., or http:// of this '
                         f'machine')
    sha256 = None
    if parts.fragment:
        match = SHA256_FRAGMENT.fullmatch(parts.fragment.lower())
        if not match:
            raise InputError(f'{shown_url(reference)}: got #{parts.fragment}, expected '
                             f'#sha256= and 64 hexadecimal digits')
        sha256 = match[1]
    return urlunsplit(parts._replace(fragment='')), sha256


def is_allowed(scheme, host):
    """Whether weights may come from there: encrypted, or from this machine."""
    return scheme == 'https' or scheme == 'http' and is_loopback(host)


def is_loopback(host):
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def shown_url(url: str) -> str:
    """A URL for logs and files: without a password, and without a query, which may hold a key."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition('@')[2]
    return urlunsplit((parts.scheme, host, parts.path, '', ''))


def host_of(url: str) -> str:
    """The server of a URL, for messages."""
    return urlsplit(shown_url(url)).netloc


def path_of_url(url: str) -> str:
    """Where in the cache the file of a URL lies: HOST/PATH; relative."""
    parts = urlsplit(url)
    names = [name for name in parts.path.split('/') if name not in ('', '.', '..')]
    if not names:
        raise InputError(f'{shown_url(url)}: expected the URL of a file')
    if parts.query:  # another file
        names[-1] = f'{hashlib.sha256(parts.query.encode()).hexdigest()[:12]}-{names[-1]}'
    port = f'_{parts.port}' if parts.port else ''
    return os.path.join(f'{parts.hostname}{port}', *names)
