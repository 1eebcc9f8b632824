"""What outlives the scheduler's process: a disk, a broker with its result backend, and workers; all of them may fail.

Time is the virtual loop's, chance the seed's. Everything that happens is a line of the story.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Protocol, TypeVar

import anyio
import anyio.abc

from dyrygentd.core.additions import Addition, Adds
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import (
    MessagePublished,
    MessageRefused,
    TaskEvent,
    TaskFailed,
    TaskIgnored,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
)
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.errors import BackendUnavailable, BrokerEmptied, BrokerUnavailable, Fenced
from dyrygentd.ports import Emit
from dyrygentd.ports.facts import (
    BrokerMemory,
    DispatcherStatistics,
    Inspection,
    QueueFacts,
    TaskFacts,
    TaskPlace,
    Term,
    WatcherStatistics,
)
from dyrygentd.testing import MemoryStore

#: After so long the broker gives a reserved message to another worker: longer than any task takes, as it has to be set, because
#: a task that is delivered again while it runs is delivered for ever (kombu#337).
VISIBILITY_S = 100.0
#: How long markers are kept of a workflow that has ended.
MARKERS_KEPT_S = 600.0

T = TypeVar("T")


class Crash(BaseException):
    """The scheduler's process is gone."""


class BrokenPromise(BaseException):
    """The scheduler did what it must not; nothing on the way may take it for an outage."""


class Story:
    """What happened, with the virtual time of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        """Add a line."""
        self.lines.append(f"{anyio.current_time():10.3f}  {text}")

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Fuse:
    """Ends the process when it is passed for the n-th time."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self.left: int | None = None

    def __call__(self, point: str) -> None:
        """Pass a point."""
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            self._story.tell(f"CRASH {point}")
            raise Crash(point)


class Disk(MemoryStore):
    """A store whose disk may be slow or refuse; what it has taken is durable."""

    def __init__(self, chance: Random, story: Story, fuse: Fuse) -> None:
        super().__init__()
        self._identity = f"{chance.getrandbits(64):x}"
        self._chance = chance
        self._story = story
        self._fuse = fuse
        self.slow_s = 0.0

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Save, slowly if told so; the process may end before and after."""
        self._fuse("before a save")
        workflows, nodes, journal = list(workflows), list(nodes), list(journal)
        if self.slow_s:
            await anyio.sleep(self._chance.uniform(0, self.slow_s))
        await super().save(workflows, nodes, journal)
        self._fuse("after a save")

    def node_of(self, workflow_id: str, node: int) -> NodeRecord | None:
        """Return what is durable of a node."""
        return self._nodes.get(workflow_id, {}).get(node)

    def has(self, workflow_id: str) -> bool:
        """Tell whether a workflow is durable."""
        return workflow_id in self._workflows

    def journal_of(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what is durable of a journal."""
        return self._journal.get(workflow_id, ())


class Rows(Protocol):
    """What is durable."""

    def node_of(self, workflow_id: str, node: int) -> NodeRecord | None:
        """Return what is durable of a node."""


@dataclass
class Message:
    """A message in the broker or at a worker."""

    publish: Publish
    reserved_at: float = 0.0
    worker: str = ""

    @property
    def task_id(self) -> str:
        """Return whose it is."""
        return self.publish.task_id


@dataclass(frozen=True)
class Behaviour:
    """What a task does in one attempt, fixed by the seed; ``added``: the definition that it adds, packed."""

    duration_s: float
    event: str
    value: bytes = b"null"
    acks_late: bool = False
    added: bytes = b""


