"""Workflows that do the work of a node of another one, under a real daemon."""

import random
from typing import Any

import pytest

from dyrygentd.core.parent import Parent
from tests.integration.conftest import Site
from tests.support.servers import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_WAIT_S = 60
_ADD = "tests.support.tasks.add"

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


def _tree(width: int) -> dict[str, Any]:
    """So many workflows of workflows side by side, each with a task at its bottom that says who it is, and one task after all."""
    echo = "tests.support.tasks.identity"
    nodes: list[dict[str, Any]] = []
    for number in range(width):
        leaf = {"nodes": [{"name": "x", "task": echo, "args": [number]}, {"name": "y", "task": echo, "after": ["x"]}]}
        middle = {"nodes": [{"name": "leaf", "workflow": {"definition": leaf}}]}
        nodes.append({"name": f"n{number}", "workflow": {"definition": middle}})
    names = [node["name"] for node in nodes]
    return {"name": "tree", "nodes": [*nodes, {"name": "all", "task": "tests.support.tasks.total", "after": names}]}


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
def test_killed_amid(seed: int, site: Site) -> None:
    """Whenever the daemon dies, each task of the tree is executed once, and what is handed up is what it made."""
    chance, width = random.Random(seed), 25
    site.executions.clear()
    with site.daemon(f"killed-{seed}") as daemon, daemon.client() as client:
        handle = client.submit(_tree(width))
        for moment in sorted(chance.randrange(2 * width) for _ in range(3)):
            wait_until(lambda moment=moment: len(site.executions.counts()) >= moment, timeout_s=60, message=daemon.log)  # type: ignore[misc]
            daemon.kill()
            daemon.start()
        outcome = handle.wait(timeout_s=120)
        assert (outcome.state, outcome.result) == ("succeeded", sum(range(width))), f"{outcome} {daemon.log()}"
        assert set(site.executions.counts().values()) == {1}
        assert len(site.executions.counts()) == 2 * width + 1


def test_verbs_go_down_and_a_retry_goes_on(site: Site) -> None:
    """Paused, killed, resumed, cancelled and retried as a whole, a tree does each of its tasks once and ends well."""
    site.executions.clear()
    with site.daemon("verbs") as daemon, daemon.client() as client:
        handle = client.submit(_with_child())
        handle.pause()
        daemon.kill()
        daemon.start()
        handle.resume()
        assert handle.wait(timeout_s=_WAIT_S).result == 104
        gated = {
            "name": "inner",
            "nodes": [
                {"name": "g", "gate": True},
                {"name": "x", "task": _ADD, "args": [1, 2], "immutable": True, "after": ["g"]},
            ],
        }
        second = client.submit({"name": "gated", "nodes": [{"name": "k", "workflow": {"definition": gated}}]})
        child = client.handle(_child(second.id, 0))
        wait_until(lambda: client.handle(second.id).node("k").child is not None, timeout_s=_WAIT_S, message=daemon.log)
        second.cancel()
        assert second.wait(timeout_s=_WAIT_S).state == "cancelled"
        assert child.status().state == "cancelled"
        second.retry()
        wait_until(lambda: child.status().state == "running", timeout_s=_WAIT_S, message=daemon.log)
        child.release("g")
        assert second.wait(timeout_s=_WAIT_S).result == 3
