"""The writer's connection: one transaction a turn, by one process, each exactly once.

*Who writes.* Whoever has the lease (`dyrygentd.store.postgres.lease`). Taking it raises the number of the session in the row
`owner`, as does each connection of a writer; each transaction takes the next turn, for its own session alone, and without that
nothing of it is kept. So if two believe to be the one, the number decides. `raise_term` writes for people, and for the broker,
who it is.

*A lost answer.* If a connection is lost amid a transaction, nobody knows whether it was committed. A new session is begun before
anything else, in the same row: it waits for the old one's transaction, if that still runs, and what comes of the old one later is
refused. So then it is known what became of it, and `was_kept` tells.

*A server that hangs* is given up in time, and its answer is a lost one. A transaction may be large, and its server slow: each
that took too long makes the next one be waited for twice as long, so one that goes through only slowly does go through.

*A database that went back* (a standby took over that lacked the last turns, or somebody put a copy there) has fewer turns
than it has answered for. Nothing more is written then: only a start looks for what was lost.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import anyio
import psycopg
from psycopg import AsyncConnection

from dyrygentd.errors import DyrygentError, Fenced, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import Holder, Term
from dyrygentd.store.continuity import WentBack
from dyrygentd.store.postgres.connection import answered_in, break_off, connect, drop, patience_of
from dyrygentd.store.postgres.lease import PostgresLease
from dyrygentd.store.postgres.refusals import is_lost, refusal_to_write, words_of
from dyrygentd.store.postgres.rows import TAKE_TURN
from dyrygentd.store.postgres.url import PostgresUrl

logger = logging.getLogger("dyrygentd.store")

Statement = tuple[str, Sequence[Any]]

_NOT_MINE: Final = "DY001"
#: However often it took too long: then it is not the size that takes the time.
_PATIENCE_MAX_S: Final = 600.0
#: Rows of one statement from which on a transaction may take so long that it prolongs the lease at its end once more.
_LONG_FROM: Final = 5000
_PROLONG: Final = "UPDATE owner SET until = extract(epoch FROM clock_timestamp()) + ttl"
#: The timeline is the one that is written now: that of the last checkpoint is the old one for minutes after a failover.
_PLACE: Final = """
    SELECT coalesce((SELECT system_identifier::text FROM pg_control_system()), '')
        || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
        || '/' || current_schema()::regnamespace::oid
        || '/' || ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
