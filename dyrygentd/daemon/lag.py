"""How late the event loop comes to its timers: what makes it late makes everything late."""

import time

import anyio

from dyrygentd.core.tally import Tally

_LOOK_EVERY_S = 0.25


class LoopLag:
    """Looks four times a second."""

    def __init__(self) -> None:
        self.tally = Tally()

    async def look(self) -> None:
        """Look until cancelled."""
        while True:
            due = time.monotonic() + _LOOK_EVERY_S
            await anyio.sleep(_LOOK_EVERY_S)
            self.tally.add(time.monotonic() - due)
