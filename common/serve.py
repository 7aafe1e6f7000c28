"""A page, for one user or a few, to try a model on pictures, and the same as JSON for programs.

python -m common.serve -cfg vit_digits -pretrained best.pdparams [-host 127.0.0.1] [-port 8000]

GET / is the page, common/serve_page.html. POST /api/predict and /api/attention take a picture as
the field `file` of multipart/form-data, GET /api/model says what there is; /docs describes them.

What comes in is not trusted: see Guard for connections and bodies, read_picture for pictures. One
thread runs the model; who comes when the queue is full gets 503. Needs the extra 'serve'.
"""
import argparse
import asyncio
import base64
import contextlib
import hashlib
import io
import ipaddress
import json
import logging
import math
import os
import re
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from PIL import Image, UnidentifiedImageError

from common.apis import add_model_flags, as_classifier, model_of, pixel_batches
from common.attention_maps import attention_maps
from common.core.errors import InputError, errors_of_a_tool, one_line
from common.core.flags import add_flag
from common.core.processes import set_up_cpu
from common.data.images import decode
from common.predict import predict

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'serve_page.html')

# Of one picture. The page sends what is larger again, made smaller.
MAX_BODY = 16 << 20
MAX_PIXELS = 12_500_000  # a phone's; decoding takes some 12 bytes a pixel
MAX_SIDE = 8192
# Pillow reads more, but some of that by other programs or by seldom used code.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP')
# A progressive JPEG has some ten scans. Each costs a pass over all pixels, and may have 20 bytes.
MAX_SCANS = 100
# Steps in which Pillow may read a file: so many, and one for so many bytes. A PNG file of an
# ordinary program has four steps in 8 KiB or more.
MIN_STEPS, STEP_BYTES = 5000, 256

MAX_UPLOADS = 32      # bodies that come in at a time
MAX_WAITING = 8       # pictures that wait for the model, or are with it
MAX_CONNECTIONS = 256
HEADER_SECONDS = 10   # from the connection to the end of the request's headers
BODY_SECONDS = 20     # then to the end of its body
DRAIN_SECONDS = 2     # for what is still sent after the answer
CONNECTION_SECONDS = 120
STOP_SECONDS = 1
# Chunks or packets of a body: so many, and one for so many bytes. A small one takes the same time
# as a large one.
MIN_CHUNKS, CHUNK_BYTES = 1000, 256
FORM_BYTES = 1 << 14  # of a form that are read before it is the others' turn

