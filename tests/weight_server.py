"""A host of weight files on this machine, with the faults that hosts have.

The first part of a path is what happens, the second the file: /cut/NAME breaks off in the middle
once, /cut_no_range/NAME too, on a server that always starts from the beginning.
"""
import base64
import hashlib
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        """What the Hugging Face hub tells of a file; other hosts are not asked."""
        _, kind, name = self.path.split('/', 2)
        content = self.server.files.get(name)
        if content is None:
            repository = '/'.join(name.split('/')[:2])
            is_there = any(other.startswith(f'{repository}/') for other in self.server.files)
            self.send_response(404)
            self.send_header('X-Error-Code', 'EntryNotFound' if is_there else 'RepoNotFound')
            self.send_header('X-Repo-Commit', '0' * 40)
        else:
            self.send_response(200)
            self.send_header('X-Repo-Commit', '0' * 40)
            self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header('Content-Length', str(len(content or b'')))
        self.end_headers()

    def do_GET(self):
        if self.path.startswith('http:'):  # as to a proxy
            self.path = urlsplit(self.path).path
        _, kind, name = self.path.split('/', 2)
        seen = self.server.seen
        with self.server.lock:
            seen.append((self.path, self.headers.get('Range')))
            count = sum(path == self.path for path, _ in seen)
        content = self.server.files.get(name.partition('?')[0])
        if content is None or kind == 'missing':
            return self.plain(404)
        if kind == 'error' or kind == 'late' and count < 3:
            return self.plain(500)
        if kind in ('redirect', 'lfs_wrong'):
            return self.redirect(f'/good/{name}', kind)
        if kind == 'to_http':
            return self.redirect('http://192.0.2.1/x.pdparams', kind)
        if kind == 'changed' and count > 1:
            content = content[::-1]
        return self.send(kind, content, count)

    def plain(self, status):
        self.send_response(status)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def redirect(self, target, kind):
        self.send_response(302)
        self.send_header('Location', target)
        self.send_header('Content-Length', '0')
        if kind == 'lfs_wrong':
            self.send_header('X-Linked-Etag', f'"{"0" * 64}"')
        self.end_headers()

    def send(self, kind, content, count):
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start, wanted = 0, self.headers.get('Range')
        if wanted and kind != 'cut_no_range' and self.headers.get('If-Range', etag) == etag:
            start = int(wanted.removeprefix('bytes=').removesuffix('-'))
        self.send_response(206 if start else 200)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        if kind == 'no_length':
            self.close_connection = True
        else:
            length = 1 << 60 if kind == 'huge' else len(content) - start
            self.send_header('Content-Length', str(length))
        self.send_header('ETag', etag)
        self.send_header('Content-Type', 'text/html' if kind == 'page' else 'application/x')
        if kind in ('google', 'google_wrong'):
            of = content if kind == 'google' else b'other'
            md5 = base64.b64encode(hashlib.md5(of).digest()).decode()
            self.send_header('x-goog-hash', 'crc32c=AAAAAA==')
            self.send_header('x-goog-hash', f'md5={md5}')
        self.end_headers()
        half = len(content) // 2
        if kind in ('cut', 'cut_no_range', 'changed', 'stall_once') and count == 1 \
                or kind in ('stall', 'slow'):
            self.wfile.write(content[start:half])
            self.wfile.flush()
            if 'stall' in kind:
                self.server.released.wait(30)
            if kind == 'slow' and not self.server.released.wait(30):
                return
            if kind == 'slow':
                self.wfile.write(content[max(start, half):])
            self.close_connection = True
            return
        self.wfile.write(content[start:])


class Server(ThreadingHTTPServer):
    """Attributes: files {name: bytes}, which may be changed; seen [(path, Range or None)];
    released, an Event that lets go what stalls."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.files, self.seen = {}, []
        self.lock, self.released = threading.Lock(), threading.Event()

    def handle_error(self, request, client_address):
        pass  # who asked has gone

    def url(self, kind, name):
        return f'http://127.0.0.1:{self.server_port}/{kind}/{name}'

    def count(self, kind, name):
        """How often a file was asked for."""
        return sum(path == f'/{kind}/{name}' for path, _ in self.seen)

    def wait_for(self, kind, name, seconds=60):
        """Waits until a file is asked for."""
        for _ in range(seconds * 50):
            if self.count(kind, name):
                return
            time.sleep(0.02)
        raise AssertionError(f'nobody has asked for {kind}/{name}')


@contextmanager
def serving():
    """A Server that runs in a thread."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
