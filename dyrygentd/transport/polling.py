"""Receives results from any backend by asking for them, each task at a pace that fits its age.

A task is asked for again after a fifth of the time it has been in flight: a result that took a second is seen a fifth of a
second later, one that took an hour within `_INTERVAL_MAX_S`, and the backend gets a bounded number of questions for each
task.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pickle import PickleError
from typing import Any, Final

import anyio
import anyio.to_thread
from kombu.exceptions import SerializationError, SerializerNotInstalled

from dyrygentd.core.events import TaskEvent
from dyrygentd.core.tally import Tally
from dyrygentd.ports import Emit, WatcherStatistics
from dyrygentd.transport.meta import event_of_meta, event_of_undecodable, is_conclusive, is_final, stored_at

logger = logging.getLogger("dyrygentd.polling")

_INTERVAL_MIN_S, _INTERVAL_MAX_S = 0.05, 5.0
_SHARE_OF_AGE: Final = 0.2
#: Questions per hop to the thread: keeps a hop short also when each question is a database query.
_SLICE: Final = 50


#: What a decoder raises. Everything else is taken for an outage of the backend.
_DECODING_ERRORS: Final = (
    SerializationError,
    SerializerNotInstalled,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    EOFError,
    PickleError,
)
#: A result may be read while it is being written (``file://``), so one that cannot be decoded is read again for this long.
_UNDECODABLE_S: Final = 2.0


@dataclass(slots=True)
class _Watched:
    """A task in flight: since when, when to ask again, since when its result has been undecodable, and what may be corrected."""

    since: float
    due: float
    undecodable_since: float | None = None
    doubtful: TaskEvent | None = None


class PollingResultWatcher:
    """Asks a Celery result backend through its public `get_task_meta`, in one thread.

    Guards: a task is asked for while it is watched, and not twice at a time; a result that cannot be read holds up no other.
    """

    def __init__(self, backend: Any, *, undecodable_s: float = _UNDECODABLE_S) -> None:
        self._backend = backend
        self._undecodable_s = undecodable_s
        self._watched: dict[str, _Watched] = {}
        self._due: list[tuple[float, str]] = []
        self._changed = anyio.Event()
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._problem = ""
        self._read = self._undecodable = 0
        self._seen_seconds = Tally()

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
        while True:
            due = self._take_due()
            if not due:
                await self._wait_until_due()
                continue
            answers = await anyio.to_thread.run_sync(self._ask, due, limiter=self._one_at_a_time, abandon_on_cancel=True)
            events = [event for task_id, answer in answers.items() if (event := self._event_of(task_id, answer)) is not None]
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

    def _ask(self, task_ids: Sequence[str]) -> dict[str, dict[str, Any] | BaseException]:
        """Ask for each task, in the thread. An outage ends the slice; the rest is asked again later."""
        answers: dict[str, dict[str, Any] | BaseException] = {}
        try:
            for task_id in task_ids:
                try:
                    answers[task_id] = self._backend.get_task_meta(task_id, cache=False)
                except _DECODING_ERRORS as error:
                    answers[task_id] = error
        except Exception as error:
            # Each backend has errors of its own, and none of them may end the watching.
            problem = f"results cannot be read: {_reason(error)}"
            if not self._problem:
                logger.warning("%s; nothing is lost, they are read when the backend is back", problem)
            self._problem = problem
        else:
            self._problem = ""
        return answers

    def _event_of(self, task_id: str, answer: dict[str, Any] | BaseException) -> TaskEvent | None:
        """Return the event for an answer, None if there is none or the task was let go meanwhile."""
        watched = self._watched.get(task_id)
        if watched is None:
            return None
        event = event_of_meta(task_id, answer) if isinstance(answer, dict) else self._undecodable_event(watched, task_id, answer)
        if event is not None and is_final(event):
            if watched.doubtful == event:
                return None
            self._read += 1
            stored = stored_at(answer.get("date_done")) if isinstance(answer, dict) else None
            if stored is not None:
                self._seen_seconds.add(time.time() - stored)
            if is_conclusive(event):
                del self._watched[task_id]
            else:
                watched.doubtful = event
        return event

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
