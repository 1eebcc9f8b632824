"""What containers hand down to their tasks, and what is no canvas."""

import json
from typing import Any

import pytest
from celery import chord, group
from celery.canvas import Signature as CelerySignature
from celery.canvas import _chain

from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.errors import EmptyWorkflow, NotACanvas
from tests.canvas.support import a, app, b, c, d, e, f, options, signatures


def test_options_of_a_chain_reach_its_first_task() -> None:
    """Options on a chain go to what starts first, as in Celery, and before that task's own."""
    assert options(_chain(a.s().set(queue="own", priority=3), b.s()).set(queue="q")) == {
        "a-1": {"queue": "q", "priority": 3},
        "b-2": {},
    }
    # Celery makes a chord of a group and what follows it.
    to_chord = _chain(group(a.s(), b.s()), c.s(), d.s()).set(queue="q")
    assert options(to_chord) == {"a-1": {"queue": "q"}, "b-2": {"queue": "q"}, "c-4": {"queue": "q"}, "d-5": {}}


def test_options_of_a_group_override_its_members() -> None:
    """Options on a group go before the members' own; the outermost group wins and None does not count."""
    canvas = group(a.s().set(queue="own"), b.s() | c.s(), group(d.s()).set(queue="inner", priority=1)).set(queue="q", shadow=None)
    assert options(canvas) == {"a-1": {"queue": "q"}, "b-2": {"queue": "q"}, "c-3": {}, "d-4": {"queue": "q", "priority": 1}}


def test_options_of_a_chord_reach_header_and_body() -> None:
    """Options on a chord go to both, but a delay holds the header only, else the body would wait again."""
    canvas = chord([a.s(), b.s()], c.s() | d.s()).set(queue="q", countdown=5)
    found = signatures(canvas)
    assert options(canvas) == {"a-1": {"queue": "q"}, "b-2": {"queue": "q"}, "c-4": {"queue": "q"}, "d-5": {}}
    assert {name: signature.countdown_s for name, signature in found.items()} == {"a-1": 5, "b-2": 5, "c-4": 0, "d-5": 0}


def test_own_stamps_stay() -> None:
    """A signature's own stamps are not overridden from outside, as in Celery."""
    member = a.s().set(stamped_headers=["team"], team="storage")
    assert options(group(member, b.s()).set(team="other", stamped_headers=["team"], queue="q")) == {
        "a-1": {"stamped_headers": ["team"], "team": "storage", "queue": "q"},
        "b-2": {"stamped_headers": ["team"], "team": "other", "queue": "q"},
    }


def test_callbacks_go_where_celery_puts_them() -> None:
    """A chain's link goes to its last task, its link_error to all; a chord's to its body; a group's to each member."""
    done, failed = e.s(), f.s()

    def linked(canvas: Any) -> dict[str, tuple[Any, Any]]:
        return {name: (found.get("link"), found.get("link_error")) for name, found in options(canvas).items()}

    both = {"link": [done], "link_error": [failed]}
    wire_done, wire_failed = json.loads(json.dumps([[done], [failed]]))
    assert linked(a.s().set(link=done)) == {"a-1": (wire_done[0], None)}
    assert linked(_chain(a.s(), b.s()).set(**both)) == {"a-1": (None, wire_failed), "b-2": (wire_done, wire_failed)}
    assert linked(chord([a.s()], b.s() | c.s()).set(**both)) == {
        "a-1": (None, None),
        "b-3": (None, wire_failed),
        "c-4": (wire_done, wire_failed),
        "c-4.errback": (None, None),
    }
    # On a group, Celery takes callbacks from what is around it.
    assert linked(_chain(group(a.s(), b.s())).set(**both)) == {"a-1": (wire_done, wire_failed), "b-2": (wire_done, wire_failed)}
    # Of a group that is a body, the first member is called back, without its value, and so is the first in there.
    first = [wire_done[0] | {"immutable": True}]
    nested = group(group(b.s(), c.s()), d.s())
    for canvas in (chord([a.s()], nested), _chain(group(a.s(), a.s()), nested)):
        found = {name.partition("-")[0]: links[0] for name, links in linked(canvas.set(link=[done])).items()}
        assert found == {"a": None, "b": first, "c": None, "d": None}
    assert linked(_chain(group(a.s(), a.s()), group([b.s()])).set(link=[done]))["b-4"] == (wire_done, None)
    assert linked(_chain(a.s().set(link_error=[failed, done])).set(**both)) == {
        "a-1": (wire_done, [wire_failed[0], wire_done[0]])
    }


