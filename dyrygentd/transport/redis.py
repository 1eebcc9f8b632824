"""Redis: pushing a message exactly once, and receiving results without missing one.

Theory of operation
===================
*Pushing.* A reply that is cut leaves open whether the push happened, and every client library then pushes again. So each
node has a marker, a field in a hash per workflow beside the queues, with the number of the last attempt that was pushed, and one
script raises the marker and pushes only if the attempt is a later one. A node may have very many attempts, so there is not a
marker for each. A script runs atomically and is logged (AOF) as a whole, so marker and message share their fate.
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

import hashlib
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

import anyio
import hiredis
import redis
import redis.asyncio
from kombu.utils.json import dumps
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import TaskEvent, TaskSucceeded
from dyrygentd.core.tally import Tally
from dyrygentd.ports import Emit, WatcherStatistics
from dyrygentd.transport.advice import with_advice
from dyrygentd.transport.meta import (
    event_of_long_payload,
    event_of_meta,
    event_of_undecodable,
    is_conclusive,
    is_final,
    is_usual_json,
    state_of_payload,
    stored_at,
    success_of_payload,
)

logger = logging.getLogger("dyrygentd.redis")

CONNECTION_ERRORS: Final = (RedisError,)

# --- pushing --------------------------------------------------------------------------------------------------------

#: How long a marker outlives the last push of its workflow: longer than any outage after which somebody would still resume.
_MARKER_TTL_S: Final = 30 * 24 * 3600

#: KEYS begin with that of the sentinel. ARGV: its token, empty if it is not asked for; the markers' TTL; how many messages; for
#: each message the marker's index among KEYS, the node, the attempt, the message, how many queues, and their indexes; then pairs
#: of a key's index and the milliseconds after which it expires. Returns how many were pushed, the messages that were in the
#: shortest queue before, and pairs of the number of a refused message and the error; -1 alone if the sentinel is gone.
_PUSH_SCRIPT: Final = """
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return {-1}
end
local answer, pushed, at, is_known, shortest = {0, 0}, 0, 4, {}, nil
for number = 1, tonumber(ARGV[3]) do
    local marker, node, attempt, last = KEYS[tonumber(ARGV[at])], ARGV[at + 1], tonumber(ARGV[at + 2]), at + 4 + ARGV[at + 4]
    local before = tonumber(redis.call('HGET', marker, node) or 0)
    -- Version 0.1 had a field for each attempt, and a workflow of its may still run.
    if attempt > before and redis.call('HEXISTS', marker, node .. ':' .. ARGV[at + 2]) == 0 then
        redis.call('HSET', marker, node, ARGV[at + 2])
        redis.call('EXPIRE', marker, ARGV[2])
        local problem
        for queue = at + 5, last do
            local result = redis.pcall('LPUSH', KEYS[tonumber(ARGV[queue])], ARGV[at + 3])
            problem = problem or type(result) == 'table' and result.err
            if not problem and not is_known[ARGV[queue]] then
                is_known[ARGV[queue]] = true
                shortest = math.min(shortest or result, result)
            end
        end
        if problem then
            -- Without its marker taken back, the next try would count it as sent.
            if before > 0 then
                redis.call('HSET', marker, node, before)
            else
                redis.call('HDEL', marker, node)
            end
            if not string.find(problem, 'WRONGTYPE', 1, true) then
                return redis.error_reply(problem)
            end
            table.insert(answer, number)
            table.insert(answer, problem)
        else
            pushed = pushed + 1
        end
    end
    at = last + 1
end
for pair = at, #ARGV, 2 do
    redis.call('PEXPIRE', KEYS[tonumber(ARGV[pair])], ARGV[pair + 1])
