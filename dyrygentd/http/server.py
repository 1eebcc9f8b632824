"""Run an application on sockets that listen already, and end it without cutting off anybody in the middle."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from dyrygentd.http.guard import Guard, GuardedConnection, refuse_unusable
from dyrygentd.http.sockets import BACKLOG

logger = logging.getLogger("dyrygentd.http.server")

SHUTDOWN_TIMEOUT_S: Final = 5.0
"""Streams and long polls end at once on shutdown; what else is running gets so long to end."""


@asynccontextmanager
async def serving(
    app: web.Application,
    sockets: Sequence[socket.socket],
    *,
    guard: Guard | None = None,
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
) -> AsyncIterator["Site"]:
    """Serve ``app`` on ``sockets`` and close them at the end. Signals and the event loop are left alone.

    Args:
        guard: Bounds what a client may cost the others.

    Raises:
        ConfigurationError: The aiohttp that is installed makes connections that cannot be guarded.
    """
    guard = guard or Guard()
    runner = web.AppRunner(app, handle_signals=False, access_log=None, logger=logger, shutdown_timeout=shutdown_timeout_s)
    await runner.setup()
    try:
        assert runner.server is not None
        refuse_unusable(runner.server())
        site = Site(runner, guard)
        # Without its guard nobody is served: an error of it ends whoever serves.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guard.run, name="dyrygentd http guard")
            try:
                for listening in sockets:
                    await site.listen(listening)
                yield site
            finally:
                site.close()
                tasks.cancel_scope.cancel()
    finally:
        # Also when the program around is being cancelled: those who wait are told why.
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


class Site:
    """The sockets on which an application is served, with one guard for all of them.

    Guards: a socket is kept while it is paused, so that whoever comes meanwhile waits in it.
    """

    def __init__(self, runner: web.AppRunner, guard: Guard) -> None:
        self.guard = guard
        self._runner = runner
        self._servers: list[asyncio.Server] = []
        self._kept: list[socket.socket] = []

    def __repr__(self) -> str:
        return f"<Site servers={len(self._servers)} {self.guard!r}>"

    async def listen(self, listening: socket.socket) -> None:
        """Serve on one more socket."""
        # A server closes its socket with itself.
        self._kept.append(listening.dup())
        await self._serve(listening)

    def pause(self) -> None:
        """Accept nobody for now: who comes waits. Safe to repeat."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def resume(self) -> None:
        """Accept again, those first who wait."""
        for kept in self._kept:
            await self._serve(kept.dup())

    def close(self) -> None:
        """Accept nobody any more."""
        self.pause()
        for kept in self._kept:
            kept.close()
        self._kept.clear()

    async def _serve(self, listening: socket.socket) -> None:
        server = self._runner.server
        assert server is not None
        # Not by `web.SockSite`, which makes connections that nobody guards.
        loop = asyncio.get_running_loop()
        # It listens again, with 100 unless told otherwise.
        self._servers.append(
            await loop.create_server(lambda: GuardedConnection(self.guard, server), sock=listening, backlog=BACKLOG)
        )


class _WithoutMalformed(logging.Filter):
    """A request that is no HTTP is the client's fault: one line without a traceback, and only for who asks for it.

    A body that cannot be decoded is met a second time when aiohttp reads what the handler has left of it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError):
            logger.debug("a request is no HTTP: %s", record.exc_info[1])
            return False
        return True


logger.addFilter(_WithoutMalformed())
