"""Redis: pushing a message exactly once.

Theory of operation
===================
A reply that is cut leaves open whether the push happened, and every client library then pushes again. So each node has a
marker, a field in a hash per workflow beside the queues, with the number of the last attempt that was pushed, and one script
raises the marker and pushes only if the attempt is a later one. A node may have very many attempts, so there is not a marker
for each. A script runs atomically and is logged (AOF) as a whole, so marker and message share their fate. A ledger counts the
pushes of each database, and the script refuses to push where there are fewer than there were: a replica that lagged, or older
data. Conditions: the broker is one server (not Redis Cluster), and it evicts nothing.

Long because both ways to push, from the thread and from the loop, share scripts, keys and what answers mean.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import redis
from kombu.utils.json import dumps
from redis.exceptions import ResponseError

from dyrygentd.core.effects import Publish
from dyrygentd.core.queues import is_reserved
from dyrygentd.ports.facts import BrokerMemory, Term
from dyrygentd.transport.redis_asking import Asking, Script
from dyrygentd.transport.redis_connections import ASYNCIO_CLASSES, asyncio_pool
from dyrygentd.transport.redis_term import LATER_THAN, Fence, command, commands, ledger_key, raise_term

#: How long a marker outlives the last push of its workflow: longer than any outage after which somebody would still resume.
_MARKER_TTL_S: Final = 30 * 24 * 3600
#: How long the markers of a workflow that has ended are kept. A push that was given up may be on its way still: the kernel sends
#: what a closed connection has left for a minute or two, and the network may take its time.
_OVER_TTL_S: Final = 600
#: Markers that are let go at one time.
_FORGET_SLICE: Final = 1000

#: KEYS begin with that of the sentinel and that of the ledger. ARGV: the token, empty if it is not asked for; the term, likewise;
#: how many pushes the ledger has at least; the markers' TTL; how many messages; for each message the marker's index among KEYS,
#: the node, the attempt, the message, how many queues, and their indexes; then pairs of a key's index and the milliseconds after
#: which it expires. Returns how many were pushed, the messages that were in the shortest queue before, how many pushes the ledger
#: has now, and pairs of the number of a refused message and the error; -1 alone if the sentinel is gone or the ledger has fewer
#: pushes; -2 and the other term if it knows of a later one.
_PUSH_SCRIPT: Final = (
    LATER_THAN
    + """
if ARGV[1] ~= '' or ARGV[2] ~= '' then
    local ledger = redis.call('HMGET', KEYS[2], 'pushes', 'term')
    local later = later_than(ARGV[2], ledger[2])
    if later then
        return {-2, later}
    end
    if ARGV[1] ~= '' and (redis.call('GET', KEYS[1]) ~= ARGV[1] or tonumber(ledger[1] or 0) < tonumber(ARGV[3])) then
        return {-1}
    end
end
local answer, pushed, at, is_known, shortest = {0, 0, 0}, 0, 6, {}, nil
for number = 1, tonumber(ARGV[5]) do
    local marker, node, attempt, last = KEYS[tonumber(ARGV[at])], ARGV[at + 1], tonumber(ARGV[at + 2]), at + 4 + ARGV[at + 4]
    local before = tonumber(redis.call('HGET', marker, node) or 0)
    -- Version 0.1 had a field for each attempt, and a workflow of its may still run.
    if attempt > before and redis.call('HEXISTS', marker, node .. ':' .. ARGV[at + 2]) == 0 then
        redis.call('HSET', marker, node, ARGV[at + 2])
        redis.call('EXPIRE', marker, ARGV[4])
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
if ARGV[1] ~= '' and pushed > 0 then
    answer[3] = redis.call('HINCRBY', KEYS[2], 'pushes', pushed)
end
return answer
"""
)


#: KEYS: that of the sentinel and that of the ledger. Returns the token and what the ledger has. It changes nothing, and is
#: refused by a server that would refuse a push: a replica, one that is full, or one that cannot save.
_MEMORY_SCRIPT: Final = """
local token, ledger = redis.call('GET', KEYS[1]), redis.call('HMGET', KEYS[2], 'pushes', 'turn', 'holder', 'term')
if token then
    redis.call('SET', KEYS[1], token, 'NX')
