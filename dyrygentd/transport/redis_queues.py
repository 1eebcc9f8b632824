"""Looking into the queues of kombu's Redis transport, and taking messages out of them.

A queue is a list for each priority step; messages are pushed on the left and popped on the right, from the lowest step on. What a
worker has popped is in the hash `unacked` until it is acknowledged, with the time in the sorted set `unacked_index`.

Messages are looked through by the server, a slice at a time, so that neither their bodies travel nor the server stops for long.
The slices go from the left to the right: what others do meanwhile moves messages to the right, so that none is missed.
A task's message is known by its `correlation_id`, which Celery sets to the task id, also when a worker sends the task again for a
retry; or by the delivery tag that we gave it. Both stand unescaped in the message, and nothing that a user can write does: the
body is base64, and what is in the headers has its quotes escaped.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from kombu.transport.virtual import Channel as VirtualChannel
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from dyrygentd.core.destination import destination_of
from dyrygentd.ports.facts import TaskPlace
from dyrygentd.transport.message import MessageSender
from dyrygentd.transport.redis_connections import CONNECTION_ERRORS
from dyrygentd.transport.redis_term import LATER_THAN, Fence, commands, ledger_key

#: Messages looked at in a list: seconds of work for a server, and far more than the daemon keeps in the broker.
SEARCHED_MAX: Final = 100_000
#: Priorities that a queue may have had a list for, whatever `priority_steps` says now.
_STEPS: Final = range(10)
#: Messages in one call of a script, about 2 ms, and task ids in its arguments.
_SLICE: Final = 500
_IDS_MAX: Final = 1000

_TASK_OF: Final = """
local wanted, found = {}, {}
for i = WANTED_FROM, #ARGV do
    wanted[ARGV[i]] = true
end
local function task_of(message)
    local at = string.find(message, '"correlation_id"', 1, true)
    local id = at and string.match(message, '^"correlation_id":%s*"([^"]+)"', at)
    if id and wanted[id] then
        return id
    end
    at = string.find(message, '"delivery_tag"', 1, true)
    id = at and string.match(message, '^"delivery_tag":%s*"dyrygentd:([^"]+):%d+"', at)
    return id and wanted[id] and id
end
"""
#: KEYS: the list, and the ledger. ARGV: the first and the last index, what is to be done, the term of who does it, and the wanted
#: ids. Answers the length, how many were looked at, and pairs of a task id and its index; -1, 0 and the other term if a later one
#: is known.
_SEARCH: Final = (
    LATER_THAN
    + _TASK_OF.replace("WANTED_FROM", "5")
    + """
local later = later_than(ARGV[4], redis.call('HGET', KEYS[2], 'term'))
if later then
    return {-1, 0, later}
end
local messages = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
for i, message in ipairs(messages) do
    local id = task_of(message)
    if id then
        table.insert(found, id)
        table.insert(found, ARGV[1] + i - 1)
    end
end
local length = redis.call('LLEN', KEYS[1])
if ARGV[3] == 'withdraw' and #found > 0 then
    -- Removing them one by one would look through the list for each.
    for i = 2, #found, 2 do
        redis.call('LSET', KEYS[1], found[i], 'withdrawn by dyrygentd')
    end
    redis.call('LREM', KEYS[1], 0, 'withdrawn by dyrygentd')
