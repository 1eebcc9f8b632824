"""A reader of workers' reports that a test writes, which keeps the contract of `dyrygentd.ports.ReportReader`."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel

from dyrygentd.core.events import (
    Event,
    ReportsRead,
    TaskEvent,
)
from dyrygentd.ports import Emit
from dyrygentd.ports.facts import ReportsStatistics


class FakeReports:
    """Reports of workers with `dyrygentd.worker.install`, made up by a test.

    Attributes:
        begun: What `begin` was told: whose reports they are, and up to where they were worked in before.
        kept_offsets: What became durable, in order.
        ended: Tasks whose end was reported and whose result was not seen.
    """

    def __init__(self) -> None:
        self.begun: tuple[str, str | None] = ("", None)
        self.kept_offsets: list[str] = []
        self.ended: set[str] = set()
        self._reported: deque[tuple[Sequence[TaskEvent], str]] = deque()
        self._awake = anyio.Event()
        self._read = 0

    def __repr__(self) -> str:
        return f"<FakeReports reported={len(self._reported)} read={self._read}>"

    def report(self, *events: TaskEvent, offset: str) -> None:
        """Let something have been reported up to a place."""
        self._reported.append((events, offset))
        self._awake.set()

    def begin(self, identity: str, offset: str | None) -> None:
        """Note what is to be read, and pass over what was worked in before."""
        self.begun = (identity, offset)
        if offset in [place for _, place in self._reported]:
            while self._reported.popleft()[1] != offset:
                pass

    def header(self) -> Mapping[str, Any] | None:
        """Return something: nobody reads it."""
        return {"stream": f"dyrygentd:reports:{self.begun[0]}", "in": "backend"}

    async def run(self, emit: Emit, post: Callable[[Event], None], is_in_flight: Callable[[str], bool]) -> None:
        """Hand over what is reported, until cancelled."""
        while True:
            while self._reported:
                events, offset = self._reported.popleft()
                self._read += len(events)
                emit(events)
                post(ReportsRead(offset))
            self._awake = anyio.Event()
            await self._awake.wait()

    def kept(self, offset: str) -> None:
        """Note what became durable."""
        self.kept_offsets.append(offset)

    def has_ended(self, task_id: str) -> bool:
        """Tell whether it is in ``ended``."""
        return task_id in self.ended

    def statistics(self) -> ReportsStatistics:
        """Return an immutable snapshot."""
        return ReportsStatistics(place="fake", is_heard=self._read > 0, connected=True, read={"other": self._read})