@dataclass
class Broker:
    """Queues, reservations, markers and results of one server."""

    chance: Random
    story: Story
    fuse: Callable[[str], None]
    disk: Rows
    behave: Callable[[Publish], Behaviour]
    problem: str = ""
    cuts: int = 0
    drops_notifications: float = 0.0
    queue: deque[Message] = field(default_factory=deque)
    unacked: dict[str, Message] = field(default_factory=dict)
    markers: dict[tuple[str, int], int] = field(default_factory=dict)
    over_at: dict[str, float] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    ledgers: dict[str, BrokerMemory] = field(default_factory=dict)
    results: dict[str, TaskEvent] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    pushes: Counter[str] = field(default_factory=Counter)
    executions: Counter[str] = field(default_factory=Counter)
    revoked: set[str] = field(default_factory=set)
    sent: dict[str, Publish] = field(default_factory=dict)
    workers: dict[str, "Worker"] = field(default_factory=dict)
    watcher: "Watcher | None" = None
    memory: int = 0
    is_left_alone: Callable[[str], bool] = lambda _: False
    check_sending: Callable[[Publish], None] = lambda _: None
    arrived: anyio.Event = field(default_factory=anyio.Event)

    def push(self, publish: Publish) -> None:
        """Take a message, once for each attempt of a node, and none after a later one."""
        place = (publish.workflow_id, publish.node)
        if self.over_at.get(publish.workflow_id, math.inf) <= anyio.current_time():
            self.markers = {other: attempt for other, attempt in self.markers.items() if other[0] != publish.workflow_id}
        if publish.attempt <= self.markers.get(place, 0):
            return
        self.markers[place] = publish.attempt
        self.over_at.pop(publish.workflow_id, None)
        self._check_order(publish)
        self.pushes[publish.task_id] += 1
        if self.pushes[publish.task_id] > 1:
            raise BrokenPromise(f"P3: {publish.task_id} was pushed twice")
        self.sent[publish.task_id] = publish
        self.queue.append(Message(publish))
        self.story.tell(f"push {publish.task_id}")
        self.wake()

    def _check_order(self, publish: Publish) -> None:
        """Check P2 at the moment of the push: the intent is durable, and so are the ends of what it depends on."""
        row = self.disk.node_of(publish.workflow_id, publish.node)
        self._check_that_the_one_before_is_gone(publish)
        self.check_sending(publish)
        if row is None or row.attempt < publish.attempt or (row.attempt == publish.attempt and row.state == "ready"):
            raise BrokenPromise(f"P2: {publish.task_id} was pushed, on disk is {row}")

    def _check_that_the_one_before_is_gone(self, publish: Publish) -> None:
        """Check that nobody was taken for lost who was still there, unless a person or a timeout wanted that."""
        earlier = [
            other.task_id
            for other in self.sent.values()
            if (other.workflow_id, other.node) == (publish.workflow_id, publish.node)
            and other.attempt < publish.attempt
            and other.task_id not in self.results
        ]
        there = {message.task_id for message in self.queue} | self.unacked.keys()
        there |= {task_id for worker in self.workers.values() for task_id in worker.has}
        if there & set(earlier) and self.is_left_alone(publish.workflow_id) and not self.memory:
            raise BrokenPromise(f"{publish.task_id} is sent although {sorted(there & set(earlier))} is still there")

    def wake(self) -> None:
        """Have everybody look into the queue."""
        self.arrived.set()
        self.arrived = anyio.Event()

    def store(self, task_id: str, event: TaskEvent) -> None:
        """Store a result, as Celery's backend does: a success is never overwritten."""
        if isinstance(self.results.get(task_id), TaskSucceeded):
            return
        self.results[task_id] = event
        self.story.tell(f"result {_short(event)}")
        if self.watcher is not None:
            self.watcher.published(event)

    def redeliver(self, now: float) -> None:
        """Put messages back whose workers have kept them for too long, or have gone with them."""
        for message in list(self.unacked.values()):
            if now - message.reserved_at >= VISIBILITY_S:
                del self.unacked[message.task_id]
                self.queue.append(message)
                self.story.tell(f"redeliver {message.task_id}")
                self.wake()

    def forget_everything(self) -> None:
        """Lose all data, as a server does that is restarted without them; workers keep what they have fetched."""
        self.story.tell("the broker loses its memory")
        self.memory += 1
        for store in (self.queue, self.unacked, self.markers, self.over_at, self.marks, self.ledgers, self.results):
            store.clear()

    def raise_if_away(self) -> None:
        """Raise if the server cannot be reached."""
        if self.problem:
            raise BrokerUnavailable(self.problem)


