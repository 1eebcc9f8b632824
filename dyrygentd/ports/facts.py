"""What ports tell and are told: plain data, beside the names under which things are kept outside.

Snapshots of statistics, rows of the store, and what can be found out of queues, tasks and workers.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from dyrygentd.core.absence import Absence
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.records import NodeRecord, WorkflowRecord
from dyrygentd.core.tally import Tally
from dyrygentd.core.user import User

#: Every message carries the workflow's id under this name, so that one broadcast can revoke a whole workflow.
WORKFLOW_STAMP: Final = "dyrygentd_workflow"

#: Under this header each message says where `dyrygentd.worker` reports what becomes of the task: ``{"stream": key, "in":
#: place}``, the place being ``backend`` or ``broker``. Messages that a worker sends in its stead (`Task.replace`) have ``of``
#: besides: the id of the task that is reported.
REPORTS_HEADER: Final = "dyrygentd_reports"
#: What the same header says, also where nothing is reported: how many bytes the definition may have that a task adds.
ADDITION_BYTES_MAX: Final = 16 * 1024 * 1024
WITHOUT_REPORTS: Final[Mapping[str, Any]] = {"adds": ADDITION_BYTES_MAX}

#: The name under which a store remembers how far the reports were read.
REPORTS_NOTE: Final = "reports"
#: When each series succeeded last.
SERIES_NOTE: Final = "series"
#: When the database was found to be older than what was done with it, and why.
SETBACK_NOTE: Final = "setback"
#: That the next process may take the database over although the broker knows of a later term; empty if it may not.
CLAIM_NOTE: Final = "claim"
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
        owner: Only workflows that this user has submitted.
        before: Cursor: only workflows stored before this one (`Listed.cursor` of the last row of the previous page).
        since, until: Only workflows created in this time.
        ended_since: Only workflows that have finished at this time or later.
        by_end: Those that have finished last come first; for the first page of those with an `ended_since`.
        parent_task: Only workflows that were submitted in the task of this id.
        parent: Only those whose parent this is, which is the id of a workflow.
        with_children: Those that have a parent, too, and not only those that somebody submitted.
        series: Only runs of series of this name, whosesoever.
    """

    states: frozenset[str] = frozenset()
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: User | None = None
    before: int | None = None
    limit: int = 50
    since: float | None = None
    until: float | None = None
    ended_since: float | None = None
    parent_task: str | None = None
    by_end: bool = False
    parent: str | None = None
    with_children: bool = False
    series: str | None = None


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
class Holder:
    """A process that takes a database over.

    Attributes:
        since: Unix time at which it does, in whole milliseconds, so that it is the same wherever it is kept.
    """

    host: str
    pid: int
    since: float

    @classmethod
    def here(cls, since: float) -> "Holder":
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), round(since, 3))

    @property
    def words(self) -> str:
        """Return it for people."""
        return f"process {self.pid} on '{self.host}' since {datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M:%S} UTC"

    @property
    def text(self) -> str:
        """Return it as one line, for where it is kept outside; `of` reads it."""
        return f"{self.pid} {self.since:.3f} {self.host}"

    @classmethod
    def of(cls, text: str) -> "Holder | None":
        """Read what `text` has written; None if that is empty."""
        if not text:
            return None
        pid, since, host = text.split(" ", 2)
        return cls(host, int(pid), float(since))


@dataclass(frozen=True, slots=True)
class Term:
    """How many times a database was taken over, and by whom last. Of two processes with copies of one the higher term counts."""

    number: int
    holder: Holder

    @property
    def text(self) -> str:
        """Return it as one line, for where it is kept outside; `of` reads it."""
        return f"{self.number} {self.holder.text}"

    @classmethod
    def of(cls, text: str) -> "Term | None":
        """Read what `text` has written; None if that is empty."""
        if not text:
            return None
        number, _, holder = text.partition(" ")
        by = Holder.of(holder)
        assert by is not None
        return cls(int(number), by)


@dataclass(frozen=True, slots=True)
class BrokerMemory:
    """What a broker remembers of a database. Each remembers the other, so that one that went back is noticed.

    Attributes:
        token: What was left there; empty if there is nothing.
        pushes: Messages that were pushed for it.
        turn: How far the database was when it was told last.
        holder: The process that told it; empty if none has.
        place: Where the broker is, without user and password; empty if that is not known.
        term: The highest term of the database that it was told; None if it was told of none.
    """

    token: str = ""
    pushes: int = 0
    turn: int = 0
    holder: str = ""
    place: str = ""
    term: Term | None = None


@dataclass(frozen=True, slots=True)
class Namesake:
    """Another machine that calls itself as this one does, beside the same database.

    Attributes:
        words: Its process, for people.
        seen_at: When it was seen last, by the database's clock.
        is_earlier: Whether it had the name before this one.
    """

    machine: str
    words: str
    seen_at: float
    is_earlier: bool


@dataclass(frozen=True, slots=True)
class LeaseView:
    """Who leads, as the database tells it.

    Attributes:
        holder: The process that leads, or led last; None if nobody ever has.
        term: Of the process that has taken the database over last; it follows the holder a moment later.
        left_s: For how long the lease holds, by the database's clock; negative: for how long it has been over. Of one that was
            resigned it is minus infinity.
        standbys: How many processes wait for it, as far as they were seen lately.
        is_ours: Whether who leads, or led last, is who looks: the very process, which a host and a process id do not tell.
    """

    holder: Holder | None
    term: int
    left_s: float
    standbys: int = 0
    is_ours: bool = False

    @property
    def is_held(self) -> bool:
        """Whether somebody leads."""
        return self.left_s > 0
