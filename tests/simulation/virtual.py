"""An event loop whose time jumps to the next timer, and a clock that follows it: nothing waits, and a seed is a story."""

import asyncio
import selectors
from typing import Any


class EverybodyWaits(BaseException):
    """Nothing is ready and no timer runs: the program would stand still for ever."""


class _Selector(selectors.DefaultSelector):
    """Lets the loop's time pass instead of waiting."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise EverybodyWaits
        if timeout > 0:
            self.loop.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Guards: time passes only while everybody waits, and then exactly until the first timer."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now


class VirtualClock:
    """The time of day of the simulated machine; somebody may set it."""

    #: A time at which no test was written.
    START = 2_000_000_000.0

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        """Return Unix time in seconds."""
        return self.START + asyncio.get_running_loop().time() + self.offset