end
return {token or '', ledger[1] or '', ledger[2] or '', ledger[3] or '', ledger[4] or ''}
"""
_PUSH, _MEMORY = Script(_PUSH_SCRIPT), Script(_MEMORY_SCRIPT)


class SentinelGone(Exception):
    """The server does not have the token that was left there, or fewer pushes than it has told us of."""


@dataclass(slots=True)
class PushCount:
    """How many pushes the server has said that it has; never more than it had."""

    known: int = 0

    def note(self, total: int) -> None:
        """Take note of what an answer says."""
        self.known = max(self.known, total)


class UndeliverableMessage(Exception):
    """A message would reach no queue."""


class Collected(NamedTuple):
    """A finished message and where it goes; there are no queues if kombu sent it by itself (fanout exchanges).

    Attributes:
        expires_ms: ``{key: milliseconds}`` for all keys of queues that have ``x-expires``.
        destination: Where it goes, as it is remembered.
    """

    message: Publish
    queues: Sequence[str]
    payload: str
    expires_ms: Mapping[str, int]
    destination: str = ""


class Pushed(NamedTuple):
    """What came of a push.

    Attributes:
        new: Messages that were pushed; the others had been before.
        before: Messages that were in the shortest of their queues before.
        refused: ``{task_id: error}`` of what can never be pushed.
        total: Pushes that the server has counted for this database, 0 if it did not count.
    """

    new: int
    before: int
    refused: dict[str, str]
    total: int = 0


def delivery_tag(task_id: str, attempt: int) -> str:
    """Return the tag under which workers keep the message of an attempt in `unacked`."""
    return f"dyrygentd:{task_id}:{attempt}"


def collecting(transport: Any, fence_of: Callable[[], Fence] = Fence) -> Any:
    """Derive a kombu transport whose channel keeps what it would push; everything else is kombu's own.

    What it broadcasts it does not keep, and sends it in the name of the process that ``fence_of`` tells.

    ``_put`` is the method that kombu's virtual transports implement; its other names and those of the priority queues are
    internals of the Redis transport, and a kombu without them is refused (`dyrygentd.transport.internals`). The public way, a
    producer's ``publish``, pushes by itself, so no marker could be set in the same script, and one message at a time: 5,000 with
    kombu 5.7 on a Unix socket took 440 to 640 µs of CPU time each, and 18 to 22 µs by the hundred in this way. What kombu would
    drop or put aside because no queue is bound is refused: no worker would ever see it.
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
            if is_reserved(queue) or queue in (self.unacked_key, self.unacked_index_key, self.unacked_mutex_key):
                raise UndeliverableMessage(f"'{queue}' is a key of kombu's, Celery's or the daemon's own, and no queue")
            # A tag of ours is what workers keep in `unacked`, so one HGET tells whether a worker has reserved the task.
            message["properties"]["delivery_tag"] = delivery_tag(self._publish.task_id, self._publish.attempt)
            # An exchange may have several queues; each gets the same message.
            self._put_into.append(self._q_for_pri(queue, self._get_message_priority(message, reverse=False)))
            self._payload = dumps(message)
            # kombu 5.6 lets no queue on Redis expire, and has no such list.
            if (milliseconds := getattr(self, "_expires", {}).get(queue)) is not None:
                for step in self.priority_steps:
                    self._keys_expire[self._q_for_pri(queue, step)] = milliseconds

        def _put_fanout(self, exchange: str, message: Any, routing_key: str, **kwargs: Any) -> None:
            fence = fence_of()
            if fence.term:
                self._fan_out(fence, exchange, message, routing_key)
            else:
                super()._put_fanout(exchange, message, routing_key, **kwargs)
            self._is_fanned_out = True

        def _fan_out(self, fence: Fence, exchange: str, message: Any, routing_key: str) -> None:
            # kombu 5.6 has one topic for each, 5.7 may have several.
            topics_of = getattr(self, "_get_publish_topics", lambda *names: [self._get_publish_topic(*names)])
            with self.conn_or_acquire() as kombus:
                is_prefixed = "PUBLISH" in getattr(kombus, "PREFIXED_SIMPLE_COMMANDS", ())
            prefix = self.global_keyprefix if is_prefixed else ""
            ledger = ledger_key(self.global_keyprefix, fence.name)
            for topic in topics_of(exchange, routing_key):
                command(client_of(self), ledger, fence, "PUBLISH", (), f"{prefix}{topic}", dumps(message))

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
        fence: What the server must know; nothing is done that it does not allow.
        count: Told of what the server has, and what tells one that has lost its last pushes.

    All methods that change something raise `Fenced` if the server knows of a later term, and then nothing was changed.
    """

    def __init__(self, channel: Any, fence: Fence | None = None, count: PushCount | None = None) -> None:
        self._count = count or PushCount()
        self._client = client_of(channel)
        self._prefix: str = channel.global_keyprefix
        self._fence = fence or Fence()
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
        keys, arguments = push_call(self._prefix, self._fence, self._count.known, sent)
        pushed = pushed_of(self._script(keys=keys, args=arguments), sent, self._fence)
        self._count.note(pushed.total)
        return pushed

    def raise_term(self) -> None:
        """Have the server know the fence's term. Raises ``redis.RedisError``."""
        raise_term(self._client, ledger_key(self._prefix, self._fence.name), self._fence)

    def forget(self, workflow_ids: Sequence[str]) -> None:
        """Have the markers of these workflows expire soon. Raises ``redis.RedisError``."""
        ledger = ledger_key(self._prefix, self._fence.name)
        for begin in range(0, len(workflow_ids), _FORGET_SLICE):
            part = workflow_ids[begin : begin + _FORGET_SLICE]
            expiries = [("EXPIRE", marker_key(self._prefix, workflow_id), [str(_OVER_TTL_S)]) for workflow_id in part]
            commands(self._client, ledger, self._fence, expiries)

    def mark(self, name: str, token: str) -> None:
        """Leave a token. Raises ``redis.RedisError``."""
        self._command("SET", [sentinel_key(self._prefix, name)], token)

    def memory(self, name: str) -> BrokerMemory:
        """Return what the server remembers of a database. Raises ``redis.RedisError``, also if it takes no writes."""
        keys = _memory_keys(self._prefix, name)
        return _memory_of(self._client.eval(_MEMORY_SCRIPT, len(keys), *keys))

    def note(self, name: str, turn: int, holder: str) -> None:
        """Have the server remember how far a database is, and whose process says so. Raises ``redis.RedisError``."""
        self._command("HSET", [ledger_key(self._prefix, name)], "turn", turn, "holder", holder)

    def _command(self, name: str, keys: Sequence[str], *arguments: str | int) -> None:
        command(self._client, ledger_key(self._prefix, self._fence.name), self._fence, name, keys, *arguments)

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


