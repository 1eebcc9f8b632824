"""HTTP with the daemon for asyncio programs: what `dyrygentd.client.connection` is for the others. A home of aiohttp."""

import asyncio
import errno
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp

from dyrygentd import wire
from dyrygentd.client import forms
from dyrygentd.client.connection import (
    CONNECT_PAUSES_S,
    ToldBody,
    VersionCheck,
    Warn,
    busy_pauses_s,
    foreign,
    is_busy,
    timed_out,
)
from dyrygentd.client.ways import Where, find_way
from dyrygentd.errors import DaemonUnreachable, RemoteError

_BACKLOG_FULL = frozenset({errno.EAGAIN, errno.ENOTCONN})
"""asyncio takes EAGAIN of a Unix socket for "in progress", so that the socket turns out not to be connected (ENOTCONN)."""

_CONNECTIONS_MAX = 100
"""Requests of one client at one time, streams and waits included; further ones take turns."""


class _Unread(DaemonUnreachable):
    """The daemon closed the connection while the request was being sent, as it does if it has too many clients.

    It has not read all of it, so nothing was done. Its answer may be there; aiohttp does not read it any more.
    """


class Channel:
    """Speaks HTTP with the daemon; the session is made on first use, in the loop that uses it."""

    def __init__(self, socket: Where, *, timeout_s: float, warn: Warn | None, note: Warn | None = None) -> None:
        self.way = find_way(socket, timeout_s=timeout_s)
        # One that was handed in is closed by whoever made it.
        self._is_own = self.way is not socket
        self._timeout_s = timeout_s
        self._versions = VersionCheck(self.way.name, warn, note)
        self._session: aiohttp.ClientSession | None = None
        self._opening = 0

    @property
    def vantage(self) -> str:
        """Return what the last answer says of a daemon that does not lead; empty if it leads."""
        return self._versions.vantage

    async def request(self, ask: forms.Ask, *, progress: forms.Progress | None = None) -> bytes:
        """Return the body of the answer. Raises `DaemonUnreachable` or `RemoteError`."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_s + ask.extra_s)
        async with self._exchange(ask, timeout, progress) as response:
            return await response.read()

    async def lines(self, target: str, *, silence_max_s: float) -> AsyncIterator[bytes]:
        """Iterate over the lines of an endless answer."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=silence_max_s)
        async with self._exchange(forms.Ask("GET", target), timeout) as response:
            # By hand, as aiohttp refuses lines of more than 128 KiB, and a fold may be longer.
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.rstrip(b"\r")

    async def close(self) -> None:
        """Close the session, and the way to the daemon."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._is_own:
            self.way.close()

    @asynccontextmanager
    async def _exchange(
        self, ask: forms.Ask, limits: aiohttp.ClientTimeout, progress: forms.Progress | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        for pause_s in busy_pauses_s():
            async with AsyncExitStack() as exits:
                try:
                    response = await exits.enter_async_context(self.answered(ask, limits, progress))
                    if wire.is_problem(response.status, response.headers.get("Content-Type")):
                        raise wire.error_of_problem(await response.read(), response.status)
                except (RemoteError, _Unread) as error:
                    if not pause_s or not (isinstance(error, _Unread) or is_busy(error)):
                        raise
                else:
                    yield response
                    return
            await asyncio.sleep(pause_s)

    @asynccontextmanager
    async def answered(
        self, ask: forms.Ask, limits: aiohttp.ClientTimeout, progress: forms.Progress | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield whatever the daemon answers, a refusal too, before its body is read. Raises `DaemonUnreachable`."""
        try:
            async with await self._open(ask, limits, progress) as response:
                self._versions.check(response.headers)
                yield response
        except TimeoutError as error:
            raise timed_out(self.way.name, limits.total or limits.sock_read or 0.0, ask.if_lost) from error
        except aiohttp.ClientConnectorError as error:
            raise self.way.unreachable(error.os_error) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ClientOSError) as error:
            if getattr(error, "errno", None) == errno.EPIPE:
                raise _Unread(
                    f"'{self.way.name}' closed the connection before it had read the request",
                    next_step="nothing was done; try again, and see the daemon's log",
                ) from error
            is_full = getattr(error, "errno", None) in _BACKLOG_FULL
            code = errno.EAGAIN if is_full else errno.ECONNRESET
            raise self.way.unreachable(OSError(code, str(error)), ask.if_lost) from error
        except aiohttp.ClientError as error:
            raise foreign(self.way.name, "what came is no HTTP") from error

    async def _open(
        self, ask: forms.Ask, limits: aiohttp.ClientTimeout, progress: forms.Progress | None
    ) -> aiohttp.ClientResponse:
        """Send a request; if the daemon's backlog is full, try again a few times."""
        path = self.way.path or await self._open_way()
        if self._session is None:
            # Like the other client: a connection for each request, so none is met that the daemon has just closed.
            connector = aiohttp.UnixConnector(path=path, limit=_CONNECTIONS_MAX, force_close=True)
            # Nothing is won by compressing what stays on one machine; ssh compresses if it is told to.
            self._session = aiohttp.ClientSession(connector=connector, skip_auto_headers=["Accept-Encoding"])
        url = f"http://localhost{ask.target}"
        for pause_s in (*CONNECT_PAUSES_S, 0.0):
            # aiohttp sends a file piece by piece, and warns of bytes as long as some definitions are.
            body = None if ask.body is None else io.BytesIO(ask.body) if progress is None else ToldBody(ask.body, progress)
            try:
                return await self._session.request(ask.method, url, data=body, headers=ask.headers, timeout=limits)
            except aiohttp.ClientOSError as error:
                if error.errno not in _BACKLOG_FULL or not pause_s:
                    raise
            await asyncio.sleep(pause_s)
        raise AssertionError("the last try neither answered nor failed")

    async def _open_way(self) -> str:
        """Open the way in a thread; if nobody waits for it any more, it is given up."""
        self._opening += 1
        try:
            return await asyncio.to_thread(self.way.open)
        except asyncio.CancelledError:
            # Else the thread, and with it the end of the program, would wait for ssh.
            if self._opening == 1:
                self.way.close()
            raise
        finally:
            self._opening -= 1
