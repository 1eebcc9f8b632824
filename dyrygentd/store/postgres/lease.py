"""The lease: which of several processes on one schema leads, by the server's clock.

Theory of operation
===================
*The idea.* One row, `owner`, says who leads and until when. Taking it is one statement, which the server carries out alone on
that row: it succeeds if nobody leads, or the time is over, and in the same breath raises the number of the session, by which each
transaction is held to be the leader's own (`dyrygentd.store.postgres.turns`). So the lease chooses, and the session refuses: a
leader that was stopped amid a turn, or cut off, changes nothing when it comes back, whatever its clock says.

*Its time* is the server's. Each transaction of the leader prolongs it, and a leader renews it now and then by an empty one. One
that was over and that nobody took goes on as if it had not been.

*A leader that was stopped amid a transaction* has the row locked, and nobody could ever take it over. If the time is over, who
wants to take it ends the session of a client that says nothing, also of a person who has left a transaction open. A transaction
that the server works on is waited for, and so is a session that this role may not end: then the log names it.

*Those who wait* look each second, and when it is over; they leave word that they are there, and are woken when a leader lets go.
Where the way to the server does not pass that on, as through a pooler, they notice at their next look.

*Of two versions* the older one leads on until it lets go: a newer one sees it and waits as any other does, and brings the schema
up to date when it takes the lease. From then on an older one that waits must not take it: it looks before, and once more when it
has it, since nobody changes the schema of whoever leads.

*Tried and rejected.* An advisory lock of the session: after a network was cut it lives until the server's keepalive ends it, and
behind a pooler it is anybody's. It is kept for tools that work on a database without a daemon, which a take looks for.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import anyio
import psycopg
from psycopg import AsyncConnection, sql

from dyrygentd.errors import DyrygentError, Fenced, StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import Holder, LeaseView, Namesake, Term
from dyrygentd.store.copies import Progress
from dyrygentd.store.postgres.connection import Link, connect, drop
from dyrygentd.store.postgres.migrations import (
    LEASE_SINCE,
    VERSION,
    VERSION_QUERY,
    lock_number,
    prepare,
    refuse_newer,
    version_of,
)
from dyrygentd.store.postgres.refusals import refusal_to
from dyrygentd.store.postgres.url import PostgresUrl

logger = logging.getLogger("dyrygentd.store")

#: For how long a lease holds after it was taken or renewed.
LEASE_TTL_S: Final = 5.0
#: How long the server may take for one question, and be waited for.
_ASK_MAX_S: Final = 5.0
#: How long a row is waited for that a transaction of another one has.
_LOCK_MAX_S: Final = 1.0
#: Who waits leaves word so often, and counts as there for so long after it.
_SEEN_EVERY_S: Final = 1.0
_SEEN_FOR_S: Final = 5.0
#: How often is told that the schema is made or brought up to date, and how long others wait for that.
_TELL_EVERY_S: Final = 1.0
_OPENING_WAIT_S: Final = 1.0
_SETTINGS: Final[Mapping[str, str]] = {
    "statement_timeout": f"{1000 * _ASK_MAX_S:.0f}",
    "lock_timeout": f"{1000 * _LOCK_MAX_S:.0f}",
}
_TAKE: Final = "SELECT was_in_use, was_written_at, earlier FROM take_lease(%s, %s, %s, %s, %s)"
_VIEW: Final = """
    SELECT led_by, term, CASE WHEN in_use THEN until - extract(epoch FROM clock_timestamp()) ELSE '-infinity' END,
        (SELECT count(*) FROM standbys WHERE abs(extract(epoch FROM clock_timestamp()) - seen_at) < %s), process = %s,
        (SELECT max(version) FROM about)
    FROM owner
"""
_RESIGN: Final = "UPDATE owner SET in_use = false, until = 0 WHERE process = %s"
_WAKE: Final = "SELECT pg_notify(%s, '')"
_SEEN: Final = """
    INSERT INTO standbys (process, holder, seen_at) VALUES (%s, %s, extract(epoch FROM clock_timestamp()))
    ON CONFLICT (process) DO UPDATE SET seen_at = excluded.seen_at
