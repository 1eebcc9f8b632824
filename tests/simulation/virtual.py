"""An event loop whose time jumps to the next timer, and a clock that follows it: nothing waits, and a seed is a story."""

import asyncio
import selectors
from typing import Any, Final


class EverybodyWaits(BaseException):
    """Nothing is ready and no timer runs: the program would stand still for ever."""


class TimeStandsStill(BaseException):
    """Something is always ready, so no time passes: what waits for a time waits for ever, and so would who runs this."""

    def __init__(self) -> None:
        super().__init__(f"{_TURNS_MAX} turns of the loop at one moment")


#: Turns of the loop without any time; the busiest moments of seeds have some dozens. It takes two seconds.
_TURNS_MAX: Final = 100_000


class _Selector(selectors.DefaultSelector):
    """Lets the loop's time pass instead of waiting."""

    loop: "VirtualLoop"
    _turns = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise EverybodyWaits
        self._turns += 1
        if timeout > 0:
            self.loop.now += timeout
            self._turns = 0
        if self._turns > _TURNS_MAX:
            # Not inside of what the loop calls, where nearly every exception would be caught and told, and it went on. What can
            # be cancelled has as many turns to end.
            self._turns = 0
            raise TimeStandsStill
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
