"""Workflows are folded beside the turns, and what is kept of them is bounded."""

import gc
import weakref
from functools import partial
from threading import Event

import anyio
import anyio.to_thread
import pytest

from dyrygentd.core.folding import Fold
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.origin import Origin
from dyrygentd.core.states import NodeState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BoxNotFound
from dyrygentd.scheduler.folds import Folds

pytestmark = pytest.mark.anyio


def workflow_of(name: str, nodes: int) -> RunningWorkflow:
    """Make a workflow of tasks side by side."""
    graph = Graph.build([NodeSpec(f"{name}{number}", Signature("t"), f"{name}/{number}") for number in range(nodes)])
    return RunningWorkflow(workflow_id=name, name=name, graph=graph, origin=Origin(1.0), value_bytes_max=100)


@pytest.mark.parametrize("nodes", [50, 5_000])
async def test_counts_are_those_of_now(nodes: int) -> None:
    """A short workflow is folded at once and a long one in a thread, and both show what has changed since."""
    folds, workflow = Folds(), workflow_of("w", nodes)
    before = await folds.view(workflow, "")
    assert sum(box.states["waiting"] for box in before.boxes) == before.nodes == nodes
    workflow.nodes.place(7, NodeState.FAILED)
    workflow.errors[7] = "OSError: " + "x" * 300
    after = await folds.view(workflow, "")
    assert after.boxes[0].states["failed"] == 1
    assert (after.boxes[0].failed, len(after.boxes[0].error or "")) == ("w7", 200)
    assert [box.path for box in after.boxes] == [box.path for box in before.boxes]


async def test_a_box_that_is_not_there_is_told() -> None:
    """A path of somebody's bookmark may be that of another workflow."""
    with pytest.raises(BoxNotFound, match="workflow 'w' has no box '~9/x' that could be opened"):
        await Folds().view(workflow_of("w", 3), "~9/x")


async def test_what_is_kept_is_bounded() -> None:
    """Whoever looks at a thousand workflows does not make the daemon keep all of their boxes."""
    folds = Folds(kept_nodes_max=25)
    workflows = [workflow_of(f"w{number}", 10) for number in range(5)]
    for workflow in workflows:
        await folds.view(workflow, "")
    assert repr(folds) == "<Folds kept=2>"
    await folds.view(workflow_of("large", 100), "")
    gc.collect()
    assert repr(folds) == "<Folds kept=0>"


async def test_what_has_gone_is_not_kept() -> None:
    """A workflow that the daemon has let go of would otherwise stay in memory for its boxes."""
    folds, workflow = Folds(), workflow_of("w", 600)
    await folds.view(workflow, "")
    gone = weakref.ref(workflow)
    del workflow
    gc.collect()
    assert gone() is None
    assert repr(folds) == "<Folds kept=0>"


async def test_nobody_folds_what_a_thread_folds() -> None:
    """The same short workflow is looked at by two whose bounds differ: one after the other, though one needs no thread."""
    folds, workflow = Folds(), workflow_of("w", 100)
    begun, may_end = Event(), Event()
    inside: list[str] = []

    def slow(fold: Fold, states: bytes) -> None:
        begun.set()
        may_end.wait(30)
        inside.append("in the thread")

    def quick(fold: Fold, states: bytes) -> None:
        inside.append("at once")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(folds.look, workflow, "", slow, inline_max=30))
        await anyio.to_thread.run_sync(begun.wait, 30)
        await folds.look(workflow_of("other", 100), "", quick)
        tasks.start_soon(folds.look, workflow, "", quick)
        await anyio.wait_all_tasks_blocked()
        may_end.set()
    assert inside == ["at once", "in the thread", "at once"]
