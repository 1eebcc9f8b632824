"""Estimates are made beside the turns, kept for a moment, and their run times survive a restart."""

import gc
import json

import pytest

from dyrygentd.core.engine import Engine
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.origin import Origin
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import StoreUnavailable
from dyrygentd.scheduler.estimates import RUN_TIMES_NOTE, Estimates
from dyrygentd.scheduler.limits import SystemClock
from dyrygentd.testing.store import MemoryStore

pytestmark = pytest.mark.anyio


def workflow_of(nodes: int, name: str = "w") -> RunningWorkflow:
    graph = Graph.build([NodeSpec(f"n{number}", Signature("t"), f"{name}/{number}") for number in range(nodes)])
    workflow = RunningWorkflow(workflow_id=name, name=name, graph=graph, origin=Origin(1.0), value_bytes_max=100)
    workflow.begin(1.0)
    return workflow


def measured(engine: Engine) -> None:
    for _ in range(20):
        engine.counting.run_times.ended("t", 10.0, is_good=True)


@pytest.mark.parametrize("nodes", [3, 3_000])
async def test_an_estimate_is_kept_for_a_moment(nodes: int) -> None:
    """Whoever asks twice in a second gets the same, long or short."""
    engine = Engine()
    measured(engine)
    estimates, workflow = Estimates(lambda: engine, MemoryStore(), SystemClock()), workflow_of(nodes)
    first = await estimates.view(workflow)
    assert first.low_s is not None
    assert first.known == 1.0
    measured(engine)
    assert await estimates.view(workflow) == first
    weights = await estimates.weights(workflow)
    assert len(weights) == nodes
    assert await estimates.weights(workflow) is weights


async def test_a_kept_estimate_is_told_less_its_age() -> None:
    """One that takes long to make is kept for long, and does not stand still meanwhile."""
    engine = Engine()
    measured(engine)
    estimates, workflow = Estimates(lambda: engine, MemoryStore(), SystemClock()), workflow_of(3)
    first = await estimates.view(workflow)
    [kept] = estimates._kept.values()
    kept.took_s, kept.at = 2.0, kept.at - 3.0
    again = await estimates.view(workflow)
    assert first.low_s is not None
    assert again.low_s == pytest.approx(first.low_s - 5.0, abs=0.9)
    assert again.words != first.words


async def test_run_times_survive_a_restart() -> None:
    """They are written down at a clean stop, and only if there is something new."""
    engine, store = Engine(), MemoryStore()
    estimates = Estimates(lambda: engine, store, SystemClock())
    await estimates.prepare()
    await estimates.end()
    assert await store.recall(RUN_TIMES_NOTE) is None
    measured(engine)
    await estimates.end()
    again = Engine()
    after = Estimates(lambda: again, store, SystemClock())
    await after.prepare()
    assert after.run_times() == estimates.run_times()
    assert [task.task for task in after.run_times().tasks] == ["t"]
    assert repr(after) == "<Estimates kept=0 <RunTimes names=1 count=1>>"


@pytest.mark.parametrize("note", ["{", "[]", '{"version": 1, "tasks": {}}', '{"version": 9}', "7"])
async def test_a_broken_note_is_set_aside(note: str, caplog: pytest.LogCaptureFixture) -> None:
    """A daemon that cannot read what it wrote starts all the same, and says so."""
    store = MemoryStore()
    await store.remember(RUN_TIMES_NOTE, note)
    await Estimates(lambda: Engine(), store, SystemClock()).prepare()
    assert "cannot be read, and are measured anew" in caplog.text


async def test_a_note_is_bounded() -> None:
    """However long the names of tasks are, it has half a megabyte at most."""
    engine, store = Engine(), MemoryStore()
    for number in range(900):
        for second in range(1, 2000, 20):
            engine.counting.run_times.ended(f"{number:0300}", float(second * number + 1), is_good=True)
    await Estimates(lambda: engine, store, SystemClock()).end()
    note = await store.recall(RUN_TIMES_NOTE)
    assert note is not None
    assert len(note) <= 512 * 1024
    assert f"{899:0300}" in json.loads(note)["tasks"]


async def test_a_disk_that_refuses_is_no_news() -> None:
    """Whether it can be written is told by the turns."""

    class Refusing(MemoryStore):
        async def remember(self, name: str, value: str) -> None:
            raise StoreUnavailable("disk is full")

    engine = Engine()
    measured(engine)
    await Estimates(lambda: engine, Refusing(), SystemClock()).end()


async def test_what_is_kept_is_bounded() -> None:
    """What has gone is not kept for its estimate."""
    engine = Engine()
    measured(engine)
    estimates = Estimates(lambda: engine, MemoryStore(), SystemClock())
    workflow = workflow_of(600)
    await estimates.view(workflow)
    assert repr(estimates).startswith("<Estimates kept=1 ")
    del workflow
    gc.collect()
    assert repr(estimates).startswith("<Estimates kept=0 ")
