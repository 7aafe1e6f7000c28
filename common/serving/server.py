"""The server: its socket, its connections, and the names that it answers to."""
import ipaddress
import logging
import signal
import socket
import sys
from functools import partial

from common.core.errors import InputError, one_line
from common.serving.app import make_app
from common.serving.guard import Guard

MAX_CONNECTIONS = 256
HEADER_SECONDS = 10       # from the connection to the end of the request's headers
CONNECTION_SECONDS = 120  # from the connection to the end of the answer
STOP_SECONDS = 1          # for what is under way when the server stops
# Chunks or packets of a body: so many, and one for so many bytes. A small one takes the same time
# as a large one.
MIN_CHUNKS, CHUNK_BYTES = 1000, 256
MAX_PORT = 65535


def check_extra():
    """Raises InputError if the packages of the extra 'serve' are not installed."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"the demo page needs {error.name}: pip install "
                         f"'paddle-vitae[serve]'") from None


def listen(host, port):
    """A socket that listens; clients wait there until the server runs.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one.

    Raises:
        InputError: the address or the port cannot be used.
    """
    if not 0 <= port <= MAX_PORT:
        raise InputError(f'-port: got {port}, expected 0 to {MAX_PORT}')
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
    """The names in the Host header that are served, for Guard.

    Args:
        host: value of the flag -host.
        address: the address that the socket has.
    """
    hosts = {'localhost', '127.0.0.1', '::1', host.lower(), address}
    if ipaddress.ip_address(address).is_unspecified:
        hosts |= {socket.gethostname().lower(), '*'}
    return hosts


def serve(service, listener, host):
    """Answers requests until SIGINT or SIGTERM ends the process.

    Args:
        service: Service.
        listener: socket of `listen`.
        host: value of the flag -host.
    """
    address, port = listener.getsockname()[:2]
    server = make_server(service, hosts_of(host, address))
    shown_host = f'[{host}]' if ':' in host else host
    print(f'{service.info().name}: http://{shown_host}:{port}/ (ctrl-C ends it)', flush=True)
    # uvicorn ends what is under way, then gives the signal on to this handler
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    server.run(sockets=[listener])


def make_server(service, hosts):
    """The uvicorn server of a Service.

    Args:
        hosts: of Guard.
    """
    import uvicorn

    logging.getLogger('python_multipart').setLevel(logging.ERROR)  # broken forms are no news
    return uvicorn.Server(uvicorn.Config(
        Guard(make_app(service), hosts), http=connection_class(), ws='none', lifespan='off',
        interface='asgi3', log_level='warning', access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS))


def connection_class():
    """The class of uvicorn's connections. (uvicorn may not be installed when this file is read.)"""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        """It is closed when it is silent, when its body comes in very many small chunks, and in any
        case after some time."""

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

    return Connection
