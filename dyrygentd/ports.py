"""What the scheduler needs from the world: the interfaces that the adapters and the shipped fakes implement.

One contract suite per port (``tests/contracts``) runs against every implementation.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

from dyrygentd.core.absence import Absence
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import Event, MessagePublished, MessageRefused, TaskEvent
from dyrygentd.core.graph import Signature
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.tally import Tally
from dyrygentd.core.unrun import StoreOutcome

Emit = Callable[[Sequence[TaskEvent]], None]

#: Every message carries the workflow's id under this name, so that one broadcast can revoke a whole workflow.
WORKFLOW_STAMP: Final = "dyrygentd_workflow"

#: Under this header each message says where `dyrygentd.worker` reports what becomes of the task: ``{"stream": key, "in":
#: place}``, the place being ``backend`` or ``broker``. Messages that a worker sends in its stead (`Task.replace`) have ``of``
#: besides: the id of the task that is reported.
REPORTS_HEADER: Final = "dyrygentd_reports"

#: The name under which a store remembers how far the reports were read.
REPORTS_NOTE: Final = "reports"
#: When the database was found to be older than what was done with it, and why.
SETBACK_NOTE: Final = "setback"
#: Until when the process before this one had the database, see `dyrygentd.core.absence`.
CLOSED_NOTE: Final = "closed"

#: Entries of the journal that a store keeps of one workflow, the newest.
JOURNAL_MAX: Final = 1000
#: How a problem of an `Inspection` begins that says that nobody could ask for results.
BACKEND_SILENT: Final = "the result backend cannot be asked"
BROKER_SILENT: Final = "the broker cannot be asked"


@dataclass(frozen=True, slots=True)
class Stored:
    """A workflow as it was read from the store; ``record.document`` is set.

    Attributes:
        damage: Why it cannot be read; then there is neither a document nor a node. Only `Store.unfinished` tells so.
    """

    record: WorkflowRecord
    nodes: list[NodeRecord]
    damage: str = ""


@dataclass(frozen=True, slots=True)
class Retention:
    """Which finished workflows are kept.

    Attributes:
        succeeded_since: Those that succeeded, and ended at this Unix time or later.
        others_since: The same for those that failed or were cancelled.
        bytes_max: All of them as long as the database does not use more; 0 for no bound.
    """

    succeeded_since: float = 0.0
    others_since: float = 0.0
    bytes_max: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """Which workflows a listing wants, newest first.

    Attributes:
        owner: Only workflows that the user of this number has submitted.
        before: Cursor: only workflows stored before this one (`Listed.cursor` of the last row of the previous page).
        since, until: Only workflows created in this time.
        ended_since: Only workflows that have finished at this time or later.
        parent_task: Only workflows that were submitted in the task of this id.
    """

    states: frozenset[str] = frozenset()
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: int | None = None
    before: int | None = None
    limit: int = 50
    since: float | None = None
    until: float | None = None
    ended_since: float | None = None
    parent_task: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of a listing; its record has no document."""

    cursor: int
    record: WorkflowRecord


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """A snapshot of the store.

    Attributes:
        problem: What is wrong although it works, empty if nothing is.
    """

    commits: int = 0
    finished_workflows: int = 0
    rows: int = 0
    commit_seconds: float = 0.0
    failures: int = 0
    database_bytes: int = 0
    wal_bytes: int = 0
    journal_entries: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DispatcherStatistics:
    """A snapshot of the dispatcher."""

    published: int = 0
    repeated: int = 0
    refused: int = 0
    failures: int = 0
    publish_seconds: float = 0.0
    exactly_once: bool = False


@dataclass(frozen=True, slots=True)
class WatcherStatistics:
    """A snapshot of the watcher; results are counted by the path on which they came.

    Attributes:
        problem: Why results cannot be received now, empty if they can.
        seen_seconds: View of a `dyrygentd.core.tally.Tally`: from a result's storing, by the worker's clock, to its being seen.
    """

    watched: int = 0
    connected: bool = False
    problem: str = ""
    connections: int = 0
    pushed: int = 0
    read: int = 0
    swept: int = 0
    undecodable: int = 0
    seen_seconds: Mapping[str, Any] = field(default_factory=lambda: Tally().view())


