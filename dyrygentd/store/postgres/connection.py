"""Connections to PostgreSQL: how they are made, what is set on them, and when they are given up.

*A connection that nobody answers on* would be waited for as long as the kernel tries: keepalive and `tcp_user_timeout` end it
within half a minute, on the server's side, too, where a session that is gone would keep its lock. What the URL, the service
file or libpq's own variables say of them goes before.

*A server that hangs* (its processes are stopped, its disk does not answer, it waits for a replica that is gone) keeps its kernel
answering, so no time of the network's ends that. `answered_in` does, by a time of our own.

*A commit that waits for a synchronous replica* can be cancelled by whoever may cancel a query. The server tells that it has
committed, with a warning that the replica may not have it, and a failover would undo it. So its answer counts as lost: what is
asked next waits for the replica once more, as it changes something, and what it changes comes after that.

*What an error means* is told in `dyrygentd.store.postgres.refusals`.

*Standbys* are passed over where the URL names several hosts; one alone is refused when it is asked what it is.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dyrygentd.errors import StoreUnavailable
from dyrygentd.store.postgres.refusals import HUNG, UNREPLICATED, is_lost
from dyrygentd.store.postgres.url import PostgresUrl

#: What libpq is told where nobody says otherwise, and by which of its variables somebody may. Seconds, but for the
#: milliseconds of the last time.
_DEFAULTS: Final[Mapping[str, tuple[str, str]]] = {
    "connect_timeout": ("10", "PGCONNECT_TIMEOUT"),
    "target_session_attrs": ("read-write", "PGTARGETSESSIONATTRS"),
    "keepalives_idle": ("10", ""),
    "keepalives_interval": ("5", ""),
    "keepalives_count": ("3", ""),
    "tcp_user_timeout": ("25000", ""),
}
#: The same for the server's side of the connection, and what a session of ours must not inherit.
_SETTINGS: Final[Mapping[str, str]] = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25000",
    # Statements are short, and take longer to be compiled than to be carried out.
    "jit": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    # What a role or a database may have otherwise, and values or statements would mean something else by.
    "array_nulls": "on",
    "transform_null_equals": "off",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    # A turn that is begun is ended at once; a daemon that was stopped amid one must not keep the row of the next one.
    "idle_in_transaction_session_timeout": "60s",
    "statement_timeout": "0",
    "lock_timeout": "0",
}
#: How long a server may take for an answer on a new connection, and to tell that a query has taken too long.
_ANSWER_MAX_S: Final = 10.0
#: Where the server warns of that; its words may be in any language.
_WAITS_FOR_REPLICA: Final = "SyncRepWaitForLSN"
#: Rows that are unpacked before others have their turn; it takes some milliseconds.
_ROWS_AT_ONCE: Final = 2000


async def connect(url: PostgresUrl, settings: Mapping[str, str] | None = None) -> AsyncConnection:
    """Return a new connection, each statement of which is a transaction.

    Args:
        settings: Of the session, beside the usual ones.

    Raises:
        psycopg.Error: It cannot be made.
    """
    known: dict[str, Any] = {**conninfo_to_dict(url.conninfo)}
    # A service file has its own words on these.
    has_service = "service" in known or "PGSERVICE" in os.environ
    defaults = {} if has_service else {**_DEFAULTS, "application_name": (f"dyrygentd:{url.schema}", "PGAPPNAME")}
    for name, (value, variable) in defaults.items():
        if name not in known and variable not in os.environ:
            known[name] = value
    known["client_encoding"] = "UTF8"
    connection = await AsyncConnection.connect(make_conninfo(**known), autocommit=True)
    try:
        given = {"search_path": url.schema, **_SETTINGS, **(settings or {})}
        chosen = sql.SQL(", ").join([sql.SQL("set_config({}, {}, false)").format(name, value) for name, value in given.items()])
        with answered_in(connection, _ANSWER_MAX_S):
            await connection.execute(sql.SQL("SELECT {}").format(chosen))
    except BaseException:
        drop(connection)
        raise
    return connection


def patience_of(url: PostgresUrl) -> float:
    """Return for how many seconds a server may not answer, which is what its kernel may do, too."""
    given = 0
    # What cannot be read is told when somebody connects.
    with contextlib.suppress(psycopg.ProgrammingError, ValueError):
        given = int(conninfo_to_dict(url.conninfo).get("tcp_user_timeout") or 0)
    return (given or int(_DEFAULTS["tcp_user_timeout"][0])) / 1000


def drop(connection: AsyncConnection) -> None:
    """End a connection at once, whatever goes on on it; the server notices."""
    connection.pgconn.finish()


def break_off(connection: AsyncConnection) -> None:
    """Have whoever waits for the server be told that it has gone, as it may hang; the connection is closed by them.

    By the socket, since psycopg goes on to wait also for somebody who was cancelled; and without closing that, whose number might
    be another file's before psycopg looks at it again.
    """
    if not connection.closed:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as own:
            own.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def answered_in(connection: AsyncConnection, max_s: float) -> Iterator[None]:
    """Break off what takes the server longer.

    Raises ``psycopg.OperationalError``, as for a connection that is lost, also for what the synchronous replica may lack.
    """
    is_over = is_unreplicated = False

    def notice(diagnostic: psycopg.errors.Diagnostic) -> None:
        nonlocal is_unreplicated
        is_unreplicated |= diagnostic.source_function == _WAITS_FOR_REPLICA

    def end() -> None:
        nonlocal is_over
        is_over = True
        break_off(connection)

    timer = asyncio.get_running_loop().call_later(max_s, end)
    connection.add_notice_handler(notice)
    try:
        yield
        if is_unreplicated:
            raise psycopg.OperationalError(f"{UNREPLICATED}, which may lack what was committed")
    except psycopg.Error as error:
        if is_over:
            raise psycopg.OperationalError(f"{HUNG} for {max_s:g} s") from error
        raise
    finally:
        timer.cancel()
        connection.remove_notice_handler(notice)


class Link:
    """A connection, made anew when it was lost. Guards: one query at a time, and no half-read answer is left on it.

    Args:
        query_max_s: How long the server works on a query.
        is_writing: Whether it may change anything. A query is repeated if its answer was lost, so that must do no harm.
        answer_max_s: How long an answer is waited for; longer than that by default.
        settings: Of the session, beside these.

    Attributes:
        is_open: Whether whoever reads may connect.
    """

    def __init__(
        self,
        url: PostgresUrl,
        *,
        query_max_s: float,
        answer_max_s: float | None = None,
        is_writing: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._answer_max_s = query_max_s + _ANSWER_MAX_S if answer_max_s is None else answer_max_s
        read_only = "off" if is_writing else "on"
        given = {"statement_timeout": f"{1000 * query_max_s:.0f}", "default_transaction_read_only": read_only}
        self._settings = {**given, **(settings or {})}
        self._connection: AsyncConnection | None = None
        self._one_query = anyio.Lock(fast_acquire=True)
        self.is_open = False

    def __repr__(self) -> str:
        return f"<Link '{self._url}' connected={self._connection is not None}>"

    async def open(self) -> None:
        """Connect. Raises ``psycopg.Error``."""
        self.is_open = True
        self._connection = await connect(self._url, self._settings)

    def close(self) -> None:
        """Close it; safe to repeat."""
        self.is_open = False
        self._drop()

    def break_off(self) -> None:
        """Have whoever waits for the server be told that it has gone; nobody connects again before `open`."""
        self.is_open = False
        if self._connection is not None:
            break_off(self._connection)

    async def fetch(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows; on a connection that turns out to be lost once more on a new one.

        Raises:
            StoreUnavailable: It is closed.
            psycopg.Error: The server cannot be reached, or refuses.
        """
        async with self._one_query:
            if not self.is_open:
                raise StoreUnavailable("the database is not open")
            if self._connection is not None:
                try:
                    return await self._fetch(self._connection, query, values)
                except psycopg.Error:
                    if self._connection is not None:
                        raise
            if not self.is_open:
                raise StoreUnavailable("the database is not open")
            self._connection = await connect(self._url, self._settings)
            return await self._fetch(self._connection, query, values)

    async def _fetch(
        self, connection: AsyncConnection, query: str, values: Sequence[Any] | Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        try:
            with answered_in(connection, self._answer_max_s):
                cursor = await connection.execute(query, values, binary=True)
                if cursor.description is None:
                    return rows
            while part := await cursor.fetchmany(_ROWS_AT_ONCE):
                rows += part
                if len(part) == _ROWS_AT_ONCE:
                    await anyio.lowlevel.checkpoint()
        except psycopg.Error as error:
            if is_lost(connection, error):
                self._drop()
            raise
        except BaseException:
            # Whoever waited is gone, and the answer may be on its way.
            self._drop()
            raise
        return rows

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            drop(connection)
