"""A workflow moves to another daemon with those that do the work of its nodes: one document, and nothing is lost."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.parent import Parent
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import BadRequest, DefinitionError, NotImportable
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler import Scheduler
from dyrygentd.testing import FakeBroker
from dyrygentd.wire.letters import decode_import, encode_import
from tests.scheduler.support import published, scheduler, until

pytestmark = pytest.mark.anyio

_ALL = Selection(with_children=True)
_TASKS: Mapping[str, Callable[..., object]] = {
    "tasks.a": lambda: 1,
    "tasks.x": lambda *_: 2,
    "tasks.y": lambda *_: 3,
    "tasks.z": lambda *_: 4,
}
_BOTTOM = {"name": "bottom", "nodes": [{"name": "x", "task": "tasks.x"}, {"name": "y", "task": "tasks.y", "after": ["x"]}]}
_MIDDLE = {"name": "middle", "nodes": [{"name": "a", "task": "tasks.a"}, {"name": "k", "workflow": {"definition": _BOTTOM}}]}
_TOP: dict[str, Any] = {
    "name": "top",
    "nodes": [
        {"name": "done", "workflow": {"definition": _BOTTOM}},
        {"name": "deep", "workflow": {"definition": _MIDDLE}, "after": ["done"]},
        {"name": "z", "task": "tasks.z", "after": ["deep"]},
    ],
}


def _read(document: dict[str, Any]) -> Definition:
    return wire.decode_definition(json.dumps(document).encode(), nodes_max=100)


async def _paused(running: Scheduler, broker: FakeBroker) -> list[str]:
    """Let a workflow come so far that a child has ended, and pause it amid the other one; return all ids."""
    top = (await running.submit_definition(_read(_TOP), owner=7)).id
    done, middle = Parent(top, 0).child_id, Parent(top, 1).child_id
    bottom = Parent(middle, 1).child_id
    for count in (1, 2, 4):
        await until(lambda count=count: len(broker.published) == count)  # type: ignore[misc]
        if count < 4:
            broker.let_go()
    await running.perform(top, VerbRequest(Verb.PAUSE, by="anna", why="host goes"))
    broker.let_go()
    await until(lambda: running.in_flight_count == 0)
    await running._parts.inbox.wait_saved()
    return [top, done, middle, bottom]


async def test_a_tree_goes_on_elsewhere() -> None:
    """What ran does not run again, the rest runs there, and what each workflow is to the others is the same."""
    here, there = FakeBroker(_TASKS, holds=True), FakeBroker(_TASKS)
    async with scheduler(here) as source:
        ids = await _paused(source, here)
        before = [await source.view(each) for each in ids]
        export = await source.export(ids[0])
    assert published(here) == ["x", "y", "a", "x"]
    imported = wire.decode_export(export, nodes_max=1000)
    assert [child.record.workflow_id for child in imported.children] == [ids[1], ids[2], ids[3]]
    # As a gateway leaves it for whoever leads.
    imported, by = decode_import(encode_import(imported, by="bert", version="1", now=5.0))
    async with scheduler(there) as target:
        assert (await target.take_over(imported, by=by, owner=9)).id == ids[0]
        for view, was in zip([await target.view(each) for each in ids], before, strict=True):
            same = ("id", "name", "state", "counts", "created_at", "finished_at", "parent", "result", "error")
            assert [getattr(view, name) for name in same] == [getattr(was, name) for name in same]
            assert view.owner == 9
            assert [entry.verb for entry in (await target.journal(view.id)).entries][-1] == "import"
        assert len((await target.list(_ALL)).workflows) == 4
        assert published(there) == []
        await target.perform(ids[0], VerbRequest(Verb.RESUME))
        assert (await target.wait(ids[0], timeout_s=10)).state == "succeeded"
        assert published(there) == ["y", "z"]
        assert len((await target.list(_ALL)).workflows) == 4
        # It goes on to a third one, as it ended.
        again = wire.decode_export(await target.export(ids[0]), nodes_max=1000)
        assert [child.record.state.value for child in again.children] == ["succeeded"] * 3


async def test_a_child_alone_is_a_workflow_of_its_own() -> None:
    """What is exported below another one is written with it, and stands by itself where it comes to."""
    here, there = FakeBroker(_TASKS, holds=True), FakeBroker(_TASKS)
    async with scheduler(here) as source, scheduler(there) as target:
        top, _, middle, bottom = await _paused(source, here)
        export = await source.export(middle)
        assert json.loads(export)["workflow"]["parent"] == {"workflow": top, "node": "deep"}
        await target.take_over(wire.decode_export(export, nodes_max=1000))
        assert (await target.view(middle)).parent is None
        view = await target.view(bottom)
        assert view.parent is not None
        assert (view.parent.workflow, view.parent.root, view.parent.depth) == (middle, middle, 1)
        await target.perform(middle, VerbRequest(Verb.RESUME))
        assert (await target.wait(middle, timeout_s=10)).state == "succeeded"


async def test_what_is_there_already_is_refused() -> None:
    """Nothing of a tree is taken in if one of it is here."""
    here, there = FakeBroker(_TASKS, holds=True), FakeBroker(_TASKS)
    async with scheduler(here) as source, scheduler(there) as target:
        top, _, middle, _ = await _paused(source, here)
        await target.take_over(wire.decode_export(await source.export(middle), nodes_max=1000))
        with pytest.raises(NotImportable, match=f"'{middle}' cannot be imported: it is here already"):
            await target.take_over(wire.decode_export(await source.export(top), nodes_max=1000))
        assert [view.id for view in (await target.list(Selection())).workflows] == [middle]


async def test_a_tree_that_somebody_has_changed_is_refused() -> None:
    """A child without its parent, of a node that is none, or under another id, is none."""
    here = FakeBroker(_TASKS, holds=True)
    async with scheduler(here) as source:
        export = json.loads(await source.export((await _paused(source, here))[0]))
    changes: list[tuple[Callable[[Any], object], str]] = [
        (lambda tree: tree["children"].pop(1), "is a child of none that stands before it"),
        (lambda tree: tree["children"][0]["workflow"].pop("parent"), "is a child of none that stands before it"),
        (lambda tree: tree["children"][0]["workflow"]["parent"].update(node="other"), "has no node 'other'"),
        (lambda tree: tree["children"][0]["workflow"]["parent"].update(generation=3), "cannot be the child of node 'done'"),
        (lambda tree: tree["children"].append(tree["children"][0]), "cannot be the child of node 'done'"),
        (lambda tree: tree["children"][0]["workflow"].update(key="k"), "cannot be the child of node 'done'"),
        (lambda tree: tree["children"][2]["workflow"].update(state="running"), "it was running"),
    ]
    for change, words in changes:
        changed = json.loads(json.dumps(export))
        change(changed)
        with pytest.raises((BadRequest, NotImportable), match=words):
            wire.decode_export(json.dumps(changed).encode(), nodes_max=1000)
    with pytest.raises((BadRequest, DefinitionError), match="nodes"):
        wire.decode_export(json.dumps(export).encode(), nodes_max=5)


_MAPPED: dict[str, Any] = {
    "name": "top",
    "nodes": [
        {"name": "g", "gate": True},
        {"name": "m", "map": {"over": [1, 2], "do": {"task": "tasks.x"}}, "after": ["g"]},
    ],
}


async def test_ids_of_other_tasks_are_not_taken() -> None:
    """What is made of a list has the ids of its tasks from its own id, whatever somebody writes into an export."""
    here = FakeBroker(_TASKS, holds=True)
    async with scheduler(here) as source:
        top = (await source.submit_definition(_read(_MAPPED))).id
        await source.perform(top, VerbRequest(Verb.RELEASE, nodes=("g",)))
        await until(lambda: len(here.published) == 2)
        here.let_go()
        await source.wait(top, timeout_s=10)
        child = Parent(top, 1).child_id
        for workflow_id in (top, child):
            exported = json.loads(await source.export(workflow_id))
            below = exported.get("children", [exported])[0]
            assert below["definition"]["expanded"]["seed"] == child
            below["definition"]["expanded"]["seed"] = top
            with pytest.raises(BadRequest, match="have ids that are made of another one's"):
                wire.decode_export(json.dumps(exported).encode(), nodes_max=1000)


async def test_a_workflow_with_the_id_of_a_child_is_none() -> None:
    """Somebody has imported a finished workflow under the id that a child will have: its result is not the node's value."""
    broker = FakeBroker(_TASKS)
    async with scheduler(broker) as running:
        top = (await running.submit_definition(_read(_MAPPED))).id
        workflow = {"id": Parent(top, 1).child_id, "name": "x", "state": "succeeded", "created_at": 1, "finished_at": 2}
        definition = {"name": "x", "nodes": [{"name": "j", "join": True}], "output": "j"}
        nodes = [{"name": "j", "state": "succeeded", "finished_at": 2}]
        export = {"export": 1, "workflow": {**workflow, "result": '"forged"'}, "definition": definition, "nodes": nodes}
        await running.take_over(wire.decode_export(json.dumps(export).encode(), nodes_max=1000))
        await running.perform(top, VerbRequest(Verb.RELEASE, nodes=("g",)))
        outcome = await running.wait(top, timeout_s=10)
        assert outcome.state == "failed"
        assert "is not that of this node" in outcome.error


