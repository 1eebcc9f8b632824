"""Many follow a folded workflow for the price of one, and each sees how it ends."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import BoxNotFound, DaemonUnreachable, WorkflowNotFound
from dyrygentd.scheduler import Scheduler
from dyrygentd.scheduler.fold_streams import FoldEvent
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import DEADLINE_S, definition, scheduler, settle, until

pytestmark = pytest.mark.anyio


class Reader:
    """Follows a fold, and keeps what it has of it."""

    def __init__(self, running: Scheduler, workflow_id: str, path: str = "") -> None:
        self.events: list[FoldEvent] = []
        self.view: wire.FoldView | None = None
        self.is_at_end = False
        self._told: AsyncGenerator[FoldEvent] = running.faces.follow_fold(workflow_id, path)

    async def next(self) -> None:
        """Take one event."""
        with anyio.fail_after(DEADLINE_S):
            self.take(await anext(self._told))

    async def run(self) -> None:
        """Take all events to the end."""
        async with aclosing(self._told):
            async for event in self._told:
                self.take(event)
        self.is_at_end = True

    async def close(self) -> None:
        """Leave."""
        await self._told.aclose()

    def take(self, event: FoldEvent) -> None:
        self.events.append(event)
        if event.kind == "fold":
            self.view = wire.decode(event.data, wire.FoldView)
        else:
            assert self.view is not None
            self.view = wire.with_changes(self.view, wire.decode(event.data, wire.FoldChanges))

    def states(self) -> dict[str, dict[str, int]]:
        """Return how each box stands."""
        assert self.view is not None
        return {box.title: box.states for box in self.view.boxes}


async def test_all_see_the_same_counted_once() -> None:
    """Seventy who look at one workflow are given the very same bytes, and cost one count for each change."""
    broker = FakeBroker({"tasks.a": lambda: 1, "tasks.b": lambda _: 2}, holds=True)
    async with scheduler(broker) as running, anyio.create_task_group() as tasks:
        submitted = await running.submit_definition(definition("a; b < a"))
        readers = [Reader(running, submitted.id) for _ in range(70)]
        for reader in readers:
            tasks.start_soon(reader.run)
        await until(lambda: all(reader.view and reader.states()["a"] == {"dispatched": 1} for reader in readers))
        assert repr(running.faces).endswith("<FoldStreams sources=1 readers=70>>")
        counted = running.faces.statistics()["folds"]
        broker.let_go()
        await until(lambda: all(reader.states()["b"] == {"dispatched": 1} for reader in readers))
        assert running.faces.statistics()["folds"] - counted < 10
        broker.let_go()
        await until(lambda: all(reader.is_at_end for reader in readers))
        assert repr(running.faces).endswith("<FoldStreams sources=0 readers=0>>")
    for reader in readers:
        assert reader.view is not None
        assert (reader.view.state, reader.states()) == ("succeeded", {"a": {"succeeded": 1}, "b": {"succeeded": 1}})
        assert [event.kind for event in reader.events] == ["fold", *["boxes"] * (len(reader.events) - 1)]
    assert len({id(event) for reader in readers for event in reader.events}) < 30


async def test_who_is_slow_is_told_less_and_misses_nothing() -> None:
    """A terminal that was suspended gets what has changed since in one event; nobody waits for it."""
    broker = FakeBroker({f"tasks.{name}": lambda *_: 1 for name in "abc"}, holds=True)
    async with scheduler(broker) as running, anyio.create_task_group() as tasks:
        submitted = await running.submit_definition(definition("a; b < a; c < b"))
        slow, quick = Reader(running, submitted.id), Reader(running, submitted.id)
        await slow.next()
        tasks.start_soon(quick.run)
        for name in "abc":
            await until(lambda name=name: bool(quick.view) and quick.states()[name] == {"dispatched": 1})  # type: ignore[misc]
            broker.let_go()
        await until(lambda: quick.is_at_end)
        await slow.run()
        assert len(slow.events) == 2 < len(quick.events)
        assert slow.view == quick.view


async def test_the_one_who_counts_may_leave() -> None:
    """Somebody else goes on, also with a change that the one who left had just been told of."""
    broker = FakeBroker({"tasks.a": lambda: 1}, holds=True)
    async with scheduler(broker) as running, anyio.create_task_group() as tasks:
        submitted = await running.submit_definition(definition("a; b gate=yes"))
        first, second = Reader(running, submitted.id), Reader(running, submitted.id)
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(first.run)
            await until(lambda: bool(first.view) and first.states()["a"] == {"dispatched": 1})
            tasks.start_soon(second.run)
            await settle()
            broker.let_go()
            leaving.cancel_scope.cancel()
        await until(lambda: second.states()["a"] == {"succeeded": 1})
        assert not second.is_at_end
        await running.perform(submitted.id, VerbRequest(Verb.RELEASE, nodes=("b",)))
        await until(lambda: second.is_at_end)


async def test_a_box_of_its_own_and_boxes_that_do_not_change() -> None:
    """Who looks into one section is not woken by what happens in another."""
    broker = FakeBroker({"tasks.a": lambda: 1}, holds=True)
    async with scheduler(broker) as running, anyio.create_task_group() as tasks:
        submitted = await running.submit_definition(definition("a section=x; g gate=yes section=y"))
        into, all_of_it = Reader(running, submitted.id, "y"), Reader(running, submitted.id)
        tasks.start_soon(into.run)
        tasks.start_soon(all_of_it.run)
        await until(lambda: bool(all_of_it.view and into.view) and all_of_it.states()["x"] == {"dispatched": 1})
        seen = len(into.events)
        broker.let_go()
        await until(lambda: all_of_it.states()["x"] == {"succeeded": 1})
        await settle()
        assert len(into.events) == seen
        await running.perform(submitted.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        await until(lambda: into.is_at_end and all_of_it.is_at_end)
        assert into.states() == {"g": {"succeeded": 1}}


async def test_what_has_finished_is_seen_once() -> None:
    """One event and the end, also if it is read back for it; and from the beginning again if it runs again."""
    broker, store = FakeBroker({"tasks.a": lambda: 1 / 0}), MemoryStore()
    async with scheduler(broker, store) as running:
        submitted = await running.submit_definition(definition("a"))
        await running.wait(submitted.id, timeout_s=DEADLINE_S)
        reader = Reader(running, submitted.id)
        await reader.next()
        await running.perform(submitted.id, VerbRequest(Verb.RETRY))
        again = Reader(running, submitted.id)
        await again.run()
        await reader.run()
        assert ([event.kind for event in reader.events], again.states()) == (["fold"], {"a": {"failed": 1}})
    async with scheduler(broker, store) as running:
        reader = Reader(running, submitted.id)
        await reader.run()
        assert ([event.kind for event in reader.events], reader.states()) == (["fold"], {"a": {"failed": 1}})


async def test_what_cannot_be_followed_is_told() -> None:
    """A wrong id or path is an error at once, and so is a scheduler that ends."""
    broker = FakeBroker({"tasks.a": lambda: 1}, holds=True)
    async with scheduler(broker) as running:
        submitted = await running.submit_definition(definition("a"))
        with pytest.raises(WorkflowNotFound):
            await Reader(running, "nobody").next()
        with pytest.raises(BoxNotFound):
            await Reader(running, submitted.id, "~9").next()
        assert repr(running.faces).endswith("<FoldStreams sources=0 readers=0>>")
        reader = Reader(running, submitted.id)
        await reader.next()
    with pytest.raises(DaemonUnreachable, match="the scheduler has ended before workflow"):
        await reader.run()
