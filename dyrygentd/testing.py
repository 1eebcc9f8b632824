"""Fakes of the ports, for tests of programs that embed the `Scheduler`: no broker, no worker, no disk.

They keep the contracts of `dyrygentd.ports` (the same suite runs against them and against the real adapters).
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import anyio
import anyio.lowlevel

from dyrygentd.core.checkpoint import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused, TaskEvent, TaskFailed, TaskSucceeded
from dyrygentd.errors import BrokerUnavailable, StoreUnavailable
from dyrygentd.ports import (
    DispatcherStatistics,
    Emit,
    Listed,
    Selection,
    Stored,
    StoreStatistics,
    WatcherStatistics,
)


class MemoryStore:
    """A store that forgets everything with the process. Set ``broken`` to make it refuse to write."""

    def __init__(self) -> None:
        self.broken = ""
        self._workflows: dict[str, WorkflowRecord] = {}
        self._nodes: dict[str, dict[int, NodeRecord]] = {}
        self._journal: dict[str, list[JournalEntry]] = {}
        self._commits = self._rows = self._failures = 0

    async def open(self) -> None:
        """Do nothing: there is nothing to open."""

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
            self._journal.setdefault(entry.workflow_id, []).append(entry)
            self._rows += 1
        self._commits += 1

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished, oldest first."""
        for record in list(self._workflows.values()):
            if not record.state.is_finished:
                yield self._stored(record)

    async def load(self, workflow_id: str) -> Stored | None:
        """Read one workflow, whatever its state."""
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
            if record.workflow_id.startswith(reference) or record.name == reference
        ]
        return fitting[:limit]

    async def find_key(self, key: str) -> str | None:
        """Return the id of the workflow that was submitted with this key."""
        return next((record.workflow_id for record in self._workflows.values() if record.key == key), None)

    async def list(self, selection: Selection) -> Sequence[Listed]:
        """List workflows, newest first."""
        listed = []
        for cursor, record in reversed(list(enumerate(self._workflows.values(), start=1))):
            if selection.before is not None and cursor >= selection.before:
                continue
            if selection.states and record.state.value not in selection.states:
                continue
            if selection.name is not None and record.name != selection.name:
                continue
            if any(record.labels.get(label) != value for label, value in selection.labels.items()):
                continue
            listed.append(Listed(cursor, replace(record, document=None)))
        return listed[: selection.limit]

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done to a workflow, oldest first."""
        return list(self._journal.get(workflow_id, ()))

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot."""
        return StoreStatistics(commits=self._commits, rows=self._rows, failures=self._failures)

    async def close(self) -> None:
        """Keep what there is, so that a second scheduler can recover from it."""

    def _stored(self, record: WorkflowRecord) -> Stored:
        nodes = self._nodes.get(record.workflow_id, {})
        return Stored(record, list(nodes.values()))


