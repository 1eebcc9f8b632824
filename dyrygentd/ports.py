"""What the scheduler needs from the world: the interfaces that the adapters and the shipped fakes implement.

One contract suite per port (``tests/contracts``) runs against every implementation.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dyrygentd.core.checkpoint import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused, TaskEvent

Emit = Callable[[Sequence[TaskEvent]], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """A workflow as it was read from the store; ``record.document`` is set."""

    record: WorkflowRecord
    nodes: list[NodeRecord]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which workflows a listing wants, newest first.

    Attributes:
        before: Cursor: only workflows stored before this one (`Listed.cursor` of the last row of the previous page).
    """

    states: frozenset[str] = frozenset()
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    before: int | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of a listing; its record has no document."""

    cursor: int
    record: WorkflowRecord


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """A snapshot of the store."""

    commits: int = 0
    rows: int = 0
    commit_seconds: float = 0.0
    failures: int = 0
    database_bytes: int = 0
    wal_bytes: int = 0


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
    """

    watched: int = 0
    connected: bool = False
    problem: str = ""
    connections: int = 0
    pushed: int = 0
    read: int = 0
    swept: int = 0
    undecodable: int = 0


class Store(Protocol):
    """Durable checkpoints. One writer; `open` fails if another process has the database."""

    async def open(self) -> None:
        """Lock, open, and create or migrate. Raises `StoreLocked`, `StoreIncompatible` or `StoreUnavailable`."""

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Write all records in one transaction and return when they are durable.

        A workflow that had finished may come again, running; a record of one that is not kept any more is dropped.
        Raises `StoreUnavailable`; then none is written.
        """

    def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished, oldest first."""

    async def load(self, workflow_id: str) -> Stored | None:
        """Read one workflow, whatever its state."""

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself, without its definition and nodes; cheap, whatever its size."""

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return the ids that fit: the exact id alone, else ids with this prefix and workflows with this name, newest first."""

    async def find_key(self, key: str) -> str | None:
        """Return the id of the workflow that was submitted with this key."""

    async def list(self, selection: Selection) -> Sequence[Listed]:
        """List workflows, newest first."""

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done to a workflow, oldest first; the newest 1000 entries are kept."""

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot."""

    async def close(self) -> None:
        """Close and unlock; safe to repeat."""


class Dispatcher(Protocol):
    """Sends messages to the broker."""

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        """Send messages and tell what became of them; those without an answer are to be handed in again.

        Raises `BrokerUnavailable` if it is unknown whether any was sent: the caller hands in the same messages until it returns.
        Where the broker allows it (`DispatcherStatistics.exactly_once`), a repeated message is not sent a second time.
        """

    async def revoke(self, task_ids: Sequence[str]) -> None:
        """Ask the workers to drop these tasks. Raises `BrokerUnavailable`; missing it does no harm."""

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop what was kept against double sending; these workflows will publish no more.

        Raises `BrokerUnavailable`; missing it does no harm.
        """

    def statistics(self) -> DispatcherStatistics:
        """Return an immutable snapshot."""

    async def close(self) -> None:
        """Close connections; safe to repeat."""


class ResultWatcher(Protocol):
    """Turns stored results into events. It may repeat itself; it must not miss a result of a watched task."""

    async def run(self, emit: Emit) -> None:
        """Work until cancelled, whatever happens to the backend."""

    def watch(self, task_ids: Sequence[str]) -> None:
        """Follow these tasks from now on; results that are there already are found as well."""

    def unwatch(self, task_ids: Sequence[str]) -> None:
        """Stop following these tasks."""

    def statistics(self) -> WatcherStatistics:
        """Return an immutable snapshot."""


class Clock(Protocol):
    """What time it is, replaceable in tests and simulations. Waiting is the event loop's."""

    def now(self) -> float:
        """Return Unix time in seconds."""