class Worker:
    """A worker of one process: fetches two messages ahead, acknowledges early or late, and may be killed at any time."""

    def __init__(self, name: str, broker: Broker) -> None:
        self.name = name
        self.is_silent = False
        self._broker = broker
        self._scope = anyio.CancelScope()
        self._execution = anyio.CancelScope()
        self.has: dict[str, str] = {}

    async def run(self) -> None:
        """Work until killed."""
        broker = self._broker
        broker.workers[self.name] = self
        broker.story.tell(f"{self.name} starts")
        with self._scope:
            while True:
                while not broker.queue or broker.problem:
                    arrived = broker.arrived
                    with anyio.move_on_after(1.0 if broker.problem else None):
                        await arrived.wait()
                message = broker.queue.popleft()
                message.reserved_at, message.worker = anyio.current_time(), self.name
                broker.unacked[message.task_id] = message
                self.has[message.task_id] = "reserved"
                self._execution = anyio.CancelScope()
                with self._execution:
                    await self._execute(message)

    async def _execute(self, message: Message) -> None:
        broker, publish, task_id = self._broker, message.publish, message.task_id
        await anyio.sleep(broker.chance.uniform(0.0, 0.05))
        behaviour = broker.behave(publish)
        if task_id in broker.revoked:
            broker.unacked.pop(task_id, None)
            del self.has[task_id]
            broker.store(task_id, TaskRevoked(task_id, "revoked"))
            return
        if not behaviour.acks_late:
            broker.unacked.pop(task_id, None)
        self.has[task_id] = "active"
        broker.executions[task_id] += 1
        broker.story.tell(f"{self.name} executes {task_id}")
        await anyio.sleep(behaviour.duration_s)
        while broker.problem:  # noqa: ASYNC110 - as a client that connects again and again
            await anyio.sleep(0.5)
        event = _event_of(task_id, behaviour, publish)
        if event is not None:
            broker.store(task_id, event)
        broker.unacked.pop(task_id, None)
        del self.has[task_id]

    def kill(self) -> None:
        """End it: what it had acknowledged is lost, the rest stays reserved."""
        self._broker.story.tell(f"{self.name} is killed with {self.has}")
        self._broker.workers.pop(self.name, None)
        self._scope.cancel()

    def terminate(self, task_id: str) -> None:
        """Be told to end a task."""
        if self.has.get(task_id) == "active":
            self._broker.unacked.pop(task_id, None)
            del self.has[task_id]
            self._execution.cancel()
            self._broker.store(task_id, TaskRevoked(task_id, "terminated"))


def _event_of(task_id: str, behaviour: Behaviour, publish: Publish) -> TaskEvent | None:
    match behaviour.event:
        case "succeeded":
            value = behaviour.value
            if value == b"input":
                value = bytes(publish.input) if publish.input is not None else b'"none"'
            added = Addition(Adds.BESIDE, behaviour.added) if behaviour.added else None
            return TaskSucceeded(task_id, value, added=added)
        case "failed":
            return TaskFailed(task_id, "ValueError: boom", "ValueError")
        case "ignored":
            return TaskIgnored(task_id, "Ignore")
    return None


def _short(event: TaskEvent) -> str:
    return f"{type(event).__name__} {event.task_id}"