end
answer[1], answer[2] = pushed, shortest and shortest - 1 or 0
return answer
"""


#: How long closing a connection may take before it is left to itself.
_CLOSE_S: Final = 1.0


_PUSH_SHA: Final = hashlib.sha1(_PUSH_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class SentinelGone(Exception):
    """The server does not have the token that was left there."""


class UndeliverableMessage(Exception):
    """A message would reach no queue."""


class Collected(NamedTuple):
    """A finished message and where it goes; there are no queues if kombu sent it by itself (fanout exchanges).

    Attributes:
        expires_ms: ``{key: milliseconds}`` for all keys of queues that have ``x-expires``.
    """

    message: Publish
    queues: Sequence[str]
    payload: str
    expires_ms: Mapping[str, int]


class Pushed(NamedTuple):
    """What came of a push.

    Attributes:
        new: Messages that were pushed; the others had been before.
        before: Messages that were in the shortest of their queues before.
        refused: ``{task_id: error}`` of what can never be pushed.
    """

    new: int
    before: int
    refused: dict[str, str]


def delivery_tag(task_id: str, attempt: int) -> str:
    """Return the tag under which workers keep the message of an attempt in `unacked`."""
    return f"dyrygentd:{task_id}:{attempt}"


def collecting(transport: Any) -> Any:
    """Derive a kombu transport whose channel keeps what it would push; everything else is kombu's own.

    ``_put`` is the method that kombu's virtual transports implement. The names of the priority queues are internals of the
    Redis transport; ``tests/transport`` notices if they change. What kombu would drop or put aside because no queue is bound
    is refused: no worker would ever see it.
    """

    class CollectingChannel(transport.Channel):
        def begin(self, message: Publish) -> None:
            self._publish, self._put_into, self._payload, self._keys_expire = message, list[str](), "", dict[str, int]()
            self._is_fanned_out = False

        def collected(self) -> Collected:
            if not self._put_into and not self._is_fanned_out:
                raise UndeliverableMessage("no queue is bound to its exchange for its routing key")
            return Collected(self._publish, self._put_into, self._payload, self._keys_expire)

        def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
            if queue == self.deadletter_queue:
                return
            # A tag of ours is what workers keep in `unacked`, so one HGET tells whether a worker has reserved the task.
            message["properties"]["delivery_tag"] = delivery_tag(self._publish.task_id, self._publish.attempt)
            # An exchange may have several queues; each gets the same message.
            self._put_into.append(self._q_for_pri(queue, self._get_message_priority(message, reverse=False)))
            self._payload = dumps(message)
            if queue in self._expires:
                for step in self.priority_steps:
                    self._keys_expire[self._q_for_pri(queue, step)] = self._expires[queue]

        def _put_fanout(self, *args: Any, **kwargs: Any) -> None:
            super()._put_fanout(*args, **kwargs)
            self._is_fanned_out = True

    class CollectingTransport(transport):
        Channel = CollectingChannel

    return CollectingTransport


def is_wrong_type(error: BaseException) -> bool:
    """Tell whether a queue's name is that of a key of another kind: the one answer that is about the message, not the server."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def client_of(channel: Any) -> Any:
    """Return a client over the channel's connections, for which keys are prefixed by whoever uses it.

    kombu's own prefixes them by command, and only the first key of a script.
    """
    return redis.Redis(connection_pool=channel.pool)