def test_partial_arguments_of_containers() -> None:
    """Arguments kept on a chain or chord come before those of the tasks that start in it, unless these are immutable."""
    started = _chain(a.s(2), b.s())
    started.args = (1,)
    found = signatures(started)
    assert (found["a-1"].args, found["b-2"].args) == (b"[1,2]", b"[]")
    found = signatures(chord([a.s(2), b.si(3)], c.s(), args=(1,), kwargs={"kwargs": {"x": 1}}))
    assert (found["a-1"].args, found["b-2"].args, found["c-4"].args) == (b"[1,2]", b"[3]", b"[]")
    assert (found["a-1"].kwargs, found["b-2"].kwargs, found["c-4"].kwargs) == (b'{"x":1}', b"{}", b"{}")


def test_immutable_is_kept() -> None:
    """An immutable signature stays one, and a chain marked so does not take the value before it."""
    found = signatures(a.s() | b.si(1))
    assert (found["a-1"].immutable, found["b-2"].immutable) == (False, True)
    inner = _chain(b.s(), c.s())
    inner.set_immutable(True)
    assert [signature.immutable for signature in signatures(_chain(a.s(), inner)).values()] == [False, True, False]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (5, "the canvas is a 'int', which is no signature"),
        (None, "the canvas is a 'NoneType', which is no signature"),
        ([a.s()], "the canvas is a 'list', which is no signature"),
        (group([a.s(), b.s(), "c"]), "member 3 of the group is a 'str', which is no signature"),
        (_chain(a.s(), group(b.s(), [])), "member 2 of the group is a 'list', which is no signature"),
        (_chain(a.s(), 7), "step 2 of the chain is a 'int', which is no signature"),
        (chord([a.s()], 3), "the body of the chord is a 'int', which is no signature"),
        (chord([7], a.s()), "member 1 of the chord's header is a 'Signature' that names no task"),
        ({"args": []}, "the canvas is a 'dict' that names no task"),
        ({"task": "x", "subtask_type": "tree"}, "the canvas is a 'tree', a kind of signature that is not known here"),
        ({"task": "x", "subtask_type": "group"}, "the canvas is a group without contents"),
        (
            {"task": "x", "subtask_type": "group", "kwargs": {"tasks": 5}},
            "the canvas is a group whose tasks are a 'int', not a list",
        ),
        ({"task": "x", "subtask_type": "chord", "kwargs": {}}, "the canvas is a chord whose header are a 'NoneType', not a list"),
        ({"task": "x", "options": []}, None),
        ({"task": "x", "options": [1]}, "the canvas has `options` that are no mapping, or `args` that are no list"),
        (CelerySignature("celery.chunks", kwargs={"it": [1], "n": 0}), "the canvas is chunks of 0 items"),
    ],
)
def test_what_is_no_canvas_is_refused(what: Any, message: str | None) -> None:
    """Anything that is no signature is refused with its type and the place where it was found."""
    if message is None:
        assert definition_of(what).graph.task_count == 1
        return
    with pytest.raises(NotACanvas) as caught:
        definition_of(what)
    assert caught.value.message == message


def test_common_mistakes_are_explained() -> None:
    """Handing over the task itself, or a task that was sent, is answered with what to write."""
    with pytest.raises(NotACanvas) as caught:
        definition_of(group([a.s(), b]))
    assert caught.value.next_step == "write `b.s(...)`: this is the task itself"
    with pytest.raises(NotACanvas) as caught:
        definition_of(app.AsyncResult("x"))
    assert caught.value.next_step.startswith("write `.s(...)` instead of `.delay(...)`")
    with pytest.raises(NotACanvas, match="add\\(\\) takes one task, and this is a group"):
        Workflow().add(group(a.s(), b.s()))


@pytest.mark.parametrize("canvas", [group([]), _chain(), _chain(group([]), group([])), chord([], group([]))])
def test_empty_canvas_is_refused(canvas: Any) -> None:
    """A canvas without tasks is nothing to run in a workflow; alone, a group is worth an empty list, and a chain nothing."""
    if canvas["task"] == "celery.chain":
        with pytest.raises(EmptyWorkflow):
            definition_of(canvas)
    else:
        graph = definition_of(canvas).graph
        assert (graph.names, graph.task_count, graph.output) == (["join-1"], 0, 0)
    workflow = Workflow()
    workflow.add(a.s())
    with pytest.raises(NotACanvas, match="the canvas has no tasks"):
        workflow.add_canvas(canvas)
    assert len(workflow) == 1
