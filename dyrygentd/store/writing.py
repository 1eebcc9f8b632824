"""Writing records: workflows, nodes and the journal, over a connection whose transaction somebody else begins and ends."""

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import aiosqlite

from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.ports.facts import JOURNAL_MAX
from dyrygentd.store.names import SAVE as SAVE_NAMES
from dyrygentd.store.rows import (
    ADD_ENTRY,
    DROP_VALUES,
    INSERT_WORKFLOW,
    SAVE_NODE,
    TRIM_JOURNAL,
    UPDATE_WORKFLOW,
    control_of,
    deflated,
    names_column,
    node_rows,
    owned_key,
    parents_of,
    saving_at_once,
    utf8,
)

#: Rows that are saved by one statement, which is a transaction of its own; each trip to the writer's thread costs as much as ten.
_AT_ONCE_MAX = 32


class RowWriter:
    """Writes records. Guards: a workflow has one number, by which its rows are found, however often its save is repeated.

    Args:
        found: Reads rows, ``(query, argument)``.

    Attributes:
        sequence_of: ``{workflow_id: number}`` of those that have not finished.
        last_sequence: The highest number.
    """

    def __init__(self, found: Callable[[str, str], Awaitable[Iterable[Any]]]) -> None:
        self.sequence_of: dict[str, int] = {}
        self.last_sequence = 0
        self._found = found

    def __repr__(self) -> str:
        return f"<RowWriter unfinished={len(self.sequence_of)} last={self.last_sequence}>"

    async def find(self, workflow_ids: Iterable[str]) -> set[str]:
        """Look up the numbers of workflows that had finished; return which are there."""
        found = set()
        for workflow_id in {workflow_id for workflow_id in workflow_ids if workflow_id not in self.sequence_of}:
            for (sequence,) in await self._found("SELECT seq FROM workflows WHERE id = ?", workflow_id):
                self.sequence_of[workflow_id] = sequence
                found.add(workflow_id)
        return found

    def forget(self, workflow_ids: Iterable[str]) -> None:
        """Forget the numbers of workflows of which nothing more is to be saved."""
        for workflow_id in workflow_ids:
            self.sequence_of.pop(workflow_id, None)

    async def write(
        self,
        writer: aiosqlite.Connection,
        records: Sequence[WorkflowRecord],
        node_records: Sequence[NodeRecord],
        entries: Sequence[JournalEntry],
    ) -> tuple[int, bool]:
        """Write all of it; return the rows of nodes, and whether they are on disk already, without a transaction."""
        # Which numbers new workflows, so that their nodes have one.
        await self._write_workflows(writer, records)
        rows = await node_rows(node_records, self.sequence_of)
        is_one_statement = 0 < len(rows) <= _AT_ONCE_MAX and not (records or entries or writer.in_transaction)
        if is_one_statement:
            await writer.execute(saving_at_once(len(rows)), [*chain.from_iterable(rows)])
        elif rows:
            await writer.executemany(SAVE_NODE, rows)
        if entries:
            await self._add_entries(writer, entries)
        return len(rows), is_one_statement

    async def drop_values(self, writer: aiosqlite.Connection, workflow_ids: Iterable[str]) -> None:
        """Empty the nodes of workflows that have succeeded."""
        emptied = [(self.sequence_of[workflow_id],) for workflow_id in workflow_ids if workflow_id in self.sequence_of]
        if emptied:
            await writer.executemany(DROP_VALUES, emptied)

    async def _add_entries(self, writer: aiosqlite.Connection, entries: Iterable[JournalEntry]) -> None:
        for entry in entries:
            sequence = self.sequence_of.get(entry.workflow_id)
            if sequence is not None:
                nodes = json.dumps(entry.nodes)
                words = (utf8(entry.by), utf8(entry.why), nodes, entry.count, utf8(entry.detail))
                await writer.execute(ADD_ENTRY, (sequence, entry.at, entry.verb, *words))
                await writer.execute(TRIM_JOURNAL, (sequence, sequence, JOURNAL_MAX))

    async def _write_workflows(self, writer: aiosqlite.Connection, records: Iterable[WorkflowRecord]) -> None:
        """Write workflows, those that are new and the others each with one call: each call is a trip to the writer's thread."""
        new: list[tuple[Any, ...]] = []
        known: list[tuple[Any, ...]] = []
        names: list[tuple[int, str]] = []
        for record in records:
            counts = None if record.counts is None else json.dumps(record.counts)
            error, control = utf8(record.error), control_of(record)
            if record.document is not None:
                document, labels = await deflated(record.document), json.dumps(dict(record.labels))
                sequence = self._number_of(record.workflow_id)
                key = None if record.key is None else owned_key(record.key, record.owner)
                row = (sequence, record.workflow_id, record.name, key, labels, record.state.value, record.created_at)
                end = record.finished_at, record.task_count, counts, error, control, record.result
                new.append((*row, *end, document, *parents_of(record)))
                if record.names:
                    names.append((sequence, await names_column(record.names)))
            elif record.workflow_id in self.sequence_of:
                sequence = self.sequence_of[record.workflow_id]
                known.append((record.state.value, record.finished_at, counts, error, control, record.result, sequence))
        if new:
            await writer.executemany(INSERT_WORKFLOW, new)
        if names:
            await writer.executemany(SAVE_NAMES, names)
        if known:
            await writer.executemany(UPDATE_WORKFLOW, known)

    def _number_of(self, workflow_id: str) -> int:
        """Number a workflow; a repeated save after an error finds the number it had."""
        if workflow_id not in self.sequence_of:
            self.last_sequence += 1
            self.sequence_of[workflow_id] = self.last_sequence
        return self.sequence_of[workflow_id]
