"""Fakes of the ports, for tests of programs that embed the `Scheduler`: no broker, no worker, no disk.

They keep the contracts of `dyrygentd.ports` (the same suite runs against them and against the real adapters).
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel

from dyrygentd.core.checkpoint import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import (
    Event,
    MessagePublished,
    MessageRefused,
    ReportsRead,
    TaskEvent,
    TaskFailed,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
)
from dyrygentd.core.graph import Signature
from dyrygentd.core.states import WorkflowState
from dyrygentd.errors import BrokerEmptied, BrokerUnavailable, StoreUnavailable
from dyrygentd.ports import (
    JOURNAL_MAX,
    WORKFLOW_STAMP,
    DispatcherStatistics,
    Emit,
    Inspection,
    Listed,
    QueueFacts,
    ReportsStatistics,
    Retention,
    Selection,
    Stored,
    StoreStatistics,
    TaskFacts,
    TaskPlace,
    WatcherStatistics,
)


class MemoryStore:
    """A store that forgets everything with the process. Set ``broken`` to make it refuse to write."""

    def __init__(self) -> None:
        self.broken = ""
        self._workflows: dict[str, WorkflowRecord] = {}
        self._nodes: dict[str, dict[int, NodeRecord]] = {}
        self._journal: dict[str, list[JournalEntry]] = {}
        self._audit: list[tuple[int, JournalEntry]] = []
        self._notes: dict[str, str] = {}
        self._commits = self._rows = self._failures = self._journal_entries = 0
        self._identity = uuid4().hex

    @property
    def identity(self) -> str:
        """Return what tells this store from every other one."""
        return self._identity

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
            if selection.owner is not None and record.owner != selection.owner:
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
        ended = sorted(
            (each.finished_at, name, each.state) for name, each in self._workflows.items() if each.finished_at is not None
        )
        expired = [name for at, name, state in ended if is_full or at < since.get(state, retention.others_since)][:limit]
        for name in expired:
            del self._workflows[name]
            self._journal.pop(name, None)
            self._nodes.pop(name, None)
        return len(expired)

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot."""
        return StoreStatistics(
            commits=self._commits,
            finished_workflows=sum(record.finished_at is not None for record in self._workflows.values()),
            rows=self._rows,
            failures=self._failures,
            journal_entries=self._journal_entries,
        )

    async def close(self) -> None:
        """Keep what there is, so that a second scheduler can recover from it."""

    def _stored(self, record: WorkflowRecord) -> Stored:
        nodes = self._nodes.get(record.workflow_id, {})
        return Stored(record, list(nodes.values()))


class FakeBroker:
    """A broker with workers behind it; tasks are plain functions that run as soon as they are published.

    Hand ``broker.dispatcher``, ``broker.watcher`` and ``broker.inspector`` to the `Scheduler`.

    Args:
        tasks: ``{task name: function}``. A task that raises has failed; one that is not in the table succeeds with None.
        holds: Keep results back until `let_go`.
        has_worker: Whether a worker runs. While none does messages wait in ``queued``, until `start_worker`.
    """

    def __init__(
        self, tasks: Mapping[str, Callable[..., object]] | None = None, *, holds: bool = False, has_worker: bool = True
    ) -> None:
        self.tasks = dict(tasks or {})
        self.holds = holds
        self.has_worker = has_worker
        self.broken = ""
        self.published: list[Publish] = []
        self.queued: dict[str, Publish] = {}
        self.revoked: list[str] = []
        self.terminated: list[str] = []
        self.withdrawn: list[str] = []
        self.forgotten: list[str] = []
        self.marks: dict[str, str] = {}
        self.memory = 0
        self.results: dict[str, TaskEvent] = {}
        self.dispatcher = FakeDispatcher(self)
        self.watcher = FakeWatcher(self)
        self.inspector = FakeInspector(self)
        self._held: dict[str, TaskEvent] = {}

    def execute(self, message: Publish) -> None:
        """Run a task and store its result, or hold it back; put it into the queue if there is no worker."""
        self.published.append(message)
        if self.has_worker:
            self._execute(message)
        else:
            self.queued[message.task_id] = message

    def start_worker(self) -> None:
        """Run all that waits in the queue; a worker that starts knows of no earlier revoke."""
        self.has_worker = True
        while self.queued:
            self._execute(self.queued.pop(next(iter(self.queued))))

    def lose(self, task_id: str) -> None:
        """Lose a task: its message is gone, or the worker that had it."""
        self.queued.pop(task_id, None)
        self._held.pop(task_id, None)

    def empty(self) -> None:
        """Forget messages, results and marks, as a server does that comes back without its data; workers keep what they have."""
        self.queued.clear()
        self.results.clear()
        self.marks.clear()
        self.memory += 1

    def terminate(self, task_ids: Iterable[str]) -> None:
        """End tasks that are being executed, as a worker does when it is told to."""
        for task_id in task_ids:
            self.terminated.append(task_id)
            if self._held.pop(task_id, None) is not None:
                self._store(task_id, TaskRevoked(task_id, "terminated"))

    def _execute(self, message: Publish) -> None:
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
            exception = type(error).__name__
            return TaskFailed(message.task_id, f"{exception}: {error}", exception)
        return TaskSucceeded(message.task_id, json.dumps(value).encode())


