"""A connection to Redis that is asked one thing at a time, from the event loop, at the least cost.

redis-py connects, authenticates and reads; a command goes out as hiredis packs it, past redis-py's client, which takes several
times as long for many words. An error closes the connection, and the next question opens another one.
"""

import hashlib
from contextlib import suppress
from typing import Any

import anyio
import hiredis
import redis
from redis.exceptions import NoScriptError, RedisError

#: How long closing a connection may take before it is left to itself.
_CLOSE_S = 1.0


def packed(*words: str | int | bytes) -> bytes:
    """Return a command as it is sent; redis-py's own way takes nine times as long for many words."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
    return command


def connection_lost(error: Exception) -> redis.ConnectionError:
    """Translate what uvloop says of a transport that was closed a moment ago, and redis-py of its writer that is None by now."""
    return redis.ConnectionError(f"the connection was lost: {error}")


class Script:
    """A script, with what names it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Asking:
    """A connection of a pool's kind. Guards: after an error, or a question that was cancelled, it is not used again."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._connection: Any = None

    @property
    def is_fresh(self) -> bool:
        """Tell whether the next question opens a connection."""
        return self._connection is None

    async def run(self, script: Script, keys: Any, arguments: Any) -> Any:
        """Run a script. Raises ``redis.RedisError`` or ``OSError``."""
        try:
            await self._connect()
            try:
                return await self._ask("EVALSHA", script.sha, len(keys), *keys, *arguments)
            except NoScriptError:
                return await self._ask("EVAL", script.text, len(keys), *keys, *arguments)
        except BaseException:
            await self.close()
            raise

    async def ask(self, *words: str | int | bytes) -> Any:
        """Send a command and return its answer. Raises ``redis.RedisError`` or ``OSError``."""
        try:
            await self._connect()
            return await self._ask(*words)
        except BaseException:
            await self.close()
            raise

    async def _connect(self) -> None:
        if self._connection is None:
            self._connection = self._pool.make_connection()
            await self._connection.connect()

    async def _ask(self, *words: str | int | bytes) -> Any:
        try:
            await self._connection.send_packed_command(packed(*words))
        except (RuntimeError, AttributeError) as error:
            raise connection_lost(error) from error
        return await self._connection.read_response()

    async def close(self) -> None:
        """Close the connection; the next question makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.move_on_after(_CLOSE_S, shield=True), suppress(RedisError, OSError, RuntimeError):
                await connection.disconnect()
