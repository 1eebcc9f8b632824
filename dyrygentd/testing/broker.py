"""A broker without a server and its sides, for tests of programs that embed the `Scheduler`: no broker, no worker.

They keep the contracts of `dyrygentd.ports`: the same suite runs against them and against the real adapters.

Long because the broker makes its sides, and each of them knows the broker.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from dyrygentd.canvas import decode_value, encode_value
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import (
    MessagePublished,
    MessageRefused,
    TaskEvent,
    TaskFailed,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
)
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.unrun import StoreOutcome, Told
from dyrygentd.errors import BackendUnavailable, BadRequest, BrokerEmptied, BrokerUnavailable, Fenced
from dyrygentd.ports import Emit
from dyrygentd.ports.facts import (
    WORKFLOW_STAMP,
    BrokerMemory,
    DispatcherStatistics,
    Inspection,
    QueueFacts,
    TaskFacts,
    TaskPlace,
    Term,
    WatcherStatistics,
)


class FakeBroker:
    """A broker with workers behind it; tasks are plain functions that run as soon as they are published.

    Hand ``broker.dispatcher``, ``broker.watcher``, ``broker.inspector`` and ``broker.keeper`` to the `Scheduler`.

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
        self.place = "fake://broker"
        self.published: list[Publish] = []
        self.queued: dict[str, Publish] = {}
        self.revoked: list[str] = []
        self.terminated: list[str] = []
        self.withdrawn: list[str] = []
        self.forgotten: list[str] = []
        self.marks: dict[str, str] = {}
        self.ledgers: dict[str, BrokerMemory] = {}
        self.memory = 0
        self.results: dict[str, TaskEvent] = {}
        self.dispatcher = FakeDispatcher(self)
        self.watcher = FakeWatcher(self)
        self.inspector = FakeInspector(self)
        self.keeper = FakeKeeper(self)
        self._held: dict[str, TaskEvent] = {}

    def __repr__(self) -> str:
        return f"<FakeBroker queued={len(self.queued)} results={len(self.results)} broken='{self.broken}'>"

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
        self.ledgers.clear()
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
        args: Any = decode_value(message.signature.args)
        kwargs: Any = decode_value(message.signature.kwargs)
        if message.input is not None:
            args.insert(0, decode_value(bytes(message.input)))
        try:
            value = None if function is None else function(*args, **kwargs)
        except Exception as error:
            exception = type(error).__name__
            return TaskFailed(message.task_id, f"{exception}: {error}", exception)
        try:
            return TaskSucceeded(message.task_id, stored_value(value))
        except BadRequest as error:
            return TaskSucceeded(message.task_id, None, value_error=error.message)


def stored_value(value: object) -> bytes:
    """Write a value as a worker does, which lets NaN through."""
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError):
        return encode_value(value)


