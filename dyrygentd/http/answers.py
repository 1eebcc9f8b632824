"""What long answers, and the reading of whole workflows for them, may cost the others.

*Reading back.* A definition, an export, and the nodes of a finished workflow ask for all that is stored of it, and there is one
connection to the database for that. `ReadingTurns` lets a few requests read at a time, of one user fewer, and whoever waits
waits behind no more than one turn of each other user. Who has gone reads nothing. Looking through a long workflow takes turns,
too.

*Sending.* An answer of tens of megabytes is in memory until its reader has taken it. `send_if_long` counts such answers until
then, against a common bound of which one user may take a share. What a browser asks for every few seconds may be hundreds of
kilobytes, mostly numbers and the same names: `compress` makes a third of it or less, for readers that take gzip. Our own clients
on a Unix socket do not ask for that, as nothing is won there.
"""

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Protocol

import anyio
from aiohttp import web

from dyrygentd import wire
from dyrygentd.beside import in_thread
from dyrygentd.http.problems import JSON
from dyrygentd.page import takes_gzip

#: Workflows that are read back at one time, and of one user's.
READINGS_MAX: Final = 4
READINGS_OF_USER_MAX: Final = 2
#: Answers of fewer bytes are in memory twice as long as they take to make, and are bounded by their number.
LONG_BYTES: Final = 256 * 1024
#: In which a long answer has to have been taken; whoever takes nothing at all is cut off earlier.
SENDING_TIMEOUT_S: Final = 120.0

#: Shorter answers fit into a few packets, whatever is done with them.
COMPRESSED_FROM_BYTES: Final = 4096
#: A timeline of 100 boxes, 194 kB, takes 2.5 ms and becomes 71 kB; with 6, gzip's own choice, 16 ms and 58 kB.
_LEVEL: Final = 1
#: Compressing this takes half a millisecond; more of it is a thread's work, in which zlib lets others compute.
_AT_ONCE_BYTES: Final = 32 * 1024


class ByteCount(Protocol):
    """Counts against a bound, per user; see `dyrygentd.http.seats.Seats`."""

    def take(self, user: int | None, number: int = 1) -> None:
        """Take bytes for a user, or raise."""
        ...

    def give_back(self, user: int | None, number: int = 1) -> None:
        """Give them back."""
        ...


class Gone(Exception):
    """The client whose turn it is has gone."""


class ReadingTurns:
    """Whose turn it is to read. Guards: never more than ``maximum`` read, of one user fewer, unless it is root."""

    def __init__(self, maximum: int = READINGS_MAX, of_user_max: int = READINGS_OF_USER_MAX) -> None:
        self._maximum = maximum
        self._of_user_max = of_user_max
        self._reading: Counter[int | None] = Counter()
        # Of each user those who wait, longest first; users in the order in which they had their last turn.
        self._waiting: dict[int | None, dict[anyio.Event, None]] = {}

    def __repr__(self) -> str:
        return f"<ReadingTurns reading={self._reading.total()} of={self._maximum}>"

    @asynccontextmanager
    async def of(self, user: int | None, is_there: Callable[[], bool]) -> AsyncIterator[None]:
        """Wait for a turn of a user's. Raises `Gone` if it comes too late."""
        mark = anyio.Event()
        self._waiting.setdefault(user, {})[mark] = None
        self._let_in()
        try:
            await mark.wait()
            if not is_there():
                raise Gone
            yield
        finally:
            if mark.is_set():
                self._reading[user] -= 1
                if not self._reading[user]:
                    del self._reading[user]
            else:
                self._forget(user, mark)
            self._let_in()

    def _forget(self, user: int | None, mark: anyio.Event) -> None:
        of_user = self._waiting[user]
        del of_user[mark]
        if not of_user:
            del self._waiting[user]

    def _let_in(self) -> None:
        while self._reading.total() < self._maximum:
            user = next((user for user in self._waiting if self._reading[user] < self._most_of(user)), -1)
            if user == -1:
                return
            mark = next(iter(self._waiting[user]))
            self._forget(user, mark)
            if user in self._waiting:
                # Behind the others.
                self._waiting[user] = self._waiting.pop(user)
            self._reading[user] += 1
            mark.set()

    def _most_of(self, user: int | None) -> int:
        return self._maximum if user == 0 else self._of_user_max


async def compress(request: web.Request, response: web.StreamResponse) -> None:
    """Compress an answer in JSON if it is not short and whoever asked takes gzip."""
    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or len(body) < COMPRESSED_FROM_BYTES or response.content_type != JSON:
        return
    assert isinstance(response, web.Response)
    response.headers["Vary"] = "Accept-Encoding"
    if takes_gzip(request.headers.get("Accept-Encoding", "")):
        packed = await in_thread(_packed, body) if len(body) > _AT_ONCE_BYTES else _packed(body)
        response.headers["Content-Encoding"] = "gzip"
        response.body = packed


def _packed(body: bytes) -> bytes:
    return gzip.compress(body, _LEVEL, mtime=0)


async def send_if_long(request: web.Request, response: web.StreamResponse, user: int | None, sending: ByteCount) -> None:
    """Send an answer right here if it is long, counted until it is taken. Raises what the count raises if there is no room."""
    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or len(body) < LONG_BYTES:
        return
    sending.take(user, len(body))
    try:
        async with asyncio.timeout(SENDING_TIMEOUT_S):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        # It has gone, which whoever sends an answer finds out by itself.
        return
    finally:
        sending.give_back(user, len(body))


def as_json(view: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a view as the answer to a request."""
    return web.Response(body=wire.encode(view), status=status, content_type=JSON, headers=headers)
