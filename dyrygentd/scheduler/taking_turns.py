"""Long looks through memory, in steps between which others have their turn."""

from collections.abc import Callable

import anyio.lowlevel

from dyrygentd.core.steps import Steps, T


async def in_steps(steps: Steps[T], *, after_step: Callable[[], None] = lambda: None) -> T:
    """Return what comes of it in the end; others have their turn after each step."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        after_step()
        await anyio.lowlevel.checkpoint()
