"""Connections by which rank 0 notices that a process on another machine has gone.

Paddle's launcher ends the ranks of its own machine when one of them dies. Of another machine's it
knows nothing, and a rank that waits at a Barrier would wait for ever.
"""
import select
import socket
import time

from common.core.errors import RunError

GRACE = 5.0  # seconds after which a rank that has gone, and that others wait for, is missed
LIMIT = 60.0  # seconds that the ranks have to connect
KEEPALIVE = 5  # seconds, and a third of those after which a machine that is silent has gone
TOKEN = 32  # characters


class Lifelines:
    """Rank 0's ends of a connection to each other rank; the system closes it with the process.

    Attributes:
        ranks: {connection: rank}.
    """

    def __init__(self):
        self.ranks, self.kept, self.gone = {}, None, {}

    def accept(self, server, token, count):
        """Takes the connections of so many ranks, which send the token and their number."""
        deadline = time.monotonic() + LIMIT
        while len(self.ranks) < count:
            server.settimeout(max(deadline - time.monotonic(), 0.1))
            try:
                connection, _ = server.accept()
                connection.settimeout(KEEPALIVE)
                text = connection.recv(TOKEN + 8, socket.MSG_WAITALL).decode('ascii', 'replace')
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue  # somebody who says nothing
                raise RunError(f'{count - len(self.ranks)} processes have not connected within '
                               f'{LIMIT:.0f} s') from None
            if text[:TOKEN] != token:
                connection.close()
                continue
            keep_alive(connection)
            self.ranks[connection] = int(text[TOKEN:])

    def connect(self, host, port, token, rank):
        """Makes this rank's connection to rank 0."""
        self.kept = socket.create_connection((host, port), LIMIT)
        keep_alive(self.kept)
        self.kept.sendall(f'{token}{rank:08d}'.encode())

    def missed(self):
        """The rank that has been gone for GRACE seconds, or None. (One that has come to the end of
        the run may go while others are still there.)"""
        for connection in select.select([*self.ranks], [], [], 0)[0]:
            self.gone[self.ranks.pop(connection)] = time.monotonic()
        return next((rank for rank, since in self.gone.items()
                     if time.monotonic() - since > GRACE), None)


def keep_alive(connection):
    """Has the system notice that the other end's machine is silent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (('TCP_KEEPIDLE', KEEPALIVE), ('TCP_KEEPINTVL', KEEPALIVE),
                        ('TCP_KEEPCNT', 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