def sentinel_key(prefix: str, name: str) -> str:
    """Return the key of a database's token."""
    return f"{prefix}dyrygentd:sentinel:{name}"


def marker_key(prefix: str, workflow_id: str) -> str:
    """Return the key of a workflow's markers."""
    return f"{prefix}dyrygentd:published:{workflow_id}"


def push_call(prefix: str, fence: Fence, known: int, sent: Sequence[Collected]) -> tuple[list[str], list[str | int]]:
    """Return keys and arguments of the script for messages that have queues.

    Args:
        prefix: Of all keys.
        fence: As for `MarkedPush`.
        known: How many pushes the server has at least.
    """
    keys: dict[str, int] = {sentinel_key(prefix, fence.name): 1, ledger_key(prefix, fence.name): 2}

    def index(key: str) -> int:
        return keys.setdefault(key, len(keys) + 1)

    arguments: list[str | int] = [fence.token, fence.term, known, _MARKER_TTL_S, len(sent)]
    expires_ms: dict[str, int] = {}
    marker_of, workflow_id, queues_of, queues = 0, "", list[int](), None
    for collected in sent:
        publish = collected.message
        # Those of one template have the same list of queues.
        if publish.workflow_id != workflow_id or not marker_of:
            workflow_id = publish.workflow_id
            marker_of = index(marker_key(prefix, workflow_id))
        if collected.queues is not queues:
            queues = collected.queues
            queues_of = [index(prefix + queue) for queue in queues]
            expires_ms.update(collected.expires_ms)
        arguments += (marker_of, publish.node, publish.attempt, collected.payload, len(queues_of), *queues_of)
    for key, milliseconds in expires_ms.items():
        arguments += [index(prefix + key), milliseconds]
    return list(keys), arguments


def _memory_keys(prefix: str, name: str) -> tuple[str, str]:
    return sentinel_key(prefix, name), ledger_key(prefix, name)


