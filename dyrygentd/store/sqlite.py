"""Checkpoints in one SQLite file.

Theory of operation
===================
*The idea.* One writer, one transaction per turn, ``synchronous=FULL`` in WAL mode: when `save` returns, power may go. Group
commit comes by itself: while one transaction waits for the disk, the next turn's events pile up. Readers have a connection and
a thread of their own, so a long listing does not hold up a turn.

*The rules.* `save` is all or nothing, and repeating it after an error is safe: every statement is an upsert. A lock file
(``flock``) keeps a second process out, also on kill -9. A cancelled await of aiosqlite still executes in its thread, so the
caller shields `save` (the scheduler does). The history is trimmed in the transaction that makes it too long; what was read
to go on is left out, and reading for that purpose stands in line with the writing.

*What could go wrong.* On a full disk SQLite has rolled the transaction back by itself; rolling back blindly would be an error.
A reader that stays open pins the WAL: reads fetch everything at once and hold no cursor across turns. Against somebody else's we
can do nothing but say so, and cut the file as soon as that one is gone. A caller that is cancelled while it closes would leave
threads behind that keep the process from ending: closing is shielded.

*Damage.* All pages are looked through at the start, as far as a few seconds go. Damage that is met later ends all writing until
the next start: SQLite would write on, and what is lost then cannot be recovered. A definition or a row that cannot be decoded
concerns its workflow alone.

*Names and files.* The lock lies on the file beside the database, which tells people who has it, and on the database itself, so
that neither a deleted lock file nor a second name lets another process in. A database that was deleted or replaced is
noticed before each save. A write-ahead log that was deleted is still open here: its content is taken over into the database, and
a new one begun.

*Tried and rejected.* ``synchronous=NORMAL`` (0.02 instead of 0.4 ms a commit, but a power cut takes the last commits with it); a
row per node at submission (a definition is one blob instead, a tenth of the time).
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import sqlite3
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import aiosqlite
import anyio
import anyio.to_thread

from dyrygentd.core.checkpoint import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.errors import InvariantBroken, StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports import JOURNAL_MAX, Listed, Retention, Selection, Stored, StoreStatistics
from dyrygentd.store.migrations import APPLICATION_ID, VERSION, Progress, migrate, version_of

logger = logging.getLogger("dyrygentd.store")

#: Finished workflows kept for `list` and `show`; the oldest go first.
HISTORY_MAX: Final = 20_000
#: Finished workflows deleted in one transaction beyond those that ended in it, so that cleaning up never holds a turn for long.
_PRUNED_PER_SAVE: Final = 5
#: How long the pages are looked through at the start; 100 MB take about half a second.
_CHECK_MAX_S: Final = 10.0
#: A longer write-ahead log is a problem that people are told. SQLite itself needs 4 MB and the longest transaction.
_WAL_PROBLEM_BYTES: Final = 256 * 1024 * 1024
#: Seconds between two tries to cut it.
_CUT_EVERY_S: Final = 5.0
#: Definitions longer than this are deflated in a thread; it takes about 10 ms a megabyte.
_INLINE_BYTES: Final = 16_384
#: More rows than this are unpacked in a thread; ten thousand take 40 ms.
_INLINE_ROWS: Final = 500
#: Finished workflows kept from being deleted because they were read to go on; the oldest go first, should nothing come of it.
_KEPT_MAX: Final = 100

#: Workflows, and bytes of their definitions as they are stored, that are read together at the start.
_PART_WORKFLOWS: Final = 100
_PART_BYTES: Final = 1024 * 1024

_NODE_COLUMNS = "node, state, attempt, dispatched_at, finished_at, held_until, blocked_by, error, value, detail"
_COLUMNS = "seq, id, name, key, labels, state, created_at, finished_at, tasks, counts, error, control"

_INSERT_WORKFLOW = f"""
    INSERT INTO workflows ({_COLUMNS}, result, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (seq) DO UPDATE SET
        state = excluded.state, finished_at = excluded.finished_at, counts = excluded.counts,
        error = excluded.error, result = excluded.result, control = excluded.control
"""
_UPDATE_WORKFLOW = """
    UPDATE workflows SET state = ?, finished_at = ?, counts = ?, error = ?, control = ?, result = ? WHERE seq = ?
"""
_SAVED_COLUMNS = "workflow, node, state, attempt, dispatched_at, finished_at, held_until, blocked_by, error, value, detail"
_PLACES = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_NEWEST_NODE = """
    ON CONFLICT (workflow, node) DO UPDATE SET
        state = excluded.state, attempt = excluded.attempt, dispatched_at = excluded.dispatched_at,
        finished_at = excluded.finished_at, held_until = excluded.held_until, blocked_by = excluded.blocked_by,
        error = excluded.error, value = excluded.value, detail = excluded.detail
"""
_SAVE_NODE = f"INSERT INTO nodes ({_SAVED_COLUMNS}) VALUES {_PLACES} {_NEWEST_NODE}"
_ADD_ENTRY = "INSERT INTO journal (workflow, at, verb, by, why, nodes, count, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_TRIM_JOURNAL = """
    DELETE FROM journal WHERE workflow = ?1 AND seq <= (
        SELECT seq FROM journal WHERE workflow = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2
    )
"""
_REMEMBER = "INSERT INTO notes (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_DROP_VALUES = "UPDATE nodes SET value = NULL WHERE workflow = ? AND value IS NOT NULL"
_PRUNE = """
    DELETE FROM workflows WHERE seq IN (
        SELECT seq FROM workflows WHERE finished_at IS NOT NULL AND id NOT IN (SELECT value FROM json_each(?))
        ORDER BY finished_at LIMIT ?
    )
"""
#: The first condition follows from the second, and is one that the index on the ends helps with.
_EXPIRE = """
    DELETE FROM workflows WHERE seq IN (
        SELECT seq FROM workflows WHERE finished_at < max(?1, ?2)
            AND finished_at < CASE state WHEN 'succeeded' THEN ?1 ELSE ?2 END
            AND id NOT IN (SELECT value FROM json_each(?3))
        ORDER BY finished_at LIMIT ?4
    )
"""
_USED_BYTES = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"


#: Rows that are saved by one statement, which is a transaction of its own; each trip to the writer's thread costs as much as ten.
_AT_ONCE_MAX = 32


@cache
def _saving_at_once(count: int) -> str:
    """Return the statement that saves so many nodes.

    Before one that begins with INSERT the module `sqlite3` would begin a transaction, which somebody has to end.
    """
    new = ", ".join([_PLACES] * count)
    # Without WHERE, SQLite would take ON for the condition of a join.
    insert = f"INSERT INTO nodes ({_SAVED_COLUMNS}) SELECT * FROM new WHERE 1 {_NEWEST_NODE}"
    return f"WITH new ({_SAVED_COLUMNS}) AS (VALUES {new}) {insert}"


class SqliteStore:
    """A store in one file. Guards: one process has it open; what `save` returned from is on disk.

    Args:
        path: The database; it and its directory are created if they do not exist, readable by this user only.
        history_max: Finished workflows to keep.
        wal_problem_bytes: A write-ahead log longer than this is called a problem; it is cut from a quarter of it on.
        check_max_s: How long the pages are looked through at the start.
        progress: Told, in another thread, how far the upgrade of an older database is.
    """

    def __init__(
        self,
        path: Path,
        *,
        history_max: int = HISTORY_MAX,
        wal_problem_bytes: int = _WAL_PROBLEM_BYTES,
        check_max_s: float = _CHECK_MAX_S,
        progress: Progress = lambda what, done, of: None,
    ) -> None:
        # Without symbolic links, so that two names of one file have one lock.
        self._path = path.resolve()
        self._history_max = history_max
        self._wal_path = self._path.with_name(self._path.name + "-wal")
        self._wal_problem_bytes = wal_problem_bytes
        self._check_max_s = check_max_s
        self._progress = progress
        self._locks: list[int] = []
        self._file: tuple[int, int] | None = None
        self._wal_file: tuple[int, int] | None = None
        self._cut_at = 0.0
        self._damage = ""
        self._identity = ""
        # Statements are awaited one by one, and all of the connection's belong to its one transaction.
        self._one_transaction = anyio.Lock(fast_acquire=True)
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._sequence_of: dict[str, int] = {}
        self._last_sequence = 0
        self._finished = 0
        self._is_crowded = False
        self._kept: dict[str, None] = {}
        self._commits = self._rows = self._failures = self._journal_entries = 0
        self._commit_seconds = 0.0

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}>"

    @property
    def identity(self) -> str:
        """Return what tells this database from every other one; empty before it was opened."""
        return self._identity

    async def open(self) -> None:
        """Lock, open, and create or migrate. Raises `StoreLocked`, `StoreIncompatible` or `StoreUnavailable`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._locks.append(_locked(self._path))
            self._locks.append(_locked_itself(self._path))
            self._file = _file_identity(self._path)
        except OSError as error:
            await self.close()
            raise StoreUnavailable(f"cannot open the database '{self._path}': {error.strerror}") from error
        except StoreLocked:
            await self.close()
            raise
        self._damage, self._cut_at = "", 0.0
        try:
            self._writer = await aiosqlite.connect(self._path)
            version = await version_of(self._writer, self._path)
            if version:
                await self._look_through(self._writer)
            await migrate(self._writer, self._path, version, self._progress)
            await self._connect()
            self._last_sequence = await self._number("SELECT coalesce(max(seq), 0) FROM workflows")
            self._finished = await self._number("SELECT count(*) FROM workflows WHERE finished_at IS NOT NULL")
            self._identity = await self.recall("identity") or ""
        except sqlite3.Error as error:
            await self.close()
            raise self._unreadable(error, "open") from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close and unlock; safe to repeat."""
        await self._disconnect()
        # Closing the database's own lock would take SQLite's locks along, so it comes after the connections.
        while self._locks:
            os.close(self._locks.pop())

    async def _connect(self) -> None:
        if self._writer is None:
            self._writer = await aiosqlite.connect(self._path)
        limit = self._wal_problem_bytes // 4
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000"):
            await self._writer.execute(f"PRAGMA {pragma}")
        await self._writer.execute(f"PRAGMA journal_size_limit = {limit}")
        self._reader = await aiosqlite.connect(self._path)
        await self._reader.execute("PRAGMA query_only = ON")
        # The log is made with the first query, and its name is not given to another file while we have it.
        await self._reader.execute_fetchall("SELECT 1 FROM sqlite_schema LIMIT 1")
        self._wal_file = _file_identity(self._wal_path)

    async def _disconnect(self) -> None:
        connections = (self._reader, self._writer)
        self._reader = self._writer = None
        with anyio.CancelScope(shield=True):
            for connection in connections:
                if connection is not None:
                    await connection.close()

    async def _look_through(self, connection: aiosqlite.Connection) -> None:
        """Refuse a database with damaged pages, as far as that is found in bounded time."""
        is_over = False
        begun = time.monotonic()

        def is_too_long() -> int:
            nonlocal is_over
            is_over = time.monotonic() - begun > self._check_max_s
            return int(is_over)

        await connection.set_progress_handler(is_too_long, 10_000)
        try:
            rows = [*await connection.execute_fetchall("PRAGMA quick_check(3)")]
        except sqlite3.OperationalError:
            if not is_over:
                raise
            logger.warning("the database '%s' is large: its pages were looked through for %.0f s", self._path, self._check_max_s)
            return
        finally:
            await connection.set_progress_handler(None, 0)  # type: ignore[arg-type]
        words = "; ".join(str(row[0]) for row in rows)
        if words != "ok":
            raise self._damaged(words.replace("\n", " "))

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
        writer = _opened(self._writer)
        ended = [record for record in records if record.state.is_finished]
        begun = time.perf_counter()
        await self._refuse_if_gone()
        writer = _opened(self._writer)
        # Finished workflows that go on, and nodes of finished ones whose tasks ended late.
        named = {record.workflow_id for record in records if record.document is None}
        named |= {node.workflow_id for node in node_records} | {entry.workflow_id for entry in entries}
        returned = await self._find_sequences(named - {record.workflow_id for record in records if record.document is not None})
        try:
            # Which numbers new workflows, so that their nodes have one.
            await self._save_workflows(writer, records)
            rows = [self._node_row(node) for node in node_records if node.workflow_id in self._sequence_of]
            is_one_statement = 0 < len(rows) <= _AT_ONCE_MAX and not (records or entries or writer.in_transaction)
            if is_one_statement:
                await writer.execute(_saving_at_once(len(rows)), [*chain.from_iterable(rows)])
            elif rows:
                await writer.executemany(_SAVE_NODE, rows)
            if entries:
                await self._add_entries(writer, entries)
            # The values of one that failed or was cancelled stay: trying again needs them.
            succeeded = [record.workflow_id for record in ended if record.state is WorkflowState.SUCCEEDED]
            emptied = [(self._sequence_of[workflow_id],) for workflow_id in succeeded if workflow_id in self._sequence_of]
            if emptied:
                await writer.executemany(_DROP_VALUES, emptied)
            # Not counted: those of which no row is there any more, and those that had finished before.
            new_ends = {record.workflow_id for record in ended if record.workflow_id in self._sequence_of} - returned
            going_on = {record.workflow_id for record in records if not record.state.is_finished}
            more = len(new_ends) - len(returned & going_on)
            pruned = await self._prune(writer, more) if ended else 0
            if not is_one_statement:
                await writer.commit()
        except Exception as error:
            self._failures += 1
            await _roll_back(writer)
            # The repetition has to find anew which of them had finished.
            for workflow_id in returned:
                self._sequence_of.pop(workflow_id, None)
            if _is_of_our_making(error):
                raise InvariantBroken(f"the database '{self._path}' refuses what is to be saved: {error}") from error
            if not isinstance(error, sqlite3.Error | OSError):
                raise
            self._note_damage(error)
            raise StoreUnavailable(self._damage or f"cannot write the database '{self._path}': {_words(error)}") from error
        self._commits += 1
        self._rows += len(records) + len(rows) + len(entries)
        self._journal_entries += len(entries)
        self._commit_seconds += time.perf_counter() - begun
        for workflow_id in returned & going_on:
            self._kept.pop(workflow_id, None)
        for workflow_id in {record.workflow_id for record in ended} | (returned - going_on):
            self._sequence_of.pop(workflow_id, None)
        self._finished += more - pruned
        await self._cut_log(writer)

    async def _refuse_if_gone(self) -> None:
        """Raise `StoreUnavailable` if nothing may be written, or what is written would not be there after a restart."""
        if self._damage:
            self._failures += 1
            raise StoreUnavailable(self._damage)
        if _file_identity(self._path) != self._file:
            # SQLite would go on writing to the file that has no name any more.
            self._failures += 1
            raise StoreUnavailable(
                f"cannot write the database '{self._path}': it was deleted or replaced while in use; put it back"
            )
        log_file = _file_identity(self._wal_path)
        if log_file == self._wal_file:
            return
        if log_file is not None and self._wal_file is not None:
            self._failures += 1
            raise StoreUnavailable(
                f"cannot write the database '{self._path}': its write-ahead log '{self._wal_path.name}' was replaced while in"
                " use; put it back"
            )
        await self._begin_new_log()

    async def _begin_new_log(self) -> None:
        """Take over what is in a write-ahead log that was deleted, and begin another one."""
        try:
            if self._wal_file is not None and self._writer is not None:
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
        """Make the write-ahead log short again if it has grown long and nobody reads it."""
        if _size(self._wal_path) <= self._wal_problem_bytes // 4 or time.monotonic() < self._cut_at:
            return
        self._cut_at = time.monotonic() + _CUT_EVERY_S
        try:
            # Whoever reads is not waited for.
            await writer.execute("PRAGMA busy_timeout = 0")
            try:
                await writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                await writer.execute("PRAGMA busy_timeout = 5000")
        except sqlite3.Error as error:
            logger.warning("cannot cut the write-ahead log of the database '%s': %s", self._path, error)
            self._note_damage(error)

    def _note_damage(self, error: Exception) -> None:
        """Write nothing more into a database that is damaged."""
        if _is_damage(error) and not self._damage:
            damage = self._damaged(error)
            self._damage = f"{damage}; nothing more is written: {damage.next_step}"
            logger.error("%s", self._damage)

    async def _find_sequences(self, workflow_ids: Iterable[str]) -> set[str]:
        """Look up the numbers of workflows that had finished; return which are there."""
        found = set()
        for workflow_id in {workflow_id for workflow_id in workflow_ids if workflow_id not in self._sequence_of}:
            for (sequence,) in await self._fetch("SELECT seq FROM workflows WHERE id = ?", workflow_id):
                self._sequence_of[workflow_id] = sequence
                found.add(workflow_id)
        return found

    async def _add_entries(self, writer: aiosqlite.Connection, entries: Iterable[JournalEntry]) -> None:
        for entry in entries:
            sequence = self._sequence_of.get(entry.workflow_id)
            if sequence is not None:
                nodes = json.dumps(entry.nodes)
                words = (_utf8(entry.by), _utf8(entry.why), nodes, entry.count, _utf8(entry.detail))
                await writer.execute(_ADD_ENTRY, (sequence, entry.at, entry.verb, *words))
                await writer.execute(_TRIM_JOURNAL, (sequence, JOURNAL_MAX))

    async def _save_workflows(self, writer: aiosqlite.Connection, records: Iterable[WorkflowRecord]) -> None:
        """Write workflows, those that are new and the others each with one call: each call is a trip to the writer's thread."""
        new: list[tuple[Any, ...]] = []
        known: list[tuple[Any, ...]] = []
        for record in records:
            counts = None if record.counts is None else json.dumps(record.counts)
            error, control = _utf8(record.error), _control(record)
            if record.document is not None:
                document, labels = await _deflated(record.document), json.dumps(dict(record.labels))
                sequence = self._new_sequence(record.workflow_id)
                row = (sequence, record.workflow_id, record.name, record.key, labels, record.state.value, record.created_at)
                new.append((*row, record.finished_at, record.task_count, counts, error, control, record.result, document))
            elif record.workflow_id in self._sequence_of:
                sequence = self._sequence_of[record.workflow_id]
                known.append((record.state.value, record.finished_at, counts, error, control, record.result, sequence))
        if new:
            await writer.executemany(_INSERT_WORKFLOW, new)
        if known:
            await writer.executemany(_UPDATE_WORKFLOW, known)

    async def _prune(self, writer: aiosqlite.Connection, more: int) -> int:
        """Delete the oldest finished workflows if there are too many, some beside the ``more`` of this save; return how many."""
        surplus = min(max(0, more) + _PRUNED_PER_SAVE, self._finished + more - self._history_max)
        if surplus <= 0:
            return 0
        return (await writer.execute(_PRUNE, (json.dumps([*self._kept]), surplus))).rowcount

    def _new_sequence(self, workflow_id: str) -> int:
        """Number a workflow; a repeated save after an error finds the number it had."""
        if workflow_id not in self._sequence_of:
            self._last_sequence += 1
            self._sequence_of[workflow_id] = self._last_sequence
        return self._sequence_of[workflow_id]

    def _node_row(self, node: NodeRecord) -> tuple[Any, ...]:
        return (
            self._sequence_of[node.workflow_id],
            node.node,
            node.state,
            node.attempt,
            node.dispatched_at,
            node.finished_at,
            node.held_until,
            node.blocked_by,
            _utf8(node.error),
            node.value,
            _detail(node),
        )

    # --- reading ----------------------------------------------------------------------------------------------------

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished, oldest first; they can be saved again from then on."""
        rows = await self._fetch("SELECT seq, id, length(document) FROM workflows WHERE finished_at IS NULL ORDER BY seq")
        for part in _in_parts(rows):
            self._sequence_of.update({workflow_id: sequence for sequence, workflow_id in part})
            try:
                loaded = await self._load_part([sequence for sequence, _ in part])
            except StoreIncompatible:
                # One of them cannot be read; which one is seen by reading each alone.
                loaded = [await self._load_or_damage(workflow_id) for _, workflow_id in part]
            for stored in loaded:
                yield stored

    async def _load_part(self, sequences: Sequence[int]) -> list[Stored]:
        """Read several workflows with two queries."""
        numbers = json.dumps(sequences)
        rows = await self._fetch(
            f"SELECT {_COLUMNS}, result, document FROM workflows WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq",
            numbers,
        )
        nodes: dict[int, list[Any]] = {}
        for workflow, *node in await self._fetch(
            f"SELECT workflow, {_NODE_COLUMNS} FROM nodes WHERE workflow IN (SELECT value FROM json_each(?))", numbers
        ):
            nodes.setdefault(workflow, []).append(node)
        return [await self._unpacked(row, nodes.get(row[0], [])) for row in rows]

    async def _load_or_damage(self, workflow_id: str) -> Stored:
        try:
            stored = await self.load(workflow_id)
        except StoreIncompatible as error:
            if _is_damage(error.__cause__):
                raise
            record = await self.record(workflow_id)
            assert record is not None
            stored = Stored(record, [], damage=str(error))
        assert stored is not None
        return stored

    async def unfinished_count(self) -> int:
        """Return how many workflows have not finished."""
        return await self._number("SELECT count(*) FROM workflows WHERE finished_at IS NULL")

    async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Stored | None:
        """Read one workflow, whatever its state; with ``to_reopen`` it stays in the history until it was saved again."""
        if to_reopen and not await self._keep(workflow_id):
            return None
        rows = await self._fetch(f"SELECT {_COLUMNS}, result, document FROM workflows WHERE id = ?", workflow_id)
        if not rows:
            return None
        row = rows[0]
        nodes = await self._fetch(f"SELECT {_NODE_COLUMNS} FROM nodes WHERE workflow = ?", row[0])
        return await self._unpacked(row, nodes)

    async def _unpacked(self, row: Sequence[Any], nodes: Sequence[Sequence[Any]]) -> Stored:
        """Turn the rows of a workflow into records, in a thread if there are many. Raises `StoreIncompatible`."""
        workflow_id = row[1]

        def unpack() -> Stored:
            return Stored(_record(row, document=zlib.decompress(row[-1])), [_node_record(workflow_id, node) for node in nodes])

        try:
            return unpack() if len(nodes) <= _INLINE_ROWS else await anyio.to_thread.run_sync(unpack)
        except zlib.error as error:
            raise self._damaged(f"the definition of workflow '{workflow_id}': {error}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise self._damaged(f"a row of workflow '{workflow_id}': {error!r}") from error

    async def _keep(self, workflow_id: str) -> bool:
        """Keep a workflow from being deleted; tell whether it is there."""
        self._kept[workflow_id] = None
        while len(self._kept) > _KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        try:
            # Over the writer's connection: a transaction that deletes it already is seen, and a later one leaves it alone.
            query = "SELECT 1 FROM workflows WHERE id = ?"
            found = bool([*await _opened(self._writer).execute_fetchall(query, (_utf8(workflow_id),))])
        except sqlite3.Error as error:
            raise self._unreadable(error, "read") from error
        if not found:
            self._kept.pop(workflow_id, None)
        return found

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself, without its definition and nodes."""
        rows = await self._fetch(f"SELECT {_COLUMNS}, result FROM workflows WHERE id = ?", workflow_id)
        return _record(rows[0], document=None) if rows else None

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return the ids that fit, newest first; the exact id alone if there is one."""
        if await self._fetch("SELECT 1 FROM workflows WHERE id = ?", reference):
            return [reference]
        rows = await self._fetch(
            "SELECT id FROM workflows WHERE (id >= ? AND id < ?) OR name = ? ORDER BY seq DESC LIMIT ?",
            reference,
            reference + "\U0010ffff",
            reference,
            limit,
        )
        return [row[0] for row in rows]

    async def find_key(self, key: str) -> str | None:
        """Return the id of the workflow that was submitted with this key."""
        rows = await self._fetch("SELECT id FROM workflows WHERE key = ?", key)
        return rows[0][0] if rows else None

    async def list(self, selection: Selection) -> Sequence[Listed]:
        """List workflows, newest first."""
        conditions, values = ["1"], list[Any]()
        if selection.before is not None:
            conditions.append("seq < ?")
            values.append(selection.before)
        if selection.states:
            conditions.append(f"state IN ({', '.join('?' * len(selection.states))})")
            values.extend(sorted(selection.states))
        if selection.owner is not None:
            conditions.append("json_extract(control, '$.owner') = ?")
            values.append(selection.owner)
        if selection.name is not None:
            conditions.append("name = ?")
            values.append(selection.name)
        for label, value in selection.labels.items():
            conditions.append("EXISTS (SELECT 1 FROM json_each(labels) AS label WHERE label.key = ? AND label.value = ?)")
            values.extend((label, value))
        rows = await self._fetch(
            f"SELECT {_COLUMNS}, NULL FROM workflows WHERE {' AND '.join(conditions)} ORDER BY seq DESC LIMIT ?",
            *values,
            selection.limit,
        )
        return [Listed(row[0], _record(row, document=None)) for row in rows]

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done to a workflow, oldest first."""
        rows = await self._fetch(
            "SELECT at, verb, by, why, nodes, count, detail FROM journal"
            " WHERE workflow = (SELECT seq FROM workflows WHERE id = ?) ORDER BY seq",
            workflow_id,
        )
        return [
            JournalEntry(workflow_id, at, verb, by, why, tuple(json.loads(nodes)), count, detail)
            for at, verb, by, why, nodes, count, detail in rows
        ]

    async def audit(self, after: int | None, *, limit: int) -> Sequence[tuple[int, JournalEntry]]:
        """Return what was done to all workflows, oldest first, each with its cursor; without one the newest."""
        newest = await self._fetch(
            "SELECT j.seq, w.id, j.at, j.verb, j.by, j.why, j.nodes, j.count, j.detail FROM journal AS j"
            " JOIN workflows AS w ON w.seq = j.workflow"
            + (" ORDER BY j.seq DESC LIMIT ?" if after is None else " WHERE j.seq > ? ORDER BY j.seq LIMIT ?"),
            *(() if after is None else (after,)),
            limit,
        )
        rows = reversed(newest) if after is None else newest
        return [
            (seq, JournalEntry(workflow, at, verb, by, why, tuple(json.loads(nodes)), count, detail))
            for seq, workflow, at, verb, by, why, nodes, count, detail in rows
        ]

    async def recall(self, name: str) -> str | None:
        """Return what was noted last under this name, None if nothing was. Raises `StoreUnavailable`."""
        rows = await self._fetch("SELECT value FROM notes WHERE name = ?", name)
        return rows[0][0] if rows else None

    async def remember(self, name: str, value: str) -> None:
        """Note something; it is durable when this returns. Raises `StoreUnavailable` if it was not written."""
        async with self._transaction() as writer:
            await writer.execute(_REMEMBER, (name, _utf8(value)))

    async def expire(self, retention: Retention, *, limit: int) -> int:
        """Delete the oldest finished workflows that are not to be kept any more, ``limit`` at most; return how many.

        Raises `StoreUnavailable`, then none is deleted.
        """
        since = retention.succeeded_since, retention.others_since
        async with self._transaction() as writer:
            used_bytes = 0
            if retention.bytes_max:
                ((used_bytes,),) = await writer.execute_fetchall(_USED_BYTES)
                since = (math.inf, math.inf) if used_bytes > retention.bytes_max else since
            deleted = (await writer.execute(_EXPIRE, (*since, json.dumps([*self._kept]), limit))).rowcount
        self._finished -= deleted
        is_crowded = math.isinf(since[0]) and not deleted
        if is_crowded and not self._is_crowded:
            logger.warning(
                "%d bytes of the database are in use, more than `history_bytes_max`, and no finished workflow is left to delete",
                used_bytes,
            )
        self._is_crowded = is_crowded
        return deleted

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """Have the writer for a small transaction, which is durable at the end, also if the caller is cancelled meanwhile."""
        with anyio.CancelScope(shield=True):
            async with self._one_transaction:
                await self._refuse_if_gone()
                writer = _opened(self._writer)
                try:
                    yield writer
                    await writer.commit()
                except sqlite3.Error as error:
                    self._failures += 1
                    await _roll_back(writer)
                    self._note_damage(error)
                    raise StoreUnavailable(f"cannot write the database '{self._path}': {_words(error)}") from error

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot."""
        return StoreStatistics(
            commits=self._commits,
            finished_workflows=self._finished,
            rows=self._rows,
            commit_seconds=self._commit_seconds,
            failures=self._failures,
            database_bytes=_size(self._path),
            wal_bytes=_size(self._wal_path),
            journal_entries=self._journal_entries,
            problem=self._problem(),
        )

    def _problem(self) -> str:
        if self._damage:
            return self._damage
        wal_bytes = _size(self._wal_path)
        if wal_bytes <= self._wal_problem_bytes:
            return ""
        return (
            f"the write-ahead log '{self._wal_path}' has {wal_bytes / 1e6:.0f} MB, since a program reads the database without"
            f" end; `fuser {self._path}` shows which"
        )

    async def _fetch(self, query: str, *values: Any) -> Sequence[Any]:
        parameters = [_utf8(value) if isinstance(value, str) else value for value in values]
        try:
            return [*await _opened(self._reader).execute_fetchall(query, parameters)]
        except sqlite3.Error as error:
            raise self._unreadable(error, "read") from error

    def _unreadable(self, error: sqlite3.Error, verb: str) -> StoreUnavailable | StoreIncompatible:
        if _is_damage(error):
            self._note_damage(error)
            return self._damaged(error)
        return StoreUnavailable(f"cannot {verb} the database '{self._path}': {error}")

    def _damaged(self, what: object) -> StoreIncompatible:
        error = StoreIncompatible(f"the database '{self._path}' is damaged: {what}")
        path = self._path
        error.next_step = (
            f"stop the daemon and move '{path}' and '{path.name}-wal' away together; then put a copy back, start with an empty"
            f" database, or recover what is left: `{recovery_command('moved.db', path)}`"
        )
        return error

    async def _number(self, query: str) -> int:
        return int((await self._fetch(query))[0][0])


def _in_parts(rows: Iterable[tuple[int, str, int]]) -> Iterator[list[tuple[int, str]]]:
    """Divide ``(number, id, bytes)`` into parts that fit into memory together."""
    part: list[tuple[int, str]] = []
    size = 0
    for sequence, workflow_id, document_bytes in rows:
        if part and (len(part) >= _PART_WORKFLOWS or size + document_bytes > _PART_BYTES):
            yield part
            part, size = [], 0
        part.append((sequence, workflow_id))
        size += document_bytes
    if part:
        yield part


def _record(row: Sequence[Any], *, document: bytes | None) -> WorkflowRecord:
    _, workflow_id, name, key, labels, state, created_at, finished_at, tasks, counts, error, control, result = row[:13]
    return WorkflowRecord(
        workflow_id=workflow_id,
        name=name,
        key=key,
        labels=_json(labels),
        state=WorkflowState(state),
        created_at=created_at,
        finished_at=finished_at,
        document=document,
        task_count=tasks,
        counts=None if counts is None else _json(counts),
        result=result,
        error=error,
        **(_json(control) if control else {}),
    )


def _json(text: str) -> dict[str, Any]:
    """Return what a column of a workflow holds; if that is damaged nothing, so that it can be listed nevertheless."""
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        logger.warning("the database holds '%.50s' where a JSON object should be", text)
        return {}
    return content


def _control(record: WorkflowRecord) -> str | None:
    values = {name: getattr(record, name) for name in _CONTROLS}
    fields = {name: value for name, value in values.items() if value or (name == "owner" and value is not None)}
    return json.dumps(fields) if fields else None


def _detail(node: NodeRecord) -> str | None:
    if not any(node[_FIRST_DETAIL:]):
        return None
    return json.dumps({name: value for name, value in zip(_DETAILS, node[_FIRST_DETAIL:], strict=True) if value})


def _node_record(workflow_id: str, row: Sequence[Any]) -> NodeRecord:
    *columns, detail = row
    return NodeRecord(workflow_id, *columns, **(json.loads(detail) if detail else {}))


#: Fields of a workflow's record that share a column, because few workflows have them. Root's number is 0, and has to be there.
_CONTROLS: Final = ("priority", "run", "deadline_at", "is_stopped", "owner")
#: Fields of a node's record that share a column, because few nodes have them: all from this one on.
_FIRST_DETAIL: Final = NodeRecord._fields.index("reason")
_DETAILS: Final = NodeRecord._fields[_FIRST_DETAIL:]


async def _deflated(document: bytes) -> bytes:
    if len(document) <= _INLINE_BYTES:
        return zlib.compress(document, 1)
    return await anyio.to_thread.run_sync(zlib.compress, document, 1)


async def _roll_back(writer: aiosqlite.Connection) -> None:
    """Leave the transaction, unless SQLite has done so already."""
    try:
        if writer.in_transaction:
            await writer.rollback()
    except sqlite3.Error as error:
        logger.warning("could not roll back: %s", error)


def recovery_command(damaged: object, path: object) -> str:
    """Return what makes a new database at ``path`` of what can be read of a damaged one.

    Not with ``.recover``: Debian's sqlite3 is built without what it needs.
    """
    numbers = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={VERSION};"
    return f"(sqlite3 {damaged} .dump | sed 's/^ROLLBACK.*/COMMIT;/'; echo '{numbers}') | sqlite3 {path}"


def _is_damage(error: BaseException | None) -> bool:
    # Errors that Python itself raises have no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _words(error: Exception) -> str:
    """Return an error with SQLite's name for it, which says more: an "I/O error" is a write, a sync or a lock that failed."""
    name = getattr(error, "sqlite_errorname", "")
    return f"{error} ({name})" if name else str(error)


def _is_of_our_making(error: Exception) -> bool:
    """Tell whether a transaction failed because of what was to be written, so that repeating it would not help."""
    if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.InterfaceError):
        return True
    return isinstance(error, sqlite3.ProgrammingError) and "binding" in str(error)


def _locked_itself(path: Path) -> int:
    """Take the lock of the database's own file, creating it: it is the same by whatever name, and whatever lies beside it."""
    database = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(database, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Not closed: should the holder be this very process, that would end SQLite's own locks on the file.
        raise StoreLocked(f"the database '{path}' is in use by another process, maybe under another name") from None
    return database


def _locked(path: Path) -> int:
    """Take the lock beside the database; the holder's process id stands in it for the operator."""
    lock_path = path.with_name(path.name + ".lock")
    lock = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreLocked(f"the database '{path}' is in use by process {holder}") from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have a database for oneself, as a daemon has. Raises `StoreLocked` if a daemon has it."""
    locks = [_locked(path)]
    try:
        if path.exists():
            locks.append(_locked_itself(path))
        yield
    finally:
        for lock in locks:
            os.close(lock)


def _file_identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of the same name, or None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _utf8(text: str) -> str:
    """Return ``text`` in a form that UTF-8 can carry; errors of tasks may hold half a surrogate pair."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _opened(connection: aiosqlite.Connection | None) -> aiosqlite.Connection:
    if connection is None:
        raise StoreUnavailable("the database is not open")
    return connection


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