@dataclass(frozen=True, slots=True)
class ReportsStatistics:
    """A snapshot of the reader of the workers' reports.

    Attributes:
        place: ``backend`` or ``broker``, where the stream is; empty if neither is a Redis that can have it.
        is_heard: Whether any worker has ever reported to this database.
        connected: Whether reports can be read now.
        problem: Why not; also if there is no place.
        read: Reports by state, foreign ones included.
        gaps: How often reports may have been missed, because the stream was cut or emptied.
        unreadable: Entries of the stream that are no reports.
        unconfirmed: Ends that were reported, and whose stored result was not seen yet.
        concluded: Ends that were taken from the report, since no result was found.
        lag_seconds: How old the newest report was when it was read, by the clocks of Redis and of this host.
    """

    place: str = ""
    is_heard: bool = False
    connected: bool = False
    problem: str = ""
    connections: int = 0
    read: Mapping[str, int] = field(default_factory=dict)
    gaps: int = 0
    unreadable: int = 0
    unconfirmed: int = 0
    concluded: int = 0
    lag_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskPlace:
    """An attempt to look for: its names, and where its message went; if that is not known, the signature tells where it would."""

    task_id: str
    attempt: int
    signature: Signature
    destination: str = ""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What is known of a queue. None means that it could not be found out, here and below.

    Attributes:
        length: Messages that no worker has fetched.
        consumers: How many workers take from it.
        workers: Those that answered and take from it.
        is_searched: All of its messages were looked at, so a task that was not found is not in it.
    """

    name: str
    length: int | None = None
    consumers: int | None = None
    workers: Sequence[str] = ()
    is_searched: bool = False


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What is known of one attempt.

    Attributes:
        task: The task's name.
        queue: The one that holds its message, else the first that it routes to; empty if that is not known.
        position: Messages ahead of its own; None also if it is not in the queue, or not in the part that was searched.
        is_reserved: A worker has fetched the message and not acknowledged it. It does that when the task starts, or, with
            `acks_late`, when it ends.
        reserved_since: Unix time.
        redelivered_at: Unix time from which on the broker gives a reserved message to another worker.
        worker, worker_state: Who said to have it, and as what; empty if nobody did. Scheduled means that it waits for its ETA.
        started_at: Unix time.
        also_at: ``{worker: Unix time of its start}`` of further workers that execute it at the same time.
        is_redelivered: The broker gave the message to a worker once more.
        stored_state: As Celery's result backend has it, empty if nothing is stored.
        stored_at: Unix time of a final state.
        stored_worker: Who stored it, if the result tells.
        stored_error: With which error the task has asked for another try.
        due_at: Unix time at which a worker that waits with it goes on.
    """

    task_id: str
    queue: str = ""
    position: int | None = None
    is_reserved: bool | None = None
    reserved_since: float | None = None
    redelivered_at: float | None = None
    worker: str = ""
    worker_state: Literal["", "active", "reserved", "scheduled"] = ""
    started_at: float | None = None
    also_at: Mapping[str, float] = field(default_factory=dict)
    is_redelivered: bool = False
    stored_state: str | None = None
    stored_at: float | None = None
    stored_worker: str = ""
    stored_error: str = ""
    due_at: float | None = None
    task: str = ""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What is known of a worker that answered; asked only if a task was found nowhere.

    Attributes:
        uptime_s: Seconds since it was started.
        rates: ``{task name: rate limit}`` of the tasks that are looked for.
    """

    uptime_s: float | None = None
    rates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the world outside knows, all of it at about one time.

    Attributes:
        tasks: ``{task_id: facts}``, one for each that was asked for.
        queues: ``{name: facts}`` of all queues that they route to.
        workers: Who answered; None if nobody could be asked.
        listening: How many workers were reached by the question, if the broker tells. One that executes in the pool ``solo``
            listens and does not answer; one that is gone does not listen.
        connected: How many connections to the broker wait for messages, if it tells: one a worker, whether it answers or not.
        connected_before: How many have waited for messages and do not now: workers that have all they can take, are busy in the
            pool ``solo`` or shut down, and programs that asked the workers for something once.
        alive: More about workers that answered.
        heard: Whose heartbeat was heard, if anybody listened to them.
        last_answered: ``{worker: Unix time}`` of workers that answered now or earlier.
        last_consumed: ``{queue: (worker, Unix time)}``: who was last seen to take from a queue, now or earlier.
        consumed: ``{queue: workers that answered and take from it}`` of all queues, whatever they are.
        origins: ``{task: where the name of its queue comes from}``, of tasks whose queue nobody consumes.
        results_kept_s: How long the backend keeps a result, 0 if that is not known or for ever.
        absence: For how long no daemon ran before this one, if that is known.
        problems: What could not be found out, and why; a line each.
    """

    tasks: Mapping[str, TaskFacts] = field(default_factory=dict)
    queues: Mapping[str, QueueFacts] = field(default_factory=dict)
    workers: Sequence[str] | None = None
    listening: int | None = None
    problems: Sequence[str] = ()
    connected: int | None = None
    connected_before: int = 0
    alive: Mapping[str, WorkerFacts] = field(default_factory=dict)
    heard: frozenset[str] | None = None
    last_answered: Mapping[str, float] = field(default_factory=dict)
    last_consumed: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    consumed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    results_kept_s: float = 0.0
    absence: Absence | None = None

    @property
    def is_counted(self) -> bool:
        """Whether the broker tells how many workers there are, beside those who answer."""
        return self.connected is not None


