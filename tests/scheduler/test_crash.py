"""A crash at every boundary: before and after each save and each publishing, then recovery on the same disk and broker.

The point after a publishing is the bad one: the broker has the messages, the daemon never heard of it.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import VerbRefused
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.choice import Place
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, FakeDispatcher, FakeWatcher, MemoryStore
from tests.scheduler.support import definition, limits, published, scheduler
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio

_TASKS: dict[str, Callable[..., object]] = {
    "tasks.a": lambda: 1,
    "tasks.b": lambda n: n + 1,
    "tasks.c": lambda n: n + 2,
    "tasks.d": sum,
    "tasks.bad": lambda n: n / 0,
}
#: A chord between two tasks, a branch that fails, and one that is held for a moment.
_GRAPH = "a; b < a; c < a; &j < b c; d < j; bad < a; blocked < bad; held! < a countdown=0.001"
_ENDS = {
    "a": "succeeded",
    "b": "succeeded",
    "c": "succeeded",
    "j": "succeeded",
    "d": "succeeded",
    "bad": "failed",
    "blocked": "blocked",
    "held": "succeeded",
}


class _Crash(BaseException):
    """The process is gone."""


class _Fuse:
    """Crashes when it is passed for the ``at``-th time, and from then on always."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed: list[str] = []

    def __call__(self, point: str) -> None:
        self.passed.append(point)
        if len(self.passed) > self.at:
            raise _Crash(f"{len(self.passed)}: {point}")


class _Fused:
    """A store that crashes before or after a save."""

    fuse: _Fuse = _Fuse(1000)

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        self.fuse("before save")
        await super().save(workflows, nodes, journal)  # type: ignore[misc]
        self.fuse("after save")


class _FusedMemory(_Fused, MemoryStore):
    pass


class _FusedSqlite(_Fused, SqliteStore):
    pass


class _FusedPostgres(_Fused, PostgresStore):
    pass


class _FusedDispatcher(FakeDispatcher):
    """A dispatcher that crashes before or after sending, or halfway through a slice."""

    fuse: _Fuse = _Fuse(1000)

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        self.fuse("before publish")
        half = len(messages) // 2
        answers = [*await super().publish(messages[:half])]
        self.fuse("amid publish")
        answers += await super().publish(messages[half:])
        self.fuse("after publish")
        return answers


class _World:
    """What outlives the process: the disk and the broker with its workers."""

    def __init__(self, path: Place | None) -> None:
        self.broker = FakeBroker(_TASKS)
        self._dispatcher = _FusedDispatcher(self.broker)
        self._memory = _FusedMemory()
        self._path = path

    def boot(self, fuse: _Fuse) -> Scheduler:
        """Start a process that has forgotten everything."""
        store: _FusedMemory | _FusedSqlite | _FusedPostgres = self._memory
        if isinstance(self._path, Path):
            store = _FusedSqlite(self._path)
        elif self._path is not None:
            store = _FusedPostgres(self._path)
        store.fuse = self._dispatcher.fuse = fuse
        self.broker.watcher = FakeWatcher(self.broker)
        # Small bounds, so that a small workflow takes many turns.
        bounds = limits(in_flight_max=3, dispatch_max=2, linger_s=0.0)
        return scheduler(self.broker, store, dispatcher=self._dispatcher, limits=bounds)

    async def live(self, fuse: _Fuse) -> wire.Outcome | None:
        """Submit, as a client does that repeats itself, and wait for the end; None after a crash."""
        with anyio.fail_after(10), suppress(BaseExceptionGroup):
            async with self.boot(fuse) as running:
                handle = await running.submit(definition(_GRAPH, key="ticket", prefix="p", output="d"))
                return await handle.wait()
        return None

    async def check(self, outcome: wire.Outcome | None, story: object) -> None:
        """One workflow, finished as it should; every task executed once, none before its dependencies."""
        assert outcome is not None, story
        assert (outcome.state, [node.name for node in outcome.failed_nodes]) == ("failed", ["bad"]), story
        order = published(self.broker)
        assert sorted(order) == ["a", "b", "bad", "c", "d", "held"], story
        assert order[0] == "a", story
        assert order.index("d") > max(order.index("b"), order.index("c")), story
        async with self.boot(_Fuse(1000)) as running:
            assert len((await running.list(Selection())).workflows) == 1, story
            page = await running.nodes(outcome.id)
            assert {node.name: node.state for node in page.nodes} == _ENDS, story
            assert running.statistics().engine["workflows"] == 0, story
        values = {message.task_id: message.input for message in self.broker.published}
        assert values["p/d"] == b"[2,3]", story