HEADERS = {
    'Cache-Control': 'no-store',
    'Connection': 'close',  # one request each, so that one deadline holds for a connection
    'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_model_flags(parser)

    add = partial(add_flag, parser)
    add('host', 'address to listen on, default 127.0.0.1: this machine only', default='127.0.0.1',
        metavar='ADDRESS')
    add('port', 'default 8000; 0 takes a free one', type=int, default=8000, metavar='N')
    return parser


class Refused(Exception):
    """An answer other than 200: its status and one line."""

    def __init__(self, status, detail):
        super().__init__(detail)
        self.status = status


# What the API answers; FastAPI describes it from these.

@dataclass
class Class:
    label: int
    name: str
    score: float   # probability


@dataclass
class Prediction:
    classes: list[Class]  # most probable first


@dataclass
class AttentionMaps:
    layer: int
    head: str
    maps: list[list[list[float]]]  # [1 or heads, h, w]; shares of the attention
    box: list[float]               # of the picture that a map lies over, see seen_box


@dataclass
class Limits:
    bytes: int
    pixels: int
    side: int


@dataclass
class Facts:
    name: str
    classes: int
    class_names: list[str] | None
    image_size: list[int]  # height, width
    layers: int            # with attention
    heads: list[int]       # of each layer
    limits: Limits         # of a picture


class PictureFile(io.BytesIO):
    """The bytes of a file, which can be read in a limited number of steps.

    Pillow goes through a file's parts in Python; one of 16 MiB may have four million of them.
    """

    def __init__(self, content):
        super().__init__(content)
        self.steps = MIN_STEPS + len(content) // STEP_BYTES

    def read(self, size=-1):
        self.steps -= 1
        if self.steps < 0:
            raise Refused(413, 'picture: got a file of very many small parts')
        return super().read(size)


def read_picture(content):
    """The bytes of a file -> Pillow RGB image. Raises Refused."""
    try:
        return decode(PictureFile(content), FORMATS, partial(check_picture, content))
    except Refused:
        raise
    except UnidentifiedImageError:
        raise Refused(415, f'picture: got another file, expected one of '
                           f'{", ".join(FORMATS)}') from None
    except Image.DecompressionBombError:
        raise Refused(413, f'picture: expected at most {MAX_PIXELS} pixels') from None
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
        raise Refused(400, f'picture: cannot be read: {one_line(error)}') from None


def check_picture(content, image):
    """Raises Refused for a picture that would take long to decode, or much memory."""
    # WebP is decoded to an animation first; 16 bits become 64 on the way
    check_size(*image.size, 4 if image.mode.startswith('I') else
               2 if image.format == 'WEBP' else 1)
    if image.format in ('JPEG', 'MPO') and content.count(b'\xff\xda') > MAX_SCANS:
        raise Refused(413, f'picture: got a JPEG file of more than {MAX_SCANS} scans')


def check_size(width, height, cost=1):
    """cost: memory for a pixel, to that of an ordinary one."""
    most = MAX_PIXELS // cost
    if max(width, height) > MAX_SIDE or width * height > most:
        raise Refused(413, f'picture: got {width}x{height} pixels, expected at most {MAX_SIDE} on '
                           f'a side and {most} in all')


def seen_box(preprocessing, width, height):
    """The part of a picture that is left of it by EvalTransform.

    Returns:
        left, top, width and height as shares of the picture's.
    """
    H, W = preprocessing.image_size
    cover_height, cover_width = (math.floor(side / preprocessing.crop_pct) for side in (H, W))
    scale = max(cover_width / width, cover_height / height)
    across, down = W / (width * scale), H / (height * scale)
    return [(1 - across) / 2, (1 - down) / 2, across, down]


class Service:
    """A model, and the one thread that uses it."""

    def __init__(self, model):
        self.model = model
        self.classifier = as_classifier(model)
        self.preprocessing = self.classifier.preprocessing
        self.heads = [cell.attn.num_heads for cell in model.cells()]
        self.thread = ThreadPoolExecutor(1)
        self.turn = asyncio.Lock()
        self.waiting = 0

    def facts(self):
        config = self.model.config
        return Facts(config.MODEL.NAME, config.MODEL.NUM_CLASSES, self.classifier.class_names,
                     self.preprocessing.image_size, len(self.heads), self.heads,
                     Limits(MAX_BODY, MAX_PIXELS, MAX_SIDE))

    async def run(self, request, function, upload, *args):
        """function(bytes of the upload, *args) in the thread. Raises Refused."""
        kind = upload.content_type or 'image/'
        if not kind.startswith('image/') and kind != 'application/octet-stream':
            raise Refused(415, f'picture: got another content type, expected one of '
                               f'{", ".join(FORMATS)}')
        if self.waiting >= MAX_WAITING:
            raise Refused(503, 'the model is busy: try again in a second')
        self.waiting += 1
        try:
            async with self.turn:
                if await request.is_disconnected():
                    raise Refused(400, 'the client has gone')
                return await asyncio.get_running_loop().run_in_executor(
                    self.thread, lambda: function(upload.file.read(), *args))
        finally:
            self.waiting -= 1

    def predict(self, content, topk):
        found = next(predict(self.classifier, [read_picture(content)], topk))
        if 'error' in found:
            raise Refused(400, found['error'])
        return Prediction([Class(**one) for one in found['classes']])

    def attention(self, content, layer, head):
        picture = read_picture(content)
        pixels, errors = next(pixel_batches(self.preprocessing, [picture], batch_size=1))
        if errors[0]:
            raise Refused(400, errors[0])
        number = int(head) if head not in ('mean', 'all') else None
        maps = attention_maps(self.model, pixels, layer, number)               # [n, h, w]
        if head == 'mean':
            maps = maps.mean(axis=0, keepdims=True)
        return AttentionMaps(layer % len(self.heads), head, maps.astype(float).round(6).tolist(),
                             seen_box(self.preprocessing, *picture.size))


def make_app(service):
    """The FastAPI application of a Service; Guard stands before it."""
    from fastapi import FastAPI, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.openapi.docs import get_swagger_ui_html
    from fastapi.responses import HTMLResponse, JSONResponse

    app = FastAPI(title=service.facts().name, docs_url=None, redoc_url=None,
                  description='Classifies pictures, and says where the model looks.')
    with open(PAGE, encoding='utf-8') as stream:
        page = stream.read()
    docs = get_swagger_ui_html(openapi_url='/openapi.json', title=f'{app.title}: API',
                               swagger_favicon_url='data:,').body.decode()
    # The script and the style of /docs come from FastAPI's host; without it /docs stays empty.
    cdn = 'https://cdn.jsdelivr.net'

    def html(text, *more):
        policy = content_security_policy(text, *more)

        async def answer():
            return HTMLResponse(text, headers={'Content-Security-Policy': policy})
        return answer

    app.get('/', include_in_schema=False)(html(page))
    app.get('/docs', include_in_schema=False)(html(
        docs, f"script-src {cdn}", f"style-src 'unsafe-inline' {cdn}", 'img-src data:'))

    @app.get('/api/model')
    async def model() -> Facts:
        """What the model is, and what it takes."""
        return service.facts()

    @app.post('/api/predict')
    async def predict(request: Request, file: UploadFile, topk: int = 5) -> Prediction:
        """The `topk` most probable classes of a picture."""
        if topk < 1:
            raise Refused(422, f'topk: got {topk}, expected at least 1')
        return await service.run(request, service.predict, file, topk)

    @app.post('/api/attention')
    async def attention(request: Request, file: UploadFile, layer: int = -1,
                        head: str = 'mean') -> AttentionMaps:
        """Where a layer looks: `layer` from 0, negative from the end; `head` a number, `mean` or
        `all`. A map lies over `box`, the part of the picture that the model sees."""
        if not re.fullmatch(r'mean|all|-?\d{1,4}', head, re.ASCII):
            raise Refused(422, "head: expected a number, 'mean' or 'all'")
        count = len(service.heads)
        if not -count <= layer < count:
            raise Refused(422, f'layer: got {layer}, expected {-count} to {count - 1}')
        return await service.run(request, service.attention, file, layer, head)

    def error(status, detail):
        headers = {'Retry-After': '1'} if status == 503 else None
        return JSONResponse({'detail': detail}, status, headers)

    @app.exception_handler(Refused)
    async def refused(request, exception):
        return error(exception.status, str(exception))

    @app.exception_handler(InputError)
    async def wrong_input(request, exception):
        return error(422, str(exception))

    @app.exception_handler(RequestValidationError)
    async def wrong_fields(request, exception):
        first = exception.errors()[0]
        return error(422, f'{first["loc"][-1]}: {one_line(first["msg"])}')

    @app.exception_handler(Exception)
    async def failed(request, exception):  # the log has the traceback
        return error(500, 'the server has failed; its log says why')

    return app


def content_security_policy(html, *more):
    """A policy that lets in a page's own inline scripts and styles, by their hash, and nothing of
    other hosts.

    Args:
        more: 'DIRECTIVE SOURCES', sources to add to script-src, style-src or img-src.
    """
    sources = {'img-src': ["'self'", 'blob:', 'data:']}
    for tag in ('script', 'style'):
        sources[f'{tag}-src'] = [
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf'<{tag}>(.*?)</{tag}>', html, re.S)]
    for text in more:
        directive, _, added = text.partition(' ')
        sources[directive].append(added)
    return '; '.join(["default-src 'self'", "object-src 'none'", "base-uri 'none'",
                      "form-action 'none'", "frame-ancestors 'none'",
                      *(f'{name} {" ".join(values)}' for name, values in sources.items())])


