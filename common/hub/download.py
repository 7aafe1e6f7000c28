"""Gets the file of a URL: goes on where a try was cut off, and gives up soon without a network.

The transport is httpx, which Paddle itself needs: connections, proxies by the usual variables
(HTTPS_PROXY, NO_PROXY, ALL_PROXY), certificates (SSL_CERT_FILE), redirects and time-outs are its.
Here is what pooch and paddle.utils.download lack, too: going on after a cut, by the HTTP header
Range, with If-Range, so that two versions of a file are never mixed.
"""
import contextlib
import os
import re
import shutil
import time

from common.core.errors import InputError, complain, one_line
from common.hub.cache import cannot_write, read_json, write_json
from common.hub.references import host_of, is_allowed, shown_url

# Seconds without a byte after which a server is asked again.
TIMEOUT_VARIABLE = 'PADDLE_VITAE_TIMEOUT'
TIMEOUT, CONNECT_TIMEOUT = 30.0, 5.0
TRIES = 4  # in a row that bring nothing
PAUSE = 0.5  # seconds before the second of these; twice as long before each further one
MAX_REDIRECTS = 8
FREE = 16 << 20  # bytes of the disk that stay free
BUSY = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be others a second later
MD5 = re.compile(r'md5=([A-Za-z0-9+/]{22}==)')
HEX = re.compile('[0-9a-f]{64}')


class Unreachable(InputError):
    """The server cannot be reached, or does not answer: the file can be fetched by hand."""


class Interrupted(Exception):
    """A try has ended before the file was whole; another one may bring the rest."""


def timeout():
    """TIMEOUT, or what the user has set."""
    text = os.environ.get(TIMEOUT_VARIABLE)
    if not text:
        return TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86400:
        raise InputError(f'{TIMEOUT_VARIABLE}: got {text}, expected seconds above 0')
    return seconds


def download(url: str, part: str, size_range: tuple[int, int] | None, has_hash: bool) -> dict:
    """Downloads a URL.

    Args:
        url: https://..., or http:// of this machine.
        part: the file to be written; what an earlier try has left there is used, if the server
            still has the same version. It stays when the rest does not come.
        size_range: (least, largest) number of bytes that the file may have, or None.
        has_hash: whether the caller knows a hash of it.

    Returns:
        What the server says of the content: {'sha256': digits} or {'md5': base64} or {}.

    Raises:
        Unreachable: there is no connection, or it broke several times.
        InputError: anything else; the message is one line.
    """
    import httpx  # some 50 ms, and only who downloads needs it

    seconds = timeout()
    try:
        with httpx.Client(follow_redirects=True, max_redirects=MAX_REDIRECTS,
                          timeout=httpx.Timeout(seconds, connect=min(CONNECT_TIMEOUT, seconds)),
                          headers={'Accept-Encoding': 'identity', 'User-Agent': 'paddle_vitae'},
                          event_hooks={'request': [check_request]}) as client:
            return download_with(client, url, part, size_range, has_hash)
    except (httpx.HTTPError, httpx.InvalidURL, ImportError) as error:
        # ImportError: a proxy of a kind (socks) for which a package is missing
        raise Unreachable(f'{host_of(url)}: {one_line(error)}') from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise Unreachable(f'{host_of(url)}: {one_line(error)}') from None  # a proxy's URL


def check_reachable(url: str) -> None:
    """Raises Unreachable if there is no connection to a URL's server, within seconds; whatever the
    server answers is an answer."""
    import httpx
    try:
        httpx.head(url, timeout=httpx.Timeout(timeout(), connect=CONNECT_TIMEOUT))
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:
        raise Unreachable(f'cannot connect to {host_of(url)}: {one_line(error)}') from None


def check_request(request):
    """Raises InputError for a redirect to where weights may not come from."""
    if not is_allowed(request.url.scheme, request.url.host):
        raise InputError(f'{shown_url(str(request.url))}: got a redirect there, expected https')


def download_with(client, url, part, size_range, has_hash):
    """`download` with an httpx.Client: tries again as long as something comes."""
    import httpx

    without_progress = 0
    while True:
        before = size_of(part)
        try:
            return attempt(client, url, part, size_range, has_hash)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise Unreachable(f'cannot connect to {host_of(url)}: {one_line(error)}') from None
        except (httpx.TransportError, Interrupted) as error:
            if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
                raise
            without_progress = 0 if size_of(part) > before else without_progress + 1
            if without_progress >= TRIES:
                is_late = isinstance(error, httpx.TimeoutException)
                why = f'{timeout():g} s without a byte' if is_late else one_line(error)
                raise Unreachable(f'{host_of(url)}: {why}, {TRIES} times') from None
            time.sleep(PAUSE * 2 ** without_progress / 2 if without_progress else 0)


