"""Server-sent events: a workflow now and after each change, until it has finished.

The first event is all there is, and each later one a whole view or what has changed since the one before. So a client that lost
its connection connects again and has missed nothing; there is no ``Last-Event-ID``. A slow client slows nobody: the scheduler
coalesces changes until the client takes the next event.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import anyio
from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError

from dyrygentd import wire
from dyrygentd.errors import DyrygentError

WRITE_TIMEOUT_S: Final = 30.0
"""A client that takes nothing for so long gives its place to another."""

_HEARTBEAT: Final = b": still here\n\n"
_END: Final = b"event: end\ndata: {}\n\n"
_BYE: Final = b"event: bye\ndata: {}\n\n"


def event(kind: str, data: bytes) -> bytes:
    """Return an event as it is sent; the data is JSON, which has no line ends."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


async def send_events(
    request: web.Request,
    events: AsyncIterator[bytes],
    *,
    stopping: Callable[[], Awaitable[object]],
    forbidden: Callable[[], Awaitable[DyrygentError]],
    heartbeat_s: float,
) -> web.StreamResponse:
    """Send events as they come; then ``end``, or ``bye`` as soon as ``stopping()`` returns. A client that leaves is no error.

    Args:
        forbidden: Returns, with the reason, as soon as the client may not read any more; it is told, and sees nothing else.
    """
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    frames_in, frames = anyio.create_memory_object_stream[bytes](0)

    following = anyio.CancelScope()

    async def follow() -> None:
        with following:
            try:
                async for each in events:
                    await frames_in.send(each)
            except DyrygentError as error:
                await frames_in.send(_error(error))
            await frames_in.send(_END)

    async def shut_out() -> None:
        error = await forbidden()
        # What waits to be taken is not sent any more.
        following.cancel()
        await frames_in.send(_error(error))
        await frames_in.send(_END)

    async def say_bye() -> None:
        await stopping()
        await frames_in.send(_BYE)

    async with frames_in, frames, anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        tasks.start_soon(say_bye)
        tasks.start_soon(shut_out)
        try:
            await response.prepare(request)
            frame = b""
            while frame not in (_END, _BYE):
                frame = _HEARTBEAT
                with anyio.move_on_after(heartbeat_s):
                    frame = await frames.receive()
                with anyio.fail_after(WRITE_TIMEOUT_S):
                    await response.write(frame)
        except (ClientConnectionResetError, ConnectionError, TimeoutError):
            pass
        tasks.cancel_scope.cancel()
    return response


def _error(error: DyrygentError) -> bytes:
    return event("error", wire.encode(wire.problem_of(error)))
