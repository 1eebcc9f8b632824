"""Reading a database past its writer: what is asked, and how records are made of the rows, in whichever database they are.

There are three ways to it: one for what a turn or a submission waits for, which finds one row by an index; one for what is shown
of one workflow; one for listings that look at many rows, which are given up after some seconds. The statements mark values as
SQLite does, with a question mark.
"""

import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Final

from dyrygentd.beside import in_thread
from dyrygentd.core.records import JournalEntry, WorkflowRecord
from dyrygentd.core.user import User
from dyrygentd.errors import StoreIncompatible
from dyrygentd.ports.facts import Listed, Selection, Stored, Term
from dyrygentd.store.continuity import TERM_NOTE
from dyrygentd.store.rows import (
    COLUMNS,
    INLINE_ROWS,
    NODE_COLUMNS,
    entries_of,
    in_parts,
    node_record_of,
    owned_key,
    record_of,
)

#: What a row raises that cannot be decoded; an error of the database's is another one.
_UNDECODABLE: Final = (zlib.error, ValueError, TypeError, KeyError)
_JOURNAL: Final = """
    SELECT at, verb, by, why, nodes, count, detail FROM journal WHERE workflow = (SELECT seq FROM workflows WHERE id = ?)
"""

#: A condition in SQL, and the values in it.
Condition = tuple[str, Sequence[Any]]


class Reader(ABC):
    """Reads. Guards: whoever looks for one row waits for nobody who reads much, and a listing ends in time."""

    #: How many bytes a definition has, in SQL.
    DOCUMENT_BYTES: ClassVar[str]
    #: The order in which workflows ended, the last one first.
    BY_END: ClassVar[str]

    # --- the database's own -----------------------------------------------------------------------------------------

    @abstractmethod
    async def found(self, query: str, *values: Any) -> Sequence[Any]:
        """Fetch what an index leads to, past everybody who reads much."""

    @abstractmethod
    async def fetch(self, query: str, *values: Any) -> Sequence[Any]:
        """Fetch what is shown of one workflow, or needs no hurry."""

    @abstractmethod
    async def _listed(self, query: str, *values: Any) -> Sequence[Any]:
        """Fetch what may need a look at all workflows, for a bounded time. Raises `ListingTooLong`."""

    @abstractmethod
    def _among(self, column: str, numbers: Sequence[int]) -> tuple[str, Any]:
        """Return the condition that a column is one of some numbers, and the value in it."""

    @abstractmethod
    def _conditions(self, selection: Selection) -> Sequence[Condition]:
        """Return the conditions on states, owner, labels, parent task and end, as far as they are chosen by."""

    def _without_children(self, selection: Selection) -> Sequence[Condition]:
        """Return the condition that nothing is above a workflow: there is an index of these, and one of their ends."""
        return [("parent IS NULL" if selection.ended_since is None else "root IS NULL", [])]

    @abstractmethod
    def _damaged(self, what: str) -> StoreIncompatible:
        """Return the error that says what is damaged, and what to do about it."""

    # --- workflows --------------------------------------------------------------------------------------------------

    async def unfinished(self) -> AsyncIterator[tuple[dict[str, int], list[Stored]]]:
        """Iterate over the workflows that have not finished, oldest first, in parts: ``{id: number}`` and what is stored."""
        rows = await self.fetch(f"SELECT seq, id, {self.DOCUMENT_BYTES} FROM workflows WHERE finished_at IS NULL ORDER BY seq")
        for part in in_parts(rows):
            try:
                loaded = await self._load_part([sequence for sequence, _ in part])
            except StoreIncompatible:
                # One of them cannot be read; which one is seen by reading each alone.
                loaded = [await self._load_or_damage(workflow_id) for _, workflow_id in part]
            yield {workflow_id: sequence for sequence, workflow_id in part}, loaded

    async def _load_part(self, sequences: Sequence[int]) -> list[Stored]:
        """Read several workflows with two queries."""
        condition, numbers = self._among("seq", sequences)
        rows = await self.fetch(f"SELECT {COLUMNS}, result, document FROM workflows WHERE {condition} ORDER BY seq", numbers)
        condition, numbers = self._among("workflow", sequences)
        nodes: dict[int, list[Any]] = {}
        for workflow, *node in await self.fetch(f"SELECT workflow, {NODE_COLUMNS} FROM nodes WHERE {condition}", numbers):
            nodes.setdefault(workflow, []).append(node)
        return [await self._unpacked(row, nodes.get(row[0], [])) for row in rows]

    async def _load_or_damage(self, workflow_id: str) -> Stored:
        try:
            stored = await self.load(workflow_id)
        except StoreIncompatible as error:
            if not isinstance(error.__cause__, _UNDECODABLE):
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
            raise self._damaged(f"the definition of workflow '{workflow_id}': {error}") from error
        except _UNDECODABLE as error:
            raise self._damaged(f"a row of workflow '{workflow_id}': {error!r}") from error

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself, without its definition and nodes."""
        rows = await self.found(f"SELECT {COLUMNS}, result FROM workflows WHERE id = ?", workflow_id)
        return record_of(rows[0], document=None) if rows else None

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return the ids that fit, newest first; the exact id alone if there is one. A name is of no workflow with a parent."""
        if await self.fetch("SELECT 1 FROM workflows WHERE id = ?", reference):
            return [reference]
        rows = await self.fetch(
            "SELECT id FROM workflows WHERE (id >= ? AND id < ?) OR (name = ? AND parent IS NULL) ORDER BY seq DESC LIMIT ?",
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
        narrowing = [
            *self._conditions(selection),
            *(
                (condition, [value])
                for condition, value in (
                    ("name = ?", selection.name),
                    ("parent = ?", selection.parent),
                    ("created_at >= ?", selection.since),
                    ("created_at <= ?", selection.until),
                )
                if value is not None
            ),
        ]
        conditions = [*narrowing, *([] if selection.before is None else [("seq < ?", [selection.before])])]
        if selection.parent is None and not selection.with_children:
            conditions += self._without_children(selection)
        where = f"WHERE {' AND '.join(condition for condition, _ in conditions)}" if conditions else ""
        order = self.BY_END if selection.by_end else "seq DESC"
        query = f"SELECT {COLUMNS}, NULL FROM workflows {where} ORDER BY {order} LIMIT ?"
        ask = self._listed if narrowing else self.fetch
        rows = await ask(query, *(value for _, values in conditions for value in values), selection.limit)
        return [Listed(row[0], record_of(row, document=None)) for row in rows]

    # --- journal and notes ------------------------------------------------------------------------------------------

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done to a workflow, oldest first."""
        return entries_of(workflow_id, await self.fetch(f"{_JOURNAL} ORDER BY seq", workflow_id))

    async def last_entry(self, workflow_id: str, verb: str) -> JournalEntry | None:
        """Return when a verb was carried out last on a workflow."""
        rows = await self.fetch(f"{_JOURNAL} AND verb = ? ORDER BY seq DESC LIMIT 1", workflow_id, verb)
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

    async def term(self) -> Term | None:
        """Return who has taken the database over last, None if nobody ever has. Raises `StoreUnavailable`."""
        return Term.of(await self.recall(TERM_NOTE) or "")

    async def number(self, query: str) -> int:
        """Fetch one number."""
        return int((await self.fetch(query))[0][0])
