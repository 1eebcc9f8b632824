"""Asks now and then who takes from which queue, so that of a queue whose last worker has died it is known who that was.

*What it costs.* One broadcast every few minutes, while something is in flight and nobody else has asked meanwhile; workers answer
it with a few hundred bytes each. It is asked for in a thread, over a connection of its own, within a deadline. Nobody is asked
while broker or backend are known to be away, nor where `lost_after_s` is 0: then workers are not to be asked unbidden.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import anyio

from dyrygentd.errors import OutsideError
from dyrygentd.ports import Clock, Inspector, Store
from dyrygentd.witnesses import Roster

_NOTE: Final = "consumers"
#: Between two broadcasts.
_EVERY_S: Final = 180.0


class Census:
    """Keeps the roster up to date, and on disk what it has of queues.

    Args:
        roster: Who answered, whoever asked.
        in_flight_count: Returns how many tasks are in flight.
        problems: Tells what keeps the scheduler from its work; while there is anything nobody is asked.
        look_every_s: How soon it is noticed that a broadcast is due.
    """

    def __init__(
        self,
        inspector: Inspector,
        roster: Roster,
        *,
        store: Store,
        clock: Clock,
        in_flight_count: Callable[[], int],
        problems: Callable[[], Sequence[str]],
        look_every_s: float,
    ) -> None:
        self._inspector = inspector
        self._roster = roster
        self._store = store
        self._clock = clock
        self._in_flight_count = in_flight_count
        self._problems = problems
        self._look_every_s = look_every_s
        self._asked_at = 0.0

    async def prepare(self) -> None:
        """Read who took from which queue when the last process knew it. Raises `StoreUnavailable`."""
        self._roster.read(await self._store.recall(_NOTE))

    async def run(self) -> None:
        """Ask whenever it is due, until cancelled."""
        while True:
            await anyio.sleep(self._look_every_s)
            if self._is_due():
                await self.take()

    def _is_due(self) -> bool:
        # A clock that is set back must not keep everybody from being asked for long.
        ages_s = [abs(self._clock.now() - at) for at in (self._asked_at, self._roster.told_at)]
        return min(ages_s) >= _EVERY_S and self._in_flight_count() > 0 and not self._problems()

    async def take(self) -> None:
        """Ask the workers, and note what they say."""
        self._asked_at = self._clock.now()
        inspection = await self._inspector.census()
        self._roster.note(inspection, self._clock.now())
        if inspection.consumed:
            with suppress(OutsideError):
                # Whether the database can be written is told by the turns.
                await self._store.remember(_NOTE, self._roster.written())
