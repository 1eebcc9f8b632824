"""Reading the database past its writer.

Three connections with a thread each: one for what a turn or a submission waits for, which finds one row by an index; one for what
is shown of one workflow; one for listings that look at many rows, which are given up after some seconds. Each query fetches
everything at once, since a cursor that stays open pins the write-ahead log.
"""

import json
import sqlite3
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiosqlite
import anyio

from dyrygentd.beside import in_thread
from dyrygentd.core.records import JournalEntry, WorkflowRecord
from dyrygentd.core.user import User
from dyrygentd.errors import DyrygentError, ListingTooLong, StoreIncompatible, StoreUnavailable
from dyrygentd.ports.facts import Listed, Selection, Stored
from dyrygentd.store.connections import connect, opened
from dyrygentd.store.damage import damaged, is_damage
from dyrygentd.store.rows import (
    COLUMNS,
    INLINE_ROWS,
    JOURNAL_OF,
    NODE_COLUMNS,
    entries_of,
    in_parts,
    node_record_of,
    owned_key,
    record_of,
    utf8,
)

#: So that the index of ends is asked: it has the few that fit, and the rest need not be walked through.
_ENDED: Final = "seq IN (SELECT seq FROM workflows WHERE finished_at >= ?)"
#: The index has them in this order: no more are read than are wanted.
_ENDED_IN_ORDER: Final = "finished_at >= ?"


