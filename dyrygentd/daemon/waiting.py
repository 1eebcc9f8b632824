"""Clients who wait in the sockets that systemd holds, while the daemon starts: told why, if it cannot.

A daemon that ended without a word would leave them in the socket, whose unit then has it started again, at once and for ever. So
each is answered with the reason, and the socket is quiet again: one start for those who wait, and none without a client. (A limit
on starts in the units was the alternative. It makes clients wait until it is reached, a start by hand is refused after the reason
is mended, and a socket that has failed by it stays away from a daemon that has come back.)
"""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from dyrygentd import __version__, wire
from dyrygentd.daemon.systemd import passed_descriptors
from dyrygentd.errors import DyrygentError
from dyrygentd.http.problems import NotStarted

#: A client sends its request at once; one that does not is let go.
_REQUEST_S: Final = 0.5
#: For all that wait: whoever comes later has the daemon started again.
_ALL_S: Final = 5.0
_HEAD_BYTES_MAX: Final = 64 * 1024


class WaitingClients:
    """The sockets that were passed to this process, for an answer to who waits in them; they stay as they are for others.

    Entered, it answers if a `DyrygentError` comes out before `let_go` was called, and lets the error pass.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._sockets: list[socket.socket] = []
        for descriptor in passed_descriptors(environ):
            # What is no socket is told by whoever takes them over.
            with suppress(OSError):
                self._sockets.append(socket.socket(fileno=os.dup(descriptor)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if isinstance(error, DyrygentError):
            self.answer(error.message, next_step=error.next_step)
        self.let_go()

    def let_go(self) -> None:
        """Leave the sockets to whoever serves them."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    def answer(self, reason: str, *, next_step: str = "") -> None:
        """Tell everybody who waits why the daemon cannot start."""
        told = _response(NotStarted(reason, next_step=next_step or "see `journalctl -u dyrygentd`"))
        # On TCP anybody may ask, and configuration is nobody's there.
        untold = _response(NotStarted("", next_step="the daemon's log tells more"))
        until = time.monotonic() + _ALL_S
        for listening in self._sockets:
            listening.setblocking(False)
            # Until nobody waits any more.
            with suppress(OSError):
                while time.monotonic() < until:
                    client, _ = listening.accept()
                    with client, suppress(OSError):
                        _answer(client, told if listening.family == socket.AF_UNIX else untold)


def _answer(client: socket.socket, response: bytes) -> None:
    client.settimeout(_REQUEST_S)
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES_MAX:
        part = client.recv(_HEAD_BYTES_MAX)
        if not part:
            return
        head += part
    client.sendall(response)
    client.shutdown(socket.SHUT_WR)
    # A connection that is closed with unread data in it is cut, and the answer may be lost with it.
    until = time.monotonic() + _REQUEST_S
    while client.recv(_HEAD_BYTES_MAX) and time.monotonic() < until:
        pass


def _response(error: NotStarted) -> bytes:
    body = wire.encode(wire.problem_of(error))
    head = (
        f"HTTP/1.1 {error.status} Service Unavailable\r\nContent-Type: {wire.PROBLEM}\r\nContent-Length: {len(body)}\r\n"
        f"{wire.VERSION_HEADER}: {__version__}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