class Dispatcher:
    """The scheduler's way to the broker; answers may be cut. One call after the other, as over one connection."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._one_at_a_time = anyio.Lock()
        self._guard: tuple[str, str] | None = None
        self._term: tuple[str, Term] | None = None
        self._pushes = 0

    async def raise_term(self, name: str, term: Term) -> None:
        """Have the broker know who holds a database."""
        self._term = name, term
        await self._ask("a term at the broker", lambda: self._write(name, term=term))

    def _write(self, name: str, **changes: Any) -> None:
        self._refuse_if_fenced()
        self._broker.ledgers[name] = replace(self._broker.ledgers.get(name, BrokerMemory()), **changes)

    def _refuse_if_fenced(self) -> None:
        if self._term is not None:
            name, own = self._term
            known = self._broker.ledgers.get(name, BrokerMemory()).term
            if known is not None and known != own and known.number >= own.number:
                raise Fenced(own.number, known.number, known.holder.words)

    def guard(self, name: str, token: str, pushes: int = 0) -> None:
        """Publish only into a broker with this token and so many pushes."""
        self._guard, self._pushes = (name, token), pushes

    async def mark(self, name: str, token: str) -> None:
        """Leave a token."""
        await self._ask("a mark", lambda: self._mark(name, token))

    def _mark(self, name: str, token: str) -> None:
        self._refuse_if_fenced()
        self._broker.marks[name] = token

    async def memory(self, name: str) -> BrokerMemory | None:
        """Return what the broker remembers."""
        return await self._ask("a look at the broker", lambda: self._memory(name))

    def _memory(self, name: str) -> BrokerMemory:
        return replace(self._broker.ledgers.get(name, BrokerMemory()), token=self._broker.marks.get(name, ""))

    def pushes(self) -> int:
        """Return how many pushes the broker has at least."""
        return self._pushes

    async def note(self, name: str, turn: int, holder: str) -> None:
        """Have the broker remember something."""
        await self._ask("a note at the broker", lambda: self._write(name, turn=turn, holder=holder))

    def backlog(self) -> int:
        """Make much of few messages, so that results do wait for company."""
        return 10 * len(self._broker.queue)

    async def cautions(self) -> Sequence[str]:
        """Return nothing."""
        return []

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        """Push all, in one script; the answer may not come."""
        guard = self._guard
        async with self._one_at_a_time:
            return await self._publish(messages, guard)

    async def _publish(
        self, messages: Sequence[Publish], guard: tuple[str, str] | None
    ) -> Sequence[MessagePublished | MessageRefused]:
        broker = self._broker
        broker.fuse("before a push")
        total = await self._ask("a push", lambda: self._push(messages, guard))
        broker.fuse("after a push")
        if broker.cuts:
            broker.cuts -= 1
            broker.story.tell("the answer to a push is cut")
            raise BrokerUnavailable("the answer was cut")
        await anyio.sleep(broker.chance.uniform(0.0, 0.02))
        if guard is not None:
            self._pushes = max(self._pushes, total)
        return [MessagePublished(message.task_id) for message in messages]

    def _push(self, messages: Sequence[Publish], guard: tuple[str, str] | None) -> int:
        """Push all, in the broker, and return how many pushes it has."""
        broker = self._broker
        self._refuse_if_fenced()
        if guard is not None and broker.marks.get(guard[0]) != guard[1]:
            raise BrokerEmptied("no token")
        ledger = BrokerMemory() if guard is None else broker.ledgers.get(guard[0], BrokerMemory())
        if ledger.pushes < self._pushes:
            raise BrokerEmptied("too few pushes")
        before = broker.pushes.total()
        for message in messages:
            broker.push(message)
        total = ledger.pushes + broker.pushes.total() - before
        if guard is not None:
            broker.ledgers[guard[0]] = replace(ledger, pushes=total)
        return total

    async def _ask(self, what: str, work: Callable[[], T]) -> T:
        """Have the broker do something in one go."""
        await self._way()
        return work()

    async def _way(self) -> None:
        await anyio.sleep(self._broker.chance.uniform(0.0, 0.02))
        self._broker.raise_if_away()

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool = False) -> None:
        """Tell the workers that run now."""
        self._broker.fuse("before a revoke")
        await self._ask("a revoke", lambda: self._revoke(task_ids, terminate=terminate))

    def _revoke(self, task_ids: Sequence[str], *, terminate: bool) -> None:
        self._refuse_if_fenced()
        if self._broker.workers:
            self._broker.revoked.update(task_ids)
        if terminate:
            for worker in list(self._broker.workers.values()):
                for task_id in task_ids:
                    worker.terminate(task_id)

    async def revoke_stamped(self, header: str, values: Sequence[str], *, terminate: bool = False) -> None:
        """Tell the workers that run now."""
        task_ids = [task_id for task_id, publish in self._broker.sent.items() if publish.stamp in values]
        await self.revoke(task_ids, terminate=terminate)

    async def withdraw(self, tasks: Sequence[TaskPlace]) -> Sequence[str]:
        """Take messages out of the queue."""
        return await self._ask("a withdrawal", lambda: self._withdraw(tasks))

    def _withdraw(self, tasks: Sequence[TaskPlace]) -> Sequence[str]:
        self._refuse_if_fenced()
        wanted = {task.task_id for task in tasks}
        found = [message.task_id for message in self._broker.queue if message.task_id in wanted]
        for message in [message for message in self._broker.queue if message.task_id in wanted]:
            self._broker.queue.remove(message)
        for task_id in wanted:
            self._broker.unacked.pop(task_id, None)
        return found

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop markers."""
        async with self._one_at_a_time:
            await self._ask("a forgetting", lambda: self._forget(workflow_ids))

    def _forget(self, workflow_ids: Sequence[str]) -> None:
        self._refuse_if_fenced()
        over_at = anyio.current_time() + MARKERS_KEPT_S
        self._broker.over_at.update(dict.fromkeys(workflow_ids, over_at))

    def queue_of(self, signature: Signature) -> str:
        """Return the only queue."""
        return "celery"

    def knows(self, task: str) -> bool:
        """Know no task."""
        return False

    def refusal_of(self, signature: Signature) -> tuple[str, str]:
        """Read everything."""
        return "", ""

    @property
    def looks_at_input(self) -> bool:
        """Tell that there is one queue."""
        return False

    def destination_of(self, signature: Signature, given: bytes | None) -> str:
        """Return the only queue."""
        return "celery"

    def statistics(self) -> DispatcherStatistics:
        """Return nothing of interest."""
        return DispatcherStatistics(published=sum(self._broker.pushes.values()), exactly_once=True)

    async def close(self) -> None:
        """Do nothing."""