"""
#: One that was not seen for so long has the name no more, and one that comes back in a minute has it as it had before.
_NAMED_FOR_S: Final = 15.0
_NAME: Final = """
    WITH clock AS (SELECT extract(epoch FROM clock_timestamp())::float8 AS now),
        gone AS (DELETE FROM hosts USING clock WHERE abs(now - seen_at) > 3600),
        mine AS (
            INSERT INTO hosts AS known (name, machine, holder, since, seen_at)
            SELECT %(name)s, %(machine)s, %(holder)s, now, now FROM clock
            ON CONFLICT (name, machine) DO UPDATE SET holder = excluded.holder, seen_at = excluded.seen_at,
                since = CASE WHEN known.seen_at < excluded.seen_at - 60 THEN excluded.since ELSE known.since END
            RETURNING since, machine
        )
    SELECT others.machine, others.holder, others.seen_at, (others.since, others.machine) < (mine.since, mine.machine)
    FROM hosts AS others, mine, clock
    WHERE others.name = %(name)s AND others.machine <> %(machine)s AND abs(now - others.seen_at) < %(named_for_s)s
"""
#: Also who was seen in the future: the clock was set back.
_LEAVE: Final = "DELETE FROM standbys WHERE process = %s OR abs(extract(epoch FROM clock_timestamp()) - seen_at) > 3600"
#: Sessions amid a transaction that has locked the row, or all of its table, and does not wait for it as others do.
_LOCKING: Final = """
    FROM pg_stat_activity AS a WHERE a.pid <> pg_backend_pid() AND a.wait_event_type IS DISTINCT FROM 'Lock' AND a.pid IN (
        SELECT pid FROM pg_locks WHERE locktype = 'relation' AND granted AND mode <> 'AccessShareLock'
            AND relation = 'owner'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
"""
#: The name is text, as that type's own form is not read by everybody.
_WHO_LOCKS: Final = f"SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, '') {_LOCKING} ORDER BY a.pid"
#: Ends those for whose client the server waits.
_END_SILENT: Final = f"SELECT pg_terminate_backend(a.pid) {_LOCKING} AND a.wait_event_type = 'Client'"
_END_IT: Final = "if it does not end by itself, end it: `SELECT pg_terminate_backend(PROCESS)`, as its user or a superuser"


class Before(NamedTuple):
    """How a process that takes the database over has found it.

    Attributes:
        was_in_use: Nobody has closed it: the last process was killed, or lost its server.
        written_at: When it was written last, by the server's clock as Unix time; 0 if never.
        place: Where it was then; empty if nobody has noted it.
    """

    was_in_use: bool
    written_at: float
    place: str


class PostgresLease:
    """The lease of one schema. Guards: one process at most has it, by the server's clock.

    Args:
        renew: Carries out an empty turn.
        on_lost: Called when somebody has heard elsewhere that it is another's.
        ttl_s: For how long it holds after it was taken or renewed.
        host, progress: As of `PostgresStore`.

    Attributes:
        process: What tells this process from every other one in the row.
        before: How the database was found when it was taken; None as long as it was not.
    """

    def __init__(
        self,
        url: PostgresUrl,
        *,
        renew: Callable[[], Awaitable[None]],
        on_lost: Callable[[Fenced], None] = lambda _: None,
        ttl_s: float = LEASE_TTL_S,
        host: str = "",
        progress: Progress = lambda what, done, of: None,
    ) -> None:
        self.process = uuid.uuid4().hex
        self.before: Before | None = None
        self._url = url
        self._renew = renew
        self._on_lost = on_lost
        self._ttl_s = ttl_s
        self._host = host
        self._progress = progress
        self._one_opening = anyio.Lock(fast_acquire=True)
        self._link = Link(url, query_max_s=_ASK_MAX_S, answer_max_s=_ASK_MAX_S + 1, is_writing=True, settings=_SETTINGS)
        self._is_open = self._is_broken_off = False
        # Whether the schema is of an older version, whose leader is waited for.
        self._is_behind = False
        self._lock_number = 0
        self._words = ""
        self._seen_at = -_SEEN_EVERY_S
        self._listener: AsyncConnection | None = None
        self._told_locking = ""

    def __repr__(self) -> str:
        return f"<PostgresLease '{self._url}' taken={self.before is not None}>"

    @property
    def ttl_s(self) -> float:
        """For how long it holds after it was taken or renewed."""
        return self._ttl_s

    async def take(self, holder: Holder) -> bool:
        """Take it if it is free, over, or this process's own; tell whether that was done.

        Raises:
            StoreUnavailable: The server cannot be reached, or refuses.
            StoreIncompatible: Server, database or schema cannot be used, or a newer version has changed the schema meanwhile.
            StoreLocked: The schema is of an older version, and in use.
        """
        self._words = holder.words
        async with self._asking("take"):
            if self._is_behind:
                await self._catch_up()
            await self._refuse_newer()
            try:
                rows = await self._link.fetch(_TAKE, (self.process, holder.text, holder.words, self._ttl_s, self._lock_number))
            except psycopg.errors.LockNotAvailable:
                await self._end_locking()
                return False
            self._told_locking = ""
            if not rows:
                return False
            before = Before(*rows[0])
            try:
                await self._refuse_newer()
            except StoreIncompatible:
                await self._let_go()
                raise
            if self.before is None:
                self.before = before
            await self._link.fetch(_LEAVE, (self.process,))
        self._drop_listener()
        return True

    async def _refuse_newer(self) -> None:
        ((version,),) = await self._link.fetch(VERSION_QUERY)
        refuse_newer(self._url, version)

    async def _catch_up(self) -> None:
        """Bring a schema up to date that was older when it was seen. Raises `StoreLocked` as long as somebody leads on it."""
        async with self._one_opening:
            with self._telling():
                await self._prepare()

    async def _end_locking(self) -> None:
        """If the lease is over, end sessions that have the row locked and say nothing, or name those that have it."""
        is_over = False
        # If somebody has the whole table nobody can say how long it holds, nor renew it.
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            view = await self._view()
            if view.is_held:
                return
            is_over = True
        locking = await self._link.fetch(_WHO_LOCKS)
        words = ", ".join(f"process {pid} of '{user}' ({application or 'no name'})" for pid, application, user in locking)
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            if is_over and await self._link.fetch(_END_SILENT):
                logger.warning("nobody leads, and a session that said nothing had the lease locked: it is ended: %s", words)
                return
        if words and words != self._told_locking:
            logger.warning("nobody can take the lease of the database '%s': %s has it locked; %s", self._url, words, _END_IT)
        self._told_locking = words

    async def renew(self) -> None:
        """Prolong it. Raises `Fenced` or `StoreUnavailable`."""
        await self._renew()

    def lose(self, error: Fenced) -> None:
        """Hear that another process has it: turns are refused, and who waits for one is told."""
        self._on_lost(error)

    async def resign(self) -> None:
        """Let it go at once, and wake those who wait, or wait no longer.

        Nothing happens if it is another's, or nobody answers.
        """
        had, self.before = self.before is not None, None
        if not self._is_open or self._is_broken_off:
            return
        with contextlib.suppress(DyrygentError):
            async with self._asking("resign the lease of"):
                if had:
                    await self._let_go()
                else:
                    await self._link.fetch(_LEAVE, (self.process,))

    async def _let_go(self) -> None:
        await self._link.fetch(_RESIGN, (self.process,))
        await self._link.fetch(_WAKE, (self._channel,))

    async def view(self) -> LeaseView:
        """Return who leads. Raises `StoreUnavailable`, or `StoreIncompatible` if a newer version has changed the schema."""
        async with self._asking("look at"):
            return await self._view()

    async def _view(self) -> LeaseView:
        ((led_by, term, left_s, standbys, is_ours, version),) = await self._link.fetch(_VIEW, (_SEEN_FOR_S, self.process))
        refuse_newer(self._url, version)
        # Somebody else may have brought it up to date.
        self._is_behind = self._is_behind and version < VERSION
        known = Term.of(term)
        return LeaseView(Holder.of(led_by), known.number if known else 0, left_s, standbys, is_ours)

    async def namesakes(self, name: str, machine: str, holder: Holder) -> Sequence[Namesake]:
        """Note what this machine is called; return others of the name that were seen lately. Raises `StoreUnavailable`."""
        values = {"name": name, "machine": machine, "holder": holder.words, "named_for_s": _NAMED_FOR_S}
        async with self._asking("note the name of this host in"):
            if self._is_behind:
                # It may have no place for that yet.
                return []
            return [Namesake(*row) for row in await self._link.fetch(_NAME, values)]

    async def holder(self) -> str:
        """Say who has it, for people."""
        view = await self.view()
        return view.holder.words if view.holder and view.is_held else "another process"

    async def wait(self, timeout_s: float) -> None:
        """Leave word that this process waits, and return after so long, or as soon as somebody lets it go."""
        async with self._asking("stand by at"):
            if self._words and time.monotonic() - self._seen_at >= _SEEN_EVERY_S:
                await self._link.fetch(_SEEN, (self.process, self._words))
                self._seen_at = time.monotonic()
        try:
            listener = self._listener or await self._listen()
            # All that has come meanwhile is one word.
            async for _ in listener.notifies(timeout=timeout_s, stop_after=1):
                pass
        except psycopg.Error as error:
            self._drop_listener()
            raise refusal_to("stand by at", self._url, error) from error
        except BaseException:
            self._drop_listener()
            raise

    def close(self) -> None:
        """Close the connections; safe to repeat. It can be asked again."""
        self._is_open = self._is_broken_off = False
        self.before = None
        self._link.close()
        self._drop_listener()

    @property
    def _channel(self) -> str:
        return f"dyrygentd_lease_{self._lock_number}"

    async def _listen(self) -> AsyncConnection:
        listener = await connect(self._url)
        self._listener = listener
        await listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        return listener

    def _drop_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            drop(listener)

    @contextlib.asynccontextmanager
    async def _asking(self, verb: str) -> AsyncIterator[None]:
        """Be connected to a schema that is there; what the server refuses is told as ours."""
        try:
            if not self._is_open:
                await self._open()
            yield
        except psycopg.Error as error:
            raise refusal_to(verb, self._url, error) from error

    def break_off(self) -> None:
        """Have whoever waits for the server be told that it has gone, and ask it nothing more before `close`."""
        self._is_broken_off = True
        self._link.break_off()

    async def _open(self) -> None:
        """Connect, once the schema is there. Whoever else asks meanwhile is told what goes on, if it takes long."""
        with anyio.move_on_after(_OPENING_WAIT_S) as waiting:
            await self._one_opening.acquire()
        if waiting.cancelled_caught:
            raise StoreUnavailable(f"the database '{self._url}' is being brought up to date")
        try:
            if not self._is_open:
                with self._telling():
                    await self._prepare_or_look()
                await self._link.open()
                self._is_open = True
        finally:
            self._one_opening.release()

    async def _prepare_or_look(self) -> None:
        try:
            await self._prepare()
        except StoreLocked:
            # Who leads on it can be seen, and waited for.
            if not self._is_behind:
                raise

    async def _prepare(self) -> None:
        """Bring the schema up to date. Raises `StoreLocked` if it is older and in use, and tells then whether it has a lease."""
        self._is_behind = False
        connection = await connect(self._url)
        try:
            await prepare(connection, self._url, host=self._host)
            self._lock_number = await lock_number(connection, self._url)
        except StoreLocked:
            self._is_behind = await version_of(connection, self._url) >= LEASE_SINCE
            self._lock_number = await lock_number(connection, self._url)
            raise
        finally:
            drop(connection)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell now and then that something goes on: however long a large database takes, a service manager has to wait for it."""
        loop = asyncio.get_running_loop()
        due = loop.call_later(_TELL_EVERY_S, lambda: tell())

        def tell() -> None:
            nonlocal due
            self._progress(f"bringing the database '{self._url}' up to date", 0, 0)
            due = loop.call_later(_TELL_EVERY_S, tell)

        try:
            yield
        finally:
            due.cancel()
