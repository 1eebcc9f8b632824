"""What one client may cost the others: connections, slow requests, and answers that nobody reads.

aiohttp closes connections that have waited for a request for too long, and nothing else: a client that takes no answer and any
number of connections are left to whoever uses it. Here each connection is known with its user (SO_PEERCRED),
and one look a second over all of them ends what keeps others waiting.

This needs four names of aiohttp's connections which are no documented interface (`USED`), used here and nowhere else. The public
ways do not do: with the sites of aiohttp 3.14.5, 250 connections with half a head or none kept their places for the 75 s of
keep-alive, which a client between two requests should have and a slow head should not, and 50 clients that took no answer kept
theirs for as long as one looked (300 s). Middlewares, where one could bound a request, are called only when its head has been
read. An aiohttp without these names is refused at the start (`refuse_unusable`).
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import aiohttp
import anyio
from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.web_protocol import RequestHandler

from dyrygentd import __version__, wire
from dyrygentd.errors import ConfigurationError
from dyrygentd.http.access import Peer, peer_of
from dyrygentd.http.limits import ConnectionLimits
from dyrygentd.http.problems import PROBLEM, InternalError, NotHttp, TooBusy, TooManyOfYours

logger = logging.getLogger("dyrygentd.http.server")

USED: Final = ("_current_request", "_messages", "_request_count", "_waiter")
"""What of aiohttp's connections is no documented interface: the request that is answered, those whose heads were read and wait
behind it, how many there were, and what is waited with for the next one."""

KEEPALIVE_TIMEOUT_S: Final = 75.0
"""How long a connection may wait between two requests."""

#: By so much a limit of some seconds may be exceeded.
_LOOK_EVERY_S: Final = 1.0
_REFUSAL: Final = (
    b"HTTP/1.1 %d %b\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n%b: %b\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b"
)
#: Of all places, those that only root may take: who is to find out what the others do.
_RESERVED_SHARE: Final = 0.1


@dataclass(slots=True)
class GuardStatistics:
    """What was kept out, by reason, and how many connections there are."""

    connections: int = 0
    refused: dict[str, int] = field(default_factory=dict)


#: Why a connection was refused or ended: labels of the metric, beside what requests find taken (`Seats`).
REASONS: Final = ("full", "client", "slow head", "unread answer")


class Guard:
    """Knows all connections of a listener. Guards: there are never more than ``connections_max``."""

    def __init__(self, limits: ConnectionLimits | None = None) -> None:
        self.limits = limits or ConnectionLimits()
        self._connections: dict[GuardedConnection, None] = {}
        self._of_user: Counter[int | None] = Counter()
        self._refused: Counter[str] = Counter()
        self._looking = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Guard connections={len(self._connections)} refused={dict(self._refused)}>"

    def statistics(self) -> GuardStatistics:
        """Return a snapshot."""
        return GuardStatistics(len(self._connections), {reason: self._refused[reason] for reason in REASONS})

    def count(self, reason: str) -> None:
        """Count what was refused."""
        self._refused[reason] += 1

    async def run(self) -> None:
        """Look at all connections once a second, until cancelled. Each application may call it: one looks, for all of them."""
        async with self._looking:
            while True:
                await anyio.sleep(_LOOK_EVERY_S)
                now = anyio.current_time()
                for connection in list(self._connections):
                    connection.look(now)

    @property
    def is_busy(self) -> bool:
        """Whether a connection is in the middle of a request, or is new and will say what it wants."""
        return any(not connection.is_between for connection in self._connections)

    def admit(self, connection: "GuardedConnection") -> str:
        """Take a connection in; return why not, if there is no place for it."""
        limits, user = self.limits, connection.user
        if user != 0 and user is not None and self._of_user[user] >= max(1, int(limits.connections_max * limits.user_share)):
            return "client"
        most = limits.connections_max if user == 0 else int(limits.connections_max * (1 - _RESERVED_SHARE))
        if len(self._connections) >= most and not self._close_unused():
            return "full"
        self._connections[connection] = None
        self._of_user[user] += 1
        return ""

    def refusal_of(self, problem: str) -> bytes:
        """Return the whole answer to a connection for which there is no place."""
        most = self.limits.connections_max
        own_max = int(most * self.limits.user_share)
        error = TooManyOfYours("connections", own_max) if problem == "client" else TooBusy("connections", most)
        body = wire.encode(wire.problem_of(error))
        phrase = HTTPStatus(error.status).phrase.encode()
        header, version = wire.VERSION_HEADER.encode(), __version__.encode()
        return _REFUSAL % (error.status, phrase, header, version, len(body), body)

    def leave(self, connection: "GuardedConnection") -> None:
        """Forget a connection that has ended."""
        if connection in self._connections:
            del self._connections[connection]
            self._of_user[connection.user] -= 1

    def _close_unused(self) -> bool:
        """End the oldest connection that nobody uses just now; tell whether there was one."""
        for connection in self._connections:
            if connection.is_unused:
                connection.drop()
                return True
        return False


def refuse_unusable(connection: object) -> None:
    """Refuse an aiohttp whose connections cannot be guarded. Raises `ConfigurationError`."""
    missing = [name for name in USED if not hasattr(connection, name)]
    if missing:
        raise ConfigurationError(
            f"aiohttp {aiohttp.__version__}: its connections cannot be guarded, they have no `{missing[0]}`",
            next_step="`pip install 'aiohttp<3.15'` in the daemon's environment, or a newer dyrygentd",
        )


class GuardedConnection(RequestHandler):
    """aiohttp's connection, which knows its user and since when it keeps others waiting."""

    __slots__ = (
        "_body",
        "_connected",
        "_guard",
        "_head_since",
        "_unread_bytes",
        "_unread_since",
        "_was_used",
        "peer",
        "user",
    )

    def __init__(self, guard: Guard, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            # No log, as for `AppRunner`.
            access_log=None,  # type: ignore[arg-type]
            logger=logger,
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
        )
        self._guard = guard
        self.peer = Peer()
        self.user: int | None = None
        # aiohttp forgets its own when it begins to close.
        self._connected: asyncio.Transport | None = None
        self._head_since: float | None = None
        # Of the last message whose head was read.
        self._body: StreamReader = EMPTY_PAYLOAD
        self._was_used = False
        self._unread_since = 0.0
        self._unread_bytes = 0

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def is_unused(self) -> bool:
        """Whether it may be ended for another's sake: it waits between two requests, or has never said anything."""
        if self._unread:
            return False
        return self.is_between or not self._was_used

    @property
    def is_between(self) -> bool:
        """Whether it waits between two requests."""
        return self._waiter is not None and not self._messages and self._head_since is None

    @property
    def _is_serving(self) -> bool:
        """Whether an answer is on its way: it is not broken off because of what came behind its request."""
        return self._current_request is not None or bool(self._messages)

    @property
    def _unread(self) -> int:
        return 0 if self._connected is None else self._connected.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or turn it away with an answer."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "get_write_buffer_size")
        self._connected = transport  # type: ignore[assignment]
        self.peer = peer_of(transport)
        self.user = self.peer.user
        problem = self._guard.admit(self)
        super().connection_made(transport)
        if problem:
            self._guard.count(problem)
            transport.write(self._guard.refusal_of(problem))  # type: ignore[attr-defined]
            self.force_close()
            return
        self._head_since = self._unread_since = asyncio.get_running_loop().time()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place to another."""
        self._guard.leave(self)
        super().connection_lost(exc)
        self._connected = None

    def data_received(self, data: bytes) -> None:
        """Note whether a head has begun and not ended, also behind a request that is being served."""
        count, body = self._request_count, self._body
        was_over, before = body.is_eof(), body.total_bytes
        self._was_used = True
        super().data_received(data)
        if self._request_count > count:
            message, self._body = self._messages[-1]
            is_begun = self._body.is_eof() and _has_more(message, data)
        elif was_over:
            # Blank lines between two requests are nothing (RFC 9112, 2.2).
            is_begun = bool(data.strip(b"\r\n")) or self._head_since is not None
        else:
            # What is decompressed has another length; then a head that begins in the same packet is seen with the next one.
            read = body.total_bytes - before
            rest = data.rpartition(b"\n")[2] if read == 0 else data[read:]
            is_begun = body.is_eof() and bool(rest) and not data.endswith(_END)
        if not is_begun:
            self._head_since = None
        elif self._head_since is None or self._request_count > count:
            self._head_since = asyncio.get_running_loop().time()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP with a problem document, as everything else."""
        # It logs, and raises if a part of an answer was sent already.
        super().handle_error(request, status, exc, message)
        error = InternalError() if status >= 500 else NotHttp((message or "").partition("\n")[0].strip(" .:"))
        headers = {wire.VERSION_HEADER: __version__}
        response = web.Response(
            body=wire.encode(wire.problem_of(error)), status=error.status, content_type=PROBLEM, headers=headers
        )
        response.force_close()
        return response

    def look(self, now: float) -> None:
        """End the connection if it keeps others waiting for too long."""
        limits, unread = self._guard.limits, self._unread
        if unread == 0 or unread < self._unread_bytes:
            self._unread_since = now
        self._unread_bytes = unread
        if unread and now - self._unread_since > limits.write_timeout_s:
            self._guard.count("unread answer")
            self.drop()
        elif self._head_since is not None and not self._is_serving and now - self._head_since > limits.head_timeout_s:
            self._guard.count("slow head")
            self.drop()

    def drop(self) -> None:
        """End the connection at once: what waits for the client would wait for ever."""
        if self._connected is not None:
            self._connected.abort()


def asking(request: web.Request) -> Peer:
    """Return who asks, as it was when the connection was made."""
    protocol = request.protocol
    return protocol.peer if isinstance(protocol, GuardedConnection) else peer_of(request.transport)


#: Ends a head, and the last chunk of a body in chunks.
_END: Final = b"\r\n\r\n"


def _has_more(message: object, data: bytes) -> bool:
    """Tell whether something stands behind a message whose last byte is in this data, as far as can be seen from there.

    A body of known length may be made to look as if a head ended where none does; then the end of keep-alive ends it.
    """
    headers = getattr(message, "headers", None)
    if headers is None or data.endswith((_END, b"\n\n")):
        return False
    length = headers.get("Content-Length", "0")
    if not length.isdecimal() or length == "0":
        return True
    # Before the body its head ends, perhaps in an earlier packet; behind it a blank line may stand.
    for end in (len(data), len(data) - 2 if data.endswith(b"\r\n") else -1):
        before = end - int(length)
        if 0 <= before <= end and _END.endswith(data[max(0, before - len(_END)) : before]):
            return False
    return True
