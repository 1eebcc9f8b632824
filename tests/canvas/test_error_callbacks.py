"""Error callbacks of a chord's body: nodes that run if the header fails."""

import json
from typing import Any

import pytest
from celery import chord, group
from celery.canvas import _chain

from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.core.policy import Rule
from dyrygentd.errors import BadNode
from dyrygentd.wire import decode_definition, encode_definition
from tests.canvas.support import a, b, c, d, e, edges, f, guarded


def test_error_callbacks_of_a_body_are_nodes() -> None:
    """Nobody sees a body that is never sent; its callbacks run if the header has begun, has ended, and one of it failed."""
    body = guarded(c.s(), d.s(7).set(queue="q"), e.si(8))
    graph = definition_of(_chain(f.s(), chord([a.s(), b.s()], body), f.s())).graph
    assert edges(_chain(f.s(), chord([a.s(), b.s()], body), f.s())) == {
        **{"f-1": [], "a-2": ["f-1"], "b-3": ["f-1"], "join-4": ["a-2", "b-3"], "c-5": ["join-4"], "f-6": ["c-5"]},
        **{"join-7": ["join-4"], "join-8": ["a-2", "b-3"]},
        **{"c-5.errback": ["f-1", "join-7", "join-8"], "c-5.errback-2": ["f-1", "join-7", "join-8"]},
    }
    assert [graph.policy(node).rule for node in (6, 7, 8)] == [Rule.ANY_FAILED, Rule.ALL_FINISHED, Rule.ALL_SUCCEEDED]
    first, second = graph.signatures[8], graph.signatures[9]
    assert first is not None
    assert second is not None
    assert json.loads(first.args) == [graph.task_ids[4], 7]
    assert (json.loads(first.options), first.immutable) == ({"queue": "q"}, True)
    assert (json.loads(second.args), second.immutable) == ([8], True)
    assert graph.output == 5


def test_error_callbacks_change_neither_output_nor_names() -> None:
    """Two definitions of one workflow share no task id, and what the workflow is worth is as if there were no callbacks."""
    workflow = Workflow()
    workflow.add_canvas(chord([a.s()], guarded(c.s(), d.s())), name="total")
    workflow.add(e.s(), after=workflow.add_canvas(b.s()), name="beside")
    assert definition_of(workflow).graph.output is None
    workflow = Workflow()
    total = workflow.add_canvas(chord([a.s()], guarded(c.s(), d.s())), name="total")
    workflow.hook("always", e.s())
    first, second = workflow.definition().graph, workflow.definition().graph
    assert first.names == ["a-1", "join-2", "total", "join-4", "join-5", "total.errback", "e-7"]
    assert first.output == second.output == total.number
    told = [json.loads(graph.signatures[5].args)[0] for graph in (first, second) if graph.signatures[5] is not None]
    assert told == [first.task_ids[2], second.task_ids[2]]
    assert first.task_ids[2] != second.task_ids[2]
    again = decode_definition(encode_definition(workflow.definition()), nodes_max=10)
    assert again.graph.output == total.number


@pytest.mark.parametrize(
    ("canvas", "expected"),
    [
        # Of a chain its own, and those of its first task, each with its id: what it is worth, and that task.
        (
            chord([a.s()], guarded(_chain(guarded(b.s(), e.s()), guarded(c.s(), d.s())), f.s())),
            {"b-3.errback": "b-3", "c-4.errback": "c-4"},
        ),
        # Of a group those of each member.
        (chord([a.s()], group(guarded(b.s(), f.s()), c.s())), {"b-3.errback": "b-3"}),
        (chord([a.s()], guarded(group(b.s(), c.s()), f.s())), {"b-3.errback": "b-3", "c-4.errback": "c-4"}),
        (chord([a.s()], group(guarded(b.s() | c.s(), f.s()), d.s())), {"c-4.errback": "c-4"}),
        # Of a chord its own, and those of its body.
        (chord([a.s()], chord([b.s()], guarded(c.s(), f.s()))), {"c-5.errback": "c-5", "c-5.errback-2": "c-5"}),
        # Of both bodies, where a chord is in the header: Celery links a callback of the outer one to both, each with its id.
        (
            chord([a.s(), chord([b.s(), f.s()], guarded(c.s(), e.s()))], guarded(d.s(), e.s())),
            {"c-5.errback": "c-5", "d-7.errback": "d-7"},
        ),
        # What follows a group is a body; a group of one that is unrolled, or follows an empty header, is none.
        (guarded(_chain(group(a.s(), b.s()), c.s()), f.s()), {"c-4.errback": "c-4"}),
        (guarded(_chain(group([a.s()]), c.s()), f.s()), {}),
        (chord([], guarded(c.s(), f.s())), {}),
        # Without a task of its own, the first one stands for it.
        (chord([a.s()], guarded(_chain(b.s(), group(c.s(), d.s())), f.s())), {"b-3.errback": "b-3"}),
        # A chain of callbacks begins with the id.
        (chord([a.s()], guarded(b.s(), _chain(f.s(), e.s()))), {"b-3.errback": "b-3", "b-3.errback-2": None}),
    ],
)
def test_error_callbacks_by_the_kind_of_body(canvas: Any, expected: dict[str, str | None]) -> None:
    """Each is told the task id that Celery would tell it."""
    graph = definition_of(canvas).graph
    assert {name for name in graph.names if "errback" in name} == expected.keys()
    ids = dict(zip(graph.names, graph.task_ids, strict=True))
    told = {name: json.loads(signature.args) for name, signature in zip(graph.names, graph.signatures, strict=True) if signature}
    assert all(told[name] == ([] if body is None else [ids[body]]) for name, body in expected.items())


def test_error_callback_that_is_no_signature() -> None:
    """What cannot be called is refused with the place where it stands."""
    with pytest.raises(BadNode, match=r"node 'b-3': `link_error` must be a signature"):
        definition_of(chord([a.s()], b.s().set(link_error="tests.f")))


def test_names_of_error_callbacks_are_unique() -> None:
    """Long names are cut, and names that are taken are left alone."""
    workflow = Workflow()
    workflow.add_canvas(chord([a.s()], guarded(c.s(), d.s())), name="x" * 200)
    workflow.add_canvas(chord([a.s()], guarded(c.s(), d.s())), name="x" * 199 + "y")
    workflow.add(a.s(), name="c-3.errback")
    workflow.add_canvas(chord([a.s()], guarded(c.s(), d.s())), name="c-3")
    graph = workflow.definition().graph
    assert len(set(graph.names)) == len(graph)
    assert "c-3.errback+" in graph.names
    assert all(len(name) <= 200 for name in graph.names)
