"""Publishing on Redis: each attempt once.

kombu builds each message into a channel that only collects, and one script then sets the markers and pushes (see
`dyrygentd.transport.redis_push`). Once a shape of messages is known (`dyrygentd.transport.template`), the event loop does both
over a second connection, which spares the thread; the first message of a shape, and all messages for a while after an error, go
by the thread.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from dyrygentd.advice import with_advice
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.core.words import described
from dyrygentd.errors import BrokerEmptied, BrokerUnavailable, Fenced
from dyrygentd.ports.facts import BrokerMemory, TaskPlace, Term
from dyrygentd.transport.broker_connection import RETRIABLE, BrokerConnection
from dyrygentd.transport.message import MessageSender
from dyrygentd.transport.publishing import PublishOutcome, refused
from dyrygentd.transport.redis_push import (
    Collected,
    LoopPush,
    MarkedPush,
    PushCount,
    Pushed,
    Pushes,
    SentinelGone,
    client_of,
    collecting,
    delivery_tag,
    is_wrong_type,
)
from dyrygentd.transport.redis_queues import RedisQueues, queues_of
from dyrygentd.transport.redis_term import Fence
from dyrygentd.transport.template import Templates

logger = logging.getLogger("dyrygentd.dispatcher")

#: Bytes of messages in one script; a slice of large messages is pushed in parts.
_PUSH_BYTES_MAX = 8 * 1024 * 1024
#: After an error all messages go by the thread for so long.
_LOOP_PAUSE_S = 30.0
#: A queue with fewer messages is short: workers may be waiting for the next one. For so long it is taken to be as it was.
_BACKLOG_MIN = 20
_BACKLOG_S = 1.0

T = TypeVar("T")


class MarkedPublishing:
    """Pushes with markers. Guards: a message is built once however often it is pushed; no broker without its memory gets any.

    Args:
        message_bytes_max: Longest message accepted.
        reports: Returns what messages say about reporting.
        ways: What pushes.
    """

    exactly_once: Final = True

    def __init__(
        self,
        app: Any,
        broker: BrokerConnection,
        sender: MessageSender,
        *,
        message_bytes_max: int,
        reports: Callable[[], Mapping[str, Any] | None],
        ways: Pushes,
    ) -> None:
        self._broker = broker
        self._ways = ways
        self._sender = sender
        self._message_bytes_max = message_bytes_max
        self.templates = Templates(app, self.built, reports=reports)
        self.loop_push: LoopPush | None = None
        self._left: list[LoopPush] = []
        self._loop_after = 0.0
        self._push: MarkedPush | None = None
        self._fence = Fence()
        self._pushes = PushCount()
        self._pushes_with = Fence()
        self._collected: dict[str, Collected | MessageRefused] = {}
        self.repeated = 0
        self._backlog, self._backlog_at, self._short_at = 0, -_BACKLOG_S, -_BACKLOG_S

    def __repr__(self) -> str:
        return f"<MarkedPublishing {self._broker!r} backlog={self._backlog} repeated={self.repeated}>"

    def prepare(self, connection: Any, options: dict[str, Any]) -> None:
        """Have a connection's channels collect, and its sockets wait with a bound."""
        options.setdefault("socket_timeout", self._broker.timeout_s)
        options.setdefault("socket_connect_timeout", self._broker.timeout_s)
        connection.transport_cls = collecting(connection.get_transport_cls(), lambda: self._fence)

    def opened(self, producer: Any, options: dict[str, Any]) -> None:
        """Make the connection of the event loop, with what this one is made with, and to the same server."""
        if self.loop_push is not None and not self.loop_push.is_with(producer.channel):
            self._left.append(self.loop_push)
            self.loop_push = None
        if self.loop_push is None:
            try:
                timeout_s = float(options.get("socket_timeout") or self._broker.timeout_s)
                self.loop_push = self._ways.on_loop(producer.channel, timeout_s, self._pushes)
            except ValueError as error:
                logger.debug("all messages are pushed from the thread: %s", error)

    def closed(self) -> None:
        """Forget what was made with the connection's channel."""
        self._push = None
        self.templates.clear()

    async def publish(self, messages: Sequence[Publish]) -> Sequence[PublishOutcome]:
        """Send messages, and tell what became of them; those without an answer are to be handed in again."""
        # The token of this moment: a broker that loses its memory while this waits for the thread does not get the messages.
        fence = self._fence
        async with self._broker.in_order:
            await self._close_left()
            outcomes = await self._publish_on_loop(messages, fence)
            if outcomes is None:
                outcomes = await self._broker.run_in_thread(lambda: self._publish_in_thread(messages, fence))
        return outcomes

    async def withdraw(self, tasks: Sequence[TaskPlace]) -> Sequence[str]:
        """Take messages back that no worker has fetched, and return their tasks' ids."""

        def take_back() -> list[str]:
            self._broker.connect()
            channel = self._broker.producer.channel
            queues = RedisQueues(channel, client_of(channel), fence=self._fence)
            places: dict[str, list[TaskPlace]] = {}
            for task in tasks:
                for queue in queues_of(self._sender, channel, task):
                    places.setdefault(queue, []).append(task)
            withdrawn = [
                task_id for queue, those in places.items() for task_id in queues.withdraw(queue, [task.task_id for task in those])
            ]
            # The way of a message is from the list to the reservations.
            queues.drop_reservations([delivery_tag(task.task_id, task.attempt) for task in tasks])
            return list(dict.fromkeys(withdrawn))

        return await self._broker.in_thread(take_back) if tasks else []

    def guard(self, name: str, token: str, pushes: int) -> None:
        """From now on publish only into a broker that has this token, and so many pushes at least."""
        self._fence = self._fence._replace(name=name, token=token)
        self._pushes.known = pushes

    async def raise_term(self, name: str, term: Term) -> None:
        """Have the broker know the term, and from now on change nothing there once it knows of a later one."""
        self._fence = self._fence._replace(name=name, term=term.text)
        await self._with_push(MarkedPush.raise_term)

    def pushes(self) -> int:
        """Return how many pushes the broker has at least, by its own answers."""
        return self._pushes.known

    async def mark(self, name: str, token: str) -> None:
        """Leave a token in the broker."""
        await self._with_push(lambda push: push.mark(name, token))

    async def memory(self, name: str) -> BrokerMemory | None:
        """Return what the broker remembers under a name."""
        known = await self._memory_on_loop(name)
        if known is None:
            known = await self._with_push(lambda push: push.memory(name))
        return replace(known, place=self._broker.place)

    async def note(self, name: str, turn: int, holder: str) -> None:
        """Have the broker remember how far the database is, and which process says so."""
        await self._with_push(lambda push: push.note(name, turn, holder))

    async def cautions(self) -> Sequence[str]:
        """Return what about the broker's configuration weakens the promises."""
        found = await self._with_push(MarkedPush.cautions)
        if self._broker.are_several:
            found.append(
                f"the broker is one of several servers ({self._broker.place}), each of which alone knows what was published and"
                " by whom: after a change to another one tasks may run twice; name one of them, or sentinels"
            )
        return found

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop the markers of workflows that will publish no more."""
        if workflow_ids:
            await self._with_push(lambda push: push.forget(workflow_ids))

    def backlog(self) -> int:
        """Return how many messages were in the queues before what was published last; 0 if a queue was short lately."""
        now = time.monotonic()
        is_known = now - self._backlog_at < _BACKLOG_S and now - self._short_at >= _BACKLOG_S
        return self._backlog if is_known else 0

    async def close(self) -> None:
        """Close the event loop's connection; safe to repeat."""
        await self._close_left()
        if self.loop_push is not None:
            await self.loop_push.close()

    async def _close_left(self) -> None:
        """Close connections to servers that are the broker no more."""
        while self._left:
            await self._left.pop().close()

    async def _with_push(self, work: Callable[[MarkedPush], T]) -> T:
        def connected() -> T:
            self._broker.connect()
            return work(self._marked_push(self._fence))

        return await self._broker.in_thread(connected)

    def _marked_push(self, fence: Fence) -> MarkedPush:
        """Return what pushes over the present connection to a broker that allows it."""
        if self._push is None or self._pushes_with != fence:
            self._push = self._ways.in_thread(self._broker.producer.channel, fence, self._pushes)
            self._pushes_with = fence
        return self._push

    # --- on the loop ------------------------------------------------------------------------------------------------

    async def _publish_on_loop(self, messages: Sequence[Publish], fence: Fence) -> list[PublishOutcome] | None:
        """Publish messages that have templates; None if that has to be done in the thread, as the first of each shape is."""
        if self.loop_push is None or self._broker.producer is None or self._broker.is_in_use:
            return None
        if time.monotonic() < self._loop_after:
            return None
        filled = self.templates.filled(messages)
        if filled is None or any(len(each.payload) > self._message_bytes_max for each in filled):
            return None
        try:
            pushed = await self.loop_push.push(filled, fence)
        except SentinelGone:
            raise BrokerEmptied("the broker has lost its memory, and nothing was sent") from None
        except Fenced:
            raise
        except Exception as error:
            # Whether it is the broker or this way alone is for the thread to find out.
            self._loop_after = time.monotonic() + _LOOP_PAUSE_S
            if not isinstance(error, self._broker.retriable):
                raise
            # The other connection is to the same broker, whose queues may have to be declared again.
            await self._broker.run_in_thread(self._broker.disconnect)
            raise BrokerUnavailable(with_advice(f"cannot reach the broker: {described(error)}")) from error
        return self._outcomes_of({each.message.task_id: each for each in filled}, pushed)

    async def _memory_on_loop(self, name: str) -> BrokerMemory | None:
        """Return what the broker remembers; None if it is for the thread to ask, or to tell why it cannot."""
        if self.loop_push is None or self._broker.producer is None or time.monotonic() < self._loop_after:
            return None
        try:
            return await self.loop_push.memory(name)
        except Exception as error:
            # Whether it is the broker or this way alone is for the thread to find out, and to tell.
            logger.debug("the thread asks what the broker remembers: %s", error)
            self._loop_after = time.monotonic() + _LOOP_PAUSE_S
            return None

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _publish_in_thread(self, messages: Sequence[Publish], fence: Fence) -> list[PublishOutcome]:
        """Build messages, then push them in one script; a message is built once however often it is pushed.

        What would make the script's arguments too long gets no answer, and comes again.
        """
        self._broker.connect()
        push = self._marked_push(fence)
        known, self._collected = self._collected, {}
        size = 0
        for message in messages:
            entry = known.get(message.task_id) or self._collect(message)
            self._collected[message.task_id] = entry
            size += len(entry.payload) if isinstance(entry, Collected) else 0
            if size > _PUSH_BYTES_MAX:
                break
        to_push = [entry for entry in self._collected.values() if isinstance(entry, Collected)]
        try:
            pushed = push.push(to_push)
        except SentinelGone:
            raise BrokerEmptied("the broker has lost its memory, and nothing was sent") from None
        outcomes = self._outcomes_of(self._collected, pushed)
        self._collected = {}
        return outcomes

    def _outcomes_of(self, entries: Mapping[str, Collected | MessageRefused], pushed: Pushed) -> list[PublishOutcome]:
        """Tell what became of messages: of those that were built, what Redis said, if it refused them."""
        sent = sum([isinstance(entry, Collected) and bool(entry.queues) for entry in entries.values()])
        self.repeated += sent - pushed.new - len(pushed.refused)
        if pushed.new:
            self._note_backlog(pushed.before)
        outcomes: list[PublishOutcome] = []
        for task_id, entry in entries.items():
            if isinstance(entry, MessageRefused):
                outcomes.append(entry)
            elif task_id in pushed.refused:
                outcomes.append(MessageRefused(task_id, pushed.refused[task_id]))
            else:
                outcomes.append(MessagePublished(task_id, "" if entry.message.destination else entry.destination))
        return outcomes

    def _note_backlog(self, before: int) -> None:
        self._backlog, self._backlog_at = before, time.monotonic()
        if before < _BACKLOG_MIN:
            self._short_at = self._backlog_at

    def built(self, message: Publish) -> Collected:
        """Build a message in the ordinary way. Raises what routing, the serializer or the transport raise."""
        channel = self._broker.producer.channel
        channel.begin(message)
        destination = self._sender.send(self._broker.producer, message)
        collected: Collected = channel.collected()
        return collected._replace(destination=destination)

    def _collect(self, message: Publish) -> Collected | MessageRefused:
        try:
            collected = self.templates.fill(message) or self.built(message)
        except Fenced:
            raise
        except RETRIABLE as error:
            if not is_wrong_type(error):
                raise
            return refused(message, error)
        except Exception as error:
            return refused(message, error)
        if len(collected.payload) > self._message_bytes_max:
            return MessageRefused(
                message.task_id,
                f"the message has {len(collected.payload)} bytes, and {self._message_bytes_max} is the most that Redis is sent",
            )
        return collected