@dataclass(frozen=True, slots=True)
class BrokerMemory:
    """What a broker remembers of a database. Each remembers the other, so that one that went back is noticed.

    Attributes:
        token: What was left there; empty if there is nothing.
        pushes: Messages that were pushed for it.
        turn: How far the database was when it was told last.
        holder: The process that told it; empty if none has.
        place: Where the broker is, without user and password; empty if that is not known.
    """

    token: str = ""
    pushes: int = 0
    turn: int = 0
    holder: str = ""
    place: str = ""


class Store(Protocol):
    """Durable checkpoints. One writer; `open` fails if another process has the database."""

    @property
    def identity(self) -> str:
        """Return what tells this database from every other one; it is the same after each `open`."""

    @property
    def setback(self) -> str:
        """Return why the database is older than what was done with it, as far as it can tell by itself; empty if it is not."""

    async def open(self) -> None:
        """Lock, open, and create or migrate. Raises `StoreLocked`, `StoreIncompatible` or `StoreUnavailable`."""

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Write all records in one transaction and return when they are durable.

        A workflow that had finished may come again, running; a record of one that is not kept any more is dropped.
        Raises `StoreUnavailable`, then none is written; `InvariantBroken` if it never will be, whatever the disk does.
        """

    def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished, oldest first; one that is damaged keeps no other back."""

    async def unfinished_count(self) -> int:
        """Return how many workflows have not finished."""

    async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Stored | None:
        """Read one workflow, whatever its state.

        Args:
            to_reopen: A finished one is about to go on, and must not be dropped from the history before that is saved.
        """

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself, without its definition and nodes; cheap, whatever its size."""

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return the ids that fit: the exact id alone, else ids with this prefix and workflows with this name, newest first."""

    async def find_key(self, key: str, owner: int | None = None) -> str | None:
        """Return the id of the workflow that this user has submitted with this key; keys of two users never meet."""

    async def list(self, selection: Selection) -> Sequence[Listed]:
        """List workflows, newest first."""

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done to a workflow, oldest first; the newest 1000 entries are kept."""

    async def last_entry(self, workflow_id: str, verb: str) -> JournalEntry | None:
        """Return when a verb was carried out last on a workflow, None if it never was, as far as the journal goes back."""

    async def audit(self, after: int | None, *, limit: int) -> Sequence[tuple[int, JournalEntry]]:
        """Return what was done to all workflows, oldest first, each with its cursor.

        Args:
            after: Only what came after this cursor; None for the newest.
        """

    async def recall(self, name: str) -> str | None:
        """Return what was noted last under this name, None if nothing was. Raises `StoreUnavailable`."""

    async def remember(self, name: str, value: str) -> None:
        """Note something about the world outside; it is durable when this returns. Raises `StoreUnavailable`."""

    async def expire(self, retention: Retention, *, limit: int) -> int:
        """Delete the oldest finished workflows that are not to be kept any more, ``limit`` at most; return how many.

        Raises `StoreUnavailable`, then none is deleted.
        """

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot."""

    async def close(self) -> None:
        """Close and unlock; safe to repeat."""


