"""Sends messages: exactly once per attempt on Redis, at least once elsewhere.

One connection of our own, used by one thread at a time. On Redis, kombu builds each message into a channel that only
collects, and one script then sets the markers and pushes (see `dyrygentd.transport.redis`). On every other transport kombu
publishes as usual; a message whose publishing was cut may then be sent twice, under the same task id.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from kombu.exceptions import OperationalError
from kombu.transport.redis import Transport as RedisTransport

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.ports import DispatcherStatistics
from dyrygentd.transport.message import MessageSender
from dyrygentd.transport.redis import CONNECTION_ERRORS, Collected, MarkedPush, collecting

logger = logging.getLogger("dyrygentd.dispatcher")

#: A broker that does not answer for this long is treated as unreachable; the message is sent again later.
_SOCKET_TIMEOUT_S = 10.0
#: Task ids in one broadcast: about 40 kB.
_REVOKE_SLICE = 1000

T = TypeVar("T")
Outcome = MessagePublished | MessageRefused


class CeleryDispatcher:
    """Publishes through the app's broker. Guards: one thread at a time uses the connection."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._sender = MessageSender(app)
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._connection: Any = None
        self._producer: Any = None
        self._push: MarkedPush | None = None
        self._collected: dict[str, Collected | MessageRefused] = {}
        self._published = self._repeated = self._refused = self._failures = 0
        self._publish_seconds = 0.0
        self._exactly_once = _is_redis(app.connection_for_write())

    async def publish(self, messages: Sequence[Publish]) -> Sequence[Outcome]:
        """Send messages and tell what became of them; those without an answer are to be handed in again.

        Raises:
            BrokerUnavailable: It is unknown whether any was sent; handing in the same messages again is safe.
        """
        begun = time.perf_counter()
        work = self._publish_marked if self._exactly_once else self._publish_plainly
        try:
            outcomes = await self._in_thread(lambda: work(messages))
        except BrokerUnavailable:
            self._failures += 1
            raise
        finally:
            self._publish_seconds += time.perf_counter() - begun
        self._published += sum(isinstance(outcome, MessagePublished) for outcome in outcomes)
        self._refused += sum(isinstance(outcome, MessageRefused) for outcome in outcomes)
        return outcomes

    async def revoke(self, task_ids: Sequence[str]) -> None:
        """Ask the workers to drop these tasks; a worker that starts later does not know. Raises `BrokerUnavailable`."""

        def broadcast() -> None:
            for begin in range(0, len(task_ids), _REVOKE_SLICE):
                self._app.control.revoke(list(task_ids[begin : begin + _REVOKE_SLICE]))

        await self._in_thread(broadcast)

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop the markers of workflows that will publish no more. Raises `BrokerUnavailable`."""

        def drop() -> None:
            self._connect()
            if self._push is not None:
                self._push.forget(workflow_ids)

        if self._exactly_once:
            await self._in_thread(drop)

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
        with anyio.move_on_after(_SOCKET_TIMEOUT_S, shield=True):
            await self._in_thread(self._disconnect)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _publish_marked(self, messages: Sequence[Publish]) -> list[Outcome]:
        """Build all messages, then push them in one script; a message is built once however often it is pushed."""
        self._connect()
        assert self._push is not None
        self._collected = {
            message.task_id: self._collected.get(message.task_id) or self._collect(message) for message in messages
        }
        to_push = [entry for entry in self._collected.values() if isinstance(entry, Collected)]
        pushed = self._push.push(to_push)
        self._repeated += len(to_push) - pushed
        outcomes: list[Outcome] = [
            MessagePublished(task_id) if isinstance(entry, Collected) else entry for task_id, entry in self._collected.items()
        ]
        self._collected = {}
        return outcomes

    def _collect(self, message: Publish) -> Collected | MessageRefused:
        channel = self._producer.channel
        channel.begin(message)
        try:
            self._sender.send(self._producer, message)
        except _RETRIABLE:
            raise
        except Exception as error:
            return _refused(message, error)
        collected: Collected = channel.collected()
        return collected

    def _publish_plainly(self, messages: Sequence[Publish]) -> list[Outcome]:
        """Publish one by one; what was sent before an error is answered, so it is not sent again."""
        outcomes: list[Outcome] = []
        try:
            self._connect()
            for message in messages:
                try:
                    self._sender.send(self._producer, message)
                except self._retriable():
                    raise
                except Exception as error:
                    outcomes.append(_refused(message, error))
                else:
                    outcomes.append(MessagePublished(message.task_id))
        except self._retriable() as error:
            self._disconnect()
            if not outcomes:
                raise BrokerUnavailable(f"cannot publish: {error}") from error
            logger.warning("publishing was cut after %d of %d messages: %s", len(outcomes), len(messages), error)
        return outcomes

    def _connect(self) -> None:
        if self._producer is not None:
            return
        connection = self._app.connection_for_write()
        transport_options = dict(connection.transport_options or {})
        if self._exactly_once:
            transport_options.setdefault("socket_timeout", _SOCKET_TIMEOUT_S)
            connection.transport_cls = collecting(connection.get_transport_cls())
        else:
            # For AMQP: return from publish when the broker has the message. Other transports ignore it.
            transport_options.setdefault("confirm_publish", True)
        connection.transport_options = transport_options
        self._connection = connection
        producer = self._app.amqp.Producer(connection, auto_declare=False)
        if self._exactly_once:
            self._push = MarkedPush(producer.channel)
        self._producer = producer

    def _disconnect(self) -> None:
        connection, self._connection, self._producer, self._push = self._connection, None, None, None
        if connection is not None:
            try:
                connection.release()
            except Exception as error:
                logger.debug("closing a connection failed: %s", error)

    def _retriable(self) -> tuple[type[BaseException], ...]:
        if self._connection is None:
            return _RETRIABLE
        return (*_RETRIABLE, *self._connection.connection_errors, *self._connection.channel_errors)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except _RETRIABLE as error:
                self._disconnect()
                raise BrokerUnavailable(f"cannot reach the broker: {error}") from error

        # A broker that hangs must not hang the caller's shutdown as well; the thread ends with the socket's timeout.
        return await anyio.to_thread.run_sync(guarded, limiter=self._one_at_a_time, abandon_on_cancel=True)


_RETRIABLE: tuple[type[BaseException], ...] = (OperationalError, OSError, EOFError, *CONNECTION_ERRORS)


def _is_redis(connection: Any) -> bool:
    return issubclass(connection.get_transport_cls(), RedisTransport)


def _refused(message: Publish, error: BaseException) -> MessageRefused:
    """Blame the message for what is not the broker's fault: routing, serializing, a receiver of a publish signal."""
    logger.warning("cannot build the message of task %s", message.task_id, exc_info=error)
    return MessageRefused(message.task_id, f"{type(error).__name__}: {error}")