class FakeDispatcher:
    """The sending side of a `FakeBroker`; a repeated message is not executed again."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._known: set[str] = set()
        self._memory = 0
        self._guard: tuple[str, str] | None = None
        self._repeated = self._refused = self._failures = 0

    def guard(self, name: str, token: str) -> None:
        """From now on publish only into a broker that has this token."""
        self._guard = name, token

    async def mark(self, name: str, token: str) -> None:
        """Leave a token in the broker."""
        self._raise_if_broken()
        self._broker.marks[name] = token

    async def is_marked(self) -> bool:
        """Tell whether the broker has the token."""
        self._raise_if_broken()
        return self._guard is None or self._broker.marks.get(self._guard[0]) == self._guard[1]

    async def cautions(self) -> Sequence[str]:
        """Return nothing: this broker keeps what it has."""
        return []

    def backlog(self) -> int:
        """Return how many messages no worker has fetched."""
        return len(self._broker.queued)

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        """Run each task that was not published before; refuse one whose arguments are no JSON."""
        guard = self._guard
        await anyio.lowlevel.checkpoint()
        if self._broker.broken:
            self._failures += 1
            raise BrokerUnavailable(self._broker.broken)
        if guard is not None and self._broker.marks.get(guard[0]) != guard[1]:
            raise BrokerEmptied("the broker has lost its memory")
        if self._broker.memory != self._memory:
            self._known.clear()
            self._memory = self._broker.memory
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

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool = False) -> None:
        """Note who was revoked, and end what is executed if wanted."""
        self._raise_if_broken()
        self._broker.revoked.extend(task_ids)
        if terminate:
            self._broker.terminate(task_ids)

    async def revoke_stamped(self, header: str, values: Sequence[str], *, terminate: bool = False) -> None:
        """Revoke what was published for these workflows; no other stamp is known here."""
        wanted = set(values) if header == WORKFLOW_STAMP else set()
        task_ids = [message.task_id for message in self._broker.published if message.workflow_id in wanted]
        await self.revoke(task_ids, terminate=terminate)

    async def withdraw(self, tasks: Sequence[TaskPlace]) -> Sequence[str]:
        """Take messages back that no worker has fetched."""
        self._raise_if_broken()
        withdrawn = [task.task_id for task in tasks if self._broker.queued.pop(task.task_id, None) is not None]
        self._broker.withdrawn.extend(withdrawn)
        return withdrawn

    def _raise_if_broken(self) -> None:
        if self._broker.broken:
            raise BrokerUnavailable(self._broker.broken)

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Note which workflows will publish no more."""
        self._broker.forgotten.extend(workflow_ids)

    def queue_of(self, signature: Signature) -> str:
        """Return the queue that the options name, else ``celery``."""
        return str(json.loads(signature.options).get("queue", "celery"))

    def statistics(self) -> DispatcherStatistics:
        """Return an immutable snapshot."""
        return DispatcherStatistics(
            published=len(self._known), repeated=self._repeated, refused=self._refused, failures=self._failures, exactly_once=True
        )

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