@pytest.mark.parametrize(
    "fields",
    [
        {"behind": "1,\u0002w/f:3\u0003"},
        {"added": {"kind": "beside", "document": "\u0002w/f:3\u0003"}},
        {"added": {"kind": "beside", "value": "\u0002w/f:3\u0003"}},
    ],
)
def test_nobody_makes_a_reference_up(fields: dict[str, Any]) -> None:
    """An export names no values that are kept here: they would be anybody's."""
    workflow = {"id": "00000000-0000-4000-8000-000000000001", "name": "x", "state": "paused", "created_at": 1}
    definition = {"name": "x", "nodes": [{"name": "n", "task": "t", "task_id": "00000000-0000-4000-8000-000000000002"}]}
    nodes = [{"name": "n", "state": "held", **fields}]
    body = json.dumps({"export": 1, "workflow": workflow, "definition": definition, "nodes": nodes}).encode()
    with pytest.raises(BadRequest, match=r"no JSON text|cannot be read"):
        wire.decode_export(body, nodes_max=10)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"name": "g", "state": "ready"}, "is to be sent, and has no task"),
        ({"name": "m", "state": "ready"}, "is to be sent, and has no task"),
        ({"name": "t", "state": "held", "reason": "child"}, "waits for a workflow of its own, and has none"),
    ],
)
async def test_nodes_in_states_that_they_cannot_have_are_refused(node: dict[str, Any], words: str) -> None:
    """Nobody would ever end them."""
    nodes = [*_MAPPED["nodes"], {"name": "t", "task": "t", "task_id": "00000000-0000-4000-8000-000000000002"}]
    workflow = {"id": "00000000-0000-4000-8000-000000000001", "name": "x", "state": "paused", "created_at": 1}
    definition = {"name": "x", "nodes": [{**each, "after": []} for each in nodes]}
    others = [{"name": "g", "state": "held", "reason": "gate"}, {"name": "m", "state": "held", "reason": "child"}]
    states = [node, *(each for each in others if each["name"] != node["name"])]
    states += [] if node["name"] == "t" else [{"name": "t", "state": "ready"}]
    export = {"export": 1, "workflow": workflow, "definition": definition, "nodes": states}
    async with scheduler(FakeBroker()) as running:
        with pytest.raises(BadRequest, match=words):
            await running.take_over(wire.decode_export(json.dumps(export).encode(), nodes_max=100))
