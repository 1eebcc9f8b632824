"""Run an application on sockets that listen already, and end it without cutting off anybody in the middle."""

import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from dyrygentd.http.sockets import BACKLOG

logger = logging.getLogger("dyrygentd.http.server")

SHUTDOWN_TIMEOUT_S: Final = 5.0
"""Streams and long polls end at once on shutdown; what else is running gets so long to end."""


@asynccontextmanager
async def serving(
    app: web.Application, sockets: Sequence[socket.socket], *, shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S
) -> AsyncIterator[None]:
    """Serve ``app`` on ``sockets`` and close them at the end. Signals and the event loop are left alone."""
    runner = web.AppRunner(
        app, handle_signals=False, access_log=None, logger=logger, shutdown_timeout=shutdown_timeout_s, keepalive_timeout=75.0
    )
    await runner.setup()
    try:
        for listening in sockets:
            # aiohttp listens again, with 128 unless told otherwise.
            await web.SockSite(runner, listening, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()


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