class FakeInspector:
    """Looks into a `FakeBroker`: one queue ``celery``, and one worker ``fake@worker`` if there is any."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    async def trace(self, tasks: Sequence[TaskPlace]) -> Inspection:
        """Tell where these attempts are."""
        await anyio.lowlevel.checkpoint()
        broker = self._broker
        if not tasks:
            return Inspection()
        if broker.broken:
            known = {task.task_id: TaskFacts(task.task_id, stored_state=self._stored(task.task_id)) for task in tasks}
            return Inspection(known, problems=[f"the broker cannot be asked: {broker.broken}"])
        workers = ["fake@worker"] if broker.has_worker else []
        queue = QueueFacts("celery", len(broker.queued), consumers=len(workers), workers=workers, is_searched=True)
        facts = {task.task_id: self._facts(task.task_id) for task in tasks}
        return Inspection(facts, {"celery": queue}, workers=workers, listening=len(workers))

    async def heard(self, *, listen_s: float) -> frozenset[str] | None:
        """Tell at once who lives; nobody has to be waited for here."""
        await anyio.lowlevel.checkpoint()
        if self._broker.broken:
            return None
        return frozenset({"fake@worker"} if self._broker.has_worker else ())

    def _facts(self, task_id: str) -> TaskFacts:
        broker, state = self._broker, self._stored(task_id)
        facts = TaskFacts(task_id, "celery", is_reserved=False, stored_state=state)
        if task_id in broker.queued:
            return replace(facts, position=list(broker.queued).index(task_id))
        if task_id in broker._held:
            return replace(facts, worker="fake@worker", worker_state="active")
        return facts

    def _stored(self, task_id: str) -> str:
        match self._broker.results.get(task_id):
            case TaskSucceeded():
                return "SUCCESS"
            case TaskFailed():
                return "FAILURE"
            case TaskRevoked():
                return "REVOKED"
            case TaskReported(state=state):
                return state
            case _:
                return ""

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


class FakeReports:
    """Reports of workers with `dyrygentd.worker.install`, made up by a test.

    Attributes:
        begun: What `begin` was told: whose reports they are, and up to where they were worked in before.
        kept_offsets: What became durable, in order.
        ended: Tasks whose end was reported and whose result was not seen.
    """

    def __init__(self) -> None:
        self.begun: tuple[str, str | None] = ("", None)
        self.kept_offsets: list[str] = []
        self.ended: set[str] = set()
        self._reported: deque[tuple[Sequence[TaskEvent], str]] = deque()
        self._awake = anyio.Event()
        self._read = 0

    def report(self, *events: TaskEvent, offset: str) -> None:
        """Let something have been reported up to a place."""
        self._reported.append((events, offset))
        self._awake.set()

    def begin(self, identity: str, offset: str | None) -> None:
        """Note what is to be read."""
        self.begun = (identity, offset)

    def header(self) -> Mapping[str, Any] | None:
        """Return something: nobody reads it."""
        return {"stream": f"dyrygentd:reports:{self.begun[0]}", "in": "backend"}

    async def run(self, emit: Emit, post: Callable[[Event], None], is_in_flight: Callable[[str], bool]) -> None:
        """Hand over what is reported, until cancelled."""
        while True:
            while self._reported:
                events, offset = self._reported.popleft()
                self._read += len(events)
                emit(events)
                post(ReportsRead(offset))
            self._awake = anyio.Event()
            await self._awake.wait()

    def kept(self, offset: str) -> None:
        """Note what became durable."""
        self.kept_offsets.append(offset)

    def has_ended(self, task_id: str) -> bool:
        """Tell whether it is in ``ended``."""
        return task_id in self.ended

    def statistics(self) -> ReportsStatistics:
        """Return an immutable snapshot."""
        return ReportsStatistics(place="fake", is_heard=self._read > 0, connected=True, read={"other": self._read})