def attempt(client, url, part, size_range, has_hash):
    """One request: writes what comes to `part`; returns the server's hashes if that is whole."""
    state = read_json(f'{part}.json')
    have = size_of(part) if state.get('url') == shown_url(url) and state.get('version') else 0
    if have and have == state.get('size'):
        return state.get('hashes', {})
    headers = {'Range': f'bytes={have}-', 'If-Range': state['version']} if have else {}
    with client.stream('GET', url, headers=headers) as response:
        check_status(response, url)
        if response.status_code == 206:
            if start_of(response) != have:
                discard(part)
                raise Interrupted('the server gave another part than was asked for')
        elif response.status_code == 416:  # it is shorter now than what is here
            discard(part)
            raise Interrupted('the server has a shorter file now')
        else:
            have = 0
        size = total_size(response, have)
        check_size(size, size_range, has_hash, response, url)
        state = {'url': shown_url(url), 'version': version_of(response), 'size': size,
                 'hashes': hashes_of(response)}
        if not have:
            discard(part)
            write_json(f'{part}.json', state)
        check_space(part, size, have)
        write_body(response, part, have, size, url)
    if size is not None and size_of(part) != size:
        raise Interrupted(f'the connection ended after {size_of(part)} of {size} bytes')
    return state['hashes']


def check_status(response, url):
    """Raises for an answer without the file in it."""
    status = f'{response.status_code} {response.reason_phrase}'.strip()
    if response.status_code in BUSY:
        raise Interrupted(f'the server says {status}')
    if response.status_code not in (200, 206, 416):
        raise InputError(f'{shown_url(url)}: the server says {status}')
    if response.headers.get('Content-Type', '').startswith('text/html'):
        raise InputError(f'{shown_url(url)}: got a web page, expected a weight file; what needs a '
                         f'browser must be saved there, and its path given')


def total_size(response, have):
    """How many bytes the whole file has, or None if the server does not say."""
    if response.status_code == 206:
        total = response.headers.get('Content-Range', '').rpartition('/')[2]
        return int(total) if total.isdecimal() else None
    length = response.headers.get('Content-Length', '')
    return int(length) if length.isdecimal() else None


def start_of(response):
    """Where the part of a 206 answer starts, or None."""
    match = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    return int(match[1]) if match else None


def check_size(size, size_range, has_hash, response, url):
    """Raises InputError for a file that cannot be the expected one, before it is loaded."""
    if size is None and not has_hash and 'Transfer-Encoding' not in response.headers:
        raise InputError(f'{shown_url(url)}: the server does not say how long the file is, so its '
                         f'end cannot be known; expected URL#sha256=DIGITS')
    if size is not None and size_range and not size_range[0] <= size <= size_range[1]:
        low, high = size_range
        published = f'{low}' if low == high else f'{low} to {high}'
        raise InputError(f'{shown_url(url)}: the server has a file of {size} bytes, expected '
                         f'{published} as published')


def version_of(response):
    """What tells one version of the file from another, for If-Range, or None."""
    etag = response.headers.get('ETag', '')
    return etag if etag.startswith('"') else response.headers.get('Last-Modified')


def hashes_of(response):
    """The hash of the content that Google's storage and the Hugging Face hub send along."""
    if match := MD5.search(response.headers.get('x-goog-hash', '')):
        return {'md5': match[1]}
    for answer in [*response.history, response]:
        for name in ('X-Linked-Etag', 'ETag'):
            digits = answer.headers.get(name, '').removeprefix('W/').strip('"')
            if HEX.fullmatch(digits):
                return {'sha256': digits}
    return {}


def check_space(part, size, have):
    """Raises InputError if the rest of the file has no room on the disk."""
    free = shutil.disk_usage(os.path.dirname(part)).free
    if size is not None and size - have > free - FREE:
        raise InputError(f'{part}: {size - have} bytes are to come, and {free} are free on that '
                         f'disk')


def write_body(response, part, have, size, url):
    """Appends an answer's bytes to a file, with a bar on a terminal."""
    from tqdm import tqdm
    complain(f'{"going on with" if have else "downloading"} {shown_url(url)} to '
             f'{os.path.dirname(part)}')
    name = os.path.basename(part).removesuffix('.part')
    try:
        with open(part, 'ab' if have else 'wb') as stream, \
                tqdm(total=size, initial=have, unit='B', unit_scale=True, unit_divisor=1024,
                     desc=name[-32:], disable=None) as bar:
            for chunk in response.iter_raw():  # as it comes: a cut loses nothing
                stream.write(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise cannot_write(part, error) from None


def discard(part):
    """Removes what an earlier try has left."""
    for file in (part, f'{part}.json'):
        with contextlib.suppress(FileNotFoundError):
            os.remove(file)


def size_of(file):
    """Bytes of a file; 0 if there is none."""
    try:
        return os.path.getsize(file)
    except OSError:
        return 0
