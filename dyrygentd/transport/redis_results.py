"""Redis: receiving results without missing one.

Long because one session's five tasks share the tables of what is watched, and each alone would guard nothing.

Theory of operation
===================
Celery's Redis backend stores a result and publishes the same bytes on a channel named like the key, in one transaction. Pub/sub
is only a hint: redis-py reconnects silently, a slow subscriber is cut off by the server, a half-open connection stays silent for
ever, and anybody can publish. So an end that was pushed counts as it is found stored: all that has arrived together is read in
one go, and what arrives meanwhile with the next; while the workers have enough to do, that is once in some milliseconds. Four
guards make up for what is not pushed. (1) A task is watched before it is published, and every confirmation of a subscription, the
first and those after a reconnect, is followed by a read of the key. (2) A heartbeat of our own goes round through the server; if
it does not come back, the connection is dropped. (3) A slow sweep reads the keys of everything in flight. (4) The connections do
not retry by themselves: an error ends the session, and the next one starts over with all subscriptions.

*Tried and rejected.* ``PSUBSCRIBE celery-task-meta-*``: one command instead of thousands, but the payloads of all tenants.
Keyspace notifications: need CONFIG SET. Celery's own result consumer: polls in a thread and loses messages on reconnect
(celery#4857).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import anyio
import redis
import redis.asyncio
from celery import states
from celery.backends.base import KeyValueStoreBackend
from redis.exceptions import NoPermissionError, RedisError

from dyrygentd.advice import with_advice
from dyrygentd.core.events import TaskEvent, TaskSucceeded
from dyrygentd.core.tally import Tally
from dyrygentd.errors import BackendUnavailable
from dyrygentd.ports import Emit
from dyrygentd.ports.facts import WatcherStatistics
from dyrygentd.transport.decoding import Decoded, Decoding, Doubts, decoded
from dyrygentd.transport.internals import refuse_unreadable
from dyrygentd.transport.meta import (
    FINAL_STATES,
    event_of_long_payload,
    event_of_undecodable,
    is_conclusive,
    is_final,
    is_usual_json,
    state_of_payload,
    stored_at,
    stored_of_payload,
)
from dyrygentd.transport.redis_asking import Asking
from dyrygentd.transport.redis_connections import Subscription, pool_like
from dyrygentd.transport.redis_reading import BEGINNING_BYTES, READ, REPLY_BYTES_MAX, key_bytes, prefix_of
from dyrygentd.transport.results import StoredResults
from dyrygentd.transport.stored import StoredOnRedis

logger = logging.getLogger("dyrygentd.redis")

#: Channels or keys in one command: keeps a reply below 100 kB, so that no read holds up the loop.
_SLICE: Final = 500
#: How long after a confirmation the keys are read. What was stored before the subscription is found so much later; what is
#: pushed meanwhile, as most results of short tasks are, need not be read at all.
_READ_AFTER_S: Final = 0.1
#: How nearly every payload begins.
_USUAL_END: Final = (b'{"status": "SUCCESS"', b'{"status":"SUCCESS"')
#: The more ends arrived together, the longer the next ones are gathered: a read costs as much as twenty results.
_GATHER_MAX_S: Final = 0.004
_GATHER_EACH_S: Final = 0.0005
_RETRY_FIRST_S, _RETRY_MAX_S = 0.05, 2.0
#: A server whose rules forbid our channels is asked again after so long; meanwhile the keys are read so often.
_REFUSED_S, _REFUSED_SWEEP_S = 10.0, 2.0


@dataclass(frozen=True, slots=True)
class ResultsPace:
    """How often the guards look, in seconds.

    Attributes:
        beat_s, silence_max_s: Between two heartbeats, and without one before the connection is dropped.
        sweep_s: Between two reads of everything in flight. Results found only then tell that pub/sub is broken.
        command_timeout_s: That connecting or one command may take.
    """

    beat_s: float = 2.0
    silence_max_s: float = 7.0
    sweep_s: float = 10.0
    command_timeout_s: float = 5.0


class _Silent(Exception):
    """The heartbeat did not come back."""


class RedisResultWatcher:
    """Receives results through pub/sub, with the guards described above.

    Guards: the result of a watched task is emitted at least once, whatever happens to the connection.

    Args:
        value_bytes_max: Longest value that anybody could use. A payload far above it is not decoded, which would hold up the
            loop for nothing; its state is read off its beginning.
        may_unpickle: Whether results that are pickles may be unpickled as the app does it.

    Raises:
        ConfigurationError: The redis-py that is installed has become another than the one that is known here.
    """

    def __init__(
        self, backend: Any, *, value_bytes_max: int, pace: ResultsPace | None = None, may_unpickle: bool = False
    ) -> None:
        refuse_unreadable(pool_like(backend, None).make_connection())
        self._backend = backend
        self._decoding = Decoding(StoredResults(backend, may_unpickle=may_unpickle))
        self._doubts = Doubts()
        self._stored_ids = StoredOnRedis(backend)
        self._pace = pace or ResultsPace()
        self._has_usual_form = is_usual_json(backend)
        # Beside the value there is a traceback or the like.
        self._value_bytes_max = value_bytes_max
        self._payload_bytes_max = 2 * value_bytes_max + 64 * 1024
        self._watched: dict[str, bytes] = {}
        self._doubtful: dict[str, TaskEvent] = {}
        self._task_of: dict[bytes, str] = {}
        self._to_subscribe: deque[str] = deque()
        self._to_unsubscribe: deque[bytes] = deque()
        #: In order, each once.
        self._to_read: dict[str, None] = {}
        self._subscriptions_changed = anyio.Event()
        self._confirmed = anyio.Event()
        self._prefix = prefix_of(backend)
        is_celerys = getattr(type(backend), "get_key_for_task", None) is KeyValueStoreBackend.get_key_for_task
        #: What stands before the id in a key; None if the backend makes its keys in a way of its own.
        self._key_prefix = key_bytes(backend.get_key_for_task("x"))[:-1] if is_celerys else None
        self._beat_channel = b""
        self._last_beat_at = 0.0
        self._are_channels_refused = False
        self._emit: Emit | None = None
        self._gather_s: Callable[[int], float] = lambda _: 0.0
        # Until the first try has ended, which it does in bounded time, there is neither.
        self._problem, self._is_connected = "", False
        self._connections = self._undecodable = 0
        self._seen_seconds = Tally()
        self._counts = {"pushed": 0, "read": 0, "swept": 0}

    def __repr__(self) -> str:
        return f"<RedisResultWatcher watched={len(self._watched)} problem={self._problem!r}>"

    def watch(self, task_ids: Sequence[str]) -> None:
        """Follow these tasks from now on; results that are there already are found as well."""
        prefix = self._key_prefix
        for task_id in task_ids:
            channel = key_bytes(self._backend.get_key_for_task(task_id)) if prefix is None else prefix + task_id.encode()
            self._watched[task_id] = channel
            self._task_of[channel] = task_id
        self._to_subscribe.extend(task_ids)
        self._subscriptions_changed.set()

    def unwatch(self, task_ids: Sequence[str]) -> None:
        """Stop following these tasks."""
        doubtful, doubts = self._doubtful, self._doubts
        for task_id in task_ids:
            if doubtful:
                doubtful.pop(task_id, None)
            if doubts:
                doubts.drop(task_id)
            channel = self._watched.pop(task_id, None)
            if channel is not None:
                del self._task_of[channel]
                self._to_unsubscribe.append(channel)
        if len(self._to_unsubscribe) >= _SLICE:
            self._subscriptions_changed.set()

    async def find_stored(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """Look whether anything is stored of these tasks."""
        return await self._stored_ids.find(task_ids)

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, bool]:
        """Read now what is stored of watched tasks, tell it, and return whether it was the end. Raises `BackendUnavailable`."""
        known: dict[str, bool] = {}
        asking = Asking(pool_like(self._backend, None))
        try:
            for begin in range(0, len(task_ids), _SLICE):
                await self._read(asking, task_ids[begin : begin + _SLICE], "read", known)
        except (RedisError, OSError) as error:
            raise BackendUnavailable(with_advice(f"results cannot be read: {error}")) from error
        finally:
            await asking.close()
        # What is not watched any more has ended.
        return known | {task_id: True for task_id in task_ids if task_id not in self._watched}

    def statistics(self) -> WatcherStatistics:
        """Return an immutable snapshot."""
        return WatcherStatistics(
            watched=len(self._watched),
            connected=self._is_connected,
            problem=self._problem,
            connections=self._connections,
            undecodable=self._undecodable,
            seen_seconds=self._seen_seconds.view(),
            **self._counts,
        )

    def gather(self, pause_s: Callable[[int], float]) -> None:
        """Wait between two looks at what has arrived for as long as this says."""
        self._gather_s = pause_s

    async def run(self, emit: Emit) -> None:
        """Work until cancelled: one session after the other."""
        self._emit = emit
        self._stored_ids.keep()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._decode)
                tasks.start_soon(self._tell_doubted)
                await self._sessions()
        finally:
            await self._stored_ids.close()

    async def _sessions(self) -> None:
        pause_s = _RETRY_FIRST_S
        while True:
            begun = anyio.current_time()
            try:
                await self._session()
            except* Exception as errors:
                # Not only what redis-py documents: over uvloop, writing to a connection that was just lost is a RuntimeError.
                # Whatever it is, a new session starts over with everything.
                error = _first(errors)
                self._are_channels_refused = isinstance(error, NoPermissionError)
                self._note_problem(error)
            if self._are_channels_refused:
                with suppress(Exception):
                    # What goes wrong here is met by the next session as well, which tells it.
                    await self._read_without_channels()
            if anyio.current_time() - begun > _RETRY_MAX_S:
                pause_s = _RETRY_FIRST_S
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    async def _session(self) -> None:
        """Connect, subscribe to everything, and receive until something breaks; always ends with an exception."""
        timeout_s = self._pace.command_timeout_s
        client = redis.asyncio.Redis(connection_pool=pool_like(self._backend, timeout_s))
        # Without a time for each command redis-py sends at once, so that what waits for a result is sent before the task. A
        # server that takes nothing sends no heartbeat either.
        subscription = Subscription(pool_like(self._backend, None))
        askings = [Asking(pool_like(self._backend, None)) for _ in range(3)]
        try:
            with anyio.fail_after(timeout_s):
                self._beat_channel = f"{self._prefix}dyrygentd:heartbeat:{await client.client_id()}".encode()
                await subscription.open()
                await subscription.send("SUBSCRIBE", [self._beat_channel])
            self._connections += 1
            self._last_beat_at = anyio.current_time()
            self._to_subscribe = deque(self._watched)
            self._to_unsubscribe.clear()
            self._to_read.clear()
            self._decoding.clear()
            self._subscriptions_changed.set()
            if not self._are_channels_refused:
                self._note_no_problem()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, subscription, askings[0])
                tasks.start_soon(self._keep_subscribed, subscription)
                tasks.start_soon(self._read_confirmed, askings[1])
                tasks.start_soon(self._beat, client)
                tasks.start_soon(self._sweep, askings[2], self._pace.sweep_s)
        finally:
            with anyio.move_on_after(timeout_s, shield=True):
                await subscription.close()
                for asking in askings:
                    await asking.close()
                await client.connection_pool.disconnect()

    async def _read_without_channels(self) -> None:
        """Read the keys of everything in flight again and again, which needs no channel, until it is time to try one again."""
        asking = Asking(pool_like(self._backend, None))
        try:
            with anyio.move_on_after(_REFUSED_S):
                await self._sweep(asking, min(self._pace.sweep_s, _REFUSED_SWEEP_S))
        finally:
            await asking.close()

    # --- the tasks of a session -------------------------------------------------------------------------------------

    async def _receive(self, subscription: Subscription, asking: Asking) -> None:
        while True:
            events: list[TaskEvent] = []
            ended: dict[str, None] = {}
            for kind, channel, data in await subscription.receive():
                task_id = self._task_of.get(channel)
                if kind == b"message":
                    if task_id is not None:
                        if data.startswith(_USUAL_END) or _may_be_end(data):
                            ended[task_id] = None
                        else:
                            self._take(task_id, data, "pushed", events)
                    elif channel == self._beat_channel:
                        self._last_beat_at = anyio.current_time()
                elif kind == b"subscribe" and task_id is not None:
                    if self._are_channels_refused:
                        self._are_channels_refused = False
                        self._note_no_problem()
                    self._read_soon(task_id)
            self._hand_over(events)
            if ended:
                # What arrives meanwhile waits for the next round, and is read in one go with more.
                await self._read(asking, list(ended), "pushed")
                pause_s = self._gather_s(len(ended))
                if pause_s or len(ended) > 1:
                    await anyio.sleep(pause_s or min(_GATHER_MAX_S, _GATHER_EACH_S * len(ended)))

    async def _keep_subscribed(self, subscription: Subscription) -> None:
        while True:
            # A channel too many costs nothing, a command for each result does: they are given up by the slice.
            if not self._to_subscribe and len(self._to_unsubscribe) < _SLICE:
                self._subscriptions_changed = anyio.Event()
                await self._subscriptions_changed.wait()
            channels = [self._watched[task_id] for task_id in _taken(self._to_subscribe) if task_id in self._watched]
            if channels:
                await subscription.send("SUBSCRIBE", channels)
            if len(self._to_unsubscribe) >= _SLICE:
                # One that is watched again meanwhile stays subscribed.
                gone = [channel for channel in _taken(self._to_unsubscribe) if channel not in self._task_of]
                if gone:
                    await subscription.send("UNSUBSCRIBE", gone)

    async def _read_confirmed(self, asking: Asking) -> None:
        while True:
            if not self._to_read:
                self._confirmed = anyio.Event()
                await self._confirmed.wait()
            if len(self._to_read) < _SLICE:
                await anyio.sleep(_READ_AFTER_S)
            task_ids = list(islice(self._to_read, _SLICE))
            for task_id in task_ids:
                del self._to_read[task_id]
            await self._read(asking, task_ids, "read")

    async def _beat(self, client: Any) -> None:
        pace = self._pace
        while True:
            with anyio.fail_after(pace.command_timeout_s):
                await client.publish(self._beat_channel, b"")
            await anyio.sleep(pace.beat_s)
            if anyio.current_time() - self._last_beat_at > pace.silence_max_s:
                raise _Silent(f"nothing was received for {pace.silence_max_s:g} s")

    async def _sweep(self, asking: Asking, every_s: float) -> None:
        while True:
            await anyio.sleep(every_s)
            everything = deque(self._watched)
            while everything:
                await self._read(asking, _taken(everything), "swept")

    async def _read(self, asking: Asking, task_ids: Sequence[str], path: str, found: dict[str, bool] | None = None) -> None:
        """Read what is stored, and tell it; ``found`` gets what has anything stored, and whether that was its end."""
        watched = self._watched
        left = [task_id for task_id in task_ids if task_id in watched]
        while left:
            channels = [watched[task_id] for task_id in left[:_SLICE]]
            # anyio's way costs 50 us, which each step of a chain would pay.
            async with asyncio.timeout(self._pace.command_timeout_s):
                payloads = await asking.run(READ, channels, (REPLY_BYTES_MAX, self._payload_bytes_max))
            events: list[TaskEvent] = []
            for task_id, payload in zip(left, payloads, strict=False):
                if isinstance(payload, bytes):
                    self._take(task_id, payload, path, events)
                elif payload is not None:
                    size, beginning = payload
                    self._take_long(task_id, size, beginning, path, events)
            if found is not None:
                found |= {task_id: False for task_id, payload in zip(left, payloads, strict=False) if payload is not None}
                found |= {event.task_id: is_final(event) for event in events}
            self._hand_over(events)
            left = [task_id for task_id in left[len(payloads) :] if task_id in watched]

    def _take(self, task_id: str, payload: bytes, path: str, events: list[TaskEvent]) -> None:
        """Turn a payload into an event, unless the task has finished already."""
        if task_id not in self._watched:
            return
        if len(payload) > self._payload_bytes_max:
            self._take_long(task_id, len(payload), payload[:BEGINNING_BYTES], path, events)
            return
        stored = stored_of_payload(payload) if self._has_usual_form else None
        if stored is None:
            self._decoding.add(task_id, payload, path)
        elif stored.status == states.SUCCESS and stored.traceback is None:
            self._note_seen(stored.date_done)
            event = TaskSucceeded(task_id, bytes(stored.result))
            if self._doubtful:
                self._note(event, path, events)
                return
            # What `_note` does with an end that nothing is known against.
            self._counts[path] += 1
            self.unwatch((task_id,))
            events.append(event)
        else:
            self._took(decoded(task_id, path, stored.meta), events)

    async def _decode(self) -> None:
        """Have decoded, in a thread, what is not read here."""
        while True:
            events: list[TaskEvent] = []
            for each in await self._decoding.next():
                if each.task_id in self._watched:
                    self._took(each, events)
            self._hand_over(events)

    def _took(self, read: Decoded, events: list[TaskEvent]) -> None:
        """Turn what was read into an event, now or when it is not doubted any more."""
        task_id, event = read.task_id, read.event
        if read.error is not None:
            if read.path == "pushed":
                self._read_soon(task_id)
                return
            self._undecodable += 1
            event = event_of_undecodable(task_id, read.error)
        elif event is not None and is_final(event):
            if read.is_doubtful:
                self._doubts.add(event, read.path)
                return
            self._note_seen(read.date_done)
        if event is not None:
            self._doubts.drop(task_id)
            self._note(event, read.path, events)

    async def _tell_doubted(self) -> None:
        """Tell of ends which nothing has followed in time."""
        while True:
            events: list[TaskEvent] = []
            for event, path in await self._doubts.due():
                self._note(event, path, events)
            self._hand_over(events)

    def _note_seen(self, date_done: object) -> None:
        stored = stored_at(date_done)
        if stored is not None:
            self._seen_seconds.add(time.time() - stored)

    def _read_soon(self, task_id: str) -> None:
        """Have the key read: by this session, or by the next one, which reads all.

        Also for what was pushed and cannot be decoded: anybody can publish anything on a channel, and what is stored decides.
        """
        self._to_read[task_id] = None
        self._confirmed.set()

    def _take_long(self, task_id: str, size: int, beginning: bytes, path: str, events: list[TaskEvent]) -> None:
        if path == "pushed" and not state_of_payload(beginning):
            self._read_soon(task_id)
        elif task_id in self._watched:
            self._note(event_of_long_payload(task_id, size, beginning, value_bytes_max=self._value_bytes_max), path, events)

    def _note(self, event: TaskEvent, path: str, events: list[TaskEvent]) -> None:
        """Put an event to those that are handed over, unless it was told already."""
        if is_final(event):
            if self._doubtful.get(event.task_id) == event:
                return
            # The other paths find the same result again: it counts for the first, and the engine is spared the rest.
            self._counts[path] += 1
            if is_conclusive(event):
                self.unwatch([event.task_id])
            else:
                # It may be corrected; whoever watches decides how long to wait for that.
                self._doubtful[event.task_id] = event
        events.append(event)

    def _hand_over(self, events: list[TaskEvent]) -> None:
        if events and self._emit is not None:
            self._emit(events)

    def _note_problem(self, error: BaseException) -> None:
        problem = with_advice(f"results cannot be received: {str(error) or _NO_ANSWER.get(type(error), type(error).__name__)}")
        if not self._problem:
            is_expected = isinstance(error, RedisError | OSError | _Silent)
            story = None if is_expected else error
            logger.warning("%s; nothing is lost, they are read when the backend is back", problem, exc_info=story)
        self._problem, self._is_connected = problem, False

    def _note_no_problem(self) -> None:
        if self._problem:
            logger.warning("results can be received again")
        self._problem, self._is_connected = "", True


def _may_be_end(payload: bytes) -> bool:
    state = state_of_payload(payload[:BEGINNING_BYTES])
    return not state or state in FINAL_STATES


_NO_ANSWER: Final[dict[type[BaseException], str]] = {TimeoutError: "the server does not answer"}


def _taken(queue: "deque[Any]") -> list[Any]:
    """Take one slice off a queue."""
    return [queue.popleft() for _ in range(min(len(queue), _SLICE))]


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
