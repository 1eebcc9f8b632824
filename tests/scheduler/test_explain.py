"""`explain` through the scheduler: what is said of tasks in flight, and of nodes that never ran."""

import pytest

from dyrygentd.ports import Store
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, scheduler, settle, until

pytestmark = pytest.mark.anyio

_BAD = {"tasks.bad": lambda *_: 1 // 0, "tasks.worse": lambda *_: 1 // 0}


async def test_tasks_in_flight_are_told_by_where_they_are(store: Store) -> None:
    """The oldest does not speak for all: what one worker took with it hides nothing of what nobody will fetch."""
    broker = FakeBroker(has_worker=False)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        handle = await running.submit(definition("a!; b!; c!; d!; e < a b c d"))
        await until(lambda: len(broker.queued) == 4)
        await settle()
        uniform = await handle.explain()
        assert [(each.code, each.count) for each in uniform.standings] == [("no-consumer", 4), ("waiting", 1)]
        assert uniform.verdict == "it is running: 4 tasks in flight; nobody consumes queue 'celery'"
        for name in ("a", "b"):
            view = await running.node(handle.id, name)
            del broker.queued[view.task_id or ""]
        mixed = await handle.explain()
        assert [(each.code, each.examples) for each in mixed.standings[:2]] == [("lost", ["a", "b"]), ("no-consumer", ["c", "d"])]
        assert "--force" in mixed.standings[0].next_step
        assert mixed.verdict.endswith("in flight; 'a' seems to be lost; nobody consumes queue 'celery'")
        assert "start a worker for it: `celery -A APP worker -Q celery`" in mixed.standings[0].next_step


async def test_only_the_oldest_tasks_in_flight_are_looked_for(store: Store) -> None:
    """What was not looked for is said to be so, and is counted."""
    broker = FakeBroker(has_worker=False)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        handle = await running.submit(definition("; ".join(f"n{number}!" for number in range(100))))
        await until(lambda: len(broker.queued) == 100)
        await settle()
        [(first, facts)] = list((await handle.explain()).facts.items())[:1]
        del broker.queued[facts["task_id"]]
        found = await handle.explain()
        counts = {each.code: each.count for each in found.standings}
        assert (counts["lost"], sum(counts.values())) == (1, 100)
        assert found.standings[0].node == first
        assert counts["dispatched"] == 100 - len(found.facts)
        assert "only the 40 oldest are looked for" in found.standings[-1].text


async def test_blocked_node_names_how_many_are_to_blame(store: Store) -> None:
    """Who retries the one that is named, and finds the node blocked again by the next, was told too little."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        handle = await running.submit(definition("bad!; worse!; c < bad worse"))
        await handle.wait(timeout_s=5)
        assert (await running.explain(handle.id, "c")).verdict == "'c' never ran, because of 'bad' and 1 more of its dependencies"


async def test_command_for_all_that_is_lost(store: Store) -> None:
    """A worker takes more with it than five tasks: all are named, so that one command can start them again."""
    broker = FakeBroker(has_worker=False)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        handle = await running.submit(definition("; ".join(f"n{number}!" for number in range(8))))
        await until(lambda: len(broker.queued) == 8)
        await settle()
        broker.queued.clear()
        [lost] = (await handle.explain()).standings
        assert (lost.code, lost.count, sorted(lost.examples)) == ("lost", 8, [f"n{number}" for number in range(8)])
