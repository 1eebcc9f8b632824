"""Workflows that do the work of a node, built in Python: the same as in a definition, and refused where they are built."""

import json
from typing import Any

import pytest
from celery import chain, signature

from dyrygentd import Workflow, wire
from dyrygentd.errors import BadNode, DyrygentError
from dyrygentd.lint import lint

_DOCUMENT: dict[str, Any] = {"parameters": {"x": {"type": "integer"}}, "nodes": [{"task": "t", "args": ["${x}"]}]}


def _written(workflow: Workflow) -> Any:
    return json.loads(wire.encode_definition(workflow.definition(), chosen_ids_only=True))["nodes"]


def test_a_document() -> None:
    """It is kept as it was written, with its parameters, and read back."""
    workflow = Workflow("outer")
    first = workflow.add(signature("a"), name="a")
    node = workflow.add_workflow(_DOCUMENT, name="k", input="x", after=first, on_close="abandon")
    written = _written(workflow)[1]
    assert written["workflow"] == {"definition": _DOCUMENT, "input": "x", "on_close": "abandon"}
    assert (node.name, written["after"]) == ("k", ["a"])
    again = wire.decode_definition(wire.encode_definition(workflow.definition()), nodes_max=10)
    assert again.graph.policies == workflow.definition().graph.policies


def test_another_workflow_or_a_canvas() -> None:
    """What has no name is called as its node; a name that somebody gave stays."""
    inner = Workflow("inner")
    inner.add(signature("b"))
    workflow = Workflow("outer")
    workflow.add_workflow(inner, name="k")
    workflow.add_workflow(chain(signature("c"), signature("d")), name="l")
    unnamed = workflow.add_workflow(signature("e"))
    first, second, third = (node["workflow"]["definition"] for node in _written(workflow))
    assert (first["name"], second.get("name"), third.get("name")) == ("inner", None, None)
    assert [node["task"] for node in second["nodes"]] == ["c", "d"]
    assert unnamed.name == "workflow-3"


def test_refused_where_it_is_built() -> None:
    """What the daemon would refuse is refused in the program, and adds nothing."""
    workflow = Workflow("outer")
    for options, words in (
        ({"input": "y"}, "has no parameter 'y'"),
        ({"values": {"x": "many"}}, "must be of type integer"),
        ({"values": 7}, "`values` is the number 7|`values` is 7"),
        ({"input": "x", "on_close": "leave"}, "use one of cancel, abandon|`on_close` is"),
        ({}, "has no value"),
    ):
        with pytest.raises(BadNode, match=words):
            workflow.add_workflow(_DOCUMENT, name="k", **options)
    with pytest.raises(DyrygentError):
        workflow.add_workflow(7)
    assert len(workflow) == 0


def test_lint_looks_inside() -> None:
    """A task that no worker has is found also two levels down, with the nodes around it."""
    inner = Workflow("inner")
    inner.add(signature("gone"), name="x")
    middle = Workflow("middle")
    middle.add_workflow(inner, name="l")
    workflow = Workflow("outer")
    workflow.add_workflow(middle, name="k")
    found = lint(workflow, known_tasks=["here"])
    assert [finding.node for finding in found if "gone" in str(finding)] == ["k.l.x"]
