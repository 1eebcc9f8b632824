"""Checkpoints in one schema of a PostgreSQL database.

Theory of operation
===================
*The idea.* As with SQLite one writer, one transaction a turn, and reading on connections of its own. A transaction is one
trip to the server and back: its statements go out together, each set of rows is one of them
(`dyrygentd.store.postgres.rows`). When `save` returns it is as durable as the server makes a commit; `synchronous_commit` is
left as it is, and named as a problem where it is off.

*The rules.* `save` is all or nothing. A transaction whose answer was lost is looked for before the next one
(`dyrygentd.store.postgres.turns`): all statements are upserts, but for entries of the journal, of which those that were kept
are not written again. Whoever has no term any more writes nothing.

*What could go wrong.* A server that is away, restarts or has no room is weather: `StoreUnavailable`, and the caller comes
again with the same. A server that hangs is waited for, as a disk is. A server that went back is not written to until the next
start.

*Tried and rejected.* asyncpg: a second dialect of parameters and no libpq, which knows service files, `.pgpass` and TLS as
operators do. COPY: it needs a table in between for rows that are there already, and two more trips. A foreign key from nodes:
see `schema.sql`.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import anyio
import psycopg

from dyrygentd.core.absence import note_of
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.errors import DyrygentError, StoreUnavailable
from dyrygentd.ports.facts import CLOSED_NOTE, SETBACK_NOTE, Holder, Retention, Stored, StoreStatistics, Term
from dyrygentd.store.continuity import MOVED_NOTE, refuse_moved
from dyrygentd.store.copies import Progress
from dyrygentd.store.history import HISTORY_MAX
from dyrygentd.store.postgres import rows
from dyrygentd.store.postgres.lease import LEASE_TTL_S, PostgresLease
from dyrygentd.store.postgres.mailbox import PostgresMailbox
from dyrygentd.store.postgres.reader import PostgresReader
from dyrygentd.store.postgres.refusals import refusal_to
from dyrygentd.store.postgres.turns import OwnTurns, Statement, Takeover
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.postgres.writing import Writing, Written
from dyrygentd.store.readable import Readable
from dyrygentd.store.rows import FINISHED_COUNT

logger = logging.getLogger("dyrygentd.store")

#: How long workflows are looked through for one listing.
_LISTING_MAX_S: Final = 5.0
#: How long a close may take until the server is taken for one that hangs.
_CLOSE_MAX_S: Final = 3.0
_SETBACK: Final = (
    "the schema is not where it was, or the server has failed over: it was restored from a copy or moved, or a standby took over,"
    " which may lack the last turns"
)


class PostgresStore(Readable[PostgresReader]):
    """A store in one schema. Guards: one process writes it; what `save` returned from is committed, once.

    Args:
        history_max: Finished workflows to keep.
        listing_max_s: How long workflows are looked through for one listing.
        lease_ttl_s: After so long without a word of the process that has it another one may.
        host: What this host is called, for owners of the first version of the schema; by default its own name.
        progress: Told now and then while the schema is brought up to date.
    """

    def __init__(
        self,
        url: PostgresUrl,
        *,
        history_max: int = HISTORY_MAX,
        listing_max_s: float = _LISTING_MAX_S,
        lease_ttl_s: float = LEASE_TTL_S,
        host: str = "",
        progress: Progress = lambda what, done, of: None,
    ) -> None:
        self._url = url
        self._lease = PostgresLease(
            url,
            renew=self._renew,
            on_lost=lambda error: self._turns.lose(error),
            ttl_s=lease_ttl_s,
            host=host,
            progress=progress,
        )
        self._turns = OwnTurns(url, self._lease)
        self._reader = PostgresReader(url, listing_max_s=listing_max_s)
        self._writing = Writing(self._reader.found, history_max)
        self._mailbox = PostgresMailbox(url, carry_out=self._carry_out)
        # What is asked of the database to make a transaction, and the transaction, belong together.
        self._one_transaction = anyio.Lock(fast_acquire=True)
        self._identity = self._setback = self._weakness = ""
        self._is_crowded = False
        # A transaction of which nobody knows yet what became of it, and whether the count of what has finished is true.
        self._in_doubt: Written | None = None
        self._is_counted = True
        self._commits = self._rows = self._failures = self._journal_entries = self._bytes = 0
        self._commit_seconds = 0.0

    def __repr__(self) -> str:
        return f"<PostgresStore '{self._url}' {self._turns!r}>"

    @property
    def lease(self) -> PostgresLease:
        """Return what decides who has the database."""
        return self._lease

    @property
    def mailbox(self) -> PostgresMailbox:
        """Return where processes that do not lead leave letters."""
        return self._mailbox

    async def open(self) -> None:
        """Take the lease, unless it is ours, and connect.

        Raises `StoreLocked`, `StoreIncompatible` or `StoreUnavailable`.
        """
        self._identity = self._setback = ""
        try:
            before = await self._turns.open()
            await self._reader.open()
            refuse_moved(await self._reader.recall(MOVED_NOTE), self._url)
            self._writing.last_sequence = await self._reader.number("SELECT coalesce(max(seq), 0) FROM workflows")
            await self._count_finished()
            self._weakness = await self._weakness_of_server()
            await self._note_use(before)
            await self._measure()
            self._identity = await self.recall("identity") or ""
        except BaseException as error:
            await self.close()
            if isinstance(error, psycopg.Error):
                raise refusal_to("open", self._url, error) from error
            raise

    async def close(self) -> None:
        """Close, and let another process have it; safe to repeat. A server that hangs is not waited for."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._break_off_late)
                if self._identity and self._turns.is_connected:
                    with contextlib.suppress(DyrygentError):
                        await self.remember(CLOSED_NOTE, note_of(time.time(), was_killed=False))
                self._identity = ""
                await self._mailbox.close()
                await self._turns.close()
                tasks.cancel_scope.cancel()
        self._reader.close()

    async def _break_off_late(self) -> None:
        await anyio.sleep(_CLOSE_MAX_S)
        logger.warning("the database '%s' does not answer, and is not closed in good order", self._url)
        self._turns.break_off()

    async def _note_use(self, before: Takeover) -> None:
        statements: list[Statement] = []
        if before.was_in_use:
            # What is noted is of an earlier close.
            killed = note_of(before.written_at, was_killed=True)
            statements.append((rows.REMEMBER, (CLOSED_NOTE, killed)) if before.written_at else (rows.FORGET, (CLOSED_NOTE,)))
        if before.is_elsewhere:
            self._setback = _SETBACK
            statements.append((rows.REMEMBER, (SETBACK_NOTE, json.dumps({"at": time.time(), "why": _SETBACK}))))
        if statements:
            await self._turns.carry_out(statements)

    async def _weakness_of_server(self) -> str:
        """Return what about the server weakens the promise that what is answered is kept."""
        ((fsync, commit),) = await self._reader.fetch("SELECT current_setting('fsync'), current_setting('synchronous_commit')")
        off = [name for name, value in (("fsync", fsync), ("synchronous_commit", commit)) if value == "off"]
        if not off:
            return ""
        return f"`{'` and `'.join(off)}` of the server of '{self._url}' is off: a crash may lose what was answered for"

    # --- writing ----------------------------------------------------------------------------------------------------

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Write all records in one transaction and return when they are durable.

        Raises:
            StoreUnavailable: The same call may be repeated; what was written is not written twice.
            Fenced: Another process has taken the database over, and nothing was written.
            InvariantBroken: What was to be written contradicts what is there; repeating it would not help.
        """
        async with self._one_transaction:
            await self._save(list(workflows), list(nodes), list(journal))

    async def _save(
        self, records: Sequence[WorkflowRecord], node_records: Sequence[NodeRecord], entries: Sequence[JournalEntry]
    ) -> None:
        begun = time.perf_counter()
        written: Written | None = None
        try:
            await self._clear_up()
            written = await self._writing.written(records, node_records, entries)
            answers = await self._turns.carry_out(written.statements)
        except BaseException as error:
            self._failures += 1
            if written is not None:
                # The repetition has to find anew which of them had finished.
                self._writing.forget(written.returned)
                if isinstance(error, StoreUnavailable):
                    self._in_doubt = written
                    self._is_counted = False
            raise
        last = answers[-1] if written.prunes else None
        self._writing.was_written(written, records, pruned=0 if last is None else last[0])
        self._commits += 1
        self._rows += written.rows
        self._journal_entries += len(written.entries)
        self._commit_seconds += time.perf_counter() - begun
        if not self._is_counted:
            await self._count_finished()

    async def _clear_up(self) -> None:
        """Find out what became of the last transaction, if its answer was lost. Raises `StoreUnavailable`."""
        await self._turns.clear_up()
        if self._turns.was_kept:
            self._writing.was_kept(self._in_doubt)
        self._turns.was_kept = False
        self._in_doubt = None

    async def _count_finished(self) -> None:
        self._writing.finished = await self._reader.number(FINISHED_COUNT)
        self._is_counted = True

    async def remember(self, name: str, value: str) -> None:
        """Note something; it is durable when this returns. Raises `StoreUnavailable` if that is not known."""
        await self._carry_out((rows.REMEMBER, (name, rows.text_of(value))))

    async def raise_term(self, holder: Holder, *, above: int = 0) -> Term:
        """Raise the term above what it was and ``above``; it is durable when this returns. Raises `StoreUnavailable`."""
        async with self._one_transaction:
            await self._clear_up()
            return await self._turns.raise_term(holder, above=above)

    async def _renew(self) -> None:
        """Prolong the lease by a turn of its own. Raises `Fenced` or `StoreUnavailable`."""
        with anyio.CancelScope(shield=True):
            async with self._one_transaction:
                await self._clear_up()
                await self._turns.carry_out([])

    async def expire(self, retention: Retention, *, limit: int) -> int:
        """Delete the oldest finished workflows that are not to be kept any more, ``limit`` at most; return how many.

        Raises `StoreUnavailable`, then it is not known whether any was deleted.
        """
        since = retention.succeeded_since, retention.others_since
        used_bytes = 0
        if retention.bytes_max:
            used_bytes = await self._reader.number(rows.USED_BYTES)
            since = (math.inf, math.inf) if used_bytes > retention.bytes_max else since
        answer = await self._carry_out((rows.EXPIRE, (*since, *since, [*self._writing.kept], limit)))
        assert answer is not None
        deleted = int(answer[0])
        self._writing.finished -= deleted
        is_crowded = math.isinf(since[0]) and not deleted
        if is_crowded and not self._is_crowded:
            logger.warning(
                "%d bytes of the database are in use, more than `history_bytes_max`, and no finished workflow is left to delete",
                used_bytes,
            )
        self._is_crowded = is_crowded
        await self._measure()
        return deleted

    async def _carry_out(self, statement: Statement) -> tuple[Any, ...] | None:
        with anyio.CancelScope(shield=True):
            async with self._one_transaction:
                try:
                    await self._clear_up()
                    (answer,) = await self._turns.carry_out([statement])
                except DyrygentError:
                    self._failures += 1
                    self._is_counted = False
                    raise
        return answer

    async def _measure(self) -> None:
        self._bytes = await self._reader.number(rows.TABLE_BYTES)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished, oldest first; they can be saved again from then on."""
        async for sequence_of, part in self._reader.unfinished():
            self._writing.sequence_of |= sequence_of
            for stored in part:
                yield stored

    async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Stored | None:
        """Read one workflow, whatever its state; with ``to_reopen`` it stays in the history until it was saved again."""
        if to_reopen:
            self._writing.keep(workflow_id)
            # In line with the writing: a transaction that deletes it already is waited for, and a later one leaves it alone.
            async with self._one_transaction:
                is_there = await self._reader.found("SELECT 1 FROM workflows WHERE id = %s", workflow_id)
            if not is_there:
                self._writing.kept.pop(workflow_id, None)
                return None
        return await self._reader.load(workflow_id)

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot; the bytes are those of the last time that old workflows were looked for."""
        return StoreStatistics(
            commits=self._commits,
            finished_workflows=self._writing.finished,
            rows=self._rows,
            commit_seconds=self._commit_seconds,
            failures=self._failures,
            database_bytes=self._bytes,
            journal_entries=self._journal_entries,
            problem=self._turns.problem or self._weakness,
        )
