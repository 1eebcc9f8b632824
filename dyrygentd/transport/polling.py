"""Receives results from any backend by asking for them, each task at a pace that fits its age.

A task is asked for again after a fifth of the time it has been in flight: a result that took a second is seen a fifth of a
second later, one that took an hour within `_INTERVAL_MAX_S`, and the backend gets a bounded number of questions for each
task.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final

import anyio
import anyio.to_thread

from dyrygentd.core.events import TaskEvent
from dyrygentd.core.tally import Tally
from dyrygentd.errors import BackendUnavailable
from dyrygentd.ports import Emit
from dyrygentd.ports.facts import WatcherStatistics
from dyrygentd.transport.decoding import DOUBT_S, Decoded, decoded
from dyrygentd.transport.meta import event_of_undecodable, is_conclusive, is_final, stored_at
from dyrygentd.transport.results import DECODING_ERRORS, StoredResults
from dyrygentd.transport.stored import find_in

logger = logging.getLogger("dyrygentd.polling")

_INTERVAL_MIN_S, _INTERVAL_MAX_S = 0.05, 5.0
_SHARE_OF_AGE: Final = 0.2
#: Questions per hop to the thread: keeps a hop short also when each question is a database query.
_SLICE: Final = 50


#: A result may be read while it is being written (``file://``), so one that cannot be decoded is read again for this long.
_UNDECODABLE_S: Final = 2.0


@dataclass(slots=True)
class _Watched:
    """A task in flight.

    Attributes:
        since, due: Since when, and when to ask again.
        undecodable_since: Since when its result cannot be decoded.
        doubted: An end that it may have stored about itself while it runs, and since when that is stored.
        doubtful: An end that was told, and may be corrected.
    """

    since: float
    due: float
    undecodable_since: float | None = None
    doubted: tuple[TaskEvent, float] | None = None
    doubtful: TaskEvent | None = None


class PollingResultWatcher:
    """Asks a Celery result backend through its public `get_task_meta`, in one thread.

    Guards: a task is asked for while it is watched, and not twice at a time; a result that cannot be read holds up no other.

    Args:
        undecodable_s: For how long a result that cannot be decoded is read again.
        doubt_s: For how long an end is doubted that a task may have stored about itself, see `dyrygentd.transport.decoding`.
        may_unpickle: Whether results that are pickles may be unpickled as the app does it.
    """

    def __init__(
        self,
        backend: Any,
        *,
        undecodable_s: float = _UNDECODABLE_S,
        doubt_s: float = DOUBT_S,
        may_unpickle: bool = False,
    ) -> None:
        self._backend = backend
        self._stored = StoredResults(backend, may_unpickle=may_unpickle)
        self._undecodable_s = undecodable_s
        self._doubt_s = doubt_s
        self._watched: dict[str, _Watched] = {}
        self._due: list[tuple[float, str]] = []
        self._changed = anyio.Event()
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._problem = ""
        self._emit: Emit | None = None
        self._read = self._undecodable = 0
        self._seen_seconds = Tally()

    def __repr__(self) -> str:
        return f"<PollingResultWatcher watched={len(self._watched)} read={self._read} problem='{self._problem}'>"

    def watch(self, task_ids: Sequence[str]) -> None:
        """Follow these tasks from now on; results that are there already are found as well."""
        now = anyio.current_time()
        for task_id in task_ids:
            if task_id not in self._watched:
                self._watched[task_id] = _Watched(since=now, due=now)
                heappush(self._due, (now, task_id))
        self._changed.set()

    def unwatch(self, task_ids: Sequence[str]) -> None:
        """Stop following these tasks."""
        for task_id in task_ids:
            self._watched.pop(task_id, None)

    async def find_stored(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """Look whether anything is stored of these tasks."""
        return await find_in(self._backend, task_ids)

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, bool]:
        """Read now what is stored of watched tasks, tell it, and return whether it was the end. Raises `BackendUnavailable`."""
        known = {task_id: True for task_id in task_ids if task_id not in self._watched}
        asked = [task_id for task_id in task_ids if task_id in self._watched]
        for begin in range(0, len(asked), _SLICE):
            part = asked[begin : begin + _SLICE]
            answers = await anyio.to_thread.run_sync(self._ask, part, limiter=self._one_at_a_time, abandon_on_cancel=True)
            if len(answers) < len(part):
                raise BackendUnavailable(self._problem)
            # One that cannot be decoded, or is doubted, is there: the usual way tells what comes of it.
            known |= {answer.task_id: False for answer in answers if answer.error is not None or answer.is_doubtful}
            known |= {answer.task_id: True for answer in answers if answer.task_id not in self._watched}
            readable = [answer for answer in answers if answer.error is None]
            events = [event for answer in readable if (event := self._event_of(answer)) is not None]
            known |= {event.task_id: is_final(event) for event in events}
            if events and self._emit is not None:
                self._emit(events)
        return known

    def statistics(self) -> WatcherStatistics:
        """Return an immutable snapshot."""
        return WatcherStatistics(
            watched=len(self._watched),
            connected=not self._problem,
            problem=self._problem,
            read=self._read,
            undecodable=self._undecodable,
            seen_seconds=self._seen_seconds.view(),
        )

    async def run(self, emit: Emit) -> None:
        """Work until cancelled."""
        self._emit = emit
        while True:
            due = self._take_due()
            if not due:
                await self._wait_until_due()
                continue
            answers = await anyio.to_thread.run_sync(self._ask, due, limiter=self._one_at_a_time, abandon_on_cancel=True)
            events = [event for answer in answers if (event := self._event_of(answer)) is not None]
            if events:
                emit(events)
            self._ask_again(due)

    def _take_due(self) -> list[str]:
        now = anyio.current_time()
        due: list[str] = []
        while self._due and self._due[0][0] <= now and len(due) < _SLICE:
            due_at, task_id = heappop(self._due)
            # One that was let go and is watched again has two entries; the older one is void.
            watched = self._watched.get(task_id)
            if watched is not None and watched.due == due_at:
                due.append(task_id)
        return due

    async def _wait_until_due(self) -> None:
        self._changed = anyio.Event()
        with anyio.move_on_after(self._due[0][0] - anyio.current_time() if self._due else None):
            await self._changed.wait()

    def _ask(self, task_ids: Sequence[str]) -> list[Decoded]:
        """Ask for each task, in the thread. An outage ends the slice; the rest is asked again later."""
        answers: list[Decoded] = []
        try:
            self._stored.begin()
            for task_id in task_ids:
                try:
                    meta = self._stored.meta(task_id)
                except DECODING_ERRORS as error:
                    answers.append(Decoded(task_id, "asked", error=error))
                else:
                    answers.append(decoded(task_id, "asked", lambda meta=meta: meta))  # type: ignore[misc]
        except Exception as error:
            # Each backend has errors of its own, and none of them may end the watching.
            self._stored.failed(error)
            problem = f"results cannot be read: {_reason(error)}"
            if not self._problem:
                logger.warning("%s; nothing is lost, they are read when the backend is back", problem)
            self._problem = problem
        else:
            if self._problem:
                logger.warning("results can be read again")
            self._problem = ""
        return answers

    def _event_of(self, answer: Decoded) -> TaskEvent | None:
        """Return the event for an answer, None if there is none, none yet, or the task was let go meanwhile."""
        watched = self._watched.get(answer.task_id)
        if watched is None:
            return None
        event = answer.event
        if answer.error is not None:
            event = self._undecodable_event(watched, answer.task_id, answer.error)
        elif event is not None and answer.is_doubtful and self._is_doubted(watched, event):
            return None
        elif not answer.is_doubtful:
            watched.doubted = None
        if event is not None and is_final(event):
            if watched.doubtful == event:
                return None
            self._read += 1
            stored = stored_at(answer.date_done)
            if stored is not None:
                self._seen_seconds.add(time.time() - stored)
            if is_conclusive(event):
                del self._watched[answer.task_id]
            else:
                watched.doubtful = event
        return event

    def _is_doubted(self, watched: _Watched, event: TaskEvent) -> bool:
        """Doubt an end for a while, and tell whether that is not over yet."""
        now = anyio.current_time()
        if watched.doubted is None or watched.doubted[0] != event:
            watched.doubted = event, now
        return now - watched.doubted[1] < self._doubt_s

    def _undecodable_event(self, watched: _Watched, task_id: str, error: BaseException) -> TaskEvent | None:
        now = anyio.current_time()
        if watched.undecodable_since is None:
            watched.undecodable_since = now
        if now - watched.undecodable_since < self._undecodable_s:
            return None
        self._undecodable += 1
        return event_of_undecodable(task_id, error)

    def _ask_again(self, asked: Sequence[str]) -> None:
        now = anyio.current_time()
        for task_id in asked:
            watched = self._watched.get(task_id)
            if watched is not None and watched.due <= now:
                share_s = _SHARE_OF_AGE * (now - watched.since)
                pause_s = _INTERVAL_MAX_S if self._problem else min(max(share_s, _INTERVAL_MIN_S), _INTERVAL_MAX_S)
                watched.due = now + pause_s
                heappush(self._due, (watched.due, task_id))


def _reason(error: BaseException) -> str:
    """Say what went wrong, first line only; Celery's own "failed to get meta" (`BackendGetMetaError`) hides it in the cause."""
    at_root = error
    while (cause := at_root.__cause__ or at_root.__context__) is not None:
        at_root = cause
    texts = dict.fromkeys(str(each).strip().partition("\n")[0] or type(each).__name__ for each in (error, at_root))
    return ": ".join(texts)
