"""Children are shown beside the nodes whose work they are, and what they wait for is told to whoever asks about their parent."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.parent import Parent
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler import Scheduler
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import scheduler, until

pytestmark = pytest.mark.anyio

_BOTTOM = {"name": "bottom", "nodes": [{"name": "x", "task": "tasks.x"}, {"name": "gate", "gate": True, "after": ["x"]}]}


def _in(inner: dict[str, Any], name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "nodes": [{"name": "a", "task": "tasks.a"}, {"name": "k", "workflow": {"definition": inner}, **more}]}


def _read(document: dict[str, Any]) -> Definition:
    return wire.decode_definition(json.dumps(document).encode(), nodes_max=100)


@pytest.fixture
async def tree() -> AsyncIterator[tuple[Scheduler, list[str]]]:
    """Three workflows in each other, the lowest of which waits at a gate; their ids, the uppermost first."""
    async with scheduler(FakeBroker({"tasks.x": lambda: 1, "tasks.a": lambda: 1})) as running:
        top = (await running.submit(_read(_in(_in(_BOTTOM, "middle"), "top")))).id
        middle = Parent(top, 1).child_id
        bottom = Parent(middle, 1).child_id
        await _gate(running, bottom)
        yield running, [top, middle, bottom]


async def _gate(running: Scheduler, workflow_id: str) -> None:
    engine = running._parts._engine
    await until(lambda: workflow_id in engine.workflows and bool(engine.workflows[workflow_id].holds))


async def test_the_bottom_is_named(tree: tuple[Scheduler, list[str]]) -> None:
    """Whoever asks about the uppermost workflow hears of the gate two levels below, and where it is released."""
    running, [top, middle, bottom] = tree
    found = await running.explain(top)
    assert found.verdict == "nothing is in flight: 1 node waits for its workflow"
    (standing,) = found.standings
    assert standing.code == "child"
    assert standing.text == (
        f"'k' is done by workflow {middle}, which has done 1 of 2; there 'k' is done by workflow {bottom}, which has done 1 of 2;"
        " there 'gate' is a gate and waits for an operator"
    )
    assert standing.next_step == f"dyrygentctl explain {bottom}"
    node = await running.explain(top, "k")
    assert node.verdict == standing.text
    assert (await running.explain(bottom)).standings[0].next_step == "`release gate` opens it"


async def test_a_paused_one_is_named(tree: tuple[Scheduler, list[str]]) -> None:
    """Nothing goes on below it, whatever waits there."""
    running, [top, middle, _bottom] = tree
    await running.perform(middle, VerbRequest(Verb.PAUSE, by="ops"))
    (standing,) = (await running.explain(top)).standings
    assert f"'k' is done by workflow {middle}, which is paused, has done 1 of 2; there it is paused" in standing.text


async def test_what_waits_below_is_seen_above(tree: tuple[Scheduler, list[str]]) -> None:
    """In a listing the uppermost workflow is one that waits for a person; the overview names the one with the gate."""
    running, [top, _middle, bottom] = tree
    (listed,) = (await running.list(Selection())).workflows
    assert (listed.id, listed.waits_for_person) == (top, {"gate": 1})
    assert listed.below == wire.BelowView(1, {"running": 1}, 2, {"succeeded": 1, "held": 1})
    assert (await running.view(bottom)).below is None
    overview = await running.overview()
    [item] = [item for item in overview.items if item.kind == "person"]
    assert (item.code, item.workflow, item.name, item.root_name) == ("gate", bottom, "bottom", "top")


async def test_a_node_has_its_child(tree: tuple[Scheduler, list[str]]) -> None:
    """It is shown with it in every view of nodes, while it runs and when it has ended."""
    running, [top, middle, bottom] = tree
    view = await running.view(bottom)
    assert view.parent == wire.ParentView(workflow=middle, node="k", root=top, depth=2)
    for node in ((await running.node(top, "k")), (await running.nodes(top)).nodes[1], (await running.summary(top)).under_way[0]):
        assert (node.kind, node.hold) == ("workflow", "child")
        assert node.child is not None
        assert (node.child.id, node.child.state, node.child.counts) == (middle, "running", {"succeeded": 1, "held": 1})
    assert (await running.nodes(top)).nodes[0].child is None
    await running.perform(bottom, VerbRequest(Verb.RELEASE, nodes=("gate",)))
    await running.wait(top, timeout_s=10)
    node = await running.node(top, "k")
    assert node.child is not None
    assert (node.child.state, node.child.counts) == ("succeeded", {"succeeded": 2})


async def test_a_box_has_its_child(tree: tuple[Scheduler, list[str]]) -> None:
    """The box of the node counts what is in its workflow, and those who follow the fold are told of that, too."""
    running, [top, middle, bottom] = tree
    first, second = (await running.faces.fold(top)).boxes
    assert (first.title, first.child) == ("a", None)
    assert second.child is not None
    assert (second.states, second.child.id, second.child.counts) == ({"held": 1}, middle, {"succeeded": 1, "held": 1})
    stream = running.faces.follow_fold(middle)
    kinds = [(await anext(stream)).kind]
    await running.perform(bottom, VerbRequest(Verb.RELEASE, nodes=("gate",)))
    async for event in stream:
        kinds.append(event.kind)
        last = event
    assert kinds[0] == "fold"
    assert b'"succeeded":2' in last.data


async def test_its_time_is_that_of_its_child(tree: tuple[Scheduler, list[str]]) -> None:
    """In a timeline the node is under way as long as its workflow is, and does not wait."""
    running, [top, _, _] = tree
    (row,) = [row for row in (await running.faces.timeline(top)).rows if row.title == "k"]
    assert sum(row.running) > 0
    assert sum(row.waiting) == 0


async def test_a_failure_below_is_told_above() -> None:
    """The parent's node says which workflow failed and what failed in it first."""

    def fail(*_: object) -> None:
        raise ValueError("no")

    async with scheduler(FakeBroker({"tasks.x": fail, "tasks.a": lambda: 1})) as running:
        top = (await running.submit(_read(_in(_BOTTOM, "top")))).id
        await running.wait(top, timeout_s=10)
        node = await running.node(top, "k")
        assert node.child is not None
        assert (node.state, node.child.state) == ("failed", "failed")
        assert "ValueError" in node.child.error
        assert [item.workflow for item in (await running.overview()).items if item.kind == "failed"] == [top]


