"""What a turn writes: records as statements, each a set of rows; and which finished workflows stay."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from typing import Any, Final, NamedTuple

from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.ports.facts import JOURNAL_MAX
from dyrygentd.store.postgres import rows
from dyrygentd.store.postgres.turns import Statement
from dyrygentd.store.rows import deflated, names_column, node_rows

#: Finished workflows deleted in one transaction beyond those that ended in it, so that cleaning up never holds a turn for long.
_PRUNED_PER_SAVE: Final = 5
#: Finished workflows kept from being deleted because they were read to go on; the oldest go first, should nothing come of it.
_KEPT_MAX: Final = 100


class Written(NamedTuple):
    """What is to be written in one transaction.

    Attributes:
        rows: How many.
        ended: Workflows that finish by it, and whose definition is there already.
        returned: Workflows that had finished before.
        more_finished: By how many the finished workflows are more than before.
        prunes: Whether the last statement deletes finished workflows, and tells how many.
    """

    statements: list[Statement]
    rows: int
    entries: Sequence[JournalEntry]
    ended: Set[str]
    returned: Set[str]
    more_finished: int
    prunes: bool


class Writing:
    """Makes statements. Guards: a workflow has one number, by which its rows are found, however often its save is repeated.

    Args:
        found: Reads rows, ``(query, argument)``.
        history_max: Finished workflows to keep.

    Attributes:
        sequence_of: ``{workflow_id: number}`` of those that have not finished.
        last_sequence: The highest number.
        finished: How many workflows have finished.
        kept: Those that were read to go on, and must not be deleted.
    """

    def __init__(self, found: Callable[[str, str], Awaitable[Iterable[Any]]], history_max: int) -> None:
        self.sequence_of: dict[str, int] = {}
        self.last_sequence = 0
        self.finished = 0
        self.kept: dict[str, None] = {}
        # Entries that were kept although the answer was lost: the caller comes with them again.
        self._written_before: Counter[JournalEntry] = Counter()
        self._found = found
        self._history_max = history_max

    def __repr__(self) -> str:
        return f"<Writing unfinished={len(self.sequence_of)} last={self.last_sequence} finished={self.finished}>"

    def keep(self, workflow_id: str) -> None:
        """Keep a workflow from being deleted."""
        self.kept[workflow_id] = None
        while len(self.kept) > _KEPT_MAX:
            del self.kept[next(iter(self.kept))]

    async def written(
        self, records: Sequence[WorkflowRecord], node_records: Sequence[NodeRecord], entries: Sequence[JournalEntry]
    ) -> Written:
        """Return what writes all of it. Raises `StoreUnavailable` if a workflow that had finished cannot be looked up."""
        entries = self._not_written_before(entries)
        new_ids = {record.workflow_id for record in records if record.document is not None}
        named = {record.workflow_id for record in records} | {node.workflow_id for node in node_records}
        # Finished workflows that go on, and nodes of finished ones whose tasks ended late.
        returned = await self._find((named | {entry.workflow_id for entry in entries}) - new_ids)
        # Which numbers new workflows, so that their nodes have one.
        statements = await self._workflows(records)
        node_lines = await node_rows(node_records, self.sequence_of)
        if node_lines:
            statements.append((rows.SAVE_NODES, rows.node_columns(node_lines)))
        statements += self._entries(entries)
        ended = [record for record in records if record.state.is_finished]
        # The values of one that failed or was cancelled stay: trying again needs them.
        emptied = [record.workflow_id for record in ended if record.state is WorkflowState.SUCCEEDED]
        if emptied:
            statements.append((rows.DROP_VALUES, ([self.sequence_of[each] for each in emptied if each in self.sequence_of],)))
        # Not counted: children, those of which no row is there any more, and those that had finished before.
        roots = {record.workflow_id: record.state.is_finished for record in records if record.parent is None}
        new_ends = {each for each, is_over in roots.items() if is_over and each in self.sequence_of} - returned
        more = len(new_ends) - len(returned & {each for each, is_over in roots.items() if not is_over})
        surplus = min(max(0, more) + _PRUNED_PER_SAVE, self.finished + more - self._history_max) if ended else 0
        if surplus > 0:
            statements.append((rows.PRUNE, ([*self.kept], surplus)))
        count, ends = len(records) + len(node_lines) + len(entries), {record.workflow_id for record in ended} - new_ids
        return Written(statements, count, entries, ends, returned, more, surplus > 0)

    def was_written(self, written: Written, records: Sequence[WorkflowRecord], *, pruned: int) -> None:
        """Take note that it is on disk, and how many workflows it has deleted."""
        self.finished += written.more_finished - pruned
        still = going_on(records)
        for workflow_id in written.returned & still:
            self.kept.pop(workflow_id, None)
        self.forget({record.workflow_id for record in records if record.state.is_finished} | (written.returned - still))

    def was_kept(self, written: Written | None) -> None:
        """Take note that it is on disk although the answer was lost; the caller does not know, and comes with all of it again."""
        if written is not None:
            self._written_before.update(written.entries)
            # They are looked up: some may have been deleted with the oldest.
            self.forget(written.ended)

    def forget(self, workflow_ids: Iterable[str]) -> None:
        """Forget the numbers of workflows, which are looked up when something of them is saved again."""
        for workflow_id in workflow_ids:
            self.sequence_of.pop(workflow_id, None)

    async def _find(self, workflow_ids: Iterable[str]) -> set[str]:
        """Look up the numbers of workflows that had finished; return which are there."""
        found = set()
        for workflow_id in {each for each in workflow_ids if each not in self.sequence_of}:
            for (sequence,) in await self._found("SELECT seq FROM workflows WHERE id = %s", workflow_id):
                self.sequence_of[workflow_id] = sequence
                found.add(workflow_id)
        return found

    def _not_written_before(self, entries: Sequence[JournalEntry]) -> Sequence[JournalEntry]:
        left = []
        for entry in entries:
            if self._written_before.get(entry):
                self._written_before[entry] -= 1
            else:
                left.append(entry)
        return left

    async def _workflows(self, records: Iterable[WorkflowRecord]) -> list[Statement]:
        new: dict[int, tuple[Any, ...]] = {}
        known: dict[int, tuple[Any, ...]] = {}
        names: dict[int, tuple[int, str]] = {}
        for record in records:
            if record.document is not None:
                sequence = self._number_of(record.workflow_id)
                new[sequence] = rows.new_workflow(sequence, record, await deflated(record.document))
                if record.names:
                    names[sequence] = (sequence, await names_column(record.names))
            elif record.workflow_id in self.sequence_of:
                sequence = self.sequence_of[record.workflow_id]
                known[sequence] = rows.changed_workflow(sequence, record)
        kinds = ((rows.INSERT_WORKFLOWS, new), (rows.SAVE_NAMES, names), (rows.UPDATE_WORKFLOWS, known))
        return [(query, rows.columns_of(lines.values())) for query, lines in kinds if lines]

    def _entries(self, entries: Iterable[JournalEntry]) -> list[Statement]:
        asked = [entry for entry in entries if entry.workflow_id in self.sequence_of]
        lines = [rows.entry_row(self.sequence_of[entry.workflow_id], entry) for entry in asked]
        if not lines:
            return []
        touched = sorted({line[0] for line in lines})
        statements: list[Statement] = [
            (rows.ADD_ENTRIES, rows.columns_of(lines)),
            (rows.TRIM_JOURNAL, (touched, JOURNAL_MAX)),
        ]
        footprints = [rows.footprint_row(entry) for entry in asked if entry.letter]
        if footprints:
            statements.append((rows.ADD_FOOTPRINTS, rows.columns_of(footprints)))
        return statements

    def _number_of(self, workflow_id: str) -> int:
        """Number a workflow; a repeated save after an error finds the number it had."""
        if workflow_id not in self.sequence_of:
            self.last_sequence += 1
            self.sequence_of[workflow_id] = self.last_sequence
        return self.sequence_of[workflow_id]


def going_on(records: Iterable[WorkflowRecord]) -> set[str]:
    """Return which workflows have not finished."""
    return {record.workflow_id for record in records if not record.state.is_finished}
