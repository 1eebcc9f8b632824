"""Reads what workers report with `dyrygentd.worker.install`: a stream in Redis, from where the last process stopped.

Theory of operation
===================
*The idea.* Each database has a stream of its own, whose name travels in a header of our messages. Workers append a report after
each try of a task, when Celery has stored what it stores. A report that says more than the stored result (Ignore, Reject, a value
that is not stored, a retry) becomes an event at once. For all others the result is what counts, and the watcher brings it; the
report only proves that the task has ended. If the task is in flight long after that, its result is read once more, and if there
is none, the report takes its place: the task has ended, and is not lost.

*Once, and durably.* Events go ahead of a `ReportsRead` with the place in the stream that they cover. It is remembered when what
came of the events is on disk, and the next process reads on from there, so a report is worked in at least once. It never covers
an end whose result was not seen.

*Trimming.* What is remembered is cut off, up to the entry at the remembered place: as long as that is there, nothing between it
and us can have been cut away. If it is not there, the stream was emptied, or has grown over its bound; that is told and counted.
Results are received all the same, and swept, as without reports.

*Tried and rejected.* A consumer group keeps the place in Redis: it would forget it together with the stream, and acknowledge
what may not be on disk yet.
"""

import logging
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
import redis
import redis.asyncio
from celery import states
from celery.backends.redis import RedisBackend, SentinelBackend
from kombu.transport.redis import SentinelTransport
from kombu.transport.redis import Transport as RedisTransport
from redis.exceptions import RedisError, ResponseError

from dyrygentd.core.events import Event, ReportsRead, TaskEvent, TaskReported
from dyrygentd.ports import Emit
from dyrygentd.ports.facts import WITHOUT_REPORTS, ReportsStatistics
from dyrygentd.transport.redis_connections import asyncio_pool
from dyrygentd.transport.redis_reading import prefix_of, read_results
from dyrygentd.transport.report_entries import entries_of, event_of_report, parsed, text_of
from dyrygentd.transport.results import StoredResults, states_of

logger = logging.getLogger("dyrygentd.reports")

_BEGINNING: Final = "0-0"
_PLACE: Final = re.compile(r"\d{1,19}-\d{1,19}")
#: What workers report; everything else is counted under one name.
_STATES: Final = (
    *(states.SUCCESS, states.FAILURE, states.RETRY, states.REVOKED, states.IGNORED, states.REJECTED),
    *("REQUEUED", "REPLACED"),
)
_OTHER: Final = "other"
#: Entries in one answer: with the longest value in each it has 16 MB, usually 100 kB.
_COUNT_MAX: Final = 500
#: Ends that wait for their results; beyond it the oldest are left to the watcher alone.
_UNCONFIRMED_MAX: Final = 20_000
#: Results that are read in one go to confirm ends, and the longest value that a report may carry: a worker of ours sends less.
_CONFIRMED_MAX: Final = 100
_RETRY_FIRST_S, _RETRY_MAX_S = 0.05, 2.0
#: Between two tries on a server that refuses: it is too old, or its rules forbid it.
_REFUSED_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ReportsPace:
    """How often things are done, in seconds.

    Attributes:
        block_s: How long a read waits for something new; the other things are done in between.
        note_s: Between two notes of how far was read.
        check_s: Between two looks whether the stream was cut.
        confirm_s: How long after a report the watcher may take to bring the result.
        command_timeout_s: That connecting or one command may take.
    """

    block_s: float = 1.0
    note_s: float = 1.0
    check_s: float = 10.0
    confirm_s: float = 15.0
    command_timeout_s: float = 5.0


@dataclass(slots=True)
class _Ended:
    """An end whose result was not seen: what the report says, the place before it, and when to look for the result."""

    event: TaskEvent
    before: str
    due: float


