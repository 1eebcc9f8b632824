"""Connections to Redis for the event loop, made from what Celery and kombu use for their blocking ones.

Beside these, `dyrygentd.transport.redis_asking` has the connection that is asked one thing at a time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import hiredis
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from dyrygentd.transport.internals import STREAM
from dyrygentd.transport.redis_asking import connection_lost, packed

CONNECTION_ERRORS: Final = (RedisError,)


class Subscription:
    """A connection for pub/sub: redis-py connects, authenticates and sends, hiredis reads, all that has arrived at once.

    redis-py's public ways pass each message on by itself: 20,000 results on a Unix socket with redis-py 8.1 and hiredis 3.5 took
    11 to 14 µs each by `PubSub.get_message` and 7 to 10 µs each by a connection's `read_response`, and 0.5 to 0.9 µs read here.
    For that, one thing beside the public interface is used, the stream of a connection; a redis-py without it is refused when
    the watcher is made. After an error redis-py would reconnect once before it raises, and subscribe to everything for a session
    that is about to end; here the error ends the session.
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
            await self._connection.send_packed_command(packed(command, *channels))
        except (RuntimeError, AttributeError) as error:
            raise connection_lost(error) from error

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
                raise (NoPermissionError if "NOPERM" in str(reply) else ResponseError)(str(reply))
            if len(reply) == 3:
                arrived.append(reply)
        return arrived

    async def close(self) -> None:
        """Close; safe to repeat."""
        await self._connection.disconnect()


#: What hiredis says when it has no whole reply.
_NOT_ENOUGH: Final = object()
_RECEIVED_BYTES: Final = 256 * 1024


def _stream_of(connection: Any) -> Any:
    """Return the stream of a connected connection of redis-py. Raises ``redis.ConnectionError``."""
    stream = getattr(connection, STREAM)
    if stream is None:
        raise redis.ConnectionError("the connection was lost")
    return stream


def pool_like(backend: Any, timeout_s: float | None) -> Any:
    """Make an asyncio connection pool with the parameters that Celery's backend uses for its own."""
    return asyncio_pool(backend.connparams, timeout_s)


def asyncio_pool(parameters: Mapping[str, Any], timeout_s: float | None) -> Any:
    """Make an asyncio connection pool without patience from the parameters of a blocking one."""
    parameters = dict(parameters)
    connection_class = ASYNCIO_CLASSES.get(parameters.pop("connection_class", redis.Connection))
    if connection_class is None:
        connection_class = redis.asyncio.Connection
    parameters.pop("max_connections", None)
    parameters |= {"socket_timeout": timeout_s, "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False}
    if connection_class is not redis.asyncio.UnixDomainSocketConnection:
        parameters["socket_connect_timeout"] = timeout_s
    return redis.asyncio.ConnectionPool(connection_class=connection_class, **parameters)


ASYNCIO_CLASSES: Final[dict[Any, Any]] = {
    redis.Connection: redis.asyncio.Connection,
    redis.SSLConnection: redis.asyncio.SSLConnection,
    redis.UnixDomainSocketConnection: redis.asyncio.UnixDomainSocketConnection,
}