class Dispatcher(Protocol):
    """Sends messages to the broker.

    Calls are carried out in the order in which they are made: a marker that is forgotten must not be missed by a push before it.
    """

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        """Send messages and tell what became of them; those without an answer are to be handed in again.

        Raises `BrokerUnavailable` if it is unknown whether any was sent: the caller hands in the same messages until it returns.
        Where the broker allows it (`DispatcherStatistics.exactly_once`), a repeated message is not sent a second time.
        Raises `BrokerEmptied` if the broker has lost its mark, or its last pushes; then nothing was sent.
        """

    def guard(self, name: str, token: str, pushes: int = 0) -> None:
        """From now on publish only into a broker that has this token under this name, and so many pushes at least; see `mark`.

        Without effect but on Redis.
        """

    async def mark(self, name: str, token: str) -> None:
        """Leave a token in the broker. Raises `BrokerUnavailable`."""

    async def memory(self, name: str) -> BrokerMemory | None:
        """Return what the broker remembers under a name; None if it is of a kind that does not. Raises `BrokerUnavailable`."""

    def pushes(self) -> int:
        """Return how many pushes the broker has at least, by its own answers since `guard`."""

    async def note(self, name: str, turn: int, holder: str) -> None:
        """Have the broker remember how far the database is, and which process says so. Raises `BrokerUnavailable`."""

    async def cautions(self) -> Sequence[str]:
        """Return what about the broker's configuration weakens the promises; a line each. Raises `BrokerUnavailable`."""

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool = False) -> None:
        """Ask the workers that run now to drop these tasks, with ``terminate`` also what they execute.

        Raises `BrokerUnavailable`; missing it does no harm.
        """

    async def revoke_stamped(self, header: str, values: Sequence[str], *, terminate: bool = False) -> None:
        """Ask the workers that run now to drop all tasks whose messages carry one of these values, as `revoke` does.

        A worker never forgets a value, so one must not be used for tasks that are to run later: a workflow that somebody may
        retry is revoked by task ids. Raises `BrokerUnavailable`.
        """

    async def withdraw(self, tasks: Sequence[TaskPlace]) -> Sequence[str]:
        """Take messages back that no worker has fetched, and return the ids of their tasks: these will never run.

        A message that a worker has fetched is not delivered again. Where the broker allows neither (anywhere but on Redis),
        nothing is returned. Raises `BrokerUnavailable`; repeating it is harmless.
        """

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop what was kept against double sending; these workflows will publish no more.

        Raises `BrokerUnavailable`; missing it does no harm.
        """

    def queue_of(self, signature: Signature) -> str:
        """Return the name of the queue that a task goes to, empty if that cannot be told."""

    def knows(self, task: str) -> bool:
        """Tell whether this process has the task itself, and goes by its own app for what the submitting program's has said."""

    def refusal_of(self, signature: Signature) -> tuple[str, str]:
        """Return why a task's result could not be read here, and what to do; both empty if it can, or if nobody knows."""

    @property
    def looks_at_input(self) -> bool:
        """Whether it may depend on more than the signature where a message goes, since a router is code."""

    def destination_of(self, signature: Signature, given: bytes | None) -> str:
        """Return where a message goes, as text (`dyrygentd.core.destination`); empty if that cannot be told beforehand.

        Args:
            given: JSON text of the value before the arguments, None if there is none; read only if `looks_at_input`.
        """

    def backlog(self) -> int:
        """Return how many messages are before one that is published now, in whatever queue; 0 if that is not known.

        As long as there are some, the workers lack nothing if a message comes a little later.
        """

    def statistics(self) -> DispatcherStatistics:
        """Return an immutable snapshot."""

    async def close(self) -> None:
        """Close connections; safe to repeat."""


