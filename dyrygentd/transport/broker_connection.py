"""The connection to the broker over which a dispatcher sends, and the thread that uses it.

Nothing here waits without a bound: the sockets have timeouts, and neither kombu nor Celery tries again by itself, so a broker
that is gone or hangs costs a call a timeout and not the thread.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
from kombu.exceptions import OperationalError
from kombu.transport.redis import Transport as RedisTransport

from dyrygentd.advice import with_advice
from dyrygentd.core.words import described
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.transport.broker_address import address_of
from dyrygentd.transport.redis_connections import CONNECTION_ERRORS

logger = logging.getLogger("dyrygentd.dispatcher")

T = TypeVar("T")

RETRIABLE: tuple[type[BaseException], ...] = (OperationalError, OSError, EOFError, *CONNECTION_ERRORS)


class Owner(Protocol):
    """Whoever sends over a connection: it says how one is made, and keeps what belongs to the present one."""

    def prepare(self, connection: Any, options: dict[str, Any]) -> None:
        """Set up a connection, and its transport options, before it is opened."""
        ...

    def opened(self, producer: Any, options: dict[str, Any]) -> None:
        """Take note of a new connection."""
        ...

    def closed(self) -> None:
        """Forget what belonged to the connection that there was."""
        ...


class BrokerConnection:
    """Guards: one thread at a time uses the connection, in the order of those who ask.

    Attributes:
        timeout_s: How long the broker may take for one answer.
        producer: Of the present connection, None if there is none.
        in_order: Held by whoever sends.
        are_several: Whether kombu chooses one of several servers of Redis, the next one when that is away.
        recoverable, retriable, final: Errors of the broker that pass with a new connection, that may pass, and that never do.
    """

    owner: Owner

    def __init__(self, app: Any, *, timeout_s: float) -> None:
        self._app = app
        self.timeout_s = timeout_s
        self.producer: Any = None
        self.in_order = anyio.Lock(fast_acquire=True)
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._connection: Any = None
        connection = app.connection_for_write()
        self.place = address_of(connection)
        self.is_redis = issubclass(connection.get_transport_cls(), RedisTransport)
        # Sentinels are several, and lead to one server.
        self.are_several = connection.transport_cls in ("redis", "rediss") and len(connection.alt or ()) > 1
        recoverable = (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors)
        self.recoverable = (*RETRIABLE, *_outages(connection.connection_errors), *_outages(recoverable))
        self.retriable = (*self.recoverable, *_outages(connection.channel_errors))
        # AMQP tells them apart; elsewhere a channel error may be anything, such as a full disk.
        self.final: tuple[type[BaseException], ...] = connection.channel_errors if connection.recoverable_channel_errors else ()

    def __repr__(self) -> str:
        return f"<BrokerConnection '{self.place}' connected={self.producer is not None}>"

    @property
    def is_in_use(self) -> bool:
        """Whether a thread uses it."""
        return bool(self._one_at_a_time.borrowed_tokens)

    def connect(self) -> Any:
        """Return the connection, which is made if there is none. Raises what is in `retriable`."""
        if self.producer is not None:
            return self._connection
        connection = self._app.connection_for_write()
        options = dict(connection.transport_options or {})
        self.owner.prepare(connection, options)
        connection.transport_options = options
        self._connection = connection
        # Asking for a channel connects once; a producer that is given a connection tries for ever.
        self.producer = self._app.amqp.Producer(connection.channel(), auto_declare=False)
        self.owner.opened(self.producer, options)
        return connection

    def disconnect(self) -> None:
        """Close the connection; the next one begins anew. Safe to repeat."""
        connection, self._connection, self.producer = self._connection, None, None
        self.owner.closed()
        if connection is not None:
            try:
                connection.release()
            except Exception as error:
                logger.debug("closing a connection failed: %s", error)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do blocking work as soon as it is its turn. Raises `BrokerUnavailable`."""
        async with self.in_order:
            return await self.run_in_thread(work)

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Do blocking work for whoever holds `in_order`. Raises `BrokerUnavailable`."""

        def guarded() -> T:
            try:
                return work()
            except self.retriable as error:
                self.disconnect()
                raise BrokerUnavailable(with_advice(f"cannot reach the broker: {described(error)}")) from error

        # A broker that hangs must not hang the caller's shutdown as well; the thread ends with the socket's timeout.
        return await anyio.to_thread.run_sync(guarded, limiter=self._one_at_a_time, abandon_on_cancel=True)


def _outages(errors: tuple[type[BaseException], ...]) -> tuple[type[BaseException], ...]:
    """Leave out what kombu's Redis transport counts as a connection error, and routing raises for an unknown queue."""
    return tuple(error for error in errors if not issubclass(error, LookupError))