class Reader:
    """Reads. Guards: whoever looks for one row waits for nobody who reads much, and a listing ends in time.

    Args:
        listing_max_s: How long workflows are looked through for one listing.
        unreadable: Returns what to raise for an error of SQLite's.
    """

    def __init__(self, path: Path, *, listing_max_s: float, unreadable: Callable[[sqlite3.Error], DyrygentError]) -> None:
        self._path = path
        self._listing_max_s = listing_max_s
        self._unreadable = unreadable
        self._finder: aiosqlite.Connection | None = None
        self._shower: aiosqlite.Connection | None = None
        self._lister: aiosqlite.Connection | None = None
        # One listing at a time, so that the time of each begins when it does.
        self._one_listing = anyio.Lock()
        self._listing_until = 0.0

    def __repr__(self) -> str:
        return f"<Reader '{self._path}' open={self._finder is not None}>"

    async def open(self) -> None:
        """Connect to a database that has its schema. Raises ``sqlite3.Error``."""
        # Each has its name before anything else is awaited, so that it is closed whatever happens.
        self._finder = await connect(self._path)
        self._shower = await connect(self._path)
        self._lister = await connect(self._path)
        for connection in (self._finder, self._shower, self._lister):
            await connection.execute("PRAGMA query_only = ON")
        await self._lister.set_progress_handler(self._is_listed_too_long, 10_000)
        # The log is made with the first query, and its name is not given to another file while we have it.
        await self._shower.execute_fetchall("SELECT 1 FROM sqlite_schema LIMIT 1")

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        connections = (self._finder, self._shower, self._lister)
        self._finder = self._shower = self._lister = None
        with anyio.CancelScope(shield=True):
            for connection in connections:
                if connection is not None:
                    await connection.close()

    def _is_listed_too_long(self) -> int:
        # Called in the thread of the connection.
        return int(time.monotonic() > self._listing_until)

    async def unfinished(self) -> AsyncIterator[tuple[dict[str, int], list[Stored]]]:
        """Iterate over the workflows that have not finished, oldest first, in parts: ``{id: number}`` and what is stored."""
        rows = await self.fetch("SELECT seq, id, length(document) FROM workflows WHERE finished_at IS NULL ORDER BY seq")
        for part in in_parts(rows):
            try:
                loaded = await self._load_part([sequence for sequence, _ in part])
            except StoreIncompatible:
                # One of them cannot be read; which one is seen by reading each alone.
                loaded = [await self._load_or_damage(workflow_id) for _, workflow_id in part]
            yield {workflow_id: sequence for sequence, workflow_id in part}, loaded

    async def _load_part(self, sequences: Sequence[int]) -> list[Stored]:
        """Read several workflows with two queries."""
        numbers = json.dumps(sequences)
        rows = await self.fetch(
            f"SELECT {COLUMNS}, result, document FROM workflows WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq",
            numbers,
        )
        nodes: dict[int, list[Any]] = {}
        for workflow, *node in await self.fetch(
            f"SELECT workflow, {NODE_COLUMNS} FROM nodes WHERE workflow IN (SELECT value FROM json_each(?))", numbers
        ):
            nodes.setdefault(workflow, []).append(node)
        return [await self._unpacked(row, nodes.get(row[0], [])) for row in rows]

    async def _load_or_damage(self, workflow_id: str) -> Stored:
        try:
            stored = await self.load(workflow_id)
        except StoreIncompatible as error:
            if is_damage(error.__cause__):
                raise
            record = await self.record(workflow_id)
            assert record is not None
            stored = Stored(record, [], damage=error.message)
        assert stored is not None
        return stored

    async def unfinished_count(self) -> int:
        """Return how many workflows have not finished."""
        return await self.number("SELECT count(*) FROM workflows WHERE finished_at IS NULL")

    async def load(self, workflow_id: str) -> Stored | None:
        """Read one workflow, whatever its state."""
        rows = await self.fetch(f"SELECT {COLUMNS}, result, document FROM workflows WHERE id = ?", workflow_id)
        if not rows:
            return None
        row = rows[0]
        nodes = await self.fetch(f"SELECT {NODE_COLUMNS} FROM nodes WHERE workflow = ?", row[0])
        return await self._unpacked(row, nodes)

    async def _unpacked(self, row: Sequence[Any], nodes: Sequence[Sequence[Any]]) -> Stored:
        """Turn the rows of a workflow into records, in a thread if there are many. Raises `StoreIncompatible`."""
        workflow_id = row[1]

        def unpack() -> Stored:
            return Stored(
                record_of(row, document=zlib.decompress(row[-1])), [node_record_of(workflow_id, node) for node in nodes]
            )

        try:
            return unpack() if len(nodes) <= INLINE_ROWS else await in_thread(unpack)
        except zlib.error as error:
            raise damaged(self._path, f"the definition of workflow '{workflow_id}': {error}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(self._path, f"a row of workflow '{workflow_id}': {error!r}") from error

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself, without its definition and nodes."""
        rows = await self.found(f"SELECT {COLUMNS}, result FROM workflows WHERE id = ?", workflow_id)
        return record_of(rows[0], document=None) if rows else None

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return the ids that fit, newest first; the exact id alone if there is one."""
        if await self.fetch("SELECT 1 FROM workflows WHERE id = ?", reference):
            return [reference]
        rows = await self.fetch(
            "SELECT id FROM workflows WHERE (id >= ? AND id < ?) OR name = ? ORDER BY seq DESC LIMIT ?",
            reference,
            reference + "\U0010ffff",
            reference,
            limit,
        )
        return [row[0] for row in rows]

    async def find_key(self, key: str, owner: User | None = None) -> str | None:
        """Return the id of the workflow that this user has submitted with this key."""
        rows = await self.found("SELECT id FROM workflows WHERE key = ?", owned_key(key, owner))
        return rows[0][0] if rows else None

    async def list(self, selection: Selection) -> Sequence[Listed]:
        """List workflows, newest first. Raises `ListingTooLong` if too many have to be looked at."""
        conditions, values = ["1"], list[Any]()
        if selection.before is not None:
            conditions.append("seq < ?")
            values.append(selection.before)
        if selection.states:
            conditions.append(f"state IN ({', '.join('?' * len(selection.states))})")
            values.extend(sorted(selection.states))
        if selection.owner is not None:
            conditions.append("json_extract(control, '$.owner') = ?")
            values.append(selection.owner.identity)
        if selection.name is not None:
            conditions.append("name = ?")
            values.append(selection.name)
        for label, value in selection.labels.items():
            conditions.append("EXISTS (SELECT 1 FROM json_each(labels) AS label WHERE label.key = ? AND label.value = ?)")
            values.extend((label, value))
        for condition, bound in (
            ("json_extract(control, '$.parent_task.task_id') = ?", selection.parent_task),
            ("created_at >= ?", selection.since),
            ("created_at <= ?", selection.until),
            (_ENDED_IN_ORDER if selection.by_end else _ENDED, selection.ended_since),
        ):
            if bound is not None:
                conditions.append(condition)
                values.append(bound)
        order = "finished_at DESC, seq DESC" if selection.by_end else "seq DESC"
        query = f"SELECT {COLUMNS}, NULL FROM workflows WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT ?"
        if len(conditions) > 1 + (selection.before is not None):
            rows = await self._listed(query, *values, selection.limit)
        else:
            rows = await self.fetch(query, *values, selection.limit)
        return [Listed(row[0], record_of(row, document=None)) for row in rows]

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done to a workflow, oldest first."""
        return entries_of(workflow_id, await self.fetch(f"{JOURNAL_OF} ORDER BY seq", workflow_id))

    async def last_entry(self, workflow_id: str, verb: str) -> JournalEntry | None:
        """Return when a verb was carried out last on a workflow."""
        rows = await self.fetch(f"{JOURNAL_OF} AND verb = ? ORDER BY seq DESC LIMIT 1", workflow_id, verb)
        return next(iter(entries_of(workflow_id, rows)), None)

    async def audit(self, after: int | None, *, limit: int) -> Sequence[tuple[int, JournalEntry]]:
        """Return what was done to all workflows, oldest first, each with its cursor; without one the newest."""
        newest = await self.fetch(
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
        rows = await self.fetch("SELECT value FROM notes WHERE name = ?", name)
        return rows[0][0] if rows else None

    async def number(self, query: str) -> int:
        """Fetch one number."""
        return int((await self.fetch(query))[0][0])

    async def found(self, query: str, *values: Any) -> Sequence[Any]:
        """Fetch what an index leads to, past everybody who reads much."""
        return await self._fetched(self._finder, query, values)

    async def fetch(self, query: str, *values: Any) -> Sequence[Any]:
        """Fetch what is shown of one workflow, or needs no hurry."""
        return await self._fetched(self._shower, query, values)

    async def _listed(self, query: str, *values: Any) -> Sequence[Any]:
        """Fetch what may need a look at all workflows, for a bounded time."""
        async with self._one_listing:
            self._listing_until = time.monotonic() + self._listing_max_s
            try:
                return await self._fetched(self._lister, query, values)
            except StoreUnavailable as error:
                if getattr(error.__cause__, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                    raise ListingTooLong(self._listing_max_s) from error
                raise

    async def _fetched(self, connection: aiosqlite.Connection | None, query: str, values: Sequence[Any]) -> Sequence[Any]:
        parameters = [utf8(value) if isinstance(value, str) else value for value in values]
        try:
            return [*await opened(connection).execute_fetchall(query, parameters)]
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
