"""HTTP with the daemon for asyncio programs: what `dyrygentd.client.connection` is for the others. A home of aiohttp."""

import asyncio
import errno
import io
import os
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
    find_socket,
    foreign,
    is_busy,
    timed_out,
    unreachable,
)
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

    def __init__(self, socket: str | os.PathLike[str] | None, *, timeout_s: float, warn: Warn | None) -> None:
        self.path = find_socket(socket)
        self._timeout_s = timeout_s
        self._versions = VersionCheck(self.path, warn)
        self._session: aiohttp.ClientSession | None = None

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
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

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
                self._versions.check(response.headers.get(wire.VERSION_HEADER), response.headers.get("Server"))
                yield response
        except TimeoutError as error:
            raise timed_out(self.path, limits.total or limits.sock_read or 0.0, ask.if_lost) from error
        except aiohttp.ClientConnectorError as error:
            raise unreachable(self.path, error.os_error) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ClientOSError) as error:
            if getattr(error, "errno", None) == errno.EPIPE:
                raise _Unread(
                    f"'{self.path}' closed the connection before it had read the request",
                    next_step="nothing was done; try again, and see the daemon's log",
                ) from error
            is_full = getattr(error, "errno", None) in _BACKLOG_FULL
            code = errno.EAGAIN if is_full else errno.ECONNRESET
            raise unreachable(self.path, OSError(code, str(error)), ask.if_lost) from error
        except aiohttp.ClientError as error:
            raise foreign(self.path, "what came is no HTTP") from error

    async def _open(
        self, ask: forms.Ask, limits: aiohttp.ClientTimeout, progress: forms.Progress | None
    ) -> aiohttp.ClientResponse:
        """Send a request; if the daemon's backlog is full, try again a few times."""
        if self._session is None:
            # Like the other client: a connection for each request, so none is met that the daemon has just closed.
            connector = aiohttp.UnixConnector(path=str(self.path), limit=_CONNECTIONS_MAX, force_close=True)
            # Nothing is won by compressing what stays on one machine.
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