class RedisReports:
    """Reads one stream. Guards: no place is noted before everything up to it is on its way into the store.

    Args:
        now: What time it is, to tell how old a report is.
    """

    def __init__(self, app: Any, *, pace: ReportsPace | None = None, now: Callable[[], float] = time.time) -> None:
        self._app = app
        self._pace = pace or ReportsPace()
        self._now = now
        self._where, prefix = _stream_of(app)
        self._prefix = prefix
        self._header = WITHOUT_REPORTS
        self._stream = ""
        self._offset = self._noted = _BEGINNING
        self._to_trim = ""
        self._can_trim = True
        self._is_anchored = False
        self._has_moved = False
        self._is_heard = False
        self._noted_at = self._check_at = float("-inf")
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._problem = "the stream has not been reached yet" if self._where else "neither result backend nor broker is one Redis"
        self._told = ""
        self._read: Counter[str] = Counter()
        self._connections = self._gaps = self._unreadable = self._concluded = 0
        self._lag_s = 0.0

    def __repr__(self) -> str:
        return f"<RedisReports {self._stream} in {self._where} at {self._offset} problem={self._problem!r}>"

    def begin(self, identity: str, offset: str | None) -> None:
        """Name the database whose reports are read, and where to go on."""
        if not self._where:
            return
        self._stream = f"{self._prefix}dyrygentd:reports:{identity}"
        self._header = {"stream": self._stream, "in": self._where, **WITHOUT_REPORTS}
        if offset is not None and _PLACE.fullmatch(offset):
            self._offset = self._noted = offset
            self._is_anchored = self._is_heard = offset != _BEGINNING

    def header(self) -> Mapping[str, Any]:
        """Return what our messages say about reporting, and about what tasks add."""
        return self._header

    def kept(self, offset: str) -> None:
        """Take note that everything up to here is durable."""
        self._to_trim = offset

    def has_ended(self, task_id: str) -> bool:
        """Tell whether a worker has reported the end of a task whose result was not seen yet."""
        return task_id in self._ended

    def statistics(self) -> ReportsStatistics:
        """Return an immutable snapshot."""
        return ReportsStatistics(
            place=self._where,
            is_heard=self._is_heard,
            connected=not self._problem,
            problem=self._problem,
            connections=self._connections,
            read={state: self._read[state] for state in (*_STATES, _OTHER)},
            gaps=self._gaps,
            unreadable=self._unreadable,
            unconfirmed=len(self._ended),
            concluded=self._concluded,
            lag_seconds=self._lag_s,
        )

    async def run(self, emit: Emit, post: Callable[[Event], None], is_in_flight: Callable[[str], bool]) -> None:
        """Work until cancelled: one session after the other."""
        pause_s = _RETRY_FIRST_S
        while self._stream:
            begun, is_refused = anyio.current_time(), False
            try:
                await self._session(emit, post, is_in_flight)
            except Exception as error:
                # Also what credential providers and TLS settings raise, and uvloop's RuntimeError for a connection just lost.
                self._note_problem(error)
                is_refused = isinstance(error, ResponseError)
            if anyio.current_time() - begun > _RETRY_MAX_S:
                pause_s = _RETRY_FIRST_S
            await anyio.sleep(_REFUSED_S if is_refused else pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    # --- a session --------------------------------------------------------------------------------------------------

    async def _session(self, emit: Emit, post: Callable[[Event], None], is_in_flight: Callable[[str], bool]) -> None:
        """Connect and read until something breaks; always ends with an exception."""
        pace = self._pace
        pool = asyncio_pool(await self._parameters(), pace.command_timeout_s + pace.block_s)
        client = redis.asyncio.Redis(connection_pool=pool)
        self._check_at = float("-inf")
        try:
            while True:
                if anyio.current_time() >= self._check_at:
                    await self._check(client)
                    self._check_at = anyio.current_time() + pace.check_s
                entries = await self._next(client)
                self._note_no_problem()
                events = self._events_of(entries, is_in_flight)
                if events:
                    emit(events)
                concluded = await self._confirm(is_in_flight)
                if concluded:
                    emit(concluded)
                self._note_offset(post)
                await self._trim(client)
        finally:
            with anyio.move_on_after(pace.command_timeout_s, shield=True):
                await client.aclose()
                await pool.disconnect()

    async def _parameters(self) -> Mapping[str, Any]:
        if self._where == "backend":
            parameters: Mapping[str, Any] = self._app.backend.connparams
            return parameters
        return await anyio.to_thread.run_sync(_broker_parameters, self._app, self._pace.command_timeout_s)

    async def _check(self, client: Any) -> None:
        """See whether the entry at our place is still there; without it, reports may have been cut away."""
        with anyio.fail_after(self._pace.command_timeout_s):
            if self._offset == _BEGINNING or await client.xrange(self._stream, self._offset, self._offset, count=1):
                return
            try:
                info = await client.xinfo_stream(self._stream)
                last = text_of(info.get("last-generated-id") or info[b"last-generated-id"])
            except ResponseError as error:
                if "no such key" not in str(error):
                    raise
                last = _BEGINNING
        if self._is_anchored:
            self._gaps += 1
            logger.warning(
                "workers' reports may be missing: '%s' was cut or emptied beyond %s; results are received and swept as always",
                self._stream,
                self._offset,
            )
        self._is_anchored = False
        if parsed(last) < parsed(self._offset):
            # Of a stream that began anew, with a clock that was set back, nothing would be read for a long time.
            self._offset = _BEGINNING
            self._has_moved = True

    async def _next(self, client: Any) -> Sequence[tuple[str, Mapping[str, str]]]:
        """Wait for the next entries; nothing if there are none for a while."""
        pace = self._pace
        with anyio.fail_after(pace.command_timeout_s + pace.block_s):
            answer = await client.xread({self._stream: self._offset}, count=_COUNT_MAX, block=int(pace.block_s * 1000))
        if not self._connections or self._problem:
            self._connections += 1
        return [
            (text_of(place), {text_of(name): text_of(value) for name, value in (fields or {}).items()})
            for place, fields in entries_of(answer)
        ]

    async def _trim(self, client: Any) -> None:
        """Cut off what is on disk, all but the entry at the place where a restart would go on."""
        if not self._to_trim or not self._can_trim:
            return
        try:
            with anyio.fail_after(self._pace.command_timeout_s):
                await client.xtrim(self._stream, minid=self._to_trim, approximate=False)
        except ResponseError as error:
            # Before Redis 6.2: what is kept is what the workers' bound on the length leaves.
            logger.info("the stream of reports is not trimmed to what is needed: %s", error)
            self._can_trim = False
        self._to_trim = ""

    # --- reports ----------------------------------------------------------------------------------------------------

    def _events_of(
        self, entries: Sequence[tuple[str, Mapping[str, str]]], is_in_flight: Callable[[str], bool]
    ) -> list[TaskEvent]:
        """Read entries, and move on behind them."""
        events = []
        for place, fields in entries:
            state = fields.get("state", "")
            self._read[state if state in _STATES else _OTHER] += 1
            event = event_of_report(fields)
            if event is None:
                self._unreadable += 1
            elif fields.get("stored") == "1" and not isinstance(event, TaskReported):
                if is_in_flight(event.task_id) and event.task_id not in self._ended:
                    self._ended[event.task_id] = _Ended(event, self._offset, anyio.current_time() + self._pace.confirm_s)
            else:
                events.append(event)
            self._offset, self._is_anchored, self._has_moved, self._is_heard = place, True, True, True
        if entries:
            self._lag_s = max(0.0, self._now() - parsed(self._offset)[0] / 1000)
        while len(self._ended) > _UNCONFIRMED_MAX:
            self._ended.popitem(last=False)
        return events

    async def _confirm(self, is_in_flight: Callable[[str], bool]) -> list[TaskEvent]:
        """Forget ends whose results came; of others look for the result, and take the report in place of one that is gone."""
        for task_id in [task_id for task_id in self._ended if not is_in_flight(task_id)]:
            del self._ended[task_id]
        now = anyio.current_time()
        due = [task_id for task_id, ended in self._ended.items() if ended.due <= now][:_CONFIRMED_MAX]
        if not due:
            return []
        try:
            metas = await self._stored(due)
        except Exception as error:
            # As long as the backend does not answer, a result may be there.
            logger.info("results that workers reported cannot be read: %s", error)
            metas = {}
        events = []
        for task_id in due:
            ended = self._ended[task_id]
            ended.due = now + self._pace.confirm_s
            # A state of the user's own that is still stored says that the end was not, or is gone.
            if task_id in metas and metas[task_id]["status"] not in states.READY_STATES and is_in_flight(task_id):
                del self._ended[task_id]
                self._concluded += 1
                events.append(ended.event)
        return events

    async def _stored(self, task_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        timeout_s = self._pace.command_timeout_s
        if self._where == "backend":
            return await read_results(self._app.backend, task_ids, timeout_s=timeout_s)
        ask = partial(states_of, StoredResults(self._app.backend), task_ids)
        return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)

    def _note_offset(self, post: Callable[[Event], None]) -> None:
        """Say how far was read: up to the first end whose result is still awaited; seldom, and only if there is news."""
        if not self._has_moved or anyio.current_time() - self._noted_at < self._pace.note_s:
            return
        safe = next(iter(self._ended.values())).before if self._ended else self._offset
        if safe != self._noted:
            post(ReportsRead(safe))
            self._noted, self._noted_at = safe, anyio.current_time()
        self._has_moved = bool(self._ended)

    def _note_problem(self, error: BaseException) -> None:
        problem = f"workers' reports cannot be read: {str(error) or type(error).__name__}"
        if not self._problem or self._told != problem:
            is_expected = isinstance(error, RedisError | OSError)
            logger.warning("%s; results are received as always", problem, exc_info=None if is_expected else error)
            self._told = problem
        self._problem = problem

    def _note_no_problem(self) -> None:
        if self._problem and self._told:
            logger.warning("workers' reports can be read again")
        self._problem = self._told = ""


def _stream_of(app: Any) -> tuple[str, str]:
    """Return where the stream is, and the prefix of keys there; empty if there is no one Redis for it."""
    backend = app.backend
    if isinstance(backend, RedisBackend) and not isinstance(backend, SentinelBackend):
        return "backend", prefix_of(backend)
    connection = app.connection_for_write()
    transport = connection.get_transport_cls()
    if issubclass(transport, RedisTransport) and not issubclass(transport, SentinelTransport):
        return "broker", str((connection.transport_options or {}).get("global_keyprefix") or "")
    return "", ""


def _broker_parameters(app: Any, timeout_s: float) -> Mapping[str, Any]:
    """Return the parameters of kombu's connections to the broker; it tells them only once it is connected."""
    connection = app.connection_for_write()
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    connection.transport_options = {**(connection.transport_options or {}), **timeouts}
    try:
        parameters: Mapping[str, Any] = connection.channel()._connparams()
        return parameters
    finally:
        connection.release()
