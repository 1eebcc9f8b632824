"""Redis: pushing a message exactly once, and receiving results without missing one.

Theory of operation
===================
*Pushing.* A reply that is cut leaves open whether the push happened, and every client library then pushes again. So each
attempt of a node has a marker, a field in a hash per workflow beside the queues, and one script sets the marker and pushes
only if it was not set. A script runs atomically and is logged (AOF) as a whole, so marker and message share their fate.
Conditions: the broker is one server (not Redis Cluster), and it evicts nothing.

*Receiving.* Celery's Redis backend stores a result and publishes the same bytes on a channel named like the key, in one
transaction. Pub/sub is only a hint: redis-py reconnects silently, a slow subscriber is cut off by the server, a half-open
connection stays silent for ever. Four guards make up for it. (1) A task is watched before it is published, and every
confirmation of a subscription, the first and those after a reconnect, is followed by a read of the key. (2) A heartbeat of
our own goes round through the server; if it does not come back, the connection is dropped. (3) A slow sweep reads the keys of
everything in flight. (4) The connections do not retry by themselves: an error ends the session, and the next one starts over
with all subscriptions.

*Tried and rejected.* ``PSUBSCRIBE celery-task-meta-*``: one command instead of thousands, but the payloads of all tenants.
Keyspace notifications: need CONFIG SET. Celery's own result consumer: polls in a thread and loses messages on reconnect
(celery#4857).
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio
import redis
import redis.asyncio
from kombu.utils.json import dumps
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import TaskEvent
from dyrygentd.ports import Emit, WatcherStatistics
from dyrygentd.transport.meta import event_of_payload, is_final

logger = logging.getLogger("dyrygentd.redis")

CONNECTION_ERRORS: Final = (RedisError,)

# --- pushing --------------------------------------------------------------------------------------------------------

#: How long a marker outlives the last push of its workflow: longer than any outage after which somebody would still resume.
_MARKER_TTL_S: Final = 30 * 24 * 3600

#: KEYS: marker hashes and queues. ARGV: TTL, then per message the marker's index, the field, the queue's index, the message.
_PUSH_SCRIPT: Final = """
local pushed = 0
for i = 2, #ARGV, 4 do
    local marker = KEYS[tonumber(ARGV[i])]
    if redis.call('HSETNX', marker, ARGV[i + 1], 1) == 1 then
        redis.call('LPUSH', KEYS[tonumber(ARGV[i + 2])], ARGV[i + 3])
        redis.call('EXPIRE', marker, ARGV[1])
        pushed = pushed + 1
    end
end
return pushed
"""


@dataclass(frozen=True, slots=True)
class Collected:
    """A finished message and where it goes; both are None if kombu sent it by itself (fanout exchanges)."""

    message: Publish
    queue: str | None
    payload: str | None


def collecting(transport: Any) -> Any:
    """Derive a kombu transport whose channel keeps what it would push; everything else is kombu's own.

    ``_put`` is the method that kombu's virtual transports implement. The names of the priority queues are internals of the
    Redis transport; ``tests/transport`` notices if they change.
    """

    class CollectingChannel(transport.Channel):
        def begin(self, message: Publish) -> None:
            self._publish, self._queue, self._payload = message, None, None

        def collected(self) -> Collected:
            return Collected(self._publish, self._queue, self._payload)

        def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
            # A tag of ours is what workers keep in `unacked`, so one HGET tells whether a worker has reserved the task.
            message["properties"]["delivery_tag"] = f"dyrygentd:{self._publish.task_id}:{self._publish.attempt}"
            self._queue = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
            self._payload = dumps(message)

    class CollectingTransport(transport):
        Channel = CollectingChannel

    return CollectingTransport


class MarkedPush:
    """Pushes collected messages, each attempt once. Blocking; used from the dispatcher's thread.

    Args:
        channel: A kombu Redis channel. Its connection pool brings along password, TLS and database as the app has configured
            them.
    """

    def __init__(self, channel: Any) -> None:
        # kombu's own client prefixes keys by command and only the first key of a script, so keys are prefixed here.
        self._client = redis.Redis(connection_pool=channel.pool)
        self._prefix: str = channel.global_keyprefix
        self._script = self._client.register_script(_PUSH_SCRIPT)

    def push(self, messages: Iterable[Collected]) -> int:
        """Push what was not pushed before; return how many that were. Raises ``redis.RedisError``."""
        keys: dict[str, int] = {}
        arguments: list[str | int] = [_MARKER_TTL_S]
        for collected in messages:
            if collected.queue is None or collected.payload is None:
                continue
            publish = collected.message
            marker = keys.setdefault(self._marker(publish.workflow_id), len(keys) + 1)
            queue = keys.setdefault(self._prefix + collected.queue, len(keys) + 1)
            arguments += [marker, f"{publish.node}:{publish.attempt}", queue, collected.payload]
        return int(self._script(keys=list(keys), args=arguments)) if keys else 0

    def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop the markers of these workflows. Raises ``redis.RedisError``."""
        self._client.unlink(*[self._marker(workflow_id) for workflow_id in workflow_ids])

    def _marker(self, workflow_id: str) -> str:
        return f"{self._prefix}dyrygentd:published:{workflow_id}"