class MarkedPush:
    """Pushes collected messages, each attempt once, and none after a later one of its node.

    Blocking; used from the dispatcher's thread.

    Args:
        channel: A kombu Redis channel. Its connection pool brings along password, TLS and database as the app has configured
            them.
        sentinel: The name and the token that tell a server with its memory from one without; None not to ask.
    """

    def __init__(self, channel: Any, sentinel: tuple[str, str] | None = None) -> None:
        self._client = client_of(channel)
        self._prefix: str = channel.global_keyprefix
        self._sentinel = sentinel
        self._script = self._client.register_script(_PUSH_SCRIPT)

    def push(self, messages: Sequence[Collected]) -> Pushed:
        """Push what was not pushed before.

        Raises:
            redis.RedisError: It is unknown what was pushed.
            SentinelGone: The server has lost its memory, and nothing was pushed.
        """
        sent = [collected for collected in messages if collected.queues]
        if not sent:
            return Pushed(0, 0, {})
        keys, arguments = self.call_for(sent)
        return pushed_of(self._script(keys=keys, args=arguments), sent)

    def call_for(self, sent: Sequence[Collected]) -> tuple[list[str], list[str | int]]:
        """Return keys and arguments of the script for messages that have queues."""
        name, token = self._sentinel or ("", "")
        keys: dict[str, int] = {self._sentinel_key(name): 1}

        def index(key: str) -> int:
            return keys.setdefault(key, len(keys) + 1)

        arguments: list[str | int] = [token, _MARKER_TTL_S, len(sent)]
        expires_ms: dict[str, int] = {}
        for collected in sent:
            publish = collected.message
            arguments += [index(self._marker(publish.workflow_id)), publish.node, publish.attempt, collected.payload]
            arguments += [len(collected.queues), *(index(self._prefix + queue) for queue in collected.queues)]
            expires_ms.update(collected.expires_ms)
        for key, milliseconds in expires_ms.items():
            arguments += [index(self._prefix + key), milliseconds]
        return list(keys), arguments

    def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop the markers of these workflows. Raises ``redis.RedisError``."""
        self._client.unlink(*[self._marker(workflow_id) for workflow_id in workflow_ids])

    def mark(self, name: str, token: str) -> None:
        """Leave a token. Raises ``redis.RedisError``."""
        self._client.set(self._sentinel_key(name), token)

    def is_marked(self) -> bool:
        """Tell whether the token is there. Raises ``redis.RedisError``."""
        if self._sentinel is None:
            return True
        name, token = self._sentinel
        return bool(self._client.get(self._sentinel_key(name)) == token.encode())

    def cautions(self) -> list[str]:
        """Return what about the server weakens *published once*. Raises ``redis.RedisError``."""
        try:
            memory, persistence = self._client.info("memory"), self._client.info("persistence")
        except ResponseError:
            return []  # Not everybody may ask.
        policy = memory.get("maxmemory_policy", "noeviction")
        found = []
        if policy != "noeviction" and memory.get("maxmemory"):
            found.append(
                f"the broker may drop messages when its memory is full (maxmemory-policy {policy}): set it to noeviction"
            )
        if not persistence.get("aof_enabled"):
            found.append(
                "the broker keeps no append-only file: after a crash it has forgotten tasks, which are then looked for;"
                " set appendonly to yes"
            )
        return found

    def _sentinel_key(self, name: str) -> str:
        return f"{self._prefix}dyrygentd:sentinel:{name}"

    def _marker(self, workflow_id: str) -> str:
        return f"{self._prefix}dyrygentd:published:{workflow_id}"


def pushed_of(answer: Sequence[Any], sent: Sequence[Collected]) -> Pushed:
    """Read the script's answer. Raises `SentinelGone`."""
    if int(answer[0]) < 0:
        raise SentinelGone
    pushed, before, *refused = answer
    errors = {
        sent[number - 1].message.task_id: f"Redis refuses it: {error.decode(errors='replace')}"
        for number, error in zip(refused[::2], refused[1::2], strict=True)
    }
    return Pushed(int(pushed), int(before), errors)