async def _points(path: Place | None) -> int:
    """Return how many points an undisturbed run passes."""
    world, fuse = _World(path), _Fuse(1000)
    await world.check(await world.live(fuse), "undisturbed")
    assert {"before save", "after save", "before publish", "amid publish", "after publish"} == set(fuse.passed)
    return len(fuse.passed)


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Place | None]:
    """Each call gives a place where no database is yet; None for one in memory."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("shared_postgres")
        return server.url
    numbers = itertools.count()
    return lambda: tmp_path / f"{next(numbers)}.db" if request.param == "sqlite" else None


async def test_crash_at_every_point(new_place: Callable[[], Place | None]) -> None:
    """After a crash at any one point the next start brings everything to its end, each task executed once."""
    points = await _points(new_place())
    assert points > 15
    crashes = 0
    for at in range(points):
        world = _World(new_place())
        first = _Fuse(at)
        # A run that shares a turn more than the undisturbed one did passes fewer points, and then ends.
        outcome = await world.live(first) or await world.live(_Fuse(1000))
        await world.check(outcome, first.passed)
        crashes += len(first.passed) > at
    assert crashes > points / 2


@pytest.mark.long
async def test_crash_during_recovery() -> None:
    """After a crash at any point, and another at any of the first points of the recovery, the third start does it."""
    points = await _points(None)
    for at, again in itertools.product(range(points), range(8)):
        world = _World(None)
        first, second = _Fuse(at), _Fuse(again)
        outcome = await world.live(first) or await world.live(second) or await world.live(_Fuse(1000))
        await world.check(outcome, (first.passed, second.passed))


async def test_cancel_survives_a_crash_once_answered(tmp_path: Path) -> None:
    """A workflow whose cancel was answered stays cancelled, whatever its tasks did meanwhile."""
    world = _World(tmp_path / "state.db")
    world.broker.holds = True
    fuse = _Fuse(1000)
    cancelled: Any = None
    with suppress(BaseExceptionGroup):
        async with world.boot(fuse) as running:
            handle = await running.submit(definition(_GRAPH, key="ticket", prefix="p"))
            cancelled = await handle.cancel()
            fuse.at = 0
            await running.submit(definition("x"))
    assert cancelled.state == "cancelled"
    world.broker.holds = False
    world.broker.let_go()
    async with world.boot(_Fuse(1000)) as running:
        assert (await running.view(cancelled.id)).state == "cancelled"
        assert running.statistics().engine["counters"]["recovered"] == 0
    assert set(published(world.broker)) <= {"a"}


# --- verbs ----------------------------------------------------------------------------------------------------------


async def _operate(world: _World, fuse: _Fuse, answered: list[str]) -> wire.Outcome | None:
    """An operator who holds, releases, reorders, mends what failed and retries, and repeats all of it after a crash."""
    with anyio.fail_after(10), suppress(BaseExceptionGroup):
        async with world.boot(fuse) as running:
            handle = await running.submit(definition(_GRAPH, key="ticket", prefix="p", output="d"))
            for request in (
                VerbRequest(Verb.HOLD, nodes=("d",), why="1"),
                VerbRequest(Verb.SET_PRIORITY, priority=5, why="2"),
                VerbRequest(Verb.RELEASE, nodes=("d",), why="3"),
            ):
                if request.verb not in answered:
                    # After a crash `d` may have gone, so that it cannot be held any more.
                    with suppress(VerbRefused):
                        await handle.perform(request)
                    answered.append(request.verb)
            if (await handle.wait()).state == "failed":
                world.broker.tasks["tasks.bad"] = lambda n: n
                await handle.retry(why="4")
                answered.append("retry")
            return await handle.wait()
    return None


@pytest.mark.parametrize("on_disk", [False, pytest.param(True, marks=pytest.mark.long)])
async def test_crash_amid_verbs_at_every_point(on_disk: bool, tmp_path: Path) -> None:
    """Whatever was answered is there after the crash, whatever was not may be repeated, and no attempt is executed twice."""
    calm = _Fuse(1000)
    world = _World(tmp_path / "calm.db" if on_disk else None)
    await _operate(world, calm, [])
    crashes = 0
    for at in range(len(calm.passed)):
        world, fuse = _World(tmp_path / f"{at}.db" if on_disk else None), _Fuse(at)
        answered: list[str] = []
        outcome = await _operate(world, fuse, answered)
        crashes += outcome is None
        after_crash = list(answered)
        outcome = outcome or await _operate(world, _Fuse(1000), answered)
        story = (fuse.passed, after_crash)
        assert outcome is not None, story
        assert (outcome.state, outcome.result) == ("succeeded", 5), story
        ids = [message.task_id for message in world.broker.published]
        assert len(set(ids)) == len(ids), story
        assert sorted(published(world.broker)) == ["a", "b", "bad", "bad", "blocked", "c", "d", "held"], story
        async with world.boot(_Fuse(1000)) as running:
            assert set((await running.view(outcome.id)).counts) == {"succeeded"}, story
            verbs = [entry.verb for entry in (await running.journal(outcome.id)).entries]
            # Each changes something once at most; without the retry it would not have come to this end. The others may have been
            # refused after a crash, when the workflow had failed before they were asked for again.
            assert len(set(verbs)) == len(verbs), story
            assert "retry" in verbs, story
    assert crashes > len(calm.passed) / 2
