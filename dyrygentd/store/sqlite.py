"""Checkpoints in one SQLite file.

All that writes shares one connection and one transaction, which begin and end here. What is written is in
`dyrygentd.store.writing`, what is deleted in `dyrygentd.store.history`.

Theory of operation
===================
*The idea.* One writer, one transaction per turn, ``synchronous=FULL`` in WAL mode: when `save` returns, power may go. Group
commit comes by itself: while one transaction waits for the disk, the next turn's events pile up. Reading has connections and
threads of its own, see `dyrygentd.store.sqlite_reader`.

*The rules.* `save` is all or nothing, and repeating it after an error is safe: every statement is an upsert. A lock file
(``flock``) keeps a second process out, also on kill -9. A cancelled await of aiosqlite still executes in its thread, so the
caller shields `save` (the scheduler does). The history is trimmed in the transaction that makes it too long; what was read
to go on is left out, and reading for that purpose stands in line with the writing.

*What could go wrong.* On a full disk SQLite has rolled the transaction back by itself; rolling back blindly would be an error.
A reader that stays open pins the WAL: reads fetch everything at once and hold no cursor across turns. Somebody else's we can only
name, and cut the file when that one is gone. Closing is shielded, as threads left behind would keep the process from ending.

*Damage.* All pages are looked through at the start, as far as a few seconds go. Damage that is met later ends all writing until
the next start: what is lost then cannot be recovered. A definition or a row that cannot be decoded concerns its workflow alone.

*Names and files.* The lock lies on the file beside the database, which tells people who has it, and on the database itself, so
that neither a deleted lock file nor a second name lets another process in. A database that was deleted or replaced is noticed
before each save. A write-ahead log that was deleted is still open here: its content is taken over, and a new one begun.

*Tried and rejected.* ``synchronous=NORMAL`` (0.02 instead of 0.4 ms a commit, but a power cut takes the last commits with it); a
row per node at submission (a definition is one blob instead, a tenth of the time).
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Sequence, Set
from pathlib import Path
from typing import Final

import aiosqlite
import anyio
import anyio.lowlevel
import anyio.to_thread

from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.errors import DyrygentError, InvariantBroken, StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import Holder, Retention, Stored, StoreStatistics, Term
from dyrygentd.store.connections import connect, log_kept, opened
from dyrygentd.store.continuity import MOVED_NOTE, begin_use, end_use, raised_term, refuse_moved, setback_of
from dyrygentd.store.copies import Progress
from dyrygentd.store.damage import damaged, is_damage, is_of_our_making, look_through, roll_back, words_of
from dyrygentd.store.files import identity_of, lock_beside, lock_itself, size_of, tighten, tighten_beside
from dyrygentd.store.history import HISTORY_MAX, History
from dyrygentd.store.log import WAL_PROBLEM_BYTES, WriteAheadLog
from dyrygentd.store.migrations import migrate, version_of
from dyrygentd.store.owners import next_step_to_open
from dyrygentd.store.readable import Readable
from dyrygentd.store.rows import FINISHED_COUNT, REMEMBER, utf8
from dyrygentd.store.sqlite_reader import SqliteReader
from dyrygentd.store.writing import RowWriter

logger = logging.getLogger("dyrygentd.store")

#: How long the pages are looked through at the start; 100 MB take about half a second.
_CHECK_MAX_S: Final = 10.0
#: How long workflows are looked through for one listing; 100,000 take a tenth of a second.
_LISTING_MAX_S: Final = 5.0


class SqliteStore(Readable[SqliteReader]):
    """A store in one file. Guards: one process has it open; what `save` returned from is on disk.

    Args:
        path: The database; it and its directory are created if they do not exist, readable by this user only.
        history_max: Finished workflows to keep.
        wal_problem_bytes: A write-ahead log longer than this is called a problem; it is cut from a quarter of it on.
        check_max_s: How long the pages are looked through at the start.
        listing_max_s: How long workflows are looked through for one listing.
        progress: Told, in another thread, how far the upgrade of an older database is.
    """

    lease: None = None  # A lock of the file decides.
    mailbox: None = None

    def __init__(
        self,
        path: Path,
        *,
        history_max: int = HISTORY_MAX,
        wal_problem_bytes: int = WAL_PROBLEM_BYTES,
        check_max_s: float = _CHECK_MAX_S,
        listing_max_s: float = _LISTING_MAX_S,
        progress: Progress = lambda what, done, of: None,
    ) -> None:
        # Without symbolic links, so that two names of one file have one lock.
        self._path = path.resolve()
        self._log = WriteAheadLog(self._path, problem_bytes=wal_problem_bytes)
        self._check_max_s = check_max_s
        self._progress = progress
        self._locks: list[int] = []
        self._file: tuple[int, int] | None = None
        self._damage = self._identity = self._setback = ""
        # Statements are awaited one by one, and all of the connection's belong to its one transaction.
        self._one_transaction = anyio.Lock(fast_acquire=True)
        self._writer: aiosqlite.Connection | None = None
        self._reader = SqliteReader(
            self._path, listing_max_s=listing_max_s, unreadable=lambda error: self._unreadable(error, "read")
        )
        self._row_writer = RowWriter(self._reader.found)
        self._history = History(history_max)
        self._commits = self._rows = self._failures = self._journal_entries = 0
        self._commit_seconds = 0.0

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}>"

    async def open(self) -> None:
        """Lock, open, and create or migrate. Raises `StoreLocked`, `StoreIncompatible` or `StoreUnavailable`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._locks.append(lock_beside(self._path))
            self._locks.append(lock_itself(self._path))
            tighten(self._locks[-1], self._path)
            tighten_beside(self._path)
            self._file = identity_of(self._path)
        except OSError as error:
            await self.close()
            refused = StoreUnavailable(f"cannot open the database '{self._path}': {error.strerror}")
            refused.next_step = next_step_to_open(self._path)
            raise refused from error
        except (StoreLocked, StoreUnavailable):
            await self.close()
            raise
        self._damage = self._identity = self._setback = ""
        written_at = self._log.begin()
        try:
            self._writer = await connect(self._path)
            version = await version_of(self._writer, self._path)
            if version:
                await look_through(self._writer, self._path, max_s=self._check_max_s)
            await migrate(self._writer, self._path, version, self._progress, file=self._locks[-1])
            await self._connect()
            self._row_writer.last_sequence = await self._reader.number("SELECT coalesce(max(seq), 0) FROM workflows")
            self._history.finished = await self._reader.number(FINISHED_COUNT)
            identity = await self.recall("identity") or ""
            refuse_moved(await self.recall(MOVED_NOTE), self._path)
            self._setback = await setback_of(self._writer, had_log=written_at is not None)
            with anyio.CancelScope(shield=True):
                await begin_use(self._writer, self._setback, written_at=written_at)
                # From here on it is in use, which closing takes back.
                self._identity = identity
        except BaseException as error:
            with contextlib.nullcontext() if written_at is None else log_kept(self._path, self._log.path, written_at):
                await self.close()
            if isinstance(error, sqlite3.Error):
                raise self._unreadable(error, "open") from error
            raise

    async def close(self) -> None:
        """Close and unlock; safe to repeat."""
        if self._identity and self._writer is not None and not self._damage:
            with anyio.CancelScope(shield=True), contextlib.suppress(sqlite3.Error):
                await end_use(self._writer)
        await self._disconnect()
        # Closing the database's own lock would take SQLite's locks along, so it comes after the connections.
        while self._locks:
            os.close(self._locks.pop())

    async def _connect(self) -> None:
        if self._writer is None:
            self._writer = await connect(self._path)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000"):
            await self._writer.execute(f"PRAGMA {pragma}")
        await self._writer.execute(f"PRAGMA journal_size_limit = {self._log.limit_bytes}")
        await self._reader.open()
        self._log.remember()

    async def _disconnect(self) -> None:
        writer, self._writer = self._writer, None
        with anyio.CancelScope(shield=True):
            await self._reader.close()
            if writer is not None:
                await writer.close()

    # --- writing ----------------------------------------------------------------------------------------------------

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Write all records in one transaction and return when they are durable.

        Raises:
            StoreUnavailable: Nothing was written; the same call may be repeated.
            InvariantBroken: What was to be written contradicts what is there; repeating it would not help.
        """
        async with self._one_transaction:
            await self._save(list(workflows), list(nodes), list(journal))

    async def _save(
        self, records: Sequence[WorkflowRecord], node_records: Sequence[NodeRecord], entries: Sequence[JournalEntry]
    ) -> None:
        opened(self._writer)
        begun = time.perf_counter()
        await self._refuse_if_gone()
        # Another one, if the log was begun anew.
        writer = opened(self._writer)
        # Finished workflows that go on, and nodes of finished ones whose tasks ended late.
        named = {record.workflow_id for record in records if record.document is None}
        named |= {node.workflow_id for node in node_records} | {entry.workflow_id for entry in entries}
        returned = await self._row_writer.find(named - {record.workflow_id for record in records if record.document is not None})
        try:
            rows, more_finished = await self._write(writer, records, node_records, entries, returned)
        except Exception as error:
            refused = await self._refusal_of(error, writer, returned)
            if refused is None:
                raise
            raise refused from error
        self._commits += 1
        self._rows += len(records) + rows + len(entries)
        self._journal_entries += len(entries)
        self._commit_seconds += time.perf_counter() - begun
        self._history.finished += more_finished
        going_on = {record.workflow_id for record in records if not record.state.is_finished}
        for workflow_id in returned & going_on:
            self._history.let_go(workflow_id)
        self._row_writer.forget({record.workflow_id for record in records if record.state.is_finished} | (returned - going_on))
        await self._cut_log(writer)

    async def _write(
        self,
        writer: aiosqlite.Connection,
        records: Sequence[WorkflowRecord],
        node_records: Sequence[NodeRecord],
        entries: Sequence[JournalEntry],
        returned: Set[str],
    ) -> tuple[int, int]:
        """Carry out the transaction; return the rows of nodes, and by how many the finished workflows are more than before.

        Args:
            returned: Workflows that had finished before.
        """
        rows, is_on_disk = await self._row_writer.write(writer, records, node_records, entries)
        ended = [record for record in records if record.state.is_finished]
        # The values of one that failed or was cancelled stay: trying again needs them.
        succeeded = [record.workflow_id for record in ended if record.state is WorkflowState.SUCCEEDED]
        if succeeded:
            await self._row_writer.drop_values(writer, succeeded)
        # Not counted: children, those of which no row is there any more, and those that had finished before.
        roots = {record.workflow_id: record.state.is_finished for record in records if record.parent is None}
        new_ends = {each for each, is_over in roots.items() if is_over and each in self._row_writer.sequence_of} - returned
        more = len(new_ends) - len(returned & {each for each, is_over in roots.items() if not is_over})
        pruned = await self._history.prune(writer, more) if ended else 0
        if not is_on_disk:
            await writer.commit()
        return rows, more - pruned

    async def _refusal_of(self, error: Exception, writer: aiosqlite.Connection, returned: Set[str]) -> DyrygentError | None:
        """Leave a transaction that failed, and return what to raise instead of its error; None if that says it best."""
        self._failures += 1
        await roll_back(writer)
        # The repetition has to find anew which of them had finished.
        self._row_writer.forget(returned)
        if is_of_our_making(error):
            return InvariantBroken(f"the database '{self._path}' refuses what is to be saved: {error}")
        if not isinstance(error, sqlite3.Error | OSError):
            return None
        self._note_damage(error)
        return StoreUnavailable(self._damage or f"cannot write the database '{self._path}': {words_of(error)}")

    async def _refuse_if_gone(self) -> None:
        """Raise `StoreUnavailable` if nothing may be written, or what is written would not be there after a restart."""
        if self._damage:
            self._failures += 1
            raise StoreUnavailable(self._damage)
        if identity_of(self._path) != self._file:
            # SQLite would go on writing to the file that has no name any more.
            self._failures += 1
            raise StoreUnavailable(
                f"cannot write the database '{self._path}': it was deleted or replaced while in use; put it back"
            )
        change = self._log.change()
        if not change:
            return
        if change == "replaced":
            self._failures += 1
            raise StoreUnavailable(
                f"cannot write the database '{self._path}': its write-ahead log '{self._log.path.name}' was replaced while in"
                " use; put it back"
            )
        await self._begin_new_log()

    async def _begin_new_log(self) -> None:
        """Take over what is in a write-ahead log that was deleted, and begin another one."""
        try:
            if self._log.has_been and self._writer is not None:
                ((is_busy, _, _),) = await self._writer.execute_fetchall("PRAGMA wal_checkpoint(FULL)")
                if is_busy:
                    raise StoreUnavailable(f"the write-ahead log of '{self._path}' was deleted, and somebody still reads it")
            # Both, since the log is open as long as one of them is.
            await self._disconnect()
            await self._connect()
        except sqlite3.Error as error:
            self._failures += 1
            raise StoreUnavailable(f"cannot begin a new write-ahead log for the database '{self._path}': {error}") from error
        logger.warning(
            "the write-ahead log of the database '%s' was deleted; its content was saved, and a new one begun", self._path
        )

    async def _cut_log(self, writer: aiosqlite.Connection) -> None:
        try:
            await self._log.cut(writer)
        except sqlite3.Error as error:
            logger.warning("cannot cut the write-ahead log of the database '%s': %s", self._path, error)
            self._note_damage(error)

    def _note_damage(self, error: Exception) -> None:
        """Write nothing more into a database that is damaged."""
        if is_damage(error) and not self._damage:
            damage = damaged(self._path, error)
            self._damage = f"{damage}; nothing more is written: {damage.next_step}"
            logger.error("%s", self._damage)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished, oldest first; they can be saved again from then on."""
        async for sequence_of, part in self._reader.unfinished():
            self._row_writer.sequence_of |= sequence_of
            for stored in part:
                yield stored

    async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Stored | None:
        """Read one workflow, whatever its state; with ``to_reopen`` it stays in the history until it was saved again."""
        if to_reopen:
            try:
                is_there = await self._history.keep(opened(self._writer), workflow_id)
            except sqlite3.Error as error:
                raise self._unreadable(error, "read") from error
            if not is_there:
                return None
        return await self._reader.load(workflow_id)

    async def remember(self, name: str, value: str) -> None:
        """Note something; it is durable when this returns. Raises `StoreUnavailable` if it was not written."""
        async with self._transaction() as writer:
            await writer.execute(REMEMBER, (name, utf8(value)))

    async def raise_term(self, holder: Holder, *, above: int = 0) -> Term:
        """Raise the term above what it was and ``above``; it is durable when this returns. Raises `StoreUnavailable`."""
        async with self._transaction() as writer:
            return await raised_term(writer, holder, above=above)

    async def expire(self, retention: Retention, *, limit: int) -> int:
        """Delete the oldest finished workflows that are not to be kept any more, ``limit`` at most; return how many.

        Raises `StoreUnavailable`, then none is deleted.
        """
        async with self._transaction() as writer:
            deleted = await self._history.expire(writer, retention, limit=limit)
        self._history.finished -= deleted
        return deleted

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """Have the writer for a small transaction, which is durable at the end, also if the caller is cancelled meanwhile."""
        with anyio.CancelScope(shield=True):
            async with self._one_transaction:
                await self._refuse_if_gone()
                writer = opened(self._writer)
                try:
                    yield writer
                    await writer.commit()
                except sqlite3.Error as error:
                    self._failures += 1
                    await roll_back(writer)
                    self._note_damage(error)
                    raise StoreUnavailable(f"cannot write the database '{self._path}': {words_of(error)}") from error

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot."""
        return StoreStatistics(
            commits=self._commits,
            finished_workflows=self._history.finished,
            rows=self._rows,
            commit_seconds=self._commit_seconds,
            failures=self._failures,
            database_bytes=size_of(self._path),
            wal_bytes=self._log.bytes,
            journal_entries=self._journal_entries,
            problem=self._damage or self._log.problem(),
        )

    def _unreadable(self, error: sqlite3.Error, verb: str) -> StoreUnavailable | StoreIncompatible:
        if is_damage(error):
            self._note_damage(error)
            return damaged(self._path, error)
        unavailable = StoreUnavailable(f"cannot {verb} the database '{self._path}': {error}")
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            unavailable.next_step = f"make room in '{self._path.parent}', and start again"
        return unavailable
