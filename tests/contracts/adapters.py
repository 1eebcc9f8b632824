"""Every implementation of every port, as the contract suites get to see it.

**Add an adapter here** if it needs no server: write a setup, append it to the list of its port below, and the whole suite runs
against it. **One that needs a server** goes to `tests.contracts.real`, and its setup into the ``params`` of the port's fixture in
`tests.contracts.conftest`. A setup gets a directory of its own and the test's `pytest.FixtureRequest`, with which it may ask for
a server (``request.getfixturevalue``).
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from zlib import crc32

import pytest

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import TaskEvent
from dyrygentd.core.node_spec import Signature
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports import Dispatcher, Inspector, ResultWatcher, Store
from dyrygentd.ports.facts import TaskPlace
from dyrygentd.ports.mailbox import Mailbox, MailboxBounds
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.simulation.box import ServedMailbox
from tests.simulation.processes import JudgedStory, Process, Way
from tests.simulation.server import ServedStore, Server

Action = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class StoreSetup:
    """A place for a database: each call of ``make`` gives a closed store on the same data, as after a restart."""

    make: Callable[[], Store]


@dataclass(frozen=True)
class LeaseSetup:
    """A database that several processes may have.

    Attributes:
        make: Return a closed store of another process, each time it is called.
        pass_time: Have the database's clock go on by so many seconds, also back.
    """

    make: Callable[[], Store]
    pass_time: Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class MailboxSetup:
    """A database in which letters are left.

    Attributes:
        store: An open store of whoever leads, with its mailbox.
        box: Return a mailbox for who only leaves letters, with these bounds.
        overtake: Have another process take the database over.
    """

    store: Store
    box: Callable[[MailboxBounds], Mailbox]
    overtake: Action


@dataclass(frozen=True)
class DispatcherSetup:
    """A dispatcher and the broker behind it.

    Attributes:
        arrived: Return the task ids of all messages that the broker ever took, in order, one entry a message.
        waiting: Return the task ids of the messages that no worker has fetched, in order; there is no worker.
        unsendable: A message that can never be built or accepted.
        cut, mend: Make the broker unreachable, and reachable again.
        broadcasts_elsewhere: What is cut are the queues, and broadcasts go another way.
    """

    dispatcher: Dispatcher
    arrived: Callable[[], Awaitable[list[str]]]
    waiting: Callable[[], Awaitable[list[str]]]
    unsendable: Publish
    cut: Action
    mend: Action
    broadcasts_elsewhere: bool = False


@dataclass(frozen=True)
class WatcherSetup:
    """A watcher and the result backend behind it.

    Attributes:
        store: Put a result where workers would; the events used are `TaskSucceeded` with JSON and `TaskFailed`.
        cut, mend: Make the backend unreachable, and reachable again; None if that cannot happen.
    """

    watcher: ResultWatcher
    store: Callable[[TaskEvent], Awaitable[None]]
    cut: Action | None = None
    mend: Action | None = None


@dataclass(frozen=True)
class InspectorSetup:
    """An inspector and a dispatcher on the same broker and result backend.

    Attributes:
        store: Put a result where workers would.
        cut, mend: Make the broker unreachable, and reachable again.
        shows_messages: Whether the broker lets us look at the messages of a queue.
    """

    inspector: Inspector
    dispatcher: Dispatcher
    store: Callable[[TaskEvent], Awaitable[None]]
    cut: Action
    mend: Action
    shows_messages: bool


def place(message: Publish) -> TaskPlace:
    """Where to look for a message."""
    return TaskPlace(message.task_id, message.attempt, message.signature)


def message(task_id: str, *, args: bytes = b"[1]", task: str = "tests.support.tasks.identity") -> Publish:
    """A message of a task that the test workers know; each task id is a node of its own."""
    node = crc32(task_id.encode())
    return Publish(
        workflow_id="contract",
        node=node,
        attempt=1,
        task_id=task_id,
        signature=Signature(task, args),
        input=None,
        parent_id="",
        stamp="contract",
    )


# --- stores ---------------------------------------------------------------------------------------------------------


def _sqlite(directory: Path, _: pytest.FixtureRequest) -> StoreSetup:
    return StoreSetup(lambda: SqliteStore(directory / "state.db"))


def _memory(_: Path, __: pytest.FixtureRequest) -> StoreSetup:
    store = MemoryStore()
    return StoreSetup(lambda: store)


# --- leases ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _simulated_lease(_: Path, __: pytest.FixtureRequest) -> AsyncIterator[LeaseSetup]:
    story = JudgedStory()
    server, numbers = Server("contract", story), count(1)

    def make() -> Store:
        process = Process(f"ops{next(numbers)}", story)
        way = Way(process, Random(1), StoreUnavailable, timeout_s=4.0, name="database")
        return ServedStore(server, way, process.name)

    async def pass_time(seconds: float) -> None:
        server.ahead_s += seconds

    yield LeaseSetup(make, pass_time)


@asynccontextmanager
async def _simulated_mailbox(_: Path, __: pytest.FixtureRequest) -> AsyncIterator[MailboxSetup]:
    story = JudgedStory()
    server, numbers = Server("contract", story), count(1)

    def way() -> Way:
        return Way(Process(f"ops{next(numbers)}", story), Random(1), StoreUnavailable, timeout_s=4.0, name="database")

    def box(bounds: MailboxBounds) -> Mailbox:
        return ServedMailbox(server.box, way(), bounds=bounds)

    async def overtake() -> None:
        server.process, server.session = "another", server.session + 1

    store = ServedStore(server, way(), "leader", has_mailbox=True)
    await store.open()
    yield MailboxSetup(store, box, overtake)


# --- dispatchers and watchers ---------------------------------------------------------------------------------------


@asynccontextmanager
async def _fake_dispatcher(_: Path, __: pytest.FixtureRequest) -> AsyncIterator[DispatcherSetup]:
    broker = FakeBroker(has_worker=False)

    async def arrived() -> list[str]:
        return [published.task_id for published in broker.published]

    async def waiting() -> list[str]:
        return list(broker.queued)

    async def cut() -> None:
        broker.broken = "cut off by the test"

    async def mend() -> None:
        broker.broken = ""

    yield DispatcherSetup(broker.dispatcher, arrived, waiting, message("unsendable", args=b"["), cut, mend)


@asynccontextmanager
async def _fake_inspector(_: Path, __: pytest.FixtureRequest) -> AsyncIterator[InspectorSetup]:
    broker = FakeBroker(has_worker=False)

    async def store(event: TaskEvent) -> None:
        broker.lose(event.task_id)
        broker._store(event.task_id, event)

    async def cut() -> None:
        broker.broken = "cut off by the test"

    async def mend() -> None:
        broker.broken = ""

    yield InspectorSetup(broker.inspector, broker.dispatcher, store, cut, mend, shows_messages=True)


@asynccontextmanager
async def _fake_watcher(_: Path, __: pytest.FixtureRequest) -> AsyncIterator[WatcherSetup]:
    broker = FakeBroker()

    async def store(event: TaskEvent) -> None:
        broker._store(event.task_id, event)

    yield WatcherSetup(broker.watcher, store)


LEASES: list[Callable[[Path, pytest.FixtureRequest], AbstractAsyncContextManager[LeaseSetup]]] = [_simulated_lease]
MAILBOXES: list[Callable[[Path, pytest.FixtureRequest], AbstractAsyncContextManager[MailboxSetup]]] = [_simulated_mailbox]
STORES: list[Callable[[Path, pytest.FixtureRequest], StoreSetup]] = [_sqlite, _memory]
DISPATCHERS: list[Callable[[Path, pytest.FixtureRequest], AbstractAsyncContextManager[DispatcherSetup]]] = [_fake_dispatcher]
INSPECTORS: list[Callable[[Path, pytest.FixtureRequest], AbstractAsyncContextManager[InspectorSetup]]] = [_fake_inspector]
WATCHERS: list[Callable[[Path, pytest.FixtureRequest], AbstractAsyncContextManager[WatcherSetup]]] = [_fake_watcher]
