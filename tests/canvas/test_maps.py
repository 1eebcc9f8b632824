"""Maps in Python: a signature, a canvas or a function over each item, and the same form as in a document."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, chord, group, signature

from dyrygentd import Workflow, wire
from dyrygentd.canvas import NodeRef
from dyrygentd.canvas.maps import is_list
from dyrygentd.errors import BadNode, DyrygentError, NotACanvas
from tests.canvas import support

a, b, c = (task.s() for task in (support.a, support.b, support.c))


def written(workflow: Workflow) -> dict[str, dict[str, Any]]:
    """Return ``{node: its document}`` without task ids."""
    document = _essence(json.loads(wire.encode_definition(workflow.definition(), chosen_ids_only=True)))
    return {node.pop("name"): node for node in document["nodes"]}


def _essence(document: Any) -> Any:
    """Leave out what says nothing."""
    if isinstance(document, list):
        return [_essence(each) for each in document]
    if not isinstance(document, dict):
        return document
    return {key: _essence(value) for key, value in document.items() if value not in ([], {}, None, 0)}


def test_over_a_node() -> None:
    """The usual case: a task returns a list, and another one is called for each item."""
    workflow = Workflow()
    images = workflow.add(a, name="list")
    resized = workflow.map(signature("resize", args=(200,)), over=images, name="resize", pool="cpu", max_items=5)
    workflow.add(b, after=resized, name="end")
    assert repr(resized) == "<NodeRef 'resize'>"
    document = written(workflow)["resize"]
    assert document == {"after": ["list"], "map": {"do": {"task": "resize", "args": [200]}, "max_items": 5, "pool": "cpu"}}


def test_over_a_list_and_what_precedes() -> None:
    """A list that is there is written out; without one the map is over what precedes, of several over their values."""
    workflow = Workflow()
    workflow.map(a, over=[1, "x"], name="m")
    workflow.map(a, over=(3,), after=NodeRef(workflow, 0), name="n", min_success=0.5, if_empty="skip")
    workflow.map(a, after=[NodeRef(workflow, 0), NodeRef(workflow, 1)], name="o")
    documents = written(workflow)
    assert documents["m"]["map"]["over"] == [1, "x"]
    assert documents["n"] == {
        "after": ["m"],
        "map": {"do": {"task": "tests.a"}, "over": [3], "min_success": 0.5, "if_empty": "skip"},
    }
    assert documents["o"] == {"after": ["m", "n"], "map": {"do": {"task": "tests.a"}}}


def test_over_one_of_several() -> None:
    """The node that has the list is told from others by its name, which then stays."""
    workflow = Workflow()
    first, second = workflow.add(a), workflow.add(b)
    workflow.map(c, over=second, after=[first, second])
    documents = written(workflow)
    assert documents["map-3"] == {"after": ["b-2", "a-1"], "map": {"do": {"task": "tests.c"}, "over": "b-2"}}


@pytest.mark.parametrize(
    ("do", "nodes", "output"),
    [
        (chain(a, b), {"a-1": [], "b-2": ["a-1"]}, None),
        (chord([a, b], c), {"a-1": [], "b-2": [], "join-3": ["a-1", "b-2"], "c-4": ["join-3"]}, None),
        (group(a, b), {"a-1": [], "b-2": [], "join-3": ["a-1", "b-2"]}, None),
    ],
)
def test_canvases(do: object, nodes: dict[str, list[str]], output: str | None) -> None:
    """Each item goes through a canvas on its own."""
    workflow = Workflow()
    workflow.map(do, over=[1], name="m")
    made = written(workflow)["m"]["map"]["do"]
    assert {node["name"]: node.get("after", []) for node in made["nodes"]} == nodes
    expanded = wire.decode_definition(
        json.dumps({"nodes": [{"name": "m", "map": {"do": made, "over": [1]}}]}).encode(), nodes_max=9
    )
    assert expanded.graph.names == ["m"]


def test_functions() -> None:
    """A function builds what is done with each item as a workflow of its own, with all that nodes can have."""

    def each(item: Workflow) -> NodeRef:
        fetched = item.add(a, name="fetch", retry=3)
        with item.section("checks"):
            item.add(b, name="check", after=fetched)
        return fetched

    workflow = Workflow()
    workflow.map(each, over=[1], name="m")
    workflow.map(lambda item: item.add(a, timeout_s=5), over=[1], name="n")
    documents = written(workflow)
    made = documents["m"]["map"]["do"]
    assert (made["output"], [node["name"] for node in made["nodes"]]) == ("fetch", ["fetch", "check"])
    assert made["nodes"][0]["retry"]["backoff_s"] == 1.0
    assert made["nodes"][1]["section"] == "checks"
    assert documents["n"]["map"]["do"] == {"task": "tests.a", "timeout_s": 5.0}


def test_maps_in_maps() -> None:
    """An item that is a list may be mapped over itself."""
    workflow = Workflow()
    workflow.map(lambda item: item.map(a, after=item.add(b)), over=[[1]], name="m")
    made = written(workflow)["m"]["map"]["do"]
    assert made["nodes"][1]["map"] == {"do": {"task": "tests.a"}}


REFUSED: list[tuple[Callable[[Workflow], object], str]] = [
    (lambda w: w.map(a), "it is a map and has no list"),
    (lambda w: w.map(a, over="list"), "`over` is 'list'"),
    (lambda w: w.map(a, over=[1], batch=2, key="x"), "`map.key` names single items"),
    (lambda w: w.map(a, over=[1], max_items=0), "max_items"),
    (lambda w: w.map(a, over=[1], nonsense=1), "unknown field `nonsense`"),
    (lambda w: w.map(a, over=[1], on_failure="never"), "on_failure"),
    (lambda w: w.map(lambda item: None, over=[1]), "nothing is done with an item"),
    (lambda w: w.map(lambda item: 7, over=[1]), "returned 7"),
    (lambda w: w.map(lambda item: [item.add(a), item.add(b), None][2], over=[1]), "ends in several nodes"),
    (lambda w: w.map(a.clone().set(task_id="x"), over=[1]), "has a `task_id`"),
    (lambda w: w.map(chord([a], b.clone().on_error(c)), over=[1]), "an error callback of a chord's body"),
    (lambda w: w.map(support.a, over=[1]), "which is no signature"),
    (lambda w: w.map(7, over=[1]), "is a 'int'"),
    (lambda w: w.map(group(), over=[1]), "the canvas has no tasks"),
    (lambda w: w.map(lambda item: item.gate("g"), over=[1]), "has no task, so nobody is given the item"),
]


@pytest.mark.parametrize(("build", "words"), REFUSED)
def test_what_is_refused(build: Callable[[Workflow], object], words: str) -> None:
    """What is wrong is told where it is written, and adds nothing."""
    workflow = Workflow()
    with pytest.raises((BadNode, NotACanvas)) as caught:
        build(workflow)
    assert isinstance(caught.value, DyrygentError)
    assert words in caught.value.message
    assert len(workflow) == 0


@pytest.mark.parametrize(
    ("fields", "words", "next_step"),
    [
        ({"on_failure": "halt"}, "`on_failure` cannot be 'halt'", "use one of continue, stop"),
        ({"in_flight": 3}, "unknown field `in_flight`", "did you mean 'in_flight_max'?"),
        (
            {"min_success": 2.5},
            "`min_success` must be a number <= 1.0",
            "write a whole number from 0 to 1000000 or a number from 0 to 1",
        ),
        ({"batch": "many"}, "`batch` must be a whole number, and is text", "write a whole number from 0 to 1000000"),
    ],
)
def test_the_next_step_is_that_of_a_file(fields: dict[str, Any], words: str, next_step: str) -> None:
    """Whoever mistypes a field in Python hears what is allowed, as in a definition."""
    with pytest.raises(BadNode) as caught:
        Workflow().map(a, over=[1], name="m", **fields)
    assert (caught.value.message, caught.value.next_step) == (f"node 'm': {words}", next_step)


def test_lists() -> None:
    """A text is no list of its letters."""
    lists: list[object] = [[], (), range(3)]
    others: list[object] = ["abc", b"abc", {"a": 1}, 7]
    assert all(map(is_list, lists))
    assert not any(map(is_list, others))
