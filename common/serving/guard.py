"""What a request passes before the application, as an ASGI application around it.

Requests are not trusted: who sends one may be another web site in the user's browser, or a client
that sends slowly, too much, or in very many pieces. server.py limits the connections below this.
"""
import asyncio
import contextlib
import ipaddress
import json
import re

from common.serving.pictures import MAX_BODY

MAX_UPLOADS = 32      # bodies that come in at a time
BODY_SECONDS = 20     # from the end of a request's headers to the end of its body
DRAIN_SECONDS = 2     # for what is still sent after the answer
FORM_BYTES = 1 << 14  # of a form that are read before it is the others' turn
TOO_LARGE = f'body: expected at most {MAX_BODY >> 20} MiB'
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


class Guard:
    """An ASGI application that lets requests pass to another one.

    - The Host header names this server, so that no other web site's name can be bound to it.
    - A form that another web site sends is refused.
    - A body has at most MAX_BODY bytes, counted as they come, and BODY_SECONDS.
    - A form is read in pieces of FORM_BYTES, with the other requests' turn in between.
    - At most MAX_UPLOADS bodies come in at a time.
    - All answers have HEADERS.

    Args:
        app: the application behind it.
        hosts: set of names and addresses; '*' stands for all addresses, but for no name.
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
            exchange.more_body = False
            await exchange.refuse(503, 'the server stops')
        finally:
            self.uploads -= is_upload

    def refusal(self, method, headers):
        """(status, one line) for a request that must not pass, or None."""
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
        """Whether a Host header names this server."""
        name = re.sub(r':\d+$', '', host).strip('[]').lower()
        return name in self.hosts or '*' in self.hosts and is_address(name)


def is_address(text):
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Exchange:
    """One request and its answer: the `receive` and `send` of ASGI, with limits and headers."""

    def __init__(self, receive, send):
        self.receive_event = receive
        self.send_event = send
        self.deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        self.size = 0           # bytes of the body that have come
        self.pending = b''      # those of them that the application has not got yet
        self.more_body = True   # whether more of the body is to come
        self.started = False    # whether the answer has begun
        self.refused = False    # whether it is a refusal, whatever the application says

    async def receive(self):
        """The next event for the application: a piece of the body, or that the client has gone."""
        if self.pending:
            await asyncio.sleep(0)  # the others' turn
            return self.next_piece()
        if not self.more_body:
            return await self.receive_event()  # the client has gone
        seconds_left = self.deadline - asyncio.get_running_loop().time()
        try:
            event = await asyncio.wait_for(self.receive_event(), seconds_left)
        except asyncio.TimeoutError:
            return await self.refuse(408, f'body: expected within {BODY_SECONDS} s')
        self.more_body = event.get('more_body', False)
        body = event.get('body', b'')
        self.size += len(body)
        if self.size > MAX_BODY:
            return await self.refuse(413, TOO_LARGE)
        self.pending = body
        return self.next_piece() if body else event

    def next_piece(self):
        piece, self.pending = self.pending[:FORM_BYTES], self.pending[FORM_BYTES:]
        return {'type': 'http.request', 'body': piece,
                'more_body': self.more_body or bool(self.pending)}

    async def send(self, event):
        """Takes an event of the application's answer, adds HEADERS, and gives it on."""
        if self.refused:
            return
        if event['type'] == 'http.response.start':
            self.started = True
            present = {name.lower() for name, _ in event['headers']}
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()
                     if name.lower().encode() not in present]
            event['headers'] = [*event['headers'], *added]
        elif self.more_body and not event.get('more_body', False):
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
        async def read_on():
            while self.more_body:
                self.more_body = (await self.receive_event()).get('more_body', False)

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read_on(), DRAIN_SECONDS)
