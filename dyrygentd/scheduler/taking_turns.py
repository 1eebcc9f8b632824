"""Long looks through memory, in steps between which others have their turn."""

from collections.abc import Generator
from typing import TypeVar

import anyio.lowlevel

T = TypeVar("T")


async def in_steps(steps: Generator[None, None, T]) -> T:
    """Return what comes of it in the end; others have their turn after each step."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        await anyio.lowlevel.checkpoint()