class FakeDispatcher:
    """The sending side of a `FakeBroker`; a repeated message is not executed again."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._known: set[str] = set()
        self._memory = 0
        self._guard: tuple[str, str] | None = None
        self._term: tuple[str, Term] | None = None
        self._pushes = 0
        self._repeated = self._refused = self._failures = 0

    def __repr__(self) -> str:
        return f"<FakeDispatcher pushes={self._pushes} repeated={self._repeated} refused={self._refused}>"

    def guard(self, name: str, token: str, pushes: int = 0) -> None:
        """From now on publish only into a broker that has this token, and so many pushes at least."""
        self._guard, self._pushes = (name, token), pushes

    async def mark(self, name: str, token: str) -> None:
        """Leave a token in the broker."""
        self._raise_if_broken()
        self._broker.marks[name] = token

    async def memory(self, name: str) -> BrokerMemory | None:
        """Return what the broker remembers."""
        if self._broker.broken:
            raise BrokerUnavailable(self._broker.broken)
        token = self._broker.marks.get(name, "")
        return replace(self._broker.ledgers.get(name, BrokerMemory()), token=token, place=self._broker.place)

    async def raise_term(self, name: str, term: Term) -> None:
        """Have the broker know who holds a database."""
        self._term = name, term
        self._raise_if_broken()
        self._broker.ledgers[name] = replace(self._broker.ledgers.get(name, BrokerMemory()), term=term)

    def pushes(self) -> int:
        """Return how many pushes the broker has at least."""
        return self._pushes

    async def note(self, name: str, turn: int, holder: str) -> None:
        """Have the broker remember how far the database is."""
        self._raise_if_broken()
        self._broker.ledgers[name] = replace(self._broker.ledgers.get(name, BrokerMemory()), turn=turn, holder=holder)

    async def cautions(self) -> Sequence[str]:
        """Return nothing: this broker keeps what it has."""
        return []

    def backlog(self) -> int:
        """Return how many messages no worker has fetched."""
        return len(self._broker.queued)

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        """Run each task that was not published before; refuse one whose arguments cannot be read."""
        guard = self._guard
        await anyio.lowlevel.checkpoint()
        if self._broker.broken:
            self._failures += 1
        self._raise_if_broken()
        if guard is not None and self._broker.marks.get(guard[0]) != guard[1]:
            raise BrokerEmptied("the broker has lost its memory")
        if guard is not None and self._broker.ledgers.get(guard[0], BrokerMemory()).pushes < self._pushes:
            raise BrokerEmptied("the broker has lost its last pushes")
        if self._broker.memory != self._memory:
            self._known.clear()
            self._memory = self._broker.memory
        return [self._publish(message) for message in messages]

    def _publish(self, message: Publish) -> MessagePublished | MessageRefused:
        if message.task_id in self._known:
            self._repeated += 1
            return MessagePublished(message.task_id)
        try:
            decode_value(message.signature.args), decode_value(message.signature.kwargs)
        except BadRequest as error:
            self._refused += 1
            return MessageRefused(message.task_id, f"the arguments cannot be read: {error.message}")
        self._known.add(message.task_id)
        if self._guard is not None:
            ledger = self._broker.ledgers.get(self._guard[0], BrokerMemory())
            self._pushes = ledger.pushes + 1
            self._broker.ledgers[self._guard[0]] = replace(ledger, pushes=self._pushes)
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
        """Raise if nothing may be changed in the broker."""
        if self._broker.broken:
            raise BrokerUnavailable(self._broker.broken)
        if self._term is not None:
            name, own = self._term
            known = self._broker.ledgers.get(name, BrokerMemory()).term
            if known is not None and known != own and known.number >= own.number:
                raise Fenced(own.number, known.number, known.holder.words)

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Note which workflows will publish no more."""
        self._raise_if_broken()
        self._broker.forgotten.extend(workflow_ids)

    def queue_of(self, signature: Signature) -> str:
        """Return the queue that the options name, else ``celery``."""
        return str(json.loads(signature.options).get("queue", "celery"))

    def knows(self, task: str) -> bool:
        """Know no task."""
        return False

    def refusal_of(self, signature: Signature) -> tuple[str, str]:
        """Read everything."""
        return "", ""

    @property
    def looks_at_input(self) -> bool:
        """Tell that the options alone decide where a task goes."""
        return False

    def destination_of(self, signature: Signature, given: bytes | None) -> str:
        """Return the queue, which is all that there is here."""
        return self.queue_of(signature)

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

    def __repr__(self) -> str:
        return f"<FakeInspector {self._broker!r}>"

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
        consumed = {"celery": workers} if workers else {}
        count = len(workers)
        return Inspection(facts, {"celery": queue}, workers=workers, listening=count, connected=count, consumed=consumed)

    async def census(self) -> Inspection:
        """Tell of the worker, if there is one."""
        await anyio.lowlevel.checkpoint()
        if self._broker.broken:
            return Inspection(problems=[f"the broker cannot be asked: {self._broker.broken}"])
        workers = ["fake@worker"] if self._broker.has_worker else []
        return Inspection(workers=workers, listening=len(workers), consumed={"celery": workers} if workers else {})

    async def registered(self, task: str) -> Mapping[str, bool] | None:
        """Tell that the worker knows all tasks, if there is one."""
        await anyio.lowlevel.checkpoint()
        return None if self._broker.broken else dict.fromkeys(["fake@worker"] if self._broker.has_worker else [], True)

    async def task_names(self) -> Sequence[str]:
        """Tell the tasks of the broker's worker."""
        await anyio.lowlevel.checkpoint()
        return sorted(self._broker.tasks) if self._broker.has_worker and not self._broker.broken else ()

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

    def __repr__(self) -> str:
        return f"<FakeWatcher watched={len(self._watched)} pushed={self._pushed}>"

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

    async def find_stored(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """Look whether anything is stored of these tasks."""
        await anyio.lowlevel.checkpoint()
        results = self._broker.results
        return {task_id: _STATE_OF.get(type(results[task_id]), "SUCCESS") for task_id in task_ids if task_id in results}

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, bool]:
        """Deliver what is stored now, and tell what is."""
        if self._broker.broken:
            raise BackendUnavailable(self._broker.broken)
        found = {task_id: self._broker.results[task_id] for task_id in task_ids if task_id in self._broker.results}
        self.deliver(list(found.values()))
        return {task_id: not isinstance(event, TaskReported) for task_id, event in found.items()}

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


_STATE_OF: Mapping[type[TaskEvent], str] = {TaskFailed: "FAILURE", TaskRevoked: "REVOKED", TaskReported: "STARTED"}


class FakeKeeper:
    """Where a `FakeBroker` is told how tasks ended that never ran. Set ``broken`` to make it refuse.

    Attributes:
        told: ``{task id: outcome}``, of those of which no worker has stored a result.
    """

    def __init__(self, broker: FakeBroker) -> None:
        self.broken = ""
        self._broker = broker
        self._told: dict[str, StoreOutcome] = {}

    @property
    def told(self) -> Mapping[str, StoreOutcome]:
        """Return what was told and holds: a worker's result takes the place of it."""
        return {task_id: outcome for task_id, outcome in self._told.items() if task_id not in self._broker.results}

    async def store(self, outcomes: Sequence[StoreOutcome]) -> int:
        """Store outcomes; what a worker has stored, and a success, stays."""
        await anyio.lowlevel.checkpoint()
        if self.broken:
            raise BackendUnavailable(self.broken)
        count = 0
        for outcome in outcomes:
            known = self._told.get(outcome.task_id)
            if outcome.task_id not in self._broker.results and (known is None or known.told is not Told.SUCCESS):
                self._told[outcome.task_id] = outcome
                count += 1
        return count

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""
