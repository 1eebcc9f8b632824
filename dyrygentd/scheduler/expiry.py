"""Deletes finished workflows that are not to be kept any more, a few at a time, so that nothing waits for it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio

from dyrygentd.errors import OutsideError
from dyrygentd.ports import Clock, Store
from dyrygentd.ports.facts import Retention

#: Finished workflows that are deleted in one transaction, the pause to the next, and to the next look if there are no more.
_AT_ONCE: Final = 20
_PAUSE_S: Final = 0.1
_EVERY_S: Final = 60.0


class Expiry:
    """Looks every minute, and at once after `retention_changed`.

    Args:
        retention: Given the time, returns what is kept; None if the history has a bound on the number alone.
    """

    def __init__(self, store: Store, clock: Clock, retention: Callable[[float], Retention | None]) -> None:
        self._store = store
        self._clock = clock
        self._retention = retention
        self._changed = anyio.Event()

    def retention_changed(self) -> None:
        """Look again now."""
        self._changed.set()

    async def run(self) -> None:
        """Delete until it is cancelled."""
        while True:
            self._changed = anyio.Event()
            deleted, retention = 0, self._retention(self._clock.now())
            if retention is not None:
                with suppress(OutsideError):
                    # Whether the database can be written is told by the turns.
                    deleted = await self._store.expire(retention, limit=_AT_ONCE)
            with anyio.move_on_after(_PAUSE_S if deleted == _AT_ONCE else _EVERY_S):
                await self._changed.wait()
