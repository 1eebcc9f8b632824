"""When each series last had a run that succeeded: for the alert that recurring work has stopped, whatever the reason.

*It outlives the history*: what succeeded last may have expired, so it is a note of its own, written in a moment after it changes.
What a killed process had not written is lost with that moment; the next success brings it back.

*A series that never succeeded* counts from its first submission, so that one which fails from the beginning is noticed, too.

*It has a bound*: of more series than that, those go for which nobody has submitted anything for the longest time; and one for
which nobody has for `_FORGOTTEN_S` is taken for one that is no more.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

import anyio

from dyrygentd.core.records import WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.errors import Fenced
from dyrygentd.ports import Clock, Store
from dyrygentd.ports.facts import SERIES_NOTE
from dyrygentd.scheduler.saving import Saving

logger = logging.getLogger("dyrygentd")

#: As many as a person looks at, and Prometheus keeps without being asked.
SERIES_MAX: Final = 1000
_FORGOTTEN_S: Final = 100 * 86400.0
#: From one note to the next: a series may end each second, and the note has all of them.
_PAUSE_S: Final = 5.0
#: How long an end waits for the last one.
_LAST_S: Final = 2.0


class SeriesEnd(NamedTuple):
    """What is known of a series.

    Attributes:
        since: When its first run was submitted.
        submitted_at: When the last one was.
        succeeded_at: When one succeeded last, 0 if none ever has.
    """

    since: float
    submitted_at: float
    succeeded_at: float = 0.0

    @property
    def at(self) -> float:
        """When it succeeded last; of one that never has, when it was there first."""
        return self.succeeded_at or self.since


class SeriesEnds:
    """Notes ends of runs. Guards: at most ``most`` series are known, those that somebody submits.

    Attributes:
        by_name: ``{(identity of the owner, series): what is known}``, those that were submitted last in the end.
    """

    def __init__(self, store: Store, saving: Saving, clock: Clock, *, most: int = SERIES_MAX) -> None:
        self.by_name: dict[tuple[str, str], SeriesEnd] = {}
        self._store = store
        self._saving = saving
        self._clock = clock
        self._most = most
        self._news = anyio.Event()

    def __repr__(self) -> str:
        return f"<SeriesEnds series={len(self.by_name)}>"

    async def prepare(self) -> None:
        """Read what the last process has noted. Raises `StoreUnavailable`."""
        with suppress(ValueError, TypeError):
            # What somebody has changed by hand is no reason not to start.
            for owner, name, *times in json.loads(await self._store.recall(SERIES_NOTE) or "[]"):
                self.by_name[str(owner), str(name)] = SeriesEnd(*map(float, times))

    def saved(self, records: Mapping[str, WorkflowRecord]) -> None:
        """Take note of runs that were submitted, or have ended."""
        for record in records.values():
            if not record.series:
                continue
            key = "" if record.owner is None else str(record.owner.identity), record.series
            known = self.by_name.get(key)
            if record.document is not None:
                self.by_name.pop(key, None)
                known = SeriesEnd(record.created_at, record.created_at) if known is None else known
                self.by_name[key] = known._replace(submitted_at=max(known.submitted_at, record.created_at))
                self._drop_old()
            if record.state is WorkflowState.SUCCEEDED and record.finished_at is not None:
                known = self.by_name.get(key) or SeriesEnd(record.created_at, record.created_at)
                self.by_name[key] = known._replace(succeeded_at=max(known.succeeded_at, record.finished_at))
            self._news.set()

    def _drop_old(self) -> None:
        before = self._clock.now() - _FORGOTTEN_S
        while self.by_name:
            first = next(iter(self.by_name))
            if len(self.by_name) <= self._most and self.by_name[first].submitted_at >= before:
                break
            del self.by_name[first]

    async def run(self) -> None:
        """Write the note when it has changed, until cancelled, and then once more if it has."""
        try:
            while True:
                await self._news.wait()
                await self._write()
                await anyio.sleep(_PAUSE_S)
        finally:
            with anyio.move_on_after(_LAST_S, shield=True):
                if self._news.is_set():
                    with suppress(Fenced):
                        await self._write()

    async def _write(self) -> None:
        self._news = anyio.Event()
        note = json.dumps([[*key, *end] for key, end in self.by_name.items()])
        if not await self._saving.remember(SERIES_NOTE, note):
            self._news.set()

    def view(self) -> list[tuple[str, str, float]]:
        """Return ``(owner, series, when it succeeded last)``."""
        return [(owner, name, end.at) for (owner, name), end in self.by_name.items()]