# --- receiving ------------------------------------------------------------------------------------------------------

#: Channels or keys in one command: keeps a reply below 100 kB, so that no read holds up the loop.
_SLICE: Final = 500
#: Seconds between two heartbeats, and without one before the connection is dropped.
_BEAT_S, _SILENCE_MAX_S = 2.0, 7.0
#: Seconds between two reads of everything in flight. Results found only then tell that pub/sub is broken.
_SWEEP_S: Final = 10.0
#: Seconds that connecting or one command may take.
_COMMAND_TIMEOUT_S: Final = 5.0
_RETRY_FIRST_S, _RETRY_MAX_S = 0.05, 2.0


class _Silent(Exception):
    """The heartbeat did not come back."""


class RedisResultWatcher:
    """Receives results through pub/sub, with the guards described above.

    Guards: the result of a watched task is emitted at least once, whatever happens to the connection.
    """

    def __init__(self, backend: Any, *, value_bytes_max: int) -> None:
        self._backend = backend
        self._payload_bytes_max = 2 * value_bytes_max
        self._watched: dict[str, bytes] = {}
        self._task_of: dict[bytes, str] = {}
        self._to_subscribe: deque[str] = deque()
        self._to_unsubscribe: deque[bytes] = deque()
        self._to_read: deque[str] = deque()
        self._subscriptions_changed = anyio.Event()
        self._confirmed = anyio.Event()
        self._beat_channel = b""
        self._last_beat_at = 0.0
        self._emit: Emit | None = None
        self._problem = "the result backend has not been reached yet"
        self._connections = self._undecodable = 0
        self._counts = {"pushed": 0, "read": 0, "swept": 0}

    def __repr__(self) -> str:
        return f"<RedisResultWatcher watched={len(self._watched)} problem={self._problem!r}>"

    def watch(self, task_ids: Sequence[str]) -> None:
        """Follow these tasks from now on; results that are there already are found as well."""
        for task_id in task_ids:
            channel = _bytes(self._backend.get_key_for_task(task_id))
            self._watched[task_id] = channel
            self._task_of[channel] = task_id
        self._to_subscribe.extend(task_ids)
        self._subscriptions_changed.set()

    def unwatch(self, task_ids: Sequence[str]) -> None:
        """Stop following these tasks."""
        for task_id in task_ids:
            channel = self._watched.pop(task_id, None)
            if channel is not None:
                del self._task_of[channel]
                self._to_unsubscribe.append(channel)
        if len(self._to_unsubscribe) >= _SLICE:
            self._subscriptions_changed.set()

    def statistics(self) -> WatcherStatistics:
        """Return an immutable snapshot."""
        return WatcherStatistics(
            watched=len(self._watched),
            connected=not self._problem,
            problem=self._problem,
            connections=self._connections,
            undecodable=self._undecodable,
            **self._counts,
        )

    async def run(self, emit: Emit) -> None:
        """Work until cancelled: one session after the other."""
        self._emit = emit
        pause_s = _RETRY_FIRST_S
        while True:
            begun = anyio.current_time()
            try:
                await self._session()
            except* (RedisError, OSError, TimeoutError, _Silent) as errors:
                self._note_problem(_first(errors))
            if anyio.current_time() - begun > _RETRY_MAX_S:
                pause_s = _RETRY_FIRST_S
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    async def _session(self) -> None:
        """Connect, subscribe to everything, and receive until something breaks; always ends with an exception."""
        client = redis.asyncio.Redis(connection_pool=_pool_like(self._backend))
        pubsub = client.pubsub()
        try:
            with anyio.fail_after(_COMMAND_TIMEOUT_S):
                self._beat_channel = b"dyrygentd:heartbeat:%d" % await client.client_id()
                await pubsub.subscribe(self._beat_channel)
            self._connections += 1
            self._last_beat_at = anyio.current_time()
            self._to_subscribe = deque(self._watched)
            self._to_unsubscribe.clear()
            self._to_read.clear()
            self._subscriptions_changed.set()
            self._note_no_problem()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, pubsub)
                tasks.start_soon(self._keep_subscribed, pubsub)
                tasks.start_soon(self._read_confirmed, client)
                tasks.start_soon(self._beat, client)
                tasks.start_soon(self._sweep, client)
        finally:
            with anyio.move_on_after(_COMMAND_TIMEOUT_S, shield=True):
                await pubsub.aclose()
                await client.connection_pool.disconnect()

    # --- the tasks of a session -------------------------------------------------------------------------------------

    async def _receive(self, pubsub: Any) -> None:
        while True:
            message = await pubsub.get_message(timeout=None)
            if message is None:
                continue
            channel = message["channel"]
            if message["type"] == "message":
                task_id = self._task_of.get(channel)
                if task_id is not None:
                    self._take(task_id, message["data"], "pushed")
                elif channel == self._beat_channel:
                    self._last_beat_at = anyio.current_time()
            elif message["type"] == "subscribe" and channel in self._task_of:
                self._to_read.append(self._task_of[channel])
                self._confirmed.set()

    async def _keep_subscribed(self, pubsub: Any) -> None:
        while True:
            # A channel too many costs nothing, a command for each result does: they are given up by the slice.
            if not self._to_subscribe and len(self._to_unsubscribe) < _SLICE:
                self._subscriptions_changed = anyio.Event()
                await self._subscriptions_changed.wait()
            channels = [self._watched[task_id] for task_id in _taken(self._to_subscribe) if task_id in self._watched]
            if channels:
                await pubsub.subscribe(*channels)
            if len(self._to_unsubscribe) >= _SLICE:
                # One that is watched again meanwhile stays subscribed.
                gone = [channel for channel in _taken(self._to_unsubscribe) if channel not in self._task_of]
                if gone:
                    await pubsub.unsubscribe(*gone)

    async def _read_confirmed(self, client: Any) -> None:
        while True:
            if not self._to_read:
                self._confirmed = anyio.Event()
                await self._confirmed.wait()
            await self._read(client, _taken(self._to_read), "read")

    async def _beat(self, client: Any) -> None:
        while True:
            with anyio.fail_after(_COMMAND_TIMEOUT_S):
                await client.publish(self._beat_channel, b"")
            await anyio.sleep(_BEAT_S)
            if anyio.current_time() - self._last_beat_at > _SILENCE_MAX_S:
                raise _Silent(f"nothing was received for {_SILENCE_MAX_S:g} s")

    async def _sweep(self, client: Any) -> None:
        while True:
            await anyio.sleep(_SWEEP_S)
            everything = deque(self._watched)
            while everything:
                await self._read(client, _taken(everything), "swept")

    async def _read(self, client: Any, task_ids: Sequence[str], path: str) -> None:
        watched = [(task_id, self._watched[task_id]) for task_id in task_ids if task_id in self._watched]
        if not watched:
            return
        with anyio.fail_after(_COMMAND_TIMEOUT_S):
            payloads = await client.mget([channel for _, channel in watched])
        for (task_id, _), payload in zip(watched, payloads, strict=True):
            if payload is not None:
                self._take(task_id, payload, path)

    def _take(self, task_id: str, payload: bytes, path: str) -> None:
        """Turn a payload into an event, unless the task is settled already."""
        channel = self._watched.get(task_id)
        if channel is None or self._emit is None:
            return
        event: TaskEvent | None = event_of_payload(self._backend, task_id, payload)
        if event is None:
            return
        if is_final(event):
            # The other paths find the same result again: it counts for the first, and the engine is spared the rest.
            self._counts[path] += 1
            self.unwatch([task_id])
        self._emit([event])

    def _note_problem(self, error: BaseException) -> None:
        if not self._problem:
            logger.warning("results cannot be received: %s; nothing is lost, they are read when the backend is back", error)
        self._problem = f"results cannot be received: {str(error) or type(error).__name__}"

    def _note_no_problem(self) -> None:
        if self._problem and self._connections > 1:
            logger.warning("results can be received again")
        self._problem = ""


def _pool_like(backend: Any) -> Any:
    """Make an asyncio connection pool with the parameters that Celery's backend uses for its own."""
    parameters = dict(backend.connparams)
    connection_class = _ASYNCIO_CLASSES.get(parameters.pop("connection_class", redis.Connection))
    if connection_class is None:
        connection_class = redis.asyncio.Connection
    parameters.pop("max_connections", None)
    parameters |= {"socket_timeout": _COMMAND_TIMEOUT_S, "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False}
    if connection_class is not redis.asyncio.UnixDomainSocketConnection:
        parameters["socket_connect_timeout"] = _COMMAND_TIMEOUT_S
    return redis.asyncio.ConnectionPool(connection_class=connection_class, **parameters)


_ASYNCIO_CLASSES: Final[dict[Any, Any]] = {
    redis.Connection: redis.asyncio.Connection,
    redis.SSLConnection: redis.asyncio.SSLConnection,
    redis.UnixDomainSocketConnection: redis.asyncio.UnixDomainSocketConnection,
}


def _taken(queue: "deque[Any]") -> list[Any]:
    """Take one slice off a queue."""
    return [queue.popleft() for _ in range(min(len(queue), _SLICE))]


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key
