"""Sends messages: exactly once per attempt on Redis, at least once elsewhere.

One connection of our own, used by one thread at a time. On Redis, kombu builds each message into a channel that only
collects, and one script then sets the markers and pushes (see `dyrygentd.transport.redis`). Once a shape of messages is known
(`dyrygentd.transport.template`), the event loop does both over a second connection, which spares the thread.

On every other transport kombu publishes as usual; a message whose publishing was cut may then be sent twice, under the same task
id.

Nothing here waits without a bound: the sockets have timeouts, and neither kombu nor Celery tries again by itself, so a broker
that is gone or hangs costs a call a timeout and not the thread.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from kombu.exceptions import OperationalError
from kombu.transport.redis import Transport as RedisTransport

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.core.graph import Signature
from dyrygentd.errors import BrokerEmptied, BrokerUnavailable
from dyrygentd.ports import DispatcherStatistics, TaskPlace
from dyrygentd.transport.advice import with_advice
from dyrygentd.transport.broadcast import PublishesOnce
from dyrygentd.transport.message import MessageSender
from dyrygentd.transport.redis import (
    CONNECTION_ERRORS,
    Collected,
    LoopPush,
    MarkedPush,
    Pushed,
    SentinelGone,
    client_of,
    collecting,
    delivery_tag,
    is_wrong_type,
)
from dyrygentd.transport.redis_queues import RedisQueues, queues_of
from dyrygentd.transport.template import Templates

logger = logging.getLogger("dyrygentd.dispatcher")

#: A broker that does not answer for this long is treated as unreachable; the message is sent again later.
_SOCKET_TIMEOUT_S = 10.0
#: RabbitMQ closes connections without heartbeats, and nobody sends any between two publishes: older ones are not used again.
_IDLE_MAX_S = 30.0
#: Task ids in one broadcast: about 40 kB.
_REVOKE_SLICE = 1000
#: Signatures whose queue is kept in mind.
_ROUTED_MAX = 1000
#: Redis cuts the connection of a client that sends more than 512 MB in one argument or 1 GB in one command, which would look
#: like an outage that never ends. A slice of large messages is therefore pushed in parts.
_MESSAGE_BYTES_MAX = 128 * 1024 * 1024
_PUSH_BYTES_MAX = 8 * 1024 * 1024

#: After an error all messages go by the thread for so long.
_LOOP_PAUSE_S = 30.0
#: A queue with fewer messages is short: workers may be waiting for the next one. For so long it is taken to be as it was.
_BACKLOG_MIN = 20
_BACKLOG_S = 1.0

T = TypeVar("T")
Outcome = MessagePublished | MessageRefused


class CeleryDispatcher:
    """Publishes through the app's broker. Guards: one thread at a time uses the connection.

    Args:
        socket_timeout_s: How long the broker may take for one answer.
        message_bytes_max: Longest message accepted for Redis.
        reports: Returns what messages say about reporting, see `dyrygentd.ports.ReportReader.header`.
    """

    def __init__(
        self,
        app: Any,
        *,
        socket_timeout_s: float = _SOCKET_TIMEOUT_S,
        message_bytes_max: int = _MESSAGE_BYTES_MAX,
        reports: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        self._app = app
        self._socket_timeout_s = socket_timeout_s
        self._message_bytes_max = message_bytes_max
        self._sender = MessageSender(app, reports=reports)
        self._templates = Templates(app, self._built, reports=reports)
        # The scheduler asks about each attempt twice, in its loop; large workflows repeat few signatures.
        self._routed = lru_cache(maxsize=_ROUTED_MAX)(lambda signature: self._sender.destination(signature).queue)
        self._in_order = anyio.Lock(fast_acquire=True)
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._loop_push: LoopPush | None = None
        self._loop_after = 0.0
        self._connection: Any = None
        self._producer: Any = None
        self._push: MarkedPush | None = None
        self._sentinel: tuple[str, str] | None = None
        self._pushes_with: tuple[str, str] | None = None
        self._collected: dict[str, Collected | MessageRefused] = {}
        self._published = self._repeated = self._refused = self._failures = 0
        self._publish_seconds = self._used_at = 0.0
        self._backlog, self._backlog_at, self._short_at = 0, -_BACKLOG_S, -_BACKLOG_S
        connection = app.connection_for_write()
        self._exactly_once = issubclass(connection.get_transport_cls(), RedisTransport)
        recoverable = (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors)
        self._recoverable = (*_RETRIABLE, *_outages(connection.connection_errors), *_outages(recoverable))
        self._retriable = (*self._recoverable, *_outages(connection.channel_errors))
        # AMQP tells them apart; elsewhere a channel error may be anything, such as a full disk.
        self._final: tuple[type[BaseException], ...] = connection.channel_errors if connection.recoverable_channel_errors else ()

    async def publish(self, messages: Sequence[Publish]) -> Sequence[Outcome]:
        """Send messages and tell what became of them; those without an answer are to be handed in again.

        Raises:
            BrokerUnavailable: It is unknown whether any was sent; handing in the same messages again is safe.
            BrokerEmptied: The broker has lost its memory, and nothing was sent.
        """
        begun = time.perf_counter()
        # The token of this moment: a broker that loses its memory while this waits for the thread does not get the messages.
        sentinel = self._sentinel

        def work() -> list[Outcome]:
            return self._publish_marked(messages, sentinel) if self._exactly_once else self._publish_plainly(messages)

        try:
            async with self._in_order:
                outcomes = await self._publish_on_loop(messages, sentinel)
                if outcomes is None:
                    outcomes = await self._run_in_thread(work)
        except BrokerUnavailable:
            self._failures += 1
            raise
        finally:
            self._publish_seconds += time.perf_counter() - begun
        self._published += sum(isinstance(outcome, MessagePublished) for outcome in outcomes)
        self._refused += sum(isinstance(outcome, MessageRefused) for outcome in outcomes)
        return outcomes

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool = False) -> None:
        """Ask the workers to drop these tasks; a worker that starts later does not know. Raises `BrokerUnavailable`.

        Args:
            terminate: Also end the processes that execute them. The pool ``prefork`` can do that.
        """
        slices = [list(task_ids[begin : begin + _REVOKE_SLICE]) for begin in range(0, len(task_ids), _REVOKE_SLICE)]
        await self._broadcast("revoke", [{"task_id": ids} for ids in slices], terminate)

    async def revoke_stamped(self, header: str, values: Sequence[str], *, terminate: bool = False) -> None:
        """Ask the workers to drop the tasks that carry one of these values. Raises `BrokerUnavailable`.

        Workers keep the values in a list without an end, and look through it for each task: see `dyrygentd.ports.Dispatcher`.
        """
        slices = [list(values[begin : begin + _REVOKE_SLICE]) for begin in range(0, len(values), _REVOKE_SLICE)]
        await self._broadcast("revoke_by_stamped_headers", [{"headers": {header: each}} for each in slices], terminate)

    async def _broadcast(self, command: str, calls: Sequence[dict[str, Any]], terminate: bool) -> None:
        """Do what `app.control` does, over a connection that neither waits nor tries for ever."""

        def broadcast() -> None:
            self._connect()
            mailbox = self._app.control.mailbox(self._connection)
            once = PublishesOnce(self._producer)
            for call in calls:
                arguments = {**call, "terminate": terminate, "signal": "SIGTERM"}
                mailbox._publish(command, arguments, channel=self._producer.channel, producer=once)

        if calls:
            await self._in_thread(broadcast)

    async def withdraw(self, tasks: Sequence[TaskPlace]) -> Sequence[str]:
        """Take messages back that no worker has fetched, and return their tasks' ids. Raises `BrokerUnavailable`.

        On Redis only. At most `dyrygentd.transport.redis_queues.SEARCHED_MAX` messages of a list are looked at, the newest first.
        A message that a worker has fetched is kept from being delivered again, should that worker end before it starts the task.
        """

        def take_back() -> list[str]:
            self._connect()
            channel = self._producer.channel
            queues = RedisQueues(channel, client_of(channel))
            places: dict[str, list[TaskPlace]] = {}
            for task in tasks:
                for queue in queues_of(self._sender, channel, task.signature):
                    places.setdefault(queue, []).append(task)
            withdrawn = [
                task_id for queue, those in places.items() for task_id in queues.withdraw(queue, [task.task_id for task in those])
            ]
            # The way of a message is from the list to the reservations.
            queues.drop_reservations([delivery_tag(task.task_id, task.attempt) for task in tasks])
            return list(dict.fromkeys(withdrawn))

        return await self._in_thread(take_back) if self._exactly_once and tasks else []

    def guard(self, name: str, token: str) -> None:
        """From now on publish only into a broker that has this token; on Redis only."""
        self._sentinel = name, token

    async def mark(self, name: str, token: str) -> None:
        """Leave a token in the broker. Raises `BrokerUnavailable`."""
        await self._with_push(lambda push: push.mark(name, token))

    async def is_marked(self) -> bool:
        """Tell whether the broker has the token. Raises `BrokerUnavailable`."""
        return await self._with_push(MarkedPush.is_marked) is not False

    async def cautions(self) -> Sequence[str]:
        """Return what about the broker's configuration weakens the promises. Raises `BrokerUnavailable`."""
        return await self._with_push(MarkedPush.cautions) or []

    async def _with_push(self, work: Callable[[MarkedPush], T]) -> T | None:
        def connected() -> T:
            self._connect()
            return work(self._marked_push(self._sentinel))

        return await self._in_thread(connected) if self._exactly_once else None

    def _marked_push(self, sentinel: tuple[str, str] | None) -> MarkedPush:
        """Return what pushes over the present connection to a broker with this token."""
        if self._push is None or self._pushes_with != sentinel:
            self._push, self._pushes_with = MarkedPush(self._producer.channel, sentinel), sentinel
        return self._push

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop the markers of workflows that will publish no more. Raises `BrokerUnavailable`."""

        def drop() -> None:
            self._connect()
            self._marked_push(self._sentinel).forget(workflow_ids)

        if self._exactly_once and workflow_ids:
            await self._in_thread(drop)

    def queue_of(self, signature: Signature) -> str:
        """Return the name of the queue that a task goes to, empty if it cannot be routed; routers are asked once."""
        try:
            return self._routed(signature)
        # Routers are the user's code; publishing will meet the same error and tell it.
        except Exception:
            return ""

    def backlog(self) -> int:
        """Return how many messages were in the queues before what was published last; 0 if a queue was short lately."""
        now = time.monotonic()
        is_known = now - self._backlog_at < _BACKLOG_S and now - self._short_at >= _BACKLOG_S
        return self._backlog if is_known else 0

    def statistics(self) -> DispatcherStatistics:
        """Return an immutable snapshot."""
        return DispatcherStatistics(
            published=self._published,
            repeated=self._repeated,
            refused=self._refused,
            failures=self._failures,
            publish_seconds=self._publish_seconds,
            exactly_once=self._exactly_once,
        )

    async def close(self) -> None:
        """Close the connection; safe to repeat."""
        with anyio.move_on_after(self._socket_timeout_s, shield=True):
            if self._loop_push is not None:
                await self._loop_push.close()
            await self._in_thread(self._disconnect)

    # --- on the loop ------------------------------------------------------------------------------------------------

    async def _publish_on_loop(self, messages: Sequence[Publish], sentinel: tuple[str, str] | None) -> list[Outcome] | None:
        """Publish messages that have templates; None if that has to be done in the thread, as the first of each shape is."""
        if self._loop_push is None or self._producer is None or self._one_at_a_time.borrowed_tokens:
            return None
        if time.monotonic() < self._loop_after:
            return None
        filled = self._templates.filled(messages)
        if filled is None or any(len(each.payload) > self._message_bytes_max for each in filled):
            return None
        try:
            pushed = await self._loop_push.push(self._marked_push(sentinel), filled)
        except SentinelGone:
            raise BrokerEmptied("the broker has lost its memory, and nothing was sent") from None
        except Exception as error:
            # Whether it is the broker or this way alone is for the thread to find out.
            self._loop_after = time.monotonic() + _LOOP_PAUSE_S
            if not isinstance(error, self._retriable):
                raise
            # The other connection is to the same broker, whose queues may have to be declared again.
            await self._run_in_thread(self._disconnect)
            raise BrokerUnavailable(with_advice(f"cannot reach the broker: {_described(error)}")) from error
        return self._outcomes_of({each.message.task_id: each for each in filled}, pushed)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _publish_marked(self, messages: Sequence[Publish], sentinel: tuple[str, str] | None) -> list[Outcome]:
        """Build messages, then push them in one script; a message is built once however often it is pushed.

        What would make the script's arguments too long gets no answer, and comes again.
        """
        self._connect()
        push = self._marked_push(sentinel)
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

    def _outcomes_of(self, entries: Mapping[str, Collected | MessageRefused], pushed: Pushed) -> list[Outcome]:
        """Tell what became of messages: of those that were built, what Redis said, if it refused them."""
        sent = sum(isinstance(entry, Collected) and bool(entry.queues) for entry in entries.values())
        self._repeated += sent - pushed.new - len(pushed.refused)
        if pushed.new:
            self._note_backlog(pushed.before)
        outcomes: list[Outcome] = []
        for task_id, entry in entries.items():
            if isinstance(entry, MessageRefused):
                outcomes.append(entry)
            elif task_id in pushed.refused:
                outcomes.append(MessageRefused(task_id, pushed.refused[task_id]))
            else:
                outcomes.append(MessagePublished(task_id))
        return outcomes

    def _note_backlog(self, before: int) -> None:
        self._backlog, self._backlog_at = before, time.monotonic()
        if before < _BACKLOG_MIN:
            self._short_at = self._backlog_at

    def _built(self, message: Publish) -> Collected:
        """Build a message in the ordinary way. Raises what routing, the serializer or the transport raise."""
        channel = self._producer.channel
        channel.begin(message)
        self._sender.send(self._producer, message)
        collected: Collected = channel.collected()
        return collected

    def _collect(self, message: Publish) -> Collected | MessageRefused:
        try:
            collected = self._templates.fill(message) or self._built(message)
        except _RETRIABLE as error:
            if not is_wrong_type(error):
                raise
            return _refused(message, error)
        except Exception as error:
            return _refused(message, error)
        if len(collected.payload) > self._message_bytes_max:
            return MessageRefused(
                message.task_id,
                f"the message has {len(collected.payload)} bytes, and {self._message_bytes_max} is the most that Redis is sent",
            )
        return collected

    def _publish_plainly(self, messages: Sequence[Publish]) -> list[Outcome]:
        """Publish one by one; what was sent before an error is answered, so it is not sent again."""
        outcomes: list[Outcome] = []
        if time.monotonic() - self._used_at > _IDLE_MAX_S:
            self._disconnect()
        try:
            for message in messages:
                self._connect()
                try:
                    self._sender.send(self._producer, message)
                except self._recoverable:
                    raise
                except self._final as error:
                    # No such exchange, no permission, a queue declared otherwise; the channel is closed.
                    self._disconnect()
                    outcomes.append(_refused(message, error))
                except self._retriable:
                    raise
                except Exception as error:
                    outcomes.append(_refused(message, error))
                else:
                    outcomes.append(MessagePublished(message.task_id))
        except self._retriable as error:
            self._disconnect()
            if not outcomes:
                raise BrokerUnavailable(f"cannot publish: {_described(error)}") from error
            logger.warning("publishing was cut after %d of %d messages: %s", len(outcomes), len(messages), _described(error))
        self._used_at = time.monotonic()
        return outcomes

    def _connect(self) -> None:
        if self._producer is not None:
            return
        connection = self._app.connection_for_write()
        transport_options = dict(connection.transport_options or {})
        if self._exactly_once:
            transport_options.setdefault("socket_timeout", self._socket_timeout_s)
            transport_options.setdefault("socket_connect_timeout", self._socket_timeout_s)
            connection.transport_cls = collecting(connection.get_transport_cls())
        else:
            # For AMQP: return from publish when the broker has the message. Other transports ignore these.
            transport_options.setdefault("confirm_publish", True)
            transport_options.setdefault("read_timeout", self._socket_timeout_s)
            transport_options.setdefault("write_timeout", self._socket_timeout_s)
        connection.transport_options = transport_options
        self._connection = connection
        # Asking for a channel connects once; a producer that is given a connection tries for ever.
        producer = self._app.amqp.Producer(connection.channel(), auto_declare=False)
        self._producer = producer
        if self._exactly_once and self._loop_push is None:
            try:
                timeout_s = float(transport_options.get("socket_timeout") or self._socket_timeout_s)
                self._loop_push = LoopPush(producer.channel, timeout_s)
            except ValueError as error:
                logger.debug("all messages are pushed from the thread: %s", error)

    def _disconnect(self) -> None:
        connection, self._connection, self._producer, self._push = self._connection, None, None, None
        self._templates.clear()
        if connection is not None:
            try:
                connection.release()
            except Exception as error:
                logger.debug("closing a connection failed: %s", error)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        async with self._in_order:
            return await self._run_in_thread(work)

    async def _run_in_thread(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except self._retriable as error:
                self._disconnect()
                raise BrokerUnavailable(with_advice(f"cannot reach the broker: {_described(error)}")) from error

        # A broker that hangs must not hang the caller's shutdown as well; the thread ends with the socket's timeout.
        return await anyio.to_thread.run_sync(guarded, limiter=self._one_at_a_time, abandon_on_cancel=True)


_RETRIABLE: tuple[type[BaseException], ...] = (OperationalError, OSError, EOFError, *CONNECTION_ERRORS)


def _outages(errors: tuple[type[BaseException], ...]) -> tuple[type[BaseException], ...]:
    """Leave out what kombu's Redis transport counts as a connection error, and routing raises for an unknown queue."""
    return tuple(error for error in errors if not issubclass(error, LookupError))


def _refused(message: Publish, error: BaseException) -> MessageRefused:
    """Blame the message for what is not the broker's fault: routing, serializing, a receiver of a publish signal."""
    logger.warning("cannot build the message of task %s", message.task_id, exc_info=error)
    return MessageRefused(message.task_id, _described(error))


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