end
return {length, #messages, unpack(found)}
"""
)
#: ARGV: the cursor, and the wanted ids. Answers the next cursor, how many were looked at, and pairs of a task id and its tag.
_SEARCH_RESERVED: Final = (
    _TASK_OF.replace("WANTED_FROM", "2")
    + """
local answer = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', SLICE)
local entries = answer[2]
for i = 1, #entries, 2 do
    local id = task_of(entries[i + 1])
    if id then
        table.insert(found, id)
        table.insert(found, entries[i])
    end
end
return {answer[1], #entries / 2, unpack(found)}
"""
).replace("SLICE", str(_SLICE))


class RedisQueues:
    """The queues behind a kombu Redis channel. Blocking; every method raises ``redis.RedisError``.

    Args:
        searched_max: Messages looked at in one list.
        fence: In whose name something is changed; `withdraw` and `drop_reservations` raise `Fenced`, too.
    """

    def __init__(self, channel: Any, client: Any, *, searched_max: int = SEARCHED_MAX, fence: Fence | None = None) -> None:
        self._channel = channel
        self._client = client
        self._prefix: str = channel.global_keyprefix
        self._searched_max = searched_max
        self._fence = fence or Fence()
        self._ledger = ledger_key(self._prefix, self._fence.name)
        self._search = self._client.register_script(_SEARCH)
        self._search_reserved = self._client.register_script(_SEARCH_RESERVED)

    def length(self, queue: str) -> int:
        """Return how many messages no worker has fetched."""
        with self._client.pipeline(transaction=False) as pipe:
            for key in self._lists(queue):
                pipe.llen(key)
            return sum(pipe.execute())

    def find(self, queue: str, task_ids: Sequence[str]) -> tuple[dict[str, int], bool]:
        """Return ``{task_id: messages ahead}`` of those that are in the queue, and whether all its messages were looked at."""
        found: dict[str, int] = {}
        is_searched, ahead = True, 0
        for key in self._lists(queue):
            length = 0
            for ids in _parts(task_ids):
                begin = 0
                for length, seen, places in self._slices(key, ids, "find"):
                    found.update({task_id: ahead + length - 1 - place for task_id, place in places})
                    begin += seen
                is_searched = is_searched and begin >= length
            ahead += length
        return found, is_searched

    def withdraw(self, queue: str, task_ids: Sequence[str]) -> list[str]:
        """Remove the messages of these tasks from the queue, and return those that were there."""
        return [
            task_id
            for key in self._lists(queue)
            for ids in _parts(task_ids)
            for _, _, places in self._slices(key, ids, "withdraw")
            for task_id, _ in places
        ]

    def reservations(self, tags: Sequence[str]) -> dict[str, float | None]:
        """Return ``{delivery tag: Unix time of the reservation}`` of the messages that a worker has and has not acknowledged."""
        with self._client.pipeline(transaction=False) as pipe:
            for tag in tags:
                pipe.hexists(self._prefix + self._channel.unacked_key, tag)
                pipe.zscore(self._prefix + self._channel.unacked_index_key, tag)
            answers = pipe.execute()
        pairs = zip(tags, answers[::2], answers[1::2], strict=True)
        return {tag: since for tag, is_there, since in pairs if is_there or since is not None}

    def reserved_under_other_tags(self, task_ids: Sequence[str]) -> tuple[dict[str, str], bool]:
        """Return ``{task_id: delivery tag}`` of what workers have reserved, and whether all reservations were looked at.

        A worker that sends a task again, for a retry or in place of itself, gives the message a tag of its own.
        """
        found: dict[str, str] = {}
        is_searched = True
        key = self._prefix + self._channel.unacked_key
        for ids in _parts(task_ids):
            names = {dumps(task_id)[1:-1]: task_id for task_id in ids}
            cursor, looked_at = 0, 0
            while True:
                next_cursor, seen, *pairs = self._search_reserved(keys=[key], args=[cursor, *names])
                found |= {names[bytes_to_str(name)]: bytes_to_str(tag) for name, tag in zip(pairs[::2], pairs[1::2], strict=True)}
                cursor, looked_at = int(next_cursor), looked_at + int(seen)
                if not cursor:
                    break
                if looked_at >= self._searched_max:
                    is_searched = False
                    break
        return found, is_searched

    def drop_reservations(self, tags: Sequence[str]) -> None:
        """Keep these messages from being delivered again; acknowledging them later does no harm."""
        for part in _parts(tags):
            index, unacked = self._prefix + self._channel.unacked_index_key, self._prefix + self._channel.unacked_key
            commands(self._client, self._ledger, self._fence, [("ZREM", index, part), ("HDEL", unacked, part)])

    def _lists(self, queue: str) -> list[str]:
        """Return the keys of a queue in the order in which workers empty them, those of earlier steps included."""
        steps = sorted({*self._channel.priority_steps, *_STEPS})
        return [f"{self._prefix}{queue}{self._channel.sep}{step}" if step else self._prefix + queue for step in steps]

    def _slices(self, key: str, task_ids: Sequence[str], what: str) -> Iterator[tuple[int, int, list[tuple[str, int]]]]:
        """Yield for each slice the list's length, how many messages it has, and ``(task_id, index)`` of the found ones."""
        names = {dumps(task_id)[1:-1]: task_id for task_id in task_ids}
        term = self._fence.term if what == "withdraw" else ""
        begin, left = 0, self._searched_max
        while left > 0:
            end = begin + min(_SLICE, left) - 1
            length, seen, *found = self._search(keys=[key, self._ledger], args=[begin, end, what, term, *names])
            if length < 0:
                self._fence.refuse(found[0])
            places = [(names[bytes_to_str(name)], int(index)) for name, index in zip(found[::2], found[1::2], strict=True)]
            yield length, seen, places
            if begin + seen >= length or not seen:
                break
            left -= seen
            begin += seen - (len(places) if what == "withdraw" else 0)


def fetching_connections(client: Any, channel: Any) -> tuple[int | None, int]:
    """Return how many connections wait for messages in this database, None if we may not know, and how many did so last.

    A worker has one connection for BRPOP, whatever it does meanwhile: one that is busy, silent or shutting down, too. But so has
    a program that asked the workers for something, as monitors and health checks do, after it got the answers.
    """
    try:
        clients = client.client_list()
    except CONNECTION_ERRORS:
        return None, 0  # `CLIENT LIST` is not for everybody.
    database = str(channel.connection.client.virtual_host or "0").strip("/") or "0"
    number = database if database.isdigit() else "0"
    fetching = [each for each in clients if each.get("cmd") == "brpop" and each.get("db") == number]
    waiting = sum("b" in each.get("flags", "") for each in fetching)
    return waiting, len(fetching) - waiting


def queues_of(sender: MessageSender, channel: Any, place: TaskPlace) -> list[str]:
    """Return the queues that an attempt's message went to; none if it cannot be routed, or went to a fanout exchange."""
    # Whatever a router of the user raises, or kombu for an unknown exchange: then the message was refused as well.
    with suppress(Exception):
        destination = destination_of(place.destination) or sender.destination(place.signature)
        queue, exchange, kind, routing_key = destination
        if kind == "fanout":
            return []
        if not exchange:
            return [queue]
        is_virtual = isinstance(channel, VirtualChannel)
        if not is_virtual:
            return sender.bound_queues(destination)
        table = channel.get_table(exchange)
        return [name for name in channel.exchange_types[kind].lookup(table, exchange, routing_key, None) if name]
    return []


def _parts(items: Sequence[str]) -> list[Sequence[str]]:
    return [items[begin : begin + _IDS_MAX] for begin in range(0, len(items), _IDS_MAX)]