class Guard:
    """What a request passes before the application, as an ASGI application around it.

    - The Host header names this server, so that no other web site's name can be bound to it.
    - A form that another web site sends is refused.
    - A body has at most MAX_BODY bytes, counted as they come, and BODY_SECONDS.
    - A form is read in pieces of FORM_BYTES, with the other requests' turn in between.
    - At most MAX_UPLOADS bodies come in at a time.
    - All answers have HEADERS.

    Args:
        hosts: names and addresses; '*' stands for all addresses, but for no name.
    """

    def __init__(self, app, hosts):
        self.app = app
        self.hosts = hosts
        self.uploads = 0

    async def __call__(self, scope, receive, send):
        exchange = Exchange(receive, send)
        refusal = self.refusal(scope['method'], dict(scope['headers']))
        if refusal:
            await exchange.refuse(*refusal)
            return
        is_upload = scope['method'] == 'POST'
        self.uploads += is_upload
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the server stops, and does not wait for this one
            exchange.more = False
            await exchange.refuse(503, 'the server stops')
        finally:
            self.uploads -= is_upload

    def refusal(self, method, headers):
        """(status, one line), or None."""
        if not self.serves(headers.get(b'host', b'').decode('latin-1')):
            return 400, 'Host: this name is not served'
        if method != 'POST':
            return None
        if headers.get(b'sec-fetch-site') == b'cross-site':
            return 403, 'another web site must not send pictures'
        if not headers.get(b'content-type', b'').startswith(b'multipart/form-data'):
            return 415, 'Content-Type: expected multipart/form-data'
        if int(headers.get(b'content-length', 0)) > MAX_BODY:
            return 413, TOO_LARGE
        if self.uploads >= MAX_UPLOADS:
            return 503, 'too many uploads: try again in a second'
        return None

    def serves(self, host):
        name = re.sub(r':\d+$', '', host).strip('[]').lower()
        return name in self.hosts or '*' in self.hosts and is_address(name)


