"""What the scheduler needs from the world: the interfaces that the adapters and the shipped fakes implement.

What they tell is in `dyrygentd.ports.facts`. One contract suite per port (``tests/contracts``) runs against every implementation.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import Event, MessagePublished, MessageRefused, TaskEvent
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.unrun import StoreOutcome
from dyrygentd.core.user import User
from dyrygentd.errors import Fenced
from dyrygentd.ports.facts import (
    BrokerMemory,
    DispatcherStatistics,
    Holder,
    Inspection,
    LeaseView,
    Listed,
    Namesake,
    ReportsStatistics,
    Retention,
    Selection,
    Stored,
    StoreStatistics,
    TaskPlace,
    Term,
    WatcherStatistics,
)
from dyrygentd.ports.mailbox import Mailbox

Emit = Callable[[Sequence[TaskEvent]], None]


class Store(Protocol):
    """Durable checkpoints. One writer: `open` fails if another process has the database; or, where several may have it open,
    all that writes (`save`, `remember`, `expire`) raises `Fenced` once another process has taken it over, and writes nothing.
    """

    @property
    def identity(self) -> str:
        """Return what tells this database from every other one; it is the same after each `open`."""

    @property
    def setback(self) -> str:
        """Return why the database is older than what was done with it, as far as it can tell by itself; empty if it is not."""

    @property
    def lease(self) -> "Lease | None":
        """Return what decides who has the database, if several processes may wait for it; None if a lock of its file does.

        It is there, and can be asked and taken, before `open`; who opens without having taken it takes it so.
        """

    @property
    def mailbox(self) -> Mailbox | None:
        """Return where processes that do not lead leave letters; None where there are none, as the database is one process's."""

    async def open(self) -> None:
        """Lock, open, and create or migrate. Raises `StoreLocked`, `StoreIncompatible` or `StoreUnavailable`."""

    async def term(self) -> Term | None:
        """Return who has taken the database over last, None if nobody ever has. Raises `StoreUnavailable`."""

    async def raise_term(self, holder: Holder, *, above: int = 0) -> Term:
        """Raise the term, and have this process hold it; nothing is saved before. It is durable when this returns.

        Args:
            above: The new number is higher than this one, too: the broker knows of it.

        Returns:
            What `term` returns from now on, also to every other process; the number has risen, by one if ``above`` is lower.

        Raises `StoreUnavailable`, then nothing was raised.
        """

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
        """Return the ids that fit: the exact id alone, else ids with this prefix and workflows with this name, newest first.

        A name finds none that has a parent: a map may have thousands of one name.
        """

    async def find_key(self, key: str, owner: User | None = None) -> str | None:
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

        Their children are deleted with them, and not before; those that have a child which runs stay. Neither counts.
        Raises `StoreUnavailable`, then none is deleted.
        """

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot."""

    async def close(self) -> None:
        """Close and unlock; safe to repeat."""


class Lease(Protocol):
    """Who leads: for a time, by the database's clock, which is prolonged as long as the leader is there.

    It chooses the leader, and is not trusted with more: whoever has taken it is told apart from every earlier one by the database
    in each transaction, which refuses (`Fenced`) what an earlier one sends, however late.
    """

    @property
    def ttl_s(self) -> float:
        """For how long it holds after it was taken or renewed."""

    async def take(self, holder: Holder) -> bool:
        """Take it if it is free, over, or this process's own; tell whether that was done. Raises `StoreUnavailable`.

        From then on nothing of the process that had it before is kept.
        """

    async def renew(self) -> None:
        """Prolong it, also if it was over and nobody else has taken it.

        Raises:
            Fenced: Another process has taken it.
            StoreUnavailable: It is not known to be prolonged.
        """

    async def resign(self) -> None:
        """Let it go at once, and wake those who wait; safe to repeat. If it is another's, or nobody answers, nothing is done."""

    def lose(self, error: Fenced) -> None:
        """Hear that another process has it, from elsewhere than the database: what waits for that is told so, now and later."""

    async def view(self) -> LeaseView:
        """Return who leads. Raises `StoreUnavailable`."""

    async def wait(self, timeout_s: float) -> None:
        """Stand by: return after so long, or earlier when told that it may be free. Raises `StoreUnavailable`."""

    async def namesakes(self, name: str, machine: str, holder: Holder) -> Sequence[Namesake]:
        """Note what this machine is called; return others of the name that were seen lately. Raises `StoreUnavailable`."""


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

    async def raise_term(self, name: str, term: Term) -> None:
        """Have the broker know who holds a database: from now on it takes nothing of an older term, in the same breath.

        From then on all that changes the broker (`publish`, `mark`, `note`, `revoke`, `revoke_stamped`, `withdraw`, `forget`)
        and this raise `Fenced`, and change nothing, if it knows of a higher term than the one that was given here, or of the same
        number and another holder. A broker that has lost the term is told again. Only on Redis; elsewhere nothing is kept, and
        nobody is kept out. Raises `BrokerUnavailable`.
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
        """Stop following these tasks; harmless for one that is not followed.

        A watcher lets go by itself of a task whose end it has told and nothing can correct. This is for all others: their end was
        seen elsewhere, or nobody waits for it any more.
        """

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


@runtime_checkable
class GatheringWatcher(ResultWatcher, Protocol):
    """A watcher that gathers what arrives before it reads and emits it. What one without this emits is gathered by the inbox."""

    def gather(self, pause_s: Callable[[int], float]) -> None:
        """From now on wait between two looks at what has arrived; called once, before `run`.

        Args:
            pause_s: Tells for how many seconds the next results may be gathered after so many; 0 if somebody waits for them.
        """


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
        """Return what our messages say under `facts.REPORTS_HEADER`; the same object as long as that is the same."""

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