class LoopPush:
    """Pushes from the event loop, over a connection of its own: a thread costs each push as much again as the push itself.

    Args:
        channel: As for `MarkedPush`.
        timeout_s: That connecting or one push may take.

    Raises:
        ValueError: Its connections are no ordinary ones to one server, or have what asyncio's cannot have.
    """

    def __init__(self, channel: Any, timeout_s: float) -> None:
        pool = channel.pool
        if type(pool) is not redis.ConnectionPool or pool.connection_class not in _ASYNCIO_CLASSES:
            raise ValueError(f"{type(pool).__name__} of {pool.connection_class.__name__}")
        self._pool = asyncio_pool({**pool.connection_kwargs, "connection_class": pool.connection_class}, None)
        try:
            self._pool.make_connection()
        except TypeError as error:
            raise ValueError(str(error)) from error
        self._timeout_s = timeout_s
        self._connection: Any = None

    async def push(self, marked: MarkedPush, sent: Sequence[Collected]) -> Pushed:
        """Do what `MarkedPush.push` does, with messages that have queues. Raises ``OSError`` as well."""
        keys, arguments = marked.call_for(sent)
        with anyio.fail_after(self._timeout_s):
            is_fresh = self._connection is None
            try:
                answer = await self._run(keys, arguments)
            except (redis.ConnectionError, OSError) as error:
                if is_fresh:
                    raise
                # It may have been cut while nobody used it, which is no outage; and the script may run again.
                answer = await self._run(keys, arguments)
                if int(answer[0]) < 0:
                    # Whether the server had pushed them before it lost its memory is not known.
                    raise error from None
        return pushed_of(answer, sent)

    async def _run(self, keys: Sequence[str], arguments: Sequence[str | int]) -> Sequence[Any]:
        """Run the script; after an error, or if it is cancelled, the connection is not used again."""
        try:
            if self._connection is None:
                self._connection = self._pool.make_connection()
                await self._connection.connect()
            try:
                return await self._ask("EVALSHA", _PUSH_SHA, len(keys), *keys, *arguments)
            except NoScriptError:
                return await self._ask("EVAL", _PUSH_SCRIPT, len(keys), *keys, *arguments)
        except BaseException:
            await self.close()
            raise

    async def _ask(self, *words: str | int) -> Sequence[Any]:
        try:
            await self._connection.send_packed_command(_packed(*words))
        except (RuntimeError, AttributeError) as error:
            raise _lost(error) from error
        answer: Sequence[Any] = await self._connection.read_response()
        return answer

    async def close(self) -> None:
        """Close the connection; the next push makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.move_on_after(_CLOSE_S, shield=True), suppress(RedisError, OSError, RuntimeError):
                await connection.disconnect()


# --- receiving ------------------------------------------------------------------------------------------------------

#: Channels or keys in one command: keeps a reply below 100 kB, so that no read holds up the loop.
_SLICE: Final = 500
#: A reply that carries more is cut, and the rest asked for again: what has to arrive within the deadline of one command is
#: bounded, however large the results are.
_REPLY_BYTES_MAX: Final = 8 * 1024 * 1024
#: Enough of a result that is too long to see its state.
_BEGINNING_BYTES: Final = 100
#: Longest result that is decoded for somebody who only asks for its state.
_INSPECTED_BYTES_MAX: Final = 64 * 1024
#: How long after a confirmation the keys are read. What was stored before the subscription is found so much later; what is
#: pushed meanwhile, as most results of short tasks are, need not be read at all.
_READ_AFTER_S: Final = 0.1
_RETRY_FIRST_S, _RETRY_MAX_S = 0.05, 2.0

#: ARGV: bytes of the reply, and of one payload. Answers for each key, up to where the reply is full: nothing, the payload, or the
#: size and the beginning of one that is too long.
_READ_SCRIPT: Final = f"""
local answers, left = {{}}, tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
    local size = redis.pcall('STRLEN', key)
    if type(size) ~= 'number' then
        answers[i] = false
    elseif size > tonumber(ARGV[2]) then
        answers[i] = {{size, redis.call('GETRANGE', key, 0, {_BEGINNING_BYTES - 1})}}
    elseif size > left and i > 1 then
        break
    else
        answers[i] = redis.call('GET', key)
        left = left - size
    end
