"""Workflows of nodes as they are written: read, kept, written again, put together, and refused with what is allowed."""

import json
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.errors import BadNode, BadRequest, DyrygentError

_INNER: dict[str, Any] = {
    "parameters": {"x": {"type": "integer"}, "more": 1},
    "nodes": [{"task": "t.add", "args": ["${x}", "${more}"]}],
}


def _outer(workflow: Any, **around: Any) -> bytes:
    return json.dumps(
        {"nodes": [{"name": "a", "task": "t.a"}, {"name": "k", "workflow": workflow, "after": ["a"]}]} | around
    ).encode()


def _read(workflow: Any, **around: Any) -> Any:
    return wire.decode_definition(_outer(workflow, **around), nodes_max=100)


def test_round_trip() -> None:
    """What is stored is read back as what it was."""
    written = {"definition": _INNER, "values": {"more": 5}, "input": "x", "on_close": "abandon"}
    definition = _read(written)
    child = definition.graph.policy(1).child
    assert (child.takes_input, child.on_close, child.kind) == (True, "abandon", "workflow")
    again = wire.decode_definition(wire.encode_definition(definition), nodes_max=100)
    assert again.graph.policies == definition.graph.policies
    assert json.loads(wire.encode_definition(definition))["nodes"][1]["workflow"] == written
    assert (definition.graph.takes_input(1), definition.graph.feeds_tasks[0], definition.graph.value_uses[0]) == (True, 1, 1)


def test_put_together() -> None:
    """It is begun with its values and what precedes its node, and named after that unless it says so itself."""
    child = _read({"definition": _INNER, "values": {"more": 5}, "input": "x"}).graph.policy(1).child
    begun = wire.decode_child(child, b"41", name="outer: k", depth=1, nodes_max=100)
    signature = begun.graph.signatures[0]
    assert signature is not None
    assert (begun.name, signature.args) == ("outer: k", b"[41,5]")
    assert begun.is_fresh
    named = _read({"definition": {"name": "own", "nodes": [{"task": "t"}]}}).graph.policy(1).child
    assert wire.decode_child(named, None, name="outer: k", depth=1, nodes_max=100).name == "own"


def test_parameters_of_both() -> None:
    """Values may name parameters of what is around; the references inside are those of the definition itself."""
    workflow = {"definition": _INNER, "values": {"more": "${n}"}, "input": "x"}
    definition = _read(workflow, parameters={"n": 7})
    document = json.loads(definition.graph.policy(1).child.document)
    assert document["values"] == {"more": 7}
    assert document["definition"] == _INNER


@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        ({}, "definition"),
        (5, "object"),
        ({"definition": []}, "must be an object"),
        ({"definition": {"nodes": []}}, "nothing to run|no node"),
        ({"definition": {"nodes": [{"task": "t"}]}, "input": "x"}, "parameter"),
        ({"definition": _INNER, "input": "y"}, "has no parameter 'y'"),
        ({"definition": _INNER, "input": "x", "values": {"x": 1}}, "as well"),
        ({"definition": _INNER, "input": "x", "values": {"more": "many"}}, "must be of type integer"),
        ({"definition": _INNER}, "has no value"),
        ({"definition": {"key": "k", "nodes": [{"task": "t"}]}}, "`key` cannot be given"),
        ({"definition": {"nodes": [{"task": "t", "task_id": "mine"}]}}, "task_id"),
        ({"definition": {"nodes": [{"task": "t", "adopted": "succeeded"}]}}, "adopted"),
        ({"definition": {"nodes": [{"task": "t", "after": ["u"]}]}}, "'u'"),
        ({"definition": {"nodes": [{"task": "t"}]}, "on_close": "leave"}, "on_close"),
    ],
)
def test_bad_ones_are_refused_before_anything_runs(workflow: Any, words: str) -> None:
    """Whoever submits learns at once what is wrong inside, and at which node."""
    with pytest.raises(DyrygentError, match=words):
        _read(workflow)


def test_a_parameter_inside_is_given_by_the_node() -> None:
    """A command line gives those of what is submitted; what is inside gets its values from the node."""
    with pytest.raises(BadNode, match="has no value") as caught:
        _read({"definition": _INNER})
    assert caught.value.next_step == "give it in `workflow.values`, or name it as `workflow.input`"


def test_its_node_has_no_task_of_its_own() -> None:
    """What it cannot have is named."""
    body = json.dumps({"nodes": [{"name": "k", "task": "t", "workflow": {"definition": {"nodes": [{"task": "t"}]}}}]}).encode()
    with pytest.raises(BadNode, match="a node with a workflow of its own has no task"):
        wire.decode_definition(body, nodes_max=100)


def test_one_in_another_is_bounded() -> None:
    """Eight levels are enough for anybody; one more is refused, and says so."""
    inner: dict[str, Any] = {"nodes": [{"task": "t"}]}
    for _ in range(8):
        inner = {"nodes": [{"name": "k", "workflow": {"definition": inner}}]}
    wire.decode_definition(json.dumps(inner).encode(), nodes_max=100)
    inner = {"nodes": [{"name": "k", "workflow": {"definition": inner}}]}
    with pytest.raises(BadNode, match="there are 9 workflows above it, the limit is 8"):
        wire.decode_definition(json.dumps(inner).encode(), nodes_max=100)


def test_what_is_not_known_yet_is_no_mistake() -> None:
    """A time that a task will return is none before: it is looked at when it is there."""
    inner = {"parameters": {"at": {"type": "string"}}, "nodes": [{"task": "t", "options": {"eta": "${at}"}}]}
    child = _read({"definition": inner, "input": "at"}).graph.policy(1).child
    with pytest.raises((BadNode, BadRequest), match="time"):
        wire.decode_child(child, b'"soon"', name="k", depth=1, nodes_max=100)


def test_parameters_of_all_children_have_one_bound() -> None:
    """Each child of a submission is looked at, and with its parameters put in may be far longer than what was sent."""
    inner = {"parameters": {"a": "x" * 1000}, "nodes": [{"name": "n", "task": "t", "args": ["${a}"] * 3000}]}
    nodes = [{"name": f"c{number}", "workflow": {"definition": {"name": f"d{number}", **inner}}} for number in range(30)]
    body = json.dumps({"nodes": nodes}).encode()
    assert len(body) < 1_000_000
    with pytest.raises(BadNode, match="with their parameters put in, the workflows in it have more than 67108864 bytes"):
        wire.decode_definition(body, nodes_max=1000)
