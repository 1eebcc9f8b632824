"""Reading an SQLite file past its writer.

The three ways of `dyrygentd.store.reader` are connections with a thread each. A query fetches everything at once, since a cursor
that stays open pins the write-ahead log.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiosqlite
import anyio

from dyrygentd.errors import DyrygentError, ListingTooLong, StoreIncompatible, StoreUnavailable
from dyrygentd.ports.facts import Selection
from dyrygentd.store.connections import connect, opened
from dyrygentd.store.damage import damaged
from dyrygentd.store.reader import Condition, Reader
from dyrygentd.store.rows import utf8

#: So that the index of ends is asked: it has the few that fit, and the rest need not be walked through.
_ENDED: Final = "seq IN (SELECT seq FROM workflows WHERE finished_at >= ? AND root IS NULL)"
#: The index has them in this order: no more are read than are wanted. It does not have those with a parent.
_ENDED_IN_ORDER: Final = "finished_at >= ?"


class SqliteReader(Reader):
    """Reads one file.

    Args:
        listing_max_s: How long workflows are looked through for one listing.
        unreadable: Returns what to raise for an error of SQLite's.
    """

    DOCUMENT_BYTES = "length(document)"
    BY_END = "finished_at DESC, seq DESC"

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
        return f"<SqliteReader '{self._path}' open={self._finder is not None}>"

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

    # --- what a reader needs ----------------------------------------------------------------------------------------

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

    def _among(self, column: str, numbers: Sequence[int]) -> tuple[str, Any]:
        return f"{column} IN (SELECT value FROM json_each(?))", json.dumps(numbers)

    def _conditions(self, selection: Selection) -> Sequence[Condition]:
        found: list[Condition] = []
        if selection.states:
            found.append((f"state IN ({', '.join('?' * len(selection.states))})", sorted(selection.states)))
        if selection.owner is not None:
            found.append(("json_extract(control, '$.owner') = ?", [selection.owner.identity]))
        for label in selection.labels.items():
            found.append(("EXISTS (SELECT 1 FROM json_each(labels) AS label WHERE label.key = ? AND label.value = ?)", label))
        if selection.parent_task is not None:
            found.append(("json_extract(control, '$.parent_task.task_id') = ?", [selection.parent_task]))
        if selection.series is not None:
            found.append(("series = ?", [selection.series]))
        if selection.ended_since is not None:
            found.append((_ENDED if self._is_by_ends(selection) else _ENDED_IN_ORDER, [selection.ended_since]))
        return found

    def _without_children(self, selection: Selection) -> Sequence[Condition]:
        # With the condition a second time, SQLite would walk through all that have nothing above them.
        return [] if self._is_by_ends(selection) else super()._without_children(selection)

    @staticmethod
    def _is_by_ends(selection: Selection) -> bool:
        is_of_all = selection.with_children or selection.parent is not None
        return selection.ended_since is not None and not selection.by_end and not is_of_all

    def _damaged(self, what: str) -> StoreIncompatible:
        return damaged(self._path, what)