class Inspector(Protocol):
    """Finds out where task attempts are, for people who ask why nothing happens."""

    async def trace(self, tasks: Sequence[TaskPlace]) -> Inspection:
        """Look for these attempts in the broker, at the workers and in the result backend, within a few seconds.

        It never raises: what cannot be found out is None, with the reason among the problems. It changes nothing.
        """

    async def census(self) -> Inspection:
        """Ask the workers who there is and from which queues they take, and nothing else; no task is looked for.

        It never raises, as `trace`.
        """

    async def registered(self, task: str) -> Mapping[str, bool] | None:
        """Ask the workers whether they know a task: ``{worker: whether}`` of those that answered; None if nobody could be asked.

        It never raises.
        """

    async def task_names(self) -> Sequence[str]:
        """Return the names of all tasks that workers have who answer, sorted; none if nobody can be asked."""

    async def heard(self, *, listen_s: float) -> frozenset[str] | None:
        """Listen to the workers' heartbeats for so long and return who was heard; None if nobody could be listened to.

        It never raises. A worker may live and have been told to send none (``--without-heartbeat``).
        """

    async def close(self) -> None:
        """Let go of what is kept between two calls; safe to repeat."""


class ResultWatcher(Protocol):
    """Turns stored results into events. It may repeat itself; it must not miss a result of a watched task."""

    async def run(self, emit: Emit) -> None:
        """Work until cancelled, whatever happens to the backend."""

    def watch(self, task_ids: Sequence[str]) -> None:
        """Follow these tasks from now on; results that are there already are found as well."""

    def unwatch(self, task_ids: Sequence[str]) -> None:
        """Stop following these tasks."""

    async def find_stored(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """Look whether anything is stored of these tasks, watched or not: ``{task id: Celery's state}`` of those of which it is.

        It takes a few seconds at most. Raises `BackendUnavailable`.
        """

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, bool]:
        """Read now what is stored of watched tasks, tell it, and return whether it was the end, for those that have anything.

        What is not watched any more has ended. Raises `BackendUnavailable`.
        """

    def statistics(self) -> WatcherStatistics:
        """Return an immutable snapshot."""


class OutcomeKeeper(Protocol):
    """Stores how tasks ended that never ran, as Celery stores the results of those that did. Repeating it is harmless."""

    async def store(self, outcomes: Sequence[StoreOutcome]) -> int:
        """Store those of whose tasks nothing is stored but what was stored here; return how many.

        `ResultWatcher` takes no notice of what was stored here, so a task may still run under the id, and its result takes the
        place; only a success stays. Raises `BackendUnavailable`, then any part may have been stored.
        """

    async def close(self) -> None:
        """Let connections go; safe to repeat."""


class ReportReader(Protocol):
    """Turns what workers with `dyrygentd.worker.install` report into events. It may repeat itself."""

    def begin(self, identity: str, offset: str | None) -> None:
        """Name the database whose reports are read, and where to go on; called once, before anything else.

        Args:
            offset: What the last `ReportsRead` said that became durable.
        """

    def header(self) -> Mapping[str, Any] | None:
        """Return what our messages say under `REPORTS_HEADER`; None if there is no place for reports."""

    async def run(self, emit: Emit, post: Callable[[Event], None], is_in_flight: Callable[[str], bool]) -> None:
        """Work until cancelled, whatever happens to Redis.

        Args:
            emit: Takes what the reports tell.
            post: Takes `ReportsRead`, once what it covers was emitted.
            is_in_flight: Tells whether the end of a task would still change something.
        """

    def kept(self, offset: str) -> None:
        """Take note that everything up to here is durable, so that the stream may be trimmed."""

    def has_ended(self, task_id: str) -> bool:
        """Tell whether a worker has reported the end of a task whose result was not seen yet."""

    def statistics(self) -> ReportsStatistics:
        """Return an immutable snapshot."""


class Clock(Protocol):
    """What time it is, replaceable in tests and simulations. Waiting is the event loop's."""

    def now(self) -> float:
        """Return Unix time in seconds."""


@runtime_checkable
class SteadyClock(Clock, Protocol):
    """A clock that somebody may set, and what tells so. One without `steady` is taken for one that is never set."""

    def steady(self) -> float:
        """Return seconds from some time on, whatever is done to the clock."""
