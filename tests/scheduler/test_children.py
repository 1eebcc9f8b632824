"""Workflows of nodes are begun, go on and are found again, whatever happens in between."""

import json
from typing import Any

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.graph import Definition, Graph
from dyrygentd.core.parent import Parent
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import UnknownPool, VerbRefused
from dyrygentd.http.lists import TaskForbidden
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, limits, published, scheduler, until

pytestmark = pytest.mark.anyio


def _outer(inner: dict[str, Any], **workflow: Any) -> Definition:
    nodes = [
        {"name": "a", "task": "tasks.a"},
        {"name": "k", "workflow": {"definition": inner} | workflow, "after": ["a"]},
        {"name": "z", "task": "tasks.z", "after": ["k"]},
    ]
    return wire.decode_definition(json.dumps({"name": "outer", "nodes": nodes}).encode(), nodes_max=100)


_INNER = {"nodes": [{"name": "x", "task": "tasks.x"}]}


async def test_a_child_is_begun_and_ends() -> None:
    """Its tasks are sent after what precedes its node, and before what follows it."""
    broker = FakeBroker()
    async with scheduler(broker) as running:
        handle = await running.submit(_outer(_INNER))
        outcome = await handle.wait()
        assert (outcome.state, published(broker)) == ("succeeded", ["a", "x", "z"])


async def test_what_cannot_be_begun_fails_its_node() -> None:
    """The reason is told, and nothing of it is sent."""
    broker = FakeBroker()
    broken = {"parameters": {"x": {"type": "integer"}}, "nodes": [{"name": "x", "task": "tasks.x", "args": ["${x}"]}]}
    async with scheduler(broker) as running:
        handle = await running.submit(_outer(broken, input="x"))
        outcome = await handle.wait()
        assert outcome.state == "failed"
        assert "its workflow cannot be begun: parameter 'x' must be of type integer" in (outcome.failed_nodes[0].error or "")
        assert published(broker) == ["a"]


class _Failing:
    """A task that fails as long as it is told to."""

    def __init__(self) -> None:
        self.fails = True

    def __call__(self, *_: object) -> int:
        if self.fails:
            raise ValueError("not yet")
        return 1


_TWO = {"nodes": [{"name": "x", "task": "tasks.x"}, {"name": "y", "task": "tasks.y", "after": ["x"]}]}


@pytest.mark.parametrize("is_direct", [False, True], ids=["by its parent", "directly"])
async def test_a_retry_goes_on_in_it(is_direct: bool) -> None:
    """What has succeeded in it is not sent again; whichever of the two is retried, both go on, and their ends agree."""
    task = _Failing()
    broker = FakeBroker({"tasks.y": task})
    async with scheduler(broker) as running:
        handle = await running.submit(_outer(_TWO))
        child_id = Parent(handle.id, 1).child_id
        outcome = await handle.wait()
        assert outcome.state == "failed"
        assert f"its workflow '{child_id}' failed: " in (outcome.failed_nodes[0].error or "")
        assert published(broker) == ["a", "x", "y"]
        task.fails = False
        await running.perform(child_id if is_direct else handle.id, VerbRequest(Verb.RETRY))
        with anyio.fail_after(10):
            while (await handle.status()).state != "succeeded":  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert published(broker) == ["a", "x", "y", "y", "z"]
        assert (await running.view(child_id)).state == "succeeded"


async def test_memory_is_waited_for() -> None:
    """A child for which there is no room is begun when there is; its workflow does not fail for that."""
    broker = FakeBroker()
    async with scheduler(broker, limits=limits(nodes_in_memory_max=5)) as running:
        other = await running.submit(definition("g gate=1"))
        handle = await running.submit(_outer(_TWO))
        await until(lambda: bool(running._parts.beginnings.waits))
        standing = (await running.explain(handle.id)).standings[0]
        assert "waits for its workflow, which cannot begin yet: no submissions are accepted now: " in standing.text
        await running.perform(other.id, VerbRequest(Verb.CANCEL))
        assert (await handle.wait()).state == "succeeded"


async def test_what_a_task_returned_becomes_no_task_that_is_forbidden() -> None:
    """The lists are asked again when it begins: before, nobody could know which task it would be."""
    broker = FakeBroker({"tasks.a": lambda: "tasks.evil"})
    inner = {"parameters": {"task": {"type": "string"}}, "nodes": [{"name": "x", "task": "${task}"}]}

    def refuse_tasks(graph: Graph) -> None:
        for signature in graph.signatures:
            if signature is not None and signature.task == "tasks.evil":
                raise TaskForbidden("x", signature.task, "is on the list")

    async with scheduler(broker, refuse_tasks=refuse_tasks) as running:
        outcome = await (await running.submit(_outer(inner, input="task"))).wait()
        assert outcome.state == "failed"
        assert "'tasks.evil' is on the list" in (outcome.failed_nodes[0].error or "")
        assert published(broker) == ["a"]