async def test_a_forced_end_reaches_what_cleans_up_below() -> None:
    """What is in between may have finished: whoever ends all at once names the workflow that they know."""
    nodes = [{"name": "work", "task": "tasks.x"}, {"name": "clean", "task": "tasks.y", "section_end": "finally"}]
    bottom = {"name": "bottom", "nodes": [{**node, "section": "s"} for node in nodes]}
    broker = FakeBroker(holds=True)
    async with scheduler(broker) as running:
        top = (await running.submit(_read({"nodes": [{"name": "k", "workflow": {"definition": _only(bottom)}}]}))).id
        middle = Parent(top, 0).child_id
        lowest = Parent(middle, 0).child_id
        await until(lambda: len(broker.published) == 1)
        await running.perform(top, VerbRequest(Verb.CANCEL))
        await until(lambda: len(broker.published) == 2)
        assert [(await running.view(each)).state for each in (top, middle, lowest)] == ["cancelled", "cancelled", "running"]
        changed = await running.perform(top, VerbRequest(Verb.CANCEL, force=True, why="now"))
        assert changed.is_changed
        assert (await running.wait(lowest, timeout_s=10)).state == "cancelled"
        assert [entry.why for entry in (await running.journal(lowest)).entries][1:] == ["now"]
        assert not (await running.perform(top, VerbRequest(Verb.CANCEL, force=True))).is_changed


def _only(inner: dict[str, Any]) -> dict[str, Any]:
    return {"name": "middle", "nodes": [{"name": "k", "workflow": {"definition": inner}}]}


async def test_no_child_yet(tree: tuple[Scheduler, list[str]]) -> None:
    """A node that waits for what precedes it has none."""
    running, _ = tree
    waiting = (await running.submit(_read(_in(_BOTTOM, "later", after=["a"]) | {"policy": {"start_at": 4e9}}))).id
    node = await running.node(waiting, "k")
    assert (node.state, node.child) == ("waiting", None)


async def test_a_child_that_ran_again_is_shown_as_it_ended() -> None:
    """What somebody has seen of it, and what became of it while nobody looked, are two things."""
    is_well = False

    def work() -> int:
        if not is_well:
            raise ValueError("not yet")
        return 1

    async with scheduler(FakeBroker({"tasks.x": work, "tasks.a": lambda: 1})) as running:
        inner = {"name": "inner", "nodes": [{"name": "x", "task": "tasks.x"}]}
        top = await running.submit(_read(_in(inner, "top")))
        assert (await top.wait()).state == "failed"
        seen = (await running.nodes(top.id, limit=10)).nodes[1].child
        assert seen is not None
        assert seen.state == "failed"
        assert (await running.explain(top.id, "k")).verdict.startswith("'k' failed: its workflow")
        is_well = True
        await running.perform(top.id, VerbRequest(Verb.RETRY))
        assert (await top.wait()).state == "succeeded"
        seen = (await running.nodes(top.id, limit=10)).nodes[1].child
        assert seen is not None
        assert (seen.state, seen.counts) == ("succeeded", {"succeeded": 1})