"""


class Takeover(NamedTuple):
    """How the database was found by the process that has it now.

    Attributes:
        was_in_use: Nobody has closed it: the last process was killed, or lost its server.
        written_at: When it was written last, by the server's clock as Unix time; 0 if never.
        is_elsewhere: It is not where it was then, or the server has failed over.
    """

    was_in_use: bool
    written_at: float
    is_elsewhere: bool


class OwnTurns:
    """Carries out transactions. Guards: each is kept once or not at all, and none of somebody who does not have the database."""

    def __init__(self, url: PostgresUrl, lease: PostgresLease) -> None:
        self._url = url
        self._lease = lease
        self._connection: AsyncConnection | None = None
        self._is_open = False
        # How long an answer is waited for: at first, and now.
        self._patience_first_s = self._patience_s = patience_of(url)
        self._session = self._turn = 0
        # What it has raised, if it has.
        self._term = 0
        self._backend = (0, "")
        self._connecting: anyio.CancelScope | None = None
        # Why nothing is written any more.
        self._over: DyrygentError | None = None
        self.was_kept = False

    def __repr__(self) -> str:
        return f"<OwnTurns session={self._session} turn={self._turn} over={self._over!r}>"

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    @property
    def problem(self) -> str:
        """Why nothing is written any more, empty if it is."""
        return "" if self._over is None else self._over.message

    async def open(self) -> Takeover:
        """Take the lease, unless it is ours, connect, and begin a session.

        Raises:
            StoreLocked, StoreIncompatible, StoreUnavailable: It cannot be had.
            psycopg.Error: What else the server refuses.
        """
        self._over, self.was_kept, self._term = None, False, 0
        lease = self._lease
        if lease.before is None and not await lease.take(Holder.here(time.time())):
            raise StoreLocked(f"the database '{self._url}' is in use by {await lease.holder()}")
        assert lease.before is not None
        connection = self._connection = await connect(self._url)
        place = await self._place(connection)
        began = await connection.execute(
            "UPDATE owner SET session = session + 1, place = %s WHERE process = %s RETURNING session, turn",
            (place, lease.process),
        )
        row = await began.fetchone()
        if row is None:
            lease.close()
            raise StoreLocked(f"the database '{self._url}' was taken over by {await lease.holder()}")
        self._session, self._turn = row
        await self._remember_backend(connection)
        self._is_open = True
        return Takeover(
            lease.before.was_in_use, lease.before.written_at, bool(lease.before.place) and lease.before.place != place
        )

    async def close(self) -> None:
        """Let go of the lease and of the connection; safe to repeat."""
        connection, self._connection = self._connection, None
        self._is_open = False
        with anyio.CancelScope(shield=True):
            if connection is not None:
                try:
                    await connection.close()
                except psycopg.Error as error:
                    logger.info("the database '%s' was not closed in good order: %s", self._url, words_of(error))
                    drop(connection)
            await self._lease.resign()
            self._lease.close()

    def break_off(self) -> None:
        """End what goes on on the connection, as if the server had gone, and make no new one."""
        self._is_open = False
        self._lease.break_off()
        if self._connection is not None:
            break_off(self._connection)

    def lose(self, error: Fenced) -> None:
        """Hear that another process has the database: nothing more is written, and who waits for the server is told so."""
        if self._over is None:
            self._over = error
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            break_off(self._connection)

    async def carry_out(self, statements: Sequence[Statement]) -> list[tuple[Any, ...] | None]:
        """Carry out statements in one transaction; when this returns it is durable. Return the first row of each, if it has any.

        Raises:
            StoreUnavailable: Nothing is known to be kept; `was_kept` of the next call tells.
            Fenced: Another process has taken the database over; nothing was kept, nor ever will be.
            InvariantBroken: The statements can never be carried out.
        """
        with anyio.CancelScope(shield=True):
            connection = await self._connected()
            begun = time.monotonic()
            try:
                with answered_in(connection, self._patience_s):
                    rows = await self._carry_out(connection, statements)
            except psycopg.Error as error:
                if self._over is not None:
                    self._lose(connection)
                    raise self._over from error
                if time.monotonic() - begun >= self._patience_s:
                    self._patience_s = min(2 * self._patience_s, _PATIENCE_MAX_S)
                raise await self._refusal(connection, error) from error
            self._patience_s = self._patience_first_s
            self._turn += 1
        return rows

    async def raise_term(self, holder: Holder, *, above: int) -> Term:
        """Write who has taken the database over, under a number higher than every one before and ``above``."""
        with anyio.CancelScope(shield=True):
            (text,) = await self._row(await self._connected(), "SELECT term FROM owner")
        known = Term.of(text)
        term = Term(max(known.number if known else 0, above) + 1, holder)
        await self.carry_out([("UPDATE owner SET term = %s", (term.text,))])
        self._term = term.number
        return term

    async def clear_up(self) -> None:
        """Find out what became of a transaction whose answer was lost, if there is one. Raises `StoreUnavailable`."""
        with anyio.CancelScope(shield=True):
            await self._connected()

    async def _carry_out(self, connection: AsyncConnection, statements: Sequence[Statement]) -> list[tuple[Any, ...] | None]:
        # All goes out at once, and one answer is waited for.
        async with connection.pipeline():
            await connection.execute("BEGIN")
            await connection.execute(TAKE_TURN, (self._session, self._turn))
            cursors = [await connection.execute(query, values) for query, values in statements]
            if any(isinstance(value, list) and len(value) >= _LONG_FROM for _, values in statements for value in values):
                await connection.execute(_PROLONG)
            await connection.execute("COMMIT")
        return [await cursor.fetchone() if cursor.description else None for cursor in cursors]

    async def _refusal(self, connection: AsyncConnection, error: psycopg.Error) -> DyrygentError:
        """Leave a transaction that failed; return what to raise."""
        if error.sqlstate == _NOT_MINE:
            await self._find_owner(connection)
            return self._over or StoreUnavailable(f"cannot write the database '{self._url}': its turns do not agree")
        if is_lost(connection, error):
            self._lose(connection)
        else:
            try:
                await connection.execute("ROLLBACK")
            except psycopg.Error:
                self._lose(connection)
        return refusal_to_write(self._url, error)

    def _lose(self, connection: AsyncConnection) -> None:
        self._connection = None
        drop(connection)

    async def _find_owner(self, connection: AsyncConnection) -> None:
        """Find out why a turn was refused. Raises nothing: what cannot be found out now is found at the next turn."""
        try:
            with answered_in(connection, self._patience_s):
                await connection.execute("ROLLBACK")
                await self._begin_session(connection)
        except (psycopg.Error, DyrygentError) as error:
            logger.warning("a turn was refused, and why is not known yet: %s", words_of(error))
            self._lose(connection)

    async def _connected(self) -> AsyncConnection:
        """Return the connection, made anew if it was lost. Raises `StoreUnavailable`."""
        if not self._is_open:
            raise StoreUnavailable("the database is not open")
        if self._over is not None:
            raise self._over
        if self._connection is not None:
            return self._connection
        with anyio.CancelScope() as self._connecting:
            self._connection = await self._made_anew()
        if self._connection is None:
            assert self._over is not None
            raise self._over
        logger.warning("the connection to the database '%s' was lost, and made again", self._url)
        return self._connection

    async def _made_anew(self) -> AsyncConnection:
        connection = None
        try:
            connection = await connect(self._url)
            with answered_in(connection, self._patience_s):
                await self._take_again(connection)
        except psycopg.Error as error:
            if connection is not None:
                drop(connection)
            raise refusal_to_write(self._url, error) from error
        except BaseException:
            if connection is not None:
                drop(connection)
            raise
        return connection

    async def _take_again(self, connection: AsyncConnection) -> None:
        """End the session that was given up, and begin a new one."""
        # Only a session that is ours and that we gave up: its number is another one's by and by.
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start::text = %s", self._backend
        )
        await self._begin_session(connection)
        await self._remember_backend(connection)

    async def _begin_session(self, connection: AsyncConnection) -> None:
        """Begin a session, after which it is known what became of the last transaction of the one before."""
        async with connection.transaction():
            (turn,) = await self._row(connection, "SELECT turn FROM owner FOR UPDATE")
            await self._refuse_if_fenced(connection)
            # Nobody else has had the database: one more is ours.
            if turn not in (self._turn, self._turn + 1):
                self._over = WentBack(str(self._url), turn, self._turn)
                logger.error("%s", self._over)
                raise self._over
            (session,) = await self._row(connection, "UPDATE owner SET session = session + 1 RETURNING session")
        self._session = session
        # Whoever asks for it has not yet, if this session was lost before.
        self.was_kept |= turn > self._turn
        self._turn = turn

    async def _refuse_if_fenced(self, connection: AsyncConnection) -> None:
        """Raise `Fenced` if another process has opened the database since."""
        process, holder, text = await self._row(connection, "SELECT process, holder, term FROM owner")
        if process == self._lease.process:
            return
        term = Term.of(text)
        self._over = Fenced(self._term, 0 if term is None else term.number, holder)
        logger.error("%s", self._over)
        raise self._over

    async def _place(self, connection: AsyncConnection) -> str:
        """Return where the schema is, as far as this role may know it."""
        try:
            (place,) = await self._row(connection, _PLACE)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported):
            return ""
        return str(place)

    async def _remember_backend(self, connection: AsyncConnection) -> None:
        self._backend = await self._row(
            connection, "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )

    async def _row(self, connection: AsyncConnection, query: str, *values: Any) -> Any:
        row = await (await connection.execute(query, values)).fetchone()
        assert row is not None
        return row
