"""How a daemon with passed sockets leaves: clients come to the next one, and are not left in the dark if that takes long.

While it waits for tasks in flight, new clients stay in the socket, for the daemon that follows: a restart refuses nobody. But a
client gives up after a minute. So where the wait takes long, and may go on, clients are served again: they read, and what is
refused now says why. Before the end they are left in the socket once more.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from dyrygentd.http.server import Site

#: How long requests that have begun may take before submissions are refused.
_HAND_OVER_S: Final = 1.0
#: What a client may be kept waiting at the beginning of a long wait, and before its end; both far below a client's own patience.
_AT_FIRST_S: Final = 10.0
_AT_LAST_S: Final = 20.0


async def leave(
    passed: Site | None,
    drain: Callable[[], Awaitable[object]],
    *,
    timeout_s: float,
    at_first_s: float = _AT_FIRST_S,
    at_last_s: float = _AT_LAST_S,
) -> None:
    """Wait for tasks in flight.

    Args:
        passed: Where clients are served whose sockets outlive this process; None if there are none.
        drain: Waits, for up to ``timeout_s``.
    """
    if passed is None:
        await drain()
        return
    until = time.monotonic() + timeout_s - at_last_s
    await _hand_over(passed)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_serve_meanwhile, passed, at_first_s, until)
        await drain()
        tasks.cancel_scope.cancel()
    await _hand_over(passed)


async def _serve_meanwhile(passed: Site, at_first_s: float, until: float) -> None:
    await anyio.sleep(at_first_s)
    if time.monotonic() < until:
        await passed.resume()
        await anyio.sleep(max(until - time.monotonic(), 0))
        await _hand_over(passed)


async def _hand_over(passed: Site) -> None:
    """Leave new clients in the sockets, for the next daemon, and answer those that are in: nobody is to notice an upgrade."""
    passed.pause()
    # Whoever follows a workflow, or waits for its end, would be busy for ever.
    with anyio.move_on_after(_HAND_OVER_S):
        while passed.guard.is_busy:  # noqa: ASYNC110 - it is over in a moment, and no request should have to tell
            await anyio.sleep(0.01)