async def test_unknown_pools_are_refused_at_the_submission() -> None:
    """Whoever submits hears of them at once, and not when half of the work is done."""
    async with scheduler(FakeBroker()) as running:
        with pytest.raises(UnknownPool):
            await running.submit_definition(_outer({"nodes": [{"name": "x", "task": "tasks.x", "pool": "none"}]}))


async def test_a_result_that_nobody_waits_for() -> None:
    """One that has succeeded is not set going beside its parent, which has finished long ago."""
    async with scheduler(FakeBroker()) as running:
        handle = await running.submit(_outer(_INNER))
        await handle.wait()
        with pytest.raises(VerbRefused, match="does not wait for it any more"):
            await running.perform(Parent(handle.id, 1).child_id, VerbRequest(Verb.RERUN, nodes=("x",)))


async def test_a_retry_of_the_whole_goes_down() -> None:
    """What failed in a child that still runs is tried again by whoever retries the root: they see one workflow."""
    task = _Failing()
    broker = FakeBroker({"tasks.y": task})
    inner = {"nodes": [{"name": "y", "task": "tasks.y"}, {"name": "g", "gate": True}]}
    async with scheduler(broker) as running:
        handle = await running.submit(_outer(inner))
        child_id = Parent(handle.id, 1).child_id
        await until(lambda: "y" in published(broker) and child_id in running._parts.turns.engine.workflows)
        await until(lambda: bool(running._parts.turns.engine.workflows[child_id].nodes.bad))
        task.fails = False
        changed = await running.perform(handle.id, VerbRequest(Verb.RETRY))
        assert (changed.is_changed, changed.node_count) == (True, 1)
        await until(lambda: published(broker).count("y") == 2)


async def test_what_was_skipped_inside_is_no_value() -> None:
    """A task that asks to be ignored has no result; its node hands on null, and does not fail for it."""
    broker = FakeBroker({"tasks.z": lambda value: value})
    async with scheduler(broker) as running:
        handle = await running.submit(_outer({"nodes": [{"name": "g", "gate": True}]}))
        child_id = Parent(handle.id, 1).child_id
        await until(lambda: child_id in running._parts.turns.engine.workflows)
        await running.perform(child_id, VerbRequest(Verb.SKIP, nodes=("g",)))
        assert (await handle.wait()).result is None


_GATED: Any = {
    "name": "top",
    "nodes": [{"name": "g", "gate": True}, {"name": "k", "after": ["g"], "workflow": {"definition": None}}],
}


def _gated(nodes: int) -> Definition:
    inner = {"name": "i", "nodes": [{"name": f"x{number}", "task": "tasks.x"} for number in range(nodes)]}
    document = json.dumps(_GATED).replace("null", json.dumps(inner))
    return wire.decode_definition(document.encode(), nodes_max=100)


async def test_those_that_wait_for_each_other_are_told() -> None:
    """Two parents have all the room that the child of each needs: nothing is wrong with any of them, and nothing goes on."""
    broker = FakeBroker({"tasks.x": lambda: 1})
    async with scheduler(broker, limits=limits(nodes_in_memory_max=5)) as running:
        both = [(await running.submit_definition(_gated(3))).id for _ in range(2)]
        for each in both:
            await running.perform(each, VerbRequest(Verb.RELEASE, nodes=("g",)))
        await until(lambda: len(running._parts.beginnings.waits) == 2)
        (notice,) = running.statistics().notices
        assert notice.startswith("2 workflows of nodes cannot begin: no submissions are accepted now: 4 nodes are in memory")
        assert [item.text for item in (await running.overview()).items if item.kind == "notice"] == [notice]
        await running.perform(both[0], VerbRequest(Verb.CANCEL))
        assert (await running.wait(both[1], timeout_s=10)).state == "succeeded"
        assert running.statistics().notices == []


async def test_what_never_has_room_is_refused() -> None:
    """A child that does not fit beside those above it is not waited for."""
    async with scheduler(FakeBroker(), limits=limits(nodes_in_memory_max=5)) as running:
        top = (await running.submit_definition(_gated(4))).id
        await running.perform(top, VerbRequest(Verb.RELEASE, nodes=("g",)))
        outcome = await running.wait(top, timeout_s=10)
        assert outcome.state == "failed"
        assert "it has 4 nodes, and those above it 2, more than `nodes_in_memory_max` (5)" in outcome.error


async def test_many_small_children_have_a_bound() -> None:
    """A workflow has more in memory than its nodes: a short map of maps must not become millions of them."""
    document = {
        "name": "top",
        "nodes": [{"name": "m", "map": {"over": [*range(20)], "do": {"workflow": {"definition": {"nodes": [{"gate": True}]}}}}}],
    }
    async with scheduler(FakeBroker(), limits=limits(nodes_in_memory_max=100, workflows_max=5)) as running:
        await running.submit_definition(wire.decode_definition(json.dumps(document).encode(), nodes_max=100))
        await until(lambda: len(running._parts.beginnings.waits) > 0)
        assert running.workflow_count < 15