TOO_LARGE = f'body: expected at most {MAX_BODY >> 20} MiB'


class Exchange:
    """One request and its answer: the `receive` and `send` of ASGI, with limits and headers."""

    def __init__(self, receive, send):
        self.receive_event = receive
        self.send_event = send
        self.deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        self.size = 0
        self.rest = b''       # of the body: has come, and is not given on yet
        self.more = True      # of the request's body is to come
        self.started = False  # the answer
        self.refused = False  # already, whatever the application says

    async def receive(self):
        if self.rest:
            await asyncio.sleep(0)
            return self.next_piece()
        if not self.more:
            return await self.receive_event()  # the client has gone
        left = self.deadline - asyncio.get_running_loop().time()
        try:
            event = await asyncio.wait_for(self.receive_event(), left)
        except asyncio.TimeoutError:
            return await self.refuse(408, f'body: expected within {BODY_SECONDS} s')
        self.more = event.get('more_body', False)
        body = event.get('body', b'')
        self.size += len(body)
        if self.size > MAX_BODY:
            return await self.refuse(413, TOO_LARGE)
        self.rest = body
        return self.next_piece() if body else event

    def next_piece(self):
        piece, self.rest = self.rest[:FORM_BYTES], self.rest[FORM_BYTES:]
        return {'type': 'http.request', 'body': piece, 'more_body': self.more or bool(self.rest)}

    async def send(self, event):
        if self.refused:
            return
        if event['type'] == 'http.response.start':
            self.started = True
            present = {name.lower() for name, _ in event['headers']}
            event['headers'] = [*event['headers'], *(
                (name.encode(), value.encode()) for name, value in HEADERS.items()
                if name.lower().encode() not in present)]
        elif self.more and not event.get('more_body', False):
            await self.send_event({**event, 'more_body': True})
            event = {'type': 'http.response.body'}
            await self.drain()
        await self.send_event(event)

    async def refuse(self, status, detail):
        """Answers instead of the application, which sees a client that has gone."""
        body = json.dumps({'detail': detail}).encode()
        headers = [(b'content-type', b'application/json'),
                   (b'content-length', str(len(body)).encode())]
        if status == 503:
            headers.append((b'retry-after', b'1'))
        if not self.started:
            await self.send({'type': 'http.response.start', 'status': status, 'headers': headers})
            await self.send({'type': 'http.response.body', 'body': body})
        self.refused = True
        return {'type': 'http.disconnect'}

    async def drain(self):
        """Reads what the client still sends: a connection that is closed with unread data is reset,
        and the answer may be lost with it."""
        async def rest():
            while self.more:
                self.more = (await self.receive_event()).get('more_body', False)

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(rest(), DRAIN_SECONDS)


