"""Publishing where no marker is possible, on every transport but Redis: kombu publishes as usual.

A message whose publishing was cut may be sent twice, under the same task id.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from dyrygentd.core.destination import destination_of as destination_in
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished
from dyrygentd.core.words import described
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.ports.facts import BrokerMemory, TaskPlace, Term
from dyrygentd.transport.broker_connection import BrokerConnection
from dyrygentd.transport.message import MessageSender
from dyrygentd.transport.publishing import PublishOutcome, refused
from dyrygentd.transport.redis_push import UndeliverableMessage

logger = logging.getLogger("dyrygentd.dispatcher")

#: RabbitMQ closes connections without heartbeats, and nobody sends any between two publishes: older ones are not used again.
_IDLE_MAX_S = 30.0
#: RabbitMQ's reply code for a message that no queue is bound for.
_NO_ROUTE = 312


class PlainPublishing:
    """Publishes one by one. Guards: what was sent before an error is answered, so it is not sent again."""

    exactly_once: Final = False
    repeated: Final = 0

    def __init__(self, broker: BrokerConnection, sender: MessageSender) -> None:
        self._broker = broker
        self._sender = sender
        self._is_confirmed = False
        self._used_at = 0.0
        self._pushes = 0

    def __repr__(self) -> str:
        return f"<PlainPublishing {self._broker!r} pushes={self._pushes}>"

    def prepare(self, connection: Any, options: dict[str, Any]) -> None:
        """Have AMQP return from publishing when the broker has the message; other transports ignore that."""
        options.setdefault("confirm_publish", True)
        options.setdefault("read_timeout", self._broker.timeout_s)
        options.setdefault("write_timeout", self._broker.timeout_s)
        # What is returned is known before the confirmation; without that it would be blamed on a later message.
        self._is_confirmed = bool(options["confirm_publish"])

    def opened(self, producer: Any, options: dict[str, Any]) -> None:
        """Keep nothing."""

    def closed(self) -> None:
        """Forget nothing."""

    async def publish(self, messages: Sequence[Publish]) -> Sequence[PublishOutcome]:
        """Send messages, and tell what became of them."""
        return await self._broker.in_thread(lambda: self._publish(messages))

    async def withdraw(self, tasks: Sequence[TaskPlace]) -> Sequence[str]:
        """Take nothing back: what is in the queues cannot be seen."""
        return []

    def guard(self, name: str, token: str, pushes: int) -> None:
        """Remember the number alone: the broker has no token."""
        self._pushes = pushes

    async def raise_term(self, name: str, term: Term) -> None:
        """Keep nothing: no broker but Redis looks at it together with a message."""

    def pushes(self) -> int:
        """Return the number that was told."""
        return self._pushes

    async def mark(self, name: str, token: str) -> None:
        """Leave no token."""

    async def memory(self, name: str) -> BrokerMemory | None:
        """Return nothing: the broker remembers nothing for us."""
        return None

    async def note(self, name: str, turn: int, holder: str) -> None:
        """Have nothing remembered."""

    async def cautions(self) -> Sequence[str]:
        """Return nothing: no promise rests on the broker's configuration."""
        return []

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Forget nothing: there are no markers."""

    def backlog(self) -> int:
        """Return 0: it is not known."""
        return 0

    async def close(self) -> None:
        """Close nothing: there is the common connection alone."""

    def _publish(self, messages: Sequence[Publish]) -> list[PublishOutcome]:
        outcomes: list[PublishOutcome] = []
        if time.monotonic() - self._used_at > _IDLE_MAX_S:
            self._broker.disconnect()
        try:
            for message in messages:
                self._broker.connect()
                try:
                    destination = self._send(message)
                except self._broker.recoverable:
                    raise
                except self._broker.final as error:
                    # No such exchange, no permission, a queue declared otherwise; the channel is closed.
                    self._broker.disconnect()
                    outcomes.append(refused(message, error))
                except self._broker.retriable:
                    raise
                except Exception as error:
                    outcomes.append(refused(message, error))
                else:
                    outcomes.append(MessagePublished(message.task_id, "" if message.destination else destination))
        except self._broker.retriable as error:
            self._broker.disconnect()
            if not outcomes:
                raise BrokerUnavailable(f"cannot publish: {described(error)}") from error
            logger.warning("publishing was cut after %d of %d messages: %s", len(outcomes), len(messages), described(error))
        self._used_at = time.monotonic()
        return outcomes

    def _send(self, message: Publish) -> str:
        """Publish a message, and once more if its queue was deleted since it was declared. Raises `UndeliverableMessage`."""
        try:
            return self._sender.send(self._broker.producer, message, mandatory=self._is_confirmed)
        except self._broker.final as error:
            if not _is_returned(error):
                raise
        # Over a new connection everything is declared again.
        self._broker.disconnect()
        self._broker.connect()
        try:
            return self._sender.send(self._broker.producer, message, mandatory=True)
        except self._broker.final as error:
            if not _is_returned(error):
                raise
            self._broker.disconnect()
            destination = destination_in(message.destination) or self._sender.destination(message.signature)
            raise UndeliverableMessage(
                f"no queue is bound to exchange '{destination.exchange}' for routing key '{destination.routing_key}'"
            ) from error


def _is_returned(error: BaseException) -> bool:
    return getattr(error, "reply_code", None) == _NO_ROUTE
