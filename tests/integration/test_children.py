"""Workflows that do the work of a node of another one, under a real daemon."""

from typing import Any

import pytest

from dyrygentd.core.parent import Parent
from tests.integration.conftest import Site

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_WAIT_S = 60

#: Adds one to what it is given, in two tasks after each other.
_INNER: dict[str, Any] = {
    "name": "inner",
    "parameters": {"x": {"type": "integer"}, "more": 1},
    "nodes": [
        {"name": "first", "task": "tests.support.tasks.add", "args": ["${x}", "${more}"]},
        {"name": "second", "task": "tests.support.tasks.add", "args": [0], "after": ["first"]},
    ],
}


def _with_child(**workflow: Any) -> dict[str, Any]:
    """A task, a workflow of its own that gets its value, and a task that gets the value of that."""
    return {
        "name": "outer",
        "nodes": [
            {"name": "before", "task": "tests.support.tasks.add", "args": [1, 2]},
            {"name": "inner", "workflow": {"definition": _INNER, "input": "x"} | workflow, "after": ["before"]},
            {"name": "after", "task": "tests.support.tasks.add", "args": [100], "after": ["inner"]},
        ],
    }


def _child(parent_id: str, node: int = 1, generation: int = 0) -> str:
    return Parent(parent_id, node, generation).child_id


def test_a_workflow_does_the_work_of_a_node(site: Site) -> None:
    """It gets the value of what precedes its node, and its result is the node's value."""
    with site.daemon("values") as daemon, daemon.client() as client:
        handle = client.submit(_with_child(values={"more": 10}))
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, outcome.result) == ("succeeded", 113), f"{outcome} {daemon.log()}"
        child = client.handle(_child(handle.id))
        assert child.status().name == "inner"
        assert child.wait(timeout_s=_WAIT_S).result == 13