def make_server(service, hosts):
    """The uvicorn server of a Service, and of the hosts of Guard."""
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        """Closed when it is silent, when its body comes in very many small chunks, and in any case
        after some time."""

        def connection_made(self, transport):
            super().connection_made(transport)
            self.chunks = self.size = 0  # of bodies
            self.conn.next_event = partial(self.next_event, self.conn.next_event)
            self.timers = [self.loop.call_later(HEADER_SECONDS, self.close_if_silent),
                           self.loop.call_later(CONNECTION_SECONDS, transport.abort)]

        def next_event(self, parse):
            event = parse()
            if isinstance(event, h11.Data):
                self.chunks += 1
                self.size += len(event.data)
                if self.chunks > MIN_CHUNKS + self.size // CHUNK_BYTES:
                    self.transport.abort()
                    return h11.NEED_DATA
            return event

        def close_if_silent(self):
            if self.cycle is None:  # no request yet
                self.transport.abort()

        def connection_lost(self, error):
            for timer in self.timers:
                timer.cancel()
            super().connection_lost(error)

    logging.getLogger('python_multipart').setLevel(logging.ERROR)  # broken forms are no news
    return uvicorn.Server(uvicorn.Config(
        Guard(make_app(service), hosts), http=Connection, ws='none', lifespan='off',
        interface='asgi3', log_level='warning', access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS))


def is_address(text):
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def listen(host, port):
    """A socket that listens; clients wait there until the server runs.

    Raises:
        InputError: the address or the port cannot be used.
    """
    if not 0 <= port < 65536:
        raise InputError(f'-port: got {port}, expected 0 to 65535')
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or one_line(error)
        raise InputError(f'-host {host} -port {port}: cannot be used: {reason}') from None
    return listener


def hosts_of(host, address):
    """The names in the Host header that are served; see Guard.

    Args:
        host: of the flag.
        address: that the socket has.
    """
    hosts = {'localhost', '127.0.0.1', '::1', host.lower(), address}
    if ipaddress.ip_address(address).is_unspecified:
        hosts |= {socket.gethostname().lower(), '*'}
    return hosts


def check_extra():
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"the demo page needs {error.name}: pip install -e '.[serve]'") from None


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_extra()
        listener = listen(args.host, args.port)
        address, port = listener.getsockname()[:2]
        if not ipaddress.ip_address(address).is_loopback:
            print(f'WARNING: -host {args.host}: anyone who reaches this machine can use the page; '
                  f'there is no password and no encryption', file=sys.stderr, flush=True)
        set_up_cpu()
        service = Service(model_of(args))
        server = make_server(service, hosts_of(args.host, address))
        shown = f'[{args.host}]' if ':' in args.host else args.host
        print(f'{service.facts().name}: http://{shown}:{port}/ (ctrl-C ends it)', flush=True)
        # uvicorn ends what is under way, then gives the signal on to this handler
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: sys.exit(0))
        server.run(sockets=[listener])


if __name__ == '__main__':
    main()
