"""Receives results from any backend by asking for them, each task at a pace that fits its age.

A task is asked for again after a fifth of the time it has been in flight: a result that took a second is seen a fifth of a
second later, one that took an hour within `_INTERVAL_MAX_S`, and the backend gets a bounded number of questions for each
task.
"""

import logging
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any, Final

import anyio
import anyio.to_thread

from dyrygentd.core.events import TaskEvent
from dyrygentd.ports import Emit, WatcherStatistics
from dyrygentd.transport.meta import event_of_meta, is_final

logger = logging.getLogger("dyrygentd.polling")

_INTERVAL_MIN_S, _INTERVAL_MAX_S = 0.05, 5.0
_SHARE_OF_AGE: Final = 0.2
#: Questions per hop to the thread: keeps a hop short also when each question is a database query.
_SLICE: Final = 50


class PollingResultWatcher:
    """Asks a Celery result backend through its public `get_task_meta`, in one thread."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._since: dict[str, float] = {}
        self._due: list[tuple[float, str]] = []
        self._changed = anyio.Event()
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._problem = ""
        self._read = self._undecodable = 0

    def watch(self, task_ids: Sequence[str]) -> None:
        """Follow these tasks from now on; results that are there already are found as well."""
        now = anyio.current_time()
        for task_id in task_ids:
            self._since[task_id] = now
            heappush(self._due, (now, task_id))
        self._changed.set()

    def unwatch(self, task_ids: Sequence[str]) -> None:
        """Stop following these tasks."""
        for task_id in task_ids:
            self._since.pop(task_id, None)

    def statistics(self) -> WatcherStatistics:
        """Return an immutable snapshot."""
        return WatcherStatistics(
            watched=len(self._since),
            connected=not self._problem,
            problem=self._problem,
            read=self._read,
            undecodable=self._undecodable,
        )

    async def run(self, emit: Emit) -> None:
        """Work until cancelled."""
        while True:
            due = self._take_due()
            if not due:
                await self._wait_until_due()
                continue
            events = await anyio.to_thread.run_sync(self._ask, due, limiter=self._one_at_a_time, abandon_on_cancel=True)
            if events:
                emit(events)
            self._ask_again(due, events)

    def _take_due(self) -> list[str]:
        now = anyio.current_time()
        due: list[str] = []
        while self._due and self._due[0][0] <= now and len(due) < _SLICE:
            _, task_id = heappop(self._due)
            if task_id in self._since:
                due.append(task_id)
        return due

    async def _wait_until_due(self) -> None:
        self._changed = anyio.Event()
        with anyio.move_on_after(self._due[0][0] - anyio.current_time() if self._due else None):
            await self._changed.wait()

    def _ask(self, task_ids: Sequence[str]) -> list[TaskEvent]:
        """Ask for each task, in the thread. An error ends the slice; the rest is asked again later."""
        events: list[TaskEvent] = []
        try:
            for task_id in task_ids:
                event = event_of_meta(task_id, self._backend.get_task_meta(task_id, cache=False))
                if event is not None:
                    events.append(event)
        except Exception as error:
            # Each backend has errors of its own, and none of them may end the watching.
            if not self._problem:
                logger.warning("results cannot be read: %s; nothing is lost, they are read when the backend is back", error)
            self._problem = f"results cannot be read: {str(error) or type(error).__name__}"
        else:
            self._problem = ""
        return events

    def _ask_again(self, asked: Sequence[str], events: Sequence[TaskEvent]) -> None:
        final = {event.task_id for event in events if is_final(event)}
        self._read += len(final)
        now = anyio.current_time()
        for task_id in asked:
            if task_id in final:
                self._since.pop(task_id, None)
            elif task_id in self._since:
                share_s = _SHARE_OF_AGE * (now - self._since[task_id])
                pause_s = _INTERVAL_MAX_S if self._problem else min(max(share_s, _INTERVAL_MIN_S), _INTERVAL_MAX_S)
                heappush(self._due, (now + pause_s, task_id))