end
return answers
"""


@dataclass(frozen=True, slots=True)
class Pace:
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


async def read_results(backend: Any, task_ids: Sequence[str], *, timeout_s: float) -> dict[str, dict[str, Any]]:
    """Read what is stored of a few tasks, over a connection of its own: ``{task_id: meta}``, with PENDING where nothing is.

    Of a result that is too long, or cannot be decoded, the meta is no more than the state at its beginning.
    """
    client = redis.asyncio.Redis(connection_pool=_pool_like(backend, timeout_s))
    metas: dict[str, dict[str, Any]] = {}
    left = {task_id: _bytes(backend.get_key_for_task(task_id)) for task_id in task_ids}
    try:
        while left:
            channels = list(left.values())
            with anyio.fail_after(timeout_s):
                payloads = await client.eval(_READ_SCRIPT, len(channels), *channels, _REPLY_BYTES_MAX, _INSPECTED_BYTES_MAX)
            for task_id, payload in zip(list(left), payloads, strict=False):
                metas[task_id] = _meta_of(backend, payload)
                del left[task_id]
    finally:
        with anyio.move_on_after(timeout_s, shield=True):
            await client.aclose()
            await client.connection_pool.disconnect()
    return metas


def _meta_of(backend: Any, payload: Any) -> dict[str, Any]:
    if payload is None:
        return {"status": "PENDING"}
    beginning = payload[1] if isinstance(payload, list) else payload
    if not isinstance(payload, list):
        with suppress(Exception):
            # Whatever the serializer raises.
            meta: dict[str, Any] = backend.decode_result(payload)
            return meta
    return {"status": state_of_payload(beginning) or "of an unreadable result"}


class RedisResultWatcher:
    """Receives results through pub/sub, with the guards described above.

    Guards: the result of a watched task is emitted at least once, whatever happens to the connection.

    Args:
        value_bytes_max: Longest value that anybody could use. A payload far above it is not decoded, which would hold up the
            loop for nothing; its state is read off its beginning.
    """

    def __init__(self, backend: Any, *, value_bytes_max: int, pace: Pace | None = None) -> None:
        self._backend = backend
        self._pace = pace or Pace()
        self._has_usual_form = is_usual_json(backend)
        # Beside the value there is a traceback or the like.
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
        self._beat_channel = b""
        self._last_beat_at = 0.0
        self._emit: Emit | None = None
        self._problem = "the result backend has not been reached yet"
        self._connections = self._undecodable = 0
        self._seen_seconds = Tally()
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
            self._doubtful.pop(task_id, None)
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
            seen_seconds=self._seen_seconds.view(),
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
            except* Exception as errors:
                # Not only what redis-py documents: over uvloop, writing to a connection that was just lost is a RuntimeError.
                # Whatever it is, a new session starts over with everything.
                self._note_problem(_first(errors))
            if anyio.current_time() - begun > _RETRY_MAX_S:
                pause_s = _RETRY_FIRST_S
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    async def _session(self) -> None:
        """Connect, subscribe to everything, and receive until something breaks; always ends with an exception."""
        timeout_s = self._pace.command_timeout_s
        client = redis.asyncio.Redis(connection_pool=_pool_like(self._backend, timeout_s))
        # Without a time for each command redis-py sends at once, so that what waits for a result is sent before the task. A
        # server that takes nothing sends no heartbeat either.
        subscription = Subscription(_pool_like(self._backend, None))
        try:
            with anyio.fail_after(timeout_s):
                self._beat_channel = b"dyrygentd:heartbeat:%d" % await client.client_id()
                await subscription.open()
                await subscription.send("SUBSCRIBE", [self._beat_channel])
            self._connections += 1
            self._last_beat_at = anyio.current_time()
            self._to_subscribe = deque(self._watched)
            self._to_unsubscribe.clear()
            self._to_read.clear()
            self._subscriptions_changed.set()
            self._note_no_problem()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, subscription)
                tasks.start_soon(self._keep_subscribed, subscription)
                tasks.start_soon(self._read_confirmed, client)
                tasks.start_soon(self._beat, client)
                tasks.start_soon(self._sweep, client)
        finally:
            with anyio.move_on_after(timeout_s, shield=True):
                await subscription.close()
                await client.connection_pool.disconnect()

    # --- the tasks of a session -------------------------------------------------------------------------------------

    async def _receive(self, subscription: "Subscription") -> None:
        while True:
            events: list[TaskEvent] = []
            for kind, channel, data in await subscription.receive():
                task_id = self._task_of.get(channel)
                if kind == b"message":
                    if task_id is not None:
                        self._take(task_id, data, "pushed", events)
                    elif channel == self._beat_channel:
                        self._last_beat_at = anyio.current_time()
                elif kind == b"subscribe" and task_id is not None:
                    self._read_soon(task_id)
            self._hand_over(events)

    async def _keep_subscribed(self, subscription: "Subscription") -> None:
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

    async def _read_confirmed(self, client: Any) -> None:
        while True:
            if not self._to_read:
                self._confirmed = anyio.Event()
                await self._confirmed.wait()
            if len(self._to_read) < _SLICE:
                await anyio.sleep(_READ_AFTER_S)
            task_ids = list(islice(self._to_read, _SLICE))
            for task_id in task_ids:
                del self._to_read[task_id]
            await self._read(client, task_ids, "read")

    async def _beat(self, client: Any) -> None:
        pace = self._pace
        while True:
            with anyio.fail_after(pace.command_timeout_s):
                await client.publish(self._beat_channel, b"")
            await anyio.sleep(pace.beat_s)
            if anyio.current_time() - self._last_beat_at > pace.silence_max_s:
                raise _Silent(f"nothing was received for {pace.silence_max_s:g} s")

    async def _sweep(self, client: Any) -> None:
        while True:
            await anyio.sleep(self._pace.sweep_s)
            everything = deque(self._watched)
            while everything:
                await self._read(client, _taken(everything), "swept")

    async def _read(self, client: Any, task_ids: Sequence[str], path: str) -> None:
        left = [(task_id, self._watched[task_id]) for task_id in task_ids if task_id in self._watched]
        while left:
            channels = [channel for _, channel in left]
            with anyio.fail_after(self._pace.command_timeout_s):
                payloads = await client.eval(_READ_SCRIPT, len(channels), *channels, _REPLY_BYTES_MAX, self._payload_bytes_max)
            events: list[TaskEvent] = []
            for (task_id, _), payload in zip(left, payloads, strict=False):
                if isinstance(payload, list):
                    size, beginning = payload
                    self._take_long(task_id, size, beginning, path, events)
                elif payload is not None:
                    self._take(task_id, payload, path, events)
            self._hand_over(events)
            left = left[len(payloads) :]

    def _take(self, task_id: str, payload: bytes, path: str, events: list[TaskEvent]) -> None:
        """Turn a payload into an event, unless the task is settled already."""
        if task_id not in self._watched:
            return
        if len(payload) > self._payload_bytes_max:
            self._take_long(task_id, len(payload), payload[:_BEGINNING_BYTES], path, events)
            return
        success = success_of_payload(payload) if self._has_usual_form else None
        if success is not None:
            self._note_seen(success.date_done)
            self._note(TaskSucceeded(task_id, bytes(success.result)), path, events)
            return
        try:
            meta = self._backend.decode_result(payload)
            if not isinstance(meta["status"], str):
                raise TypeError(f"its state is {meta['status']!r}")
            event = event_of_meta(task_id, meta)
            if event is not None and is_final(event):
                self._note_seen(meta.get("date_done"))
        except Exception as error:
            # Whatever the serializer raises.
            if path == "pushed":
                self._read_soon(task_id)
                return
            self._undecodable += 1
            event = event_of_undecodable(task_id, error)
        if event is not None:
            self._note(event, path, events)

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
            self._note(event_of_long_payload(task_id, size, beginning), path, events)

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
        self._problem = problem

    def _note_no_problem(self) -> None:
        if self._problem and self._connections > 1:
            logger.warning("results can be received again")
        self._problem = ""


_NO_ANSWER: Final[dict[type[BaseException], str]] = {TimeoutError: "the server does not answer"}


class Subscription:
    """A connection for pub/sub: redis-py connects, authenticates and sends, hiredis reads, all that has arrived at once.

    redis-py's own `PubSub` passes each message through nine functions, which takes 25 µs. What is used beside its public
    interface is the stream of a connection, in `_stream_of`. After an error redis-py would reconnect once before it raises, and
    subscribe to everything for a session that is about to end; here the error ends the session.
    """

    def __init__(self, pool: Any) -> None:
        self._connection = pool.make_connection()
        self._parser = hiredis.Reader(notEnoughData=_NOT_ENOUGH)

    async def open(self) -> None:
        """Connect. Raises ``redis.RedisError`` or ``OSError``."""
        await self._connection.connect()

    async def send(self, command: str, channels: Sequence[bytes]) -> None:
        """Send a command; its confirmations are received. Raises ``redis.RedisError`` or ``OSError``."""
        if not self._connection.is_connected:
            raise redis.ConnectionError("the connection was lost")
        try:
            await self._connection.send_packed_command(_packed(command, *channels))
        except (RuntimeError, AttributeError) as error:
            raise _lost(error) from error

    async def receive(self) -> list[list[Any]]:
        """Wait for something, and return all that has arrived: ``[what it is, the channel, the message or a number]``.

        Raises:
            redis.RedisError, OSError: The connection is lost, or the server refuses something.
        """
        received = await _stream_of(self._connection).read(_RECEIVED_BYTES)
        if not received:
            raise redis.ConnectionError("the server closed the connection")
        self._parser.feed(received)
        arrived, gets = [], self._parser.gets
        while (reply := gets()) is not _NOT_ENOUGH:
            if not isinstance(reply, list):
                # Nothing is asked for here that has another answer than a list or an error.
                raise ResponseError(str(reply))
            if len(reply) == 3:
                arrived.append(reply)
        return arrived

    async def close(self) -> None:
        """Close; safe to repeat."""
        await self._connection.disconnect()


def _lost(error: Exception) -> redis.ConnectionError:
    """Translate what uvloop says of a transport that was closed a moment ago, and redis-py of its writer that is None by now."""
    return redis.ConnectionError(f"the connection was lost: {error}")


def _packed(*words: str | int | bytes) -> bytes:
    """Return a command as it is sent; redis-py's own way takes nine times as long for many words."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
    return packed


#: What hiredis says when it has no whole reply.
_NOT_ENOUGH: Final = object()
_RECEIVED_BYTES: Final = 256 * 1024


def _stream_of(connection: Any) -> Any:
    """Return the stream of a connected connection of redis-py, an internal of it: ``tests/transport`` notices if it is gone."""
    stream = connection._reader
    if stream is None:
        raise redis.ConnectionError("the connection was lost")
    return stream


def _pool_like(backend: Any, timeout_s: float | None) -> Any:
    """Make an asyncio connection pool with the parameters that Celery's backend uses for its own."""
    return asyncio_pool(backend.connparams, timeout_s)


def asyncio_pool(parameters: Mapping[str, Any], timeout_s: float | None) -> Any:
    """Make an asyncio connection pool without patience from the parameters of a blocking one."""
    parameters = dict(parameters)
    connection_class = _ASYNCIO_CLASSES.get(parameters.pop("connection_class", redis.Connection))
    if connection_class is None:
        connection_class = redis.asyncio.Connection
    parameters.pop("max_connections", None)
    parameters |= {"socket_timeout": timeout_s, "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False}
    if connection_class is not redis.asyncio.UnixDomainSocketConnection:
        parameters["socket_connect_timeout"] = timeout_s
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
