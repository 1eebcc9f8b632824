"""A store without a disk, which keeps the contract of `dyrygentd.ports.Store`."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from uuid import uuid4

import anyio
import anyio.lowlevel

from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.user import User
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports import Lease
from dyrygentd.ports.facts import JOURNAL_MAX, Holder, Listed, Retention, Selection, Stored, StoreStatistics, Term


class MemoryStore:
    """A store that forgets everything with the process. Set ``broken`` to make it refuse to write."""

    #: Nobody else can have it.
    lease: Lease | None = None
    mailbox: None = None

    def __init__(self) -> None:
        self.broken = ""
        self._workflows: dict[str, WorkflowRecord] = {}
        self._nodes: dict[str, dict[int, NodeRecord]] = {}
        self._journal: dict[str, list[JournalEntry]] = {}
        self._audit: list[tuple[int, JournalEntry]] = []
        self._notes: dict[str, str] = {}
        self._commits = self._rows = self._failures = self._journal_entries = 0
        self._identity = uuid4().hex
        self._term: Term | None = None

    def __repr__(self) -> str:
        return f"<MemoryStore workflows={len(self._workflows)} commits={self._commits} broken='{self.broken}'>"

    @property
    def identity(self) -> str:
        """Return what tells this store from every other one."""
        return self._identity

    @property
    def setback(self) -> str:
        """Return nothing: it never goes back."""
        return ""

    async def open(self) -> None:
        """Do nothing: there is nothing to open."""

    async def term(self) -> Term | None:
        """Return who has taken it over last."""
        return self._term

    async def raise_term(self, holder: Holder, *, above: int = 0) -> Term:
        """Raise the term."""
        if self.broken:
            raise StoreUnavailable(self.broken)
        self._term = Term(max(self._term.number if self._term else 0, above) + 1, holder)
        return self._term

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Take all records at once, or none."""
        await anyio.lowlevel.checkpoint()
        if self.broken:
            self._failures += 1
            raise StoreUnavailable(self.broken)
        for record in workflows:
            self._workflows[record.workflow_id] = record.following(self._workflows.get(record.workflow_id))
            self._rows += 1
        for node in nodes:
            self._nodes.setdefault(node.workflow_id, {})[node.node] = node
            self._rows += 1
        for entry in journal:
            entries = self._journal.setdefault(entry.workflow_id, [])
            entries.append(entry)
            del entries[:-JOURNAL_MAX]
            self._rows += 1
            self._journal_entries += 1
            self._audit.append((self._journal_entries, entry))
        self._commits += 1

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished, oldest first."""
        for record in list(self._workflows.values()):
            if not record.state.is_finished:
                yield self._stored(record)

    async def unfinished_count(self) -> int:
        """Return how many workflows have not finished."""
        return sum(not record.state.is_finished for record in self._workflows.values())

    async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Stored | None:
        """Read one workflow, whatever its state; none is ever dropped here."""
        record = self._workflows.get(workflow_id)
        return None if record is None else self._stored(record)

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself, without its definition."""
        record = self._workflows.get(workflow_id)
        return None if record is None else replace(record, document=None)

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return the ids that fit, newest first; the exact id alone if there is one."""
        if reference in self._workflows:
            return [reference]
        fitting = [
            record.workflow_id
            for record in reversed(self._workflows.values())
            if record.workflow_id.startswith(reference) or (record.name == reference and record.parent is None)
        ]
        return fitting[:limit]

    async def find_key(self, key: str, owner: User | None = None) -> str | None:
        """Return the id of the workflow that this user has submitted with this key."""
        found = (each.workflow_id for each in self._workflows.values() if each.key == key and each.owner == owner)
        return next(found, None)

    async def list(self, selection: Selection) -> Sequence[Listed]:
        """List workflows, newest first."""
        listed = []
        for cursor, record in reversed(list(enumerate(self._workflows.values(), start=1))):
            if selection.before is not None and cursor >= selection.before:
                continue
            if selection.states and record.state.value not in selection.states:
                continue
            if selection.owner is not None and record.owner != selection.owner:
                continue
            if selection.name is not None and record.name != selection.name:
                continue
            if any(record.labels.get(label) != value for label, value in selection.labels.items()):
                continue
            if selection.series not in (None, record.series):
                continue
            if selection.parent_task not in (None, record.parent_task and record.parent_task.task_id):
                continue
            above = None if record.parent is None else record.parent.workflow_id
            if above != selection.parent and (selection.parent is not None or not selection.with_children):
                continue
            if selection.since is not None and record.created_at < selection.since:
                continue
            if selection.until is not None and record.created_at > selection.until:
                continue
            if selection.ended_since is not None and (record.finished_at or -1.0) < selection.ended_since:
                continue
            listed.append(Listed(cursor, replace(record, document=None)))
        if selection.by_end:
            listed.sort(key=lambda row: (row.record.finished_at or 0.0, row.cursor), reverse=True)
        return listed[: selection.limit]

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done to a workflow, oldest first."""
        return list(self._journal.get(workflow_id, ()))

    async def last_entry(self, workflow_id: str, verb: str) -> JournalEntry | None:
        """Return when a verb was carried out last on a workflow."""
        return next((entry for entry in reversed(self._journal.get(workflow_id, ())) if entry.verb == verb), None)

    async def audit(self, after: int | None, *, limit: int) -> Sequence[tuple[int, JournalEntry]]:
        """Return what was done to all workflows, oldest first, each with its cursor."""
        if after is None:
            return self._audit[-limit:]
        return [row for row in self._audit if row[0] > after][:limit]

    async def recall(self, name: str) -> str | None:
        """Return what was noted last under this name."""
        return self._notes.get(name)

    async def remember(self, name: str, value: str) -> None:
        """Note something about the world outside."""
        if self.broken:
            raise StoreUnavailable(self.broken)
        self._notes[name] = value

    async def expire(self, retention: Retention, *, limit: int) -> int:
        """Delete the oldest finished workflows that are not to be kept any more."""
        if self.broken:
            raise StoreUnavailable(self.broken)
        since = {WorkflowState.SUCCEEDED: retention.succeeded_since}
        is_full = (
            retention.bytes_max and sum(len(each.document or b"") for each in self._workflows.values()) > retention.bytes_max
        )
        root_of = {name: name if each.parent is None else each.parent.root_id for name, each in self._workflows.items()}
        busy = {root_of[name] for name, each in self._workflows.items() if each.finished_at is None}
        ended = sorted(
            (each.finished_at, name, each.state)
            for name, each in self._workflows.items()
            if each.finished_at is not None and each.parent is None and name not in busy
        )
        expired = [name for at, name, state in ended if is_full or at < since.get(state, retention.others_since)][:limit]
        for name in [name for name, root in root_of.items() if root in expired]:
            del self._workflows[name]
            self._journal.pop(name, None)
            self._nodes.pop(name, None)
        return len(expired)

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot."""
        return StoreStatistics(
            commits=self._commits,
            finished_workflows=sum(each.finished_at is not None and each.parent is None for each in self._workflows.values()),
            rows=self._rows,
            failures=self._failures,
            journal_entries=self._journal_entries,
        )

    async def close(self) -> None:
        """Keep what there is, so that a second scheduler can recover from it."""

    def _stored(self, record: WorkflowRecord) -> Stored:
        nodes = self._nodes.get(record.workflow_id, {})
        return Stored(record, list(nodes.values()))