class FakeBroker:
    """A broker with workers behind it; tasks are plain functions that run as soon as they are published.

    Hand ``broker.dispatcher`` and ``broker.watcher`` to the `Scheduler`.

    Args:
        tasks: ``{task name: function}``. A task that raises has failed; one that is not in the table succeeds with None.
        holds: Keep results back until `let_go`.
    """

    def __init__(self, tasks: Mapping[str, Callable[..., object]] | None = None, *, holds: bool = False) -> None:
        self.tasks = dict(tasks or {})
        self.holds = holds
        self.broken = ""
        self.published: list[Publish] = []
        self.revoked: list[str] = []
        self.forgotten: list[str] = []
        self.results: dict[str, TaskEvent] = {}
        self.dispatcher = FakeDispatcher(self)
        self.watcher = FakeWatcher(self)
        self._held: dict[str, TaskEvent] = {}

    def execute(self, message: Publish) -> None:
        """Run a task and store its result, or hold it back."""
        self.published.append(message)
        event = self._run(message)
        if self.holds:
            self._held[message.task_id] = event
        else:
            self._store(message.task_id, event)

    def let_go(self, *task_ids: str) -> None:
        """Let results out that are held back: of these tasks, or of all."""
        for task_id in task_ids or list(self._held):
            self._store(task_id, self._held.pop(task_id))

    def deliver(self, *events: TaskEvent) -> None:
        """Deliver any events, such as doubled, foreign or contradicting ones."""
        self.watcher.deliver(events)

    def _store(self, task_id: str, event: TaskEvent) -> None:
        self.results[task_id] = event
        self.watcher.stored(task_id)

    def _run(self, message: Publish) -> TaskEvent:
        function = self.tasks.get(message.signature.task)
        args = json.loads(message.signature.args)
        if message.input is not None:
            args.insert(0, json.loads(message.input))
        try:
            value = None if function is None else function(*args, **json.loads(message.signature.kwargs))
        except Exception as error:
            return TaskFailed(message.task_id, f"{type(error).__name__}: {error}")
        return TaskSucceeded(message.task_id, json.dumps(value).encode())


class FakeDispatcher:
    """The sending side of a `FakeBroker`; a repeated message is not executed again."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._known: set[str] = set()
        self._repeated = self._refused = self._failures = 0

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        """Run each task that was not published before; refuse one whose arguments are no JSON."""
        await anyio.lowlevel.checkpoint()
        if self._broker.broken:
            self._failures += 1
            raise BrokerUnavailable(self._broker.broken)
        return [self._publish(message) for message in messages]

    def _publish(self, message: Publish) -> MessagePublished | MessageRefused:
        if message.task_id in self._known:
            self._repeated += 1
            return MessagePublished(message.task_id)
        try:
            json.loads(message.signature.args), json.loads(message.signature.kwargs)
        except ValueError as error:
            self._refused += 1
            return MessageRefused(message.task_id, f"the arguments are no JSON: {error}")
        self._known.add(message.task_id)
        self._broker.execute(message)
        return MessagePublished(message.task_id)

    async def revoke(self, task_ids: Sequence[str]) -> None:
        """Note who was revoked."""
        self._broker.revoked.extend(task_ids)

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Note which workflows will publish no more."""
        self._broker.forgotten.extend(workflow_ids)

    def statistics(self) -> DispatcherStatistics:
        """Return an immutable snapshot."""
        return DispatcherStatistics(
            published=len(self._known), repeated=self._repeated, refused=self._refused, failures=self._failures, exactly_once=True
        )

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


class FakeWatcher:
    """The receiving side of a `FakeBroker`."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._watched: set[str] = set()
        self._emit: Emit | None = None
        self._pushed = 0

    async def run(self, emit: Emit) -> None:
        """Deliver results until cancelled."""
        self._emit = emit
        try:
            for task_id in list(self._watched):
                self.stored(task_id)
            await anyio.sleep_forever()
        finally:
            self._emit = None

    def watch(self, task_ids: Sequence[str]) -> None:
        """Follow these tasks; results that are there already are delivered."""
        self._watched.update(task_ids)
        for task_id in task_ids:
            self.stored(task_id)

    def unwatch(self, task_ids: Sequence[str]) -> None:
        """Stop following these tasks."""
        self._watched.difference_update(task_ids)

    def stored(self, task_id: str) -> None:
        """Deliver the result of a task, if there is one and somebody watches it."""
        if task_id in self._watched and task_id in self._broker.results:
            self.deliver([self._broker.results[task_id]])

    def deliver(self, events: Sequence[TaskEvent]) -> None:
        """Hand events to the scheduler, if one is running."""
        if self._emit is not None:
            self._pushed += len(events)
            self._emit(events)

    def statistics(self) -> WatcherStatistics:
        """Return an immutable snapshot."""
        return WatcherStatistics(watched=len(self._watched), connected=self._emit is not None, pushed=self._pushed)