class Watcher:
    """Pub/sub with a sweep; notifications may be lost, late, doubled and out of order."""

    def __init__(self, broker: Broker, tasks: anyio.abc.TaskGroup) -> None:
        self._broker = broker
        self._tasks = tasks
        self._watched: dict[str, None] = {}
        self._emit: Emit | None = None
        broker.watcher = self

    async def run(self, emit: Emit) -> None:
        """Sweep until cancelled."""
        self._emit = emit
        try:
            while True:
                if not self._broker.problem:
                    self._read(list(self._watched))
                await anyio.sleep(10.0)
        finally:
            self._emit = None

    def watch(self, task_ids: Sequence[str]) -> None:
        """Follow tasks; what is stored already is read."""
        self._broker.fuse("amid watching")
        self._watched.update(dict.fromkeys(task_ids))
        if not self._broker.problem:
            self._read(task_ids)

    def unwatch(self, task_ids: Sequence[str]) -> None:
        """Follow them no more."""
        for task_id in task_ids:
            self._watched.pop(task_id, None)

    async def find_stored(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """Look whether anything is stored of these tasks."""
        if self._broker.problem:
            raise BackendUnavailable(self._broker.problem)
        return {task_id: "SUCCESS" for task_id in task_ids if task_id in self._broker.results}

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, bool]:
        """Read what is stored now."""
        if self._broker.problem:
            raise BackendUnavailable(self._broker.problem)
        self._read(task_ids)
        return {
            task_id: not isinstance(self._broker.results[task_id], TaskReported)
            for task_id in task_ids
            if task_id in self._broker.results
        }

    def _read(self, task_ids: Iterable[str]) -> None:
        events = [self._broker.results[task_id] for task_id in task_ids if task_id in self._broker.results]
        if events and self._emit is not None:
            self._emit(events)

    def published(self, event: TaskEvent) -> None:
        """Pass a notification on, or not."""
        chance = self._broker.chance
        if chance.random() < self._broker.drops_notifications:
            return
        for _ in range(1 + (chance.random() < 0.1)):
            self._tasks.start_soon(self._arrive, event, chance.choice([0.0, 0.001, 0.1, 2.0]))

    async def _arrive(self, event: TaskEvent, delay_s: float) -> None:
        await anyio.sleep(delay_s)
        if self._emit is not None and event.task_id in self._watched:
            self._emit([event])

    def report(self, task_id: str, state: str) -> None:
        """Let a worker report that it has begun."""
        if self._emit is not None:
            self._emit([TaskReported(task_id, state)])

    def statistics(self) -> WatcherStatistics:
        """Return whether results can be received."""
        problem = self._broker.problem and f"results cannot be received: {self._broker.problem}"
        return WatcherStatistics(watched=len(self._watched), connected=not problem, problem=problem)


