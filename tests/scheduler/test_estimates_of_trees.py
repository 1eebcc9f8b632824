"""How long a workflow goes on depends on those that do the work of its nodes."""

import json
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.core.parent import Parent
from dyrygentd.scheduler import Scheduler
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import scheduler, until

pytestmark = pytest.mark.anyio

_TASK = {"name": "x", "task": "tasks.x"}
_INNER = {"name": "inner", "nodes": [_TASK, {"name": "y", "task": "tasks.x", "after": ["x"]}]}


async def _begun(running: Scheduler, nodes: list[dict[str, Any]]) -> str:
    """Submit nodes of which the first one is done by a workflow, and wait until that has begun; return the parent's id."""
    for _ in range(20):
        running._parts._engine.counting.run_times.ended("tasks.x", 10.0, is_good=True)
    definition = wire.decode_definition(json.dumps({"name": "outer", "nodes": nodes}).encode(), nodes_max=100)
    top = (await running.submit(definition)).id
    await until(lambda: Parent(top, 0).child_id in running._parts._engine.workflows)
    return top


async def test_a_workflow_ends_after_its_children() -> None:
    """What follows a node waits for the end of its workflow: twenty seconds of that, and ten of the task after it."""
    async with scheduler(FakeBroker(holds=True)) as running:
        top = await _begun(running, [{"name": "k", "workflow": {"definition": _INNER}}, {**_TASK, "name": "z", "after": ["k"]}])
        found, inner = await running.faces.estimate(top), await running.faces.estimate(Parent(top, 0).child_id)
        assert inner.low_s is not None
        assert found.low_s is not None
        assert found.high_s is not None
        assert inner.low_s + 5 < found.low_s < 30 < found.high_s < 45
        assert (found.bound, [each.name for each in found.path]) == ("path", ["k", "z"])


async def test_what_waits_below_is_waited_for_above() -> None:
    """A gate in a child makes the end of its parent one that nobody can tell, and names the node."""
    gated = {"name": "inner", "nodes": [_TASK, {"name": "g", "gate": True}]}
    async with scheduler(FakeBroker(holds=True)) as running:
        found = await running.faces.estimate(await _begun(running, [{"name": "k", "workflow": {"definition": gated}}]))
        assert (found.bound, found.bound_name) == ("person", "k")
        assert found.words.startswith("nobody can tell when it ends: 'k' waits for a person, or will")


async def test_what_has_not_begun_is_not_known() -> None:
    """How much a workflow will be is known once it begins; until then nothing is told."""
    async with scheduler(FakeBroker(holds=True)) as running:
        later = {"name": "later", "workflow": {"definition": _INNER}, "after": ["k"]}
        found = await running.faces.estimate(await _begun(running, [{"name": "k", "workflow": {"definition": _INNER}}, later]))
        assert (found.low_s, found.bound) == (None, "unknown")
        assert found.words == "not known yet: nobody can tell how long the workflow of 'later' will take"
