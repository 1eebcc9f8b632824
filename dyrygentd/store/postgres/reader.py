"""Reading the database past its writer.

Three connections: for what finds one row, for what is shown of one workflow, and for listings.
"""

import json
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import psycopg

from dyrygentd.beside import in_thread
from dyrygentd.core.records import JournalEntry, WorkflowRecord
from dyrygentd.core.user import User
from dyrygentd.errors import ListingTooLong, StoreIncompatible
from dyrygentd.ports.facts import Listed, Selection, Stored
from dyrygentd.store.postgres.connection import Link, refusal_to
from dyrygentd.store.postgres.rows import pair_of, text_of
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.rows import COLUMNS, INLINE_ROWS, NODE_COLUMNS, entries_of, in_parts, node_record_of, owned_key, record_of

#: How long the server works on what is read of one workflow, and on what a turn or a submission waits for.
_SHOWN_MAX_S: Final = 60.0
_JOURNAL: Final = """
    SELECT at, verb, by, why, nodes, count, detail FROM journal WHERE workflow = (SELECT seq FROM workflows WHERE id = %s)
"""


class PostgresReader:
    """Reads. Guards: whoever looks for one row waits for nobody who reads much, and a listing ends in time.

    Args:
        listing_max_s: How long workflows are looked through for one listing.
    """

    def __init__(self, url: PostgresUrl, *, listing_max_s: float) -> None:
        self._url = url
        self._listing_max_s = listing_max_s
        self._finder = Link(url, query_max_s=_SHOWN_MAX_S)
        self._shower = Link(url, query_max_s=_SHOWN_MAX_S)
        self._lister = Link(url, query_max_s=listing_max_s)

    def __repr__(self) -> str:
        return f"<PostgresReader {self._finder!r}>"

    async def open(self) -> None:
        """Connect to a database that has its schema. Raises ``psycopg.Error``; then whoever reads connects, until `close`."""
        links = (self._finder, self._shower, self._lister)
        for link in links:
            link.is_open = True
        for link in links:
            await link.open()

    def close(self) -> None:
        """Close the connections; safe to repeat."""
        for link in (self._finder, self._shower, self._lister):
            link.close()

    async def unfinished(self) -> AsyncIterator[tuple[dict[str, int], list[Stored]]]:
        """Iterate over the workflows that have not finished, oldest first, in parts: ``{id: number}`` and what is stored."""
        rows = await self.fetch("SELECT seq, id, octet_length(document) FROM workflows WHERE finished_at IS NULL ORDER BY seq")
        for part in in_parts(rows):
            try:
                loaded = await self._load_part([sequence for sequence, _ in part])
            except StoreIncompatible:
                # One of them cannot be read; which one is seen by reading each alone.
                loaded = [await self._load_or_damage(workflow_id) for _, workflow_id in part]
            yield {workflow_id: sequence for sequence, workflow_id in part}, loaded

    async def _load_part(self, sequences: Sequence[int]) -> list[Stored]:
        """Read several workflows with two queries."""
        rows = await self.fetch(
            f"SELECT {COLUMNS}, result, document FROM workflows WHERE seq = ANY (%s::bigint[]) ORDER BY seq", sequences
        )
        nodes: dict[int, list[Any]] = {}
        for workflow, *node in await self.fetch(
            f"SELECT workflow, {NODE_COLUMNS} FROM nodes WHERE workflow = ANY (%s::bigint[])", sequences
        ):
            nodes.setdefault(workflow, []).append(node)
        return [await self._unpacked(row, nodes.get(row[0], [])) for row in rows]

    async def _load_or_damage(self, workflow_id: str) -> Stored:
        try:
            stored = await self.load(workflow_id)
        except StoreIncompatible as error:
            if isinstance(error.__cause__, psycopg.Error):
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
        rows = await self.fetch(f"SELECT {COLUMNS}, result, document FROM workflows WHERE id = %s", workflow_id)
        if not rows:
            return None
        row = rows[0]
        nodes = await self.fetch(f"SELECT {NODE_COLUMNS} FROM nodes WHERE workflow = %s", row[0])
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
            raise self._damaged(f"the definition of workflow '{workflow_id}': {error}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise self._damaged(f"a row of workflow '{workflow_id}': {error!r}") from error

    def _damaged(self, what: str) -> StoreIncompatible:
        error = StoreIncompatible(f"the database '{self._url}' is damaged: {what}")
        error.next_step = "did somebody change its rows? A copy of the server's own tools has them as they were"
        return error

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself, without its definition and nodes."""
        rows = await self.found(f"SELECT {COLUMNS}, result FROM workflows WHERE id = %s", workflow_id)
        return record_of(rows[0], document=None) if rows else None

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return the ids that fit, newest first; the exact id alone if there is one."""
        if await self.fetch("SELECT 1 FROM workflows WHERE id = %s", reference):
            return [reference]
        rows = await self.fetch(
            "SELECT id FROM workflows WHERE (id >= %s AND id < %s) OR name = %s ORDER BY seq DESC LIMIT %s",
            reference,
            reference + "\U0010ffff",
            reference,
            limit,
        )
        return [row[0] for row in rows]

    async def find_key(self, key: str, owner: User | None = None) -> str | None:
        """Return the id of the workflow that this user has submitted with this key."""
        rows = await self.found("SELECT id FROM workflows WHERE key = %s", owned_key(key, owner))
        return rows[0][0] if rows else None

    async def list(self, selection: Selection) -> Sequence[Listed]:
        """List workflows, newest first. Raises `ListingTooLong` if too many have to be looked at."""
        labels = [pair_of(label, value) for label, value in selection.labels.items()]
        conditions = [
            (condition, value)
            for condition, value in (
                ("seq < %s", selection.before),
                ("state = ANY (%s::text[])", sorted(selection.states) or None),
                ("owner = %s", selection.owner and str(selection.owner.identity)),
                ("name = %s", selection.name),
                ("label_pairs @> %s::text[]", labels or None),
                ("parent_task = %s", selection.parent_task),
                ("created_at >= %s", selection.since),
                ("created_at <= %s", selection.until),
                ("finished_at >= %s", selection.ended_since),
            )
            if value is not None
        ]
        where = " AND ".join(["true", *(condition for condition, _ in conditions)])
        order = "finished_at DESC NULLS LAST, seq DESC" if selection.by_end else "seq DESC"
        query = f"SELECT {COLUMNS}, NULL FROM workflows WHERE {where} ORDER BY {order} LIMIT %s"
        rows = await self._listed(query, *(value for _, value in conditions), selection.limit)
        return [Listed(row[0], record_of(row, document=None)) for row in rows]

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done to a workflow, oldest first."""
        return entries_of(workflow_id, await self.fetch(f"{_JOURNAL} ORDER BY seq", workflow_id))

    async def last_entry(self, workflow_id: str, verb: str) -> JournalEntry | None:
        """Return when a verb was carried out last on a workflow."""
        rows = await self.fetch(f"{_JOURNAL} AND verb = %s ORDER BY seq DESC LIMIT 1", workflow_id, verb)
        return next(iter(entries_of(workflow_id, rows)), None)

    async def audit(self, after: int | None, *, limit: int) -> Sequence[tuple[int, JournalEntry]]:
        """Return what was done to all workflows, oldest first, each with its cursor; without one the newest."""
        newest = await self.fetch(
            "SELECT j.seq, w.id, j.at, j.verb, j.by, j.why, j.nodes, j.count, j.detail FROM journal AS j"
            " JOIN workflows AS w ON w.seq = j.workflow"
            + (" ORDER BY j.seq DESC LIMIT %s" if after is None else " WHERE j.seq > %s ORDER BY j.seq LIMIT %s"),
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
        rows = await self.fetch("SELECT value FROM notes WHERE name = %s", name)
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
        try:
            return await self._fetched(self._lister, query, values)
        except Exception as error:
            if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
                raise ListingTooLong(self._listing_max_s) from error
            raise

    async def _fetched(self, link: Link, query: str, values: Sequence[Any]) -> Sequence[Any]:
        try:
            return await link.fetch(query, [text_of(value) if isinstance(value, str) else value for value in values])
        except psycopg.Error as error:
            raise refusal_to("read", self._url, error) from error