class Inspector:
    """Looks at the queue, the reservations, the workers and the results, each at its own moment."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def trace(self, tasks: Sequence[TaskPlace]) -> Inspection:
        """Tell where these attempts are."""
        broker = self._broker
        if broker.problem:
            return Inspection({task.task_id: TaskFacts(task.task_id) for task in tasks}, problems=[broker.problem])
        ids = [task.task_id for task in tasks]
        queued = self._positions()
        await self._pass()
        reserved = set(broker.unacked)
        await self._pass()
        answering = [worker for worker in broker.workers.values() if not worker.is_silent]
        listening = len(broker.workers)
        at_workers: Mapping[str, tuple[str, str]] = {
            task_id: (worker.name, state) for worker in answering for task_id, state in worker.has.items()
        }
        await self._pass()
        stored = {task_id: _state_of(broker.results.get(task_id)) for task_id in ids}
        await self._pass()
        queued |= self._positions()
        reserved |= set(broker.unacked)
        facts = {
            task_id: TaskFacts(
                task_id,
                "celery",
                position=queued.get(task_id),
                is_reserved=task_id in reserved,
                worker=at_workers.get(task_id, ("", ""))[0],
                worker_state="active" if at_workers.get(task_id, ("", ""))[1] == "active" else "",
                stored_state=stored[task_id],
            )
            for task_id in ids
        }
        names = [worker.name for worker in answering]
        queue = QueueFacts("celery", len(broker.queue), len(names), names, is_searched=True)
        return Inspection(facts, {"celery": queue}, workers=names, listening=listening)

    async def census(self) -> Inspection:
        """Ask who takes from the queue."""
        await self._pass()
        broker = self._broker
        if broker.problem:
            return Inspection(problems=[broker.problem])
        names = [worker.name for worker in broker.workers.values() if not worker.is_silent]
        return Inspection(workers=names, listening=len(broker.workers), consumed={"celery": names} if names else {})

    async def task_names(self) -> Sequence[str]:
        """No task is unknown here."""
        return ()

    async def registered(self, task: str) -> dict[str, bool] | None:
        """Tell nothing: no simulated task fails for that."""
        return None

    async def heard(self, *, listen_s: float) -> frozenset[str] | None:
        """Listen for heartbeats."""
        await anyio.sleep(listen_s)
        return None if self._broker.problem else frozenset(self._broker.workers)

    def _positions(self) -> dict[str, int]:
        return {message.task_id: number for number, message in enumerate(self._broker.queue)}

    async def _pass(self) -> None:
        await anyio.sleep(self._broker.chance.choice([0.0, 0.0, 0.01, 0.3]))

    async def close(self) -> None:
        """Do nothing."""


def _state_of(event: TaskEvent | None) -> str:
    match event:
        case TaskSucceeded():
            return "SUCCESS"
        case TaskFailed() | TaskIgnored():
            return "FAILURE"
        case TaskRevoked():
            return "REVOKED"
    return ""