def _memory_of(answer: Sequence[Any]) -> BrokerMemory:
    token, pushes, turn, holder, term = answer
    return BrokerMemory(token.decode(), int(pushes or 0), int(turn or 0), holder.decode(), term=Term.of(term.decode()))


def pushed_of(answer: Sequence[Any], sent: Sequence[Collected], fence: Fence) -> Pushed:
    """Read the script's answer. Raises `SentinelGone` or `Fenced`."""
    if int(answer[0]) < 0:
        fence.refuse(answer[1] if len(answer) > 1 else "")
        raise SentinelGone
    pushed, before, total, *refused = answer
    errors = {
        sent[number - 1].message.task_id: f"Redis refuses it: {error.decode(errors='replace')}"
        for number, error in zip(refused[::2], refused[1::2], strict=True)
    }
    return Pushed(int(pushed), int(before), errors, int(total))


class LoopPush:
    """Pushes from the event loop, over a connection of its own: a thread costs each push as much again as the push itself.

    What the server remembers is asked over another one, as each answer to a client waits for that, and would for the pushes, too.

    Args:
        channel: As for `MarkedPush`.
        timeout_s: That connecting or one push may take.
        count: As for `MarkedPush`.
        ask: Makes what asks the server over a pool's connections.

    Raises:
        ValueError: Its connections are no ordinary ones to one server, or have what asyncio's cannot have.
    """

    def __init__(self, channel: Any, timeout_s: float, count: PushCount, *, ask: Callable[[Any], Asking] = Asking) -> None:
        pool = channel.pool
        if type(pool) is not redis.ConnectionPool or pool.connection_class not in ASYNCIO_CLASSES:
            raise ValueError(f"{type(pool).__name__} of {pool.connection_class.__name__}")
        loop_pool = asyncio_pool({**pool.connection_kwargs, "connection_class": pool.connection_class}, None)
        try:
            loop_pool.make_connection()
        except TypeError as error:
            raise ValueError(str(error)) from error
        self._asking, self._remembering = ask(loop_pool), ask(loop_pool)
        self._one_question = asyncio.Lock()
        self._timeout_s = timeout_s
        self._prefix: str = channel.global_keyprefix
        self._count = count
        self._server = _server_of(pool)

    def is_with(self, channel: Any) -> bool:
        """Tell whether a channel is to the same server: of several kombu may have chosen another one."""
        return self._server == _server_of(channel.pool)

    async def push(self, sent: Sequence[Collected], fence: Fence) -> Pushed:
        """Do what `MarkedPush.push` does, with messages that have queues. Raises ``OSError`` as well."""
        keys, arguments = push_call(self._prefix, fence, self._count.known, sent)
        async with asyncio.timeout(self._timeout_s):
            is_fresh = self._asking.is_fresh
            try:
                answer = await self._asking.run(_PUSH, keys, arguments)
            except (redis.ConnectionError, OSError) as error:
                if is_fresh:
                    raise
                # It may have been cut while nobody used it, which is no outage; and the script may run again.
                answer = await self._asking.run(_PUSH, keys, arguments)
                if int(answer[0]) < 0:
                    # Whether the server had pushed them before it lost its memory is not known.
                    raise error from None
        pushed = pushed_of(answer, sent, fence)
        self._count.note(pushed.total)
        return pushed

    async def memory(self, name: str) -> BrokerMemory:
        """Do what `MarkedPush.memory` does. Raises ``OSError`` as well."""
        async with asyncio.timeout(self._timeout_s), self._one_question:
            is_fresh, keys = self._remembering.is_fresh, _memory_keys(self._prefix, name)
            try:
                return _memory_of(await self._remembering.run(_MEMORY, keys, ()))
            except (redis.ConnectionError, OSError):
                if is_fresh:
                    raise
                return _memory_of(await self._remembering.run(_MEMORY, keys, ()))

    async def close(self) -> None:
        """Close the connections; the next push makes another."""
        await self._asking.close()
        await self._remembering.close()


def _server_of(pool: Any) -> list[Any]:
    return [pool.connection_kwargs.get(name) for name in ("host", "port", "path", "db")]


@dataclass(frozen=True, slots=True)
class Pushes:
    """What pushes: from the dispatcher's thread, and from the event loop."""

    in_thread: Callable[[Any, Fence, PushCount], MarkedPush] = MarkedPush
    on_loop: Callable[[Any, float, PushCount], LoopPush] = LoopPush
