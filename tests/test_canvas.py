"""Canvases become the edges, values and options that Celery's documentation promises, whatever tree Celery builds.

Tasks are called a, b, c …; a node's name is its task and its position, so ``{"c-4": ["join-3"]}`` reads as it stands.
"""

import contextlib
import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import celery
import pytest
from celery import Celery, chain, chord, group
from celery.canvas import Signature as CelerySignature
from celery.canvas import _chain
from celery.utils.time import maybe_iso8601, maybe_make_aware
from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd.canvas import Workflow, decode_value, definition_of, encode_value
from dyrygentd.core.graph import SERIALIZERS, Definition, Graph, Signature
from dyrygentd.core.policy import Rule
from dyrygentd.errors import BadNode, BadRequest, DuplicateNode, DyrygentError, EmptyWorkflow, NotACanvas
from dyrygentd.wire import decode_definition, encode_definition

app = Celery("test_canvas", broker="memory://", backend="cache+memory://", set_as_current=False)


def _make_task(name: str) -> Any:
    @app.task(name=f"tests.{name}")
    def task(*args: Any, **kwargs: Any) -> Any:
        return [name, *args, *([kwargs] if kwargs else [])]

    return task


a, b, c, d, e, f, noop = (_make_task(name) for name in ("a", "b", "c", "d", "e", "f", "noop"))


@app.task(name="tests.add")
def add(x: int, y: int) -> int:
    """Add two numbers."""
    return x + y


@app.task(name="tests.total")
def total(numbers: list[int]) -> int:
    """Add a list of numbers."""
    return sum(numbers)


def edges(what: Any) -> dict[str, list[str]]:
    """Return ``{node: its dependencies}``."""
    graph = definition_of(what).graph
    return {graph.names[node]: [graph.names[other] for other in graph.dependencies(node)] for node in range(len(graph))}


def signatures(what: Any) -> dict[str, Signature]:
    """Return ``{node: its signature}`` of all tasks."""
    graph = definition_of(what).graph
    return {name: signature for name, signature in zip(graph.names, graph.signatures, strict=True) if signature is not None}


def options(what: Any) -> dict[str, Any]:
    """Return ``{node: its publish options}`` of all tasks."""
    return {name: json.loads(signature.options) for name, signature in signatures(what).items()}


def value_of(graph: Graph) -> Any:
    """Execute a graph here, by the value rules of the core; a task's value is found in its function."""
    values: list[Any] = []
    for node in range(len(graph)):
        inputs = [values[other] for other in graph.dependencies(node)]
        signature = graph.signatures[node]
        if signature is None:
            values.append(inputs)
            continue
        args = json.loads(signature.args)
        if not signature.immutable and inputs:
            args = [inputs[0] if len(inputs) == 1 else inputs, *args]
        values.append(app.tasks[signature.task](*args, **json.loads(signature.kwargs)))
    assert graph.output is not None
    return values[graph.output]


# --- the two workflows of the blog ----------------------------------------------------------------------------------


def test_blog_chain_of_chords() -> None:
    """The chain of five chords has its 57 tasks, each chord's header behind the body of the one before."""
    canvas = chain([noop.s(0)] + [chord([noop.s(i) for i in range(10)], noop.s()) for _ in range(5)] + [noop.s()])
    expected: dict[str, list[str]] = {"noop-1": []}
    last, position = "noop-1", 2
    for _ in range(5):
        header = [f"noop-{position + member}" for member in range(10)]
        expected |= {name: [last] for name in header}
        expected[f"join-{position + 10}"] = header
        last = f"noop-{position + 11}"
        expected[last] = [f"join-{position + 10}"]
        position += 12
    expected["noop-62"] = [last]
    assert edges(canvas) == expected
    assert definition_of(canvas).graph.task_count == 57


def test_blog_groups_in_groups() -> None:
    """The nested groups and chains have their 23 tasks, with every dependency as drawn in the blog."""
    canvas = (
        group(
            group(group([noop.s() for i in range(5)]), chain([noop.s() for i in range(5)]))
            | noop.s()
            | group([noop.s() for i in range(5)])
            | noop.s(),
            chain([noop.s() for i in range(5)]),
        )
        | noop.s()
    )
    side_by_side, row = [f"noop-{n}" for n in range(1, 6)], [f"noop-{n}" for n in range(6, 11)]
    fan, other_row = [f"noop-{n}" for n in range(13, 18)], [f"noop-{n}" for n in range(20, 25)]
    expected: dict[str, list[str]] = {name: [] for name in side_by_side}
    expected |= {row[0]: []} | {after: [before] for before, after in pairwise(row)}
    expected |= {"join-11": [*side_by_side, row[-1]], "noop-12": ["join-11"]}
    expected |= {name: ["noop-12"] for name in fan}
    expected |= {"join-18": fan, "noop-19": ["join-18"]}
    expected |= {other_row[0]: []} | {after: [before] for before, after in pairwise(other_row)}
    expected |= {"join-25": ["noop-19", other_row[-1]], "noop-26": ["join-25"]}
    assert edges(canvas) == expected
    assert definition_of(canvas).graph.task_count == 23


# --- shapes ---------------------------------------------------------------------------------------------------------

SHAPES: list[tuple[str, Any, dict[str, list[str]]]] = [
    ("one task", a.s(), {"a-1": []}),
    ("chain", a.s() | b.s() | c.s(), {"a-1": [], "b-2": ["a-1"], "c-3": ["b-2"]}),
    ("chain of one task", chain(a.s()), {"a-1": []}),
    ("chain in chain", _chain(a.s(), _chain(b.s(), c.s())), {"a-1": [], "b-2": ["a-1"], "c-3": ["b-2"]}),
    ("group", group(a.s(), b.s()), {"a-1": [], "b-2": [], "join-3": ["a-1", "b-2"]}),
    ("group of one", group(a.s()), {"a-1": [], "join-2": ["a-1"]}),
    (
        "fan out and in",
        chain(a.s(), group(b.s(), c.s()), d.s()),
        {"a-1": [], "b-2": ["a-1"], "c-3": ["a-1"], "join-4": ["b-2", "c-3"], "d-5": ["join-4"]},
    ),
    ("group at the end", a.s() | group(b.s(), c.s()), {"a-1": [], "b-2": ["a-1"], "c-3": ["a-1"], "join-4": ["b-2", "c-3"]}),
    (
        "group | group",
        group(a.s(), b.s()) | group(c.s(), d.s()),
        {"a-1": [], "b-2": [], "join-3": ["a-1", "b-2"], "c-4": ["join-3"], "d-5": ["join-3"], "join-6": ["c-4", "d-5"]},
    ),
    (
        "three groups",
        chain(group(a.s(), b.s()), group(c.s(), d.s()), group(e.s(), f.s())),
        {
            **{"a-1": [], "b-2": [], "join-3": ["a-1", "b-2"], "c-4": ["join-3"], "d-5": ["join-3"]},
            **{"join-6": ["c-4", "d-5"], "e-7": ["join-6"], "f-8": ["join-6"], "join-9": ["e-7", "f-8"]},
        },
    ),
    ("chord", chord([a.s(), b.s()], c.s()), {"a-1": [], "b-2": [], "join-3": ["a-1", "b-2"], "c-4": ["join-3"]}),
    ("chord of one", chord([a.s()], b.s()), {"a-1": [], "join-2": ["a-1"], "b-3": ["join-2"]}),
    ("group of one | task", group([a.s()]) | b.s(), {"a-1": [], "join-2": ["a-1"], "b-3": ["join-2"]}),
    ("group of one in a chain", chain(group([a.s()]), b.s()), {"a-1": [], "b-2": ["a-1"]}),
    ("group of one right of |", a.s() | group([b.s()]) | c.s(), {"a-1": [], "b-2": ["a-1"], "c-3": ["b-2"]}),
    ("group of one chain", _chain(group([a.s() | b.s()]), c.s()), {"a-1": [], "b-2": ["a-1"], "c-3": ["b-2"]}),
    (
        "group of one as a body",
        chord([a.s()], group([b.s()])),
        {"a-1": [], "join-2": ["a-1"], "b-3": ["join-2"], "join-4": ["b-3"]},
    ),
    ("empty group in a chain", _chain(a.s(), group([]), b.s()), {"a-1": [], "b-2": ["a-1"]}),
    ("empty group at the ends", _chain(group([]), a.s(), group([])), {"a-1": []}),
    (
        "hidden empty group after a group",
        _chain(group(a.s(), b.s()), group([group([]), group([])])),
        {"a-1": [], "b-2": [], "join-3": ["a-1", "b-2"]},
    ),
    ("empty chain in a group", group([a.s(), _chain()]), {"a-1": [], "join-2": ["a-1"]}),
    ("chord without a body", chord([a.s(), b.s()]), {"a-1": [], "b-2": [], "join-3": ["a-1", "b-2"]}),
    (
        "chord without a body in a chain",
        _chain(chord([a.s()]), b.s()),
        {"a-1": [], "join-2": ["a-1"], "b-3": ["join-2"]},
    ),
    ("chord with an empty body", chord([a.s()], group([])), {"a-1": [], "join-2": ["a-1"]}),
    ("chord with an empty header", a.s() | chord([], b.s()) | c.s(), {"a-1": [], "b-2": ["a-1"], "c-3": ["b-2"]}),
    ("chord of a chain", chord(chain(a.s(), b.s()), c.s()), {"a-1": [], "b-2": [], "join-3": ["a-1", "b-2"], "c-4": ["join-3"]}),
    (
        "groups in a header, in source order",
        chord([a.s(), group(b.s(), group(c.s())), d.s()], e.s()),
        {"a-1": [], "b-2": [], "c-3": [], "d-4": [], "join-5": ["a-1", "b-2", "c-3", "d-4"], "e-6": ["join-5"]},
    ),
    (
        "chain in a header counts by its last",
        chord([a.s() | b.s(), c.s()], d.s()),
        {"a-1": [], "b-2": ["a-1"], "c-3": [], "join-4": ["b-2", "c-3"], "d-5": ["join-4"]},
    ),
    (
        "chain that ends in a group in a header",
        chord([a.s() | group(b.s(), c.s()), d.s()], e.s()),
        {
            **{"a-1": [], "b-2": ["a-1"], "c-3": ["a-1"], "join-4": ["b-2", "c-3"]},
            **{"d-5": [], "join-6": ["join-4", "d-5"], "e-7": ["join-6"]},
        },
    ),
    (
        "chord in a header counts by its body",
        chord([chord([a.s()], b.s()), c.s()], d.s()),
        {"a-1": [], "join-2": ["a-1"], "b-3": ["join-2"], "c-4": [], "join-5": ["b-3", "c-4"], "d-6": ["join-5"]},
    ),
    (
        "chord with a chord as its body",
        chord([a.s()], chord([b.s(), c.s()], d.s())),
        {"a-1": [], "join-2": ["a-1"], "b-3": ["join-2"], "c-4": ["join-2"], "join-5": ["b-3", "c-4"], "d-6": ["join-5"]},
    ),
    ("map", noop.map([1, 2]) | a.s(), {"map-1": [], "a-2": ["map-1"]}),
    ("starmap", a.s() | noop.starmap([(1, 2)]), {"a-1": [], "starmap-2": ["a-1"]}),
    (
        "chunks",
        _chain(a.s(), noop.chunks([(1,), (2,), (3,)], 2), b.s()),
        {"a-1": [], "starmap-2": ["a-1"], "starmap-3": ["a-1"], "join-4": ["starmap-2", "starmap-3"], "b-5": ["join-4"]},
    ),
]


@pytest.mark.parametrize(("canvas", "expected"), [pytest.param(*case[1:], id=case[0]) for case in SHAPES])
def test_shape(canvas: Any, expected: dict[str, list[str]]) -> None:
    """A canvas has these edges, as an object and as the dict it becomes in JSON, and is itself left as it was."""
    before = copy.deepcopy(json.loads(json.dumps(canvas)))
    assert edges(canvas) == expected
    assert edges(json.loads(json.dumps(canvas))) == expected
    assert json.loads(json.dumps(canvas)) == before
    assert definition_of(canvas).graph.names[definition_of(canvas).graph.output or 0] == list(expected)[-1]


def test_trees_of_both_versions_are_one() -> None:
    """Celery 5.6 nests what follows a chord into its body, 5.7 keeps it beside: both give the same edges."""
    tail = [group(d.s(), e.s()), f.s()]
    beside = _chain(a.s(), chord([b.s()], c.s()), chord(tail[0], tail[1]))
    nested = _chain(a.s(), chord([b.s()], _chain(c.s(), chord(tail[0], tail[1]))))
    plain = _chain(a.s(), chord([b.s()], c.s()), *tail)
    assert edges(beside) == edges(nested) == edges(plain) == edges(chain(a.s(), chord([b.s()], c.s()), *tail))


def test_body_of_empty_header_gets_an_empty_list() -> None:
    """``chord([], b)`` calls b with ``[]`` and not with what precedes the chord, but still behind it."""
    canvas = chain(a.s(), chord([], b.s(1)), c.s())
    assert value_of(definition_of(canvas).graph) == ["c", ["b", [], 1]]
    assert value_of(definition_of(chord([], b.s())).graph) == ["b", []]
    assert value_of(definition_of(chord([], chord([c.s(), d.s()], b.s()))).graph) == ["b", [["c", []], ["d", []]]]


def test_lazy_group_is_evaluated_once() -> None:
    """A group of a generator is evaluated once and can be read again, here and by Celery."""
    made = []

    def members() -> Iterator[Any]:
        for number in range(3):
            made.append(number)
            yield a.s(number)

    canvas = group(members())
    assert definition_of(canvas).graph.task_count == 3
    assert definition_of(canvas).graph.task_count == 3
    assert made == [0, 1, 2]
    assert len(canvas.tasks) == 3
    assert definition_of(chord((b.s(number) for number in range(4)), c.s())).graph.task_count == 5


def test_one_object_twice_is_two_nodes() -> None:
    """The same signature object used twice gives two nodes with task ids of their own, and one shared signature."""
    task = a.s(1)
    graph = definition_of(group(task, task)).graph
    assert graph.task_count == 2
    assert graph.task_ids[0] != graph.task_ids[1]
    assert graph.signatures[0] is graph.signatures[1]


def test_frozen_canvas_has_no_leftovers() -> None:
    """A canvas that Celery has frozen runs under fresh ids, with nothing of the freezing in its options."""
    canvas = chord([a.s().set(queue="q"), b.s()], c.s())
    canvas.freeze()
    canvas.body.options |= {"chain": [d.s()], "reply-to": "x", "retries": 3}
    frozen_id = canvas.body.options["task_id"]
    assert options(canvas) == {"a-1": {"queue": "q"}, "b-2": {}, "c-4": {}}
    assert frozen_id not in definition_of(canvas).graph.task_ids
    assert canvas.body.options["task_id"] == frozen_id


def test_each_definition_has_its_own_task_ids() -> None:
    """Submitting one canvas or workflow twice never makes two tasks of one id."""
    workflow = Workflow()
    workflow.add(a.s())
    for what in (workflow, a.s(), a.s().set(task_id="mine")):
        assert definition_of(what).graph.task_ids[0] != definition_of(what).graph.task_ids[0]


# --- size and depth -------------------------------------------------------------------------------------------------

SIZE = 10_000


@pytest.mark.parametrize(
    ("canvas", "nodes", "edge_count"),
    [
        pytest.param(lambda: chain([noop.s() for _ in range(SIZE)]), SIZE, SIZE - 1, id="chain"),
        pytest.param(lambda: group(noop.s() for _ in range(SIZE)), SIZE + 1, SIZE, id="group"),
        pytest.param(
            lambda: group(noop.s() for _ in range(SIZE)) | group(noop.s() for _ in range(SIZE)),
            2 * SIZE + 2,
            3 * SIZE,
            id="groups",
        ),
        pytest.param(lambda: chord([noop.s() for _ in range(SIZE)], noop.s()), SIZE + 2, SIZE + 1, id="chord"),
    ],
)
def test_large_canvas_is_linear(canvas: Any, nodes: int, edge_count: int) -> None:
    """Ten thousand tasks give as many edges and not their product."""
    graph = definition_of(canvas()).graph
    assert (len(graph), graph.edge_count) == (nodes, edge_count)


def _deep_chain() -> Any:
    canvas = noop.s()
    for _ in range(SIZE):
        canvas = _chain(noop.s(), canvas)
    return canvas


def _deep_chain_on_the_left() -> Any:
    canvas = noop.s()
    for _ in range(SIZE):
        canvas = _chain(canvas, noop.s())
    return canvas


def _deep_bodies() -> Any:
    canvas = noop.s()
    for _ in range(2_000):
        canvas = chord([noop.s()], canvas)
    return canvas


def _deep_headers() -> Any:
    canvas = noop.s()
    for _ in range(2_000):
        canvas = {"task": "celery.chord", "subtask_type": "chord", "kwargs": {"header": [canvas], "body": noop.s()}}
    return canvas


def _deep_groups() -> Any:
    canvas: Any = noop.s()
    for _ in range(SIZE):
        canvas = {"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": [noop.s(), canvas]}}
    return canvas


def _long_pipe() -> Any:
    canvas = noop.s()
    for _ in range(300):
        canvas |= noop.s()
    return canvas


@pytest.mark.parametrize(
    ("canvas", "nodes", "edge_count"),
    [
        (_deep_chain, SIZE + 1, SIZE),
        (_deep_chain_on_the_left, SIZE + 1, SIZE),
        (_deep_bodies, 4_001, 4_000),
        (_deep_headers, 4_001, 4_000),
        (_deep_groups, SIZE + 2, SIZE + 1),
        # Celery copies the whole chain at each `|`, so 10,000 would take minutes before we see it.
        (_long_pipe, 301, 300),
    ],
)
def test_deep_canvas_needs_no_recursion(canvas: Any, nodes: int, edge_count: int) -> None:
    """A canvas nested deeper than Python's stack is read like a flat one."""
    graph = definition_of(canvas()).graph
    assert (len(graph), graph.edge_count) == (nodes, edge_count)


# --- options --------------------------------------------------------------------------------------------------------


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


def _guarded(canvas: Any, *errbacks: Any) -> Any:
    for errback in errbacks:
        canvas.options.setdefault("link_error", []).append(errback)
    return canvas


def test_error_callbacks_of_a_body_are_nodes() -> None:
    """Nobody sees a body that is never sent; its callbacks run if the header has begun, has ended, and one of it failed."""
    body = _guarded(c.s(), d.s(7).set(queue="q"), e.si(8))
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
    workflow.add_canvas(chord([a.s()], _guarded(c.s(), d.s())), name="total")
    workflow.add(e.s(), after=workflow.add_canvas(b.s()), name="beside")
    assert definition_of(workflow).graph.output is None
    workflow = Workflow()
    total = workflow.add_canvas(chord([a.s()], _guarded(c.s(), d.s())), name="total")
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
        # Of a chain its own, and not those of its tasks; the id is that of what it is worth.
        (chord([a.s()], _guarded(_chain(_guarded(b.s(), e.s()), c.s()), f.s())), {"c-4.errback": "c-4"}),
        # Of a group those of each member.
        (chord([a.s()], group(_guarded(b.s(), f.s()), c.s())), {"b-3.errback": "b-3"}),
        (chord([a.s()], _guarded(group(b.s(), c.s()), f.s())), {"b-3.errback": "b-3", "c-4.errback": "c-4"}),
        (chord([a.s()], group(_guarded(b.s() | c.s(), f.s()), d.s())), {"c-4.errback": "c-4"}),
        # Of a chord its own, and those of its body.
        (chord([a.s()], chord([b.s()], _guarded(c.s(), f.s()))), {"c-5.errback": "c-5", "c-5.errback-2": "c-5"}),
        # What follows a group is a body; a group of one that is unrolled, or follows an empty header, is none.
        (_guarded(_chain(group(a.s(), b.s()), c.s()), f.s()), {"c-4.errback": "c-4"}),
        (_guarded(_chain(group([a.s()]), c.s()), f.s()), {}),
        (chord([], _guarded(c.s(), f.s())), {}),
        # Without a task of its own, the first one stands for it.
        (chord([a.s()], _guarded(_chain(b.s(), group(c.s(), d.s())), f.s())), {"b-3.errback": "b-3"}),
        # A chain of callbacks begins with the id.
        (chord([a.s()], _guarded(b.s(), _chain(f.s(), e.s()))), {"b-3.errback": "b-3", "b-3.errback-2": None}),
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
    workflow.add_canvas(chord([a.s()], _guarded(c.s(), d.s())), name="x" * 200)
    workflow.add_canvas(chord([a.s()], _guarded(c.s(), d.s())), name="x" * 199 + "y")
    workflow.add(a.s(), name="c-3.errback")
    workflow.add_canvas(chord([a.s()], _guarded(c.s(), d.s())), name="c-3")
    graph = workflow.definition().graph
    assert len(set(graph.names)) == len(graph)
    assert "c-3.errback+" in graph.names
    assert all(len(name) <= 200 for name in graph.names)


def test_value_of_a_group_of_one_that_is_a_body() -> None:
    """What follows such a chord takes its value as it is, as on Celery, unless it is merged into the body."""
    one = chord([a.s(), b.s()], group([c.s()]))
    assert value_of(definition_of(_chain(one, d.s())).graph) == ["d", ["c", [["a"], ["b"]]]]
    assert value_of(definition_of(_chain(_chain(e.s(), one), d.s())).graph) == ["d", ["c", [["a", ["e"]], ["b", ["e"]]]]]
    assert value_of(definition_of(_chain(e.s(), one)).graph) == [["c", [["a", ["e"]], ["b", ["e"]]]]]


def test_only_member_that_is_a_list_is_the_value() -> None:
    """A group of one chain to a group is worth the inner list, as its `apply_async` answers; in a header it is not."""
    inner = a.s() | group(b.s(), c.s())
    assert value_of(definition_of(group(inner)).graph) == [["b", ["a"]], ["c", ["a"]]]
    assert value_of(definition_of(chord([inner], d.s())).graph) == ["d", [[["b", ["a"]], ["c", ["a"]]]]]
    assert value_of(definition_of(group(a.s())).graph) == [["a"]]
    assert value_of(definition_of(chord([a.s()], group(inner))).graph) == [[["b", ["a", [["a"]]]], ["c", ["a", [["a"]]]]]]


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
    "eta",
    [
        datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2030, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2))),
        datetime(2030, 1, 2, 3, 4, 5),
        "2030-01-02T03:04:05Z",
        "2030-01-02T03:04:05",
        {"__type__": "datetime", "__value__": "2030-01-02T05:04:05+02:00"},
        1893553445,
    ],
)
def test_eta_becomes_unix_time(eta: Any) -> None:
    """A start time is taken out of the options, in every form that Celery and JSON give it."""
    (found,) = signatures(a.s().set(eta=eta, queue="q")).values()
    assert found.eta_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert json.loads(found.options) == {"queue": "q"}


def test_naive_eta_means_what_workers_read() -> None:
    """A start time without a zone is UTC even if the app's zone is another, because a worker reads it so."""
    there = Celery("there", set_as_current=False)
    there.conf.timezone = "Asia/Tokyo"
    naive = datetime(2030, 7, 1, 12, 0)
    at_the_worker = maybe_make_aware(maybe_iso8601(naive.isoformat()), ZoneInfo(str(there.timezone)))
    (found,) = signatures(there.signature("x", eta=naive)).values()
    assert found.eta_at == at_the_worker.timestamp()


def test_countdown_goes_before_eta() -> None:
    """As in Celery, a countdown wins over an eta, and one in the past means now."""
    (found,) = signatures(a.s().set(countdown=2.5, eta=datetime.now(UTC))).values()
    assert (found.countdown_s, found.eta_at) == (2.5, 0.0)
    (found,) = signatures(a.s().set(countdown=-3)).values()
    assert found.countdown_s == 0.0


def test_definition_survives_the_wire() -> None:
    """What the importer writes is what the daemon reads: same graph, same ids, same times."""
    canvas = chord(
        [a.s(datetime(2030, 1, 1, tzinfo=UTC)).set(countdown=3, expires=datetime(2031, 1, 1)), b.s(x=Decimal("1.5"))], c.s()
    )
    sent = definition_of(canvas, name="n", key="k", labels={"l": "v"})
    read = decode_definition(encode_definition(sent), nodes_max=10)
    assert (read.name, read.key, read.labels, read.payload) == ("n", "k", {"l": "v"}, b"null")
    for attribute in ("names", "task_ids", "output"):
        assert getattr(read.graph, attribute) == getattr(sent.graph, attribute)
    assert [s and (s.task, s.args, s.kwargs, s.countdown_s, s.eta_at, json.loads(s.options)) for s in read.graph.signatures] == [
        s and (s.task, s.args, s.kwargs, s.countdown_s, s.eta_at, json.loads(s.options)) for s in sent.graph.signatures
    ]


# --- errors ---------------------------------------------------------------------------------------------------------


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
    assert str(caught.value) == message


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
    """A canvas without tasks is nothing to run, alone or in a workflow."""
    with pytest.raises(EmptyWorkflow):
        definition_of(canvas)
    workflow = Workflow()
    workflow.add(a.s())
    with pytest.raises(NotACanvas, match="the canvas has no tasks"):
        workflow.add_canvas(canvas)
    assert len(workflow) == 1


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (a.s(1, {"x": object()}), "node 'a-2': argument 2 is a 'dict' that JSON cannot carry: Object of type object is not"),
        (a.s(x=object()), "node 'a-2': argument 'x' is a 'object' that JSON cannot carry"),
        (a.s(float("nan")), "node 'a-2': argument 1 is a 'float' that JSON cannot carry: Out of range"),
        (a.s({(1, 2): 3}), "node 'a-2': argument 1 is a 'dict' that JSON cannot carry"),
        (a.s().set(headers={"x": object()}), "node 'a-2': option 'headers' is a 'dict' that JSON cannot carry"),
        (a.s().set(link=b), "node 'a-2': `link` must be a signature or a list of them, and is "),
        (a.s().set(serializer="pickle"), "node 'a-2': serializer 'pickle' is not accepted"),
        (a.s().set(countdown="5"), "node 'a-2': `countdown` must be a number of seconds, and is a 'str'"),
        (a.s().set(countdown=float("inf")), "node 'a-2': `countdown` must be a number of seconds"),
        (a.s().set(eta="tomorrow"), "node 'a-2': `eta` must be a datetime or ISO 8601 text, and is a 'str'"),
        ({"task": "tests.a", "kwargs": [1]}, "node 'a-2': `kwargs` must be a mapping"),
        (CelerySignature("x" * 201), f"node '{'x' * 100}-2': the task's name has more than 200 characters"),
    ],
)
def test_node_that_cannot_be_written_is_refused(signature: Any, message: str) -> None:
    """What JSON or the daemon cannot carry is refused with the node, the argument and its type."""
    with pytest.raises(BadNode) as caught:
        definition_of(group(b.s(), signature))
    assert str(caught.value).startswith(message)


def test_serializers_are_those_of_the_wire() -> None:
    """The importer and the daemon accept the same serializers."""
    for serializer in SERIALIZERS:
        definition_of(a.s().set(serializer=serializer))
    with pytest.raises(BadNode) as caught:
        definition_of(a.s().set(serializer="pickle"))
    assert caught.value.next_step == "use one of json, msgpack, yaml"


# --- the builder ----------------------------------------------------------------------------------------------------


def test_workflow_is_built_node_by_node() -> None:
    """Tasks, joins and canvases are put together by the references that adding them returns."""
    workflow = Workflow("replace", labels={"cluster": "gra1"}, payload={"ticket": 7})
    drained = workflow.add(a.si("osd-42"), name="drain")
    healthy = workflow.add({"task": "tests.b", "args": ["gra1"]}, after=drained)
    both = workflow.join([drained, healthy], name="both")
    done = workflow.add_canvas(group(c.s(), d.s()) | e.s(), after=[both, drained], name="done")
    assert (len(workflow), repr(workflow), repr(done)) == (8, "<Workflow 'replace' nodes=8>", "<NodeRef 'done'>")
    assert edges(workflow) == {
        "drain": [],
        "b-2": ["drain"],
        "both": ["drain", "b-2"],
        "join-4": ["both", "drain"],
        **{"c-5": ["join-4"], "d-6": ["join-4"], "join-7": ["c-5", "d-6"], "done": ["join-7"]},
    }
    definition = workflow.definition(key="ticket-7")
    assert (definition.name, definition.key, definition.labels) == ("replace", "ticket-7", {"cluster": "gra1"})
    assert decode_value(definition.payload) == {"ticket": 7}
    assert definition.graph.names[definition.graph.output or 0] == "done"


def test_several_dependencies_of_a_task_need_no_join() -> None:
    """A task behind several nodes depends on them directly, whether added alone or as a canvas."""
    workflow = Workflow()
    first = [workflow.add(a.s()), workflow.add(b.s())]
    workflow.add(c.s(), after=iter(first))
    workflow.add_canvas(d.s(), after=[*first, first[0]])
    assert edges(workflow) == {"a-1": [], "b-2": [], "c-3": ["a-1", "b-2"], "d-4": ["a-1", "b-2"]}


def test_given_names_win() -> None:
    """A name that is given is kept even if one that was made up was there before."""
    workflow = Workflow()
    made = workflow.add(a.s())
    assert made.name == "a-1"
    workflow.add(b.s(), name="a-1", after=made)
    assert made.name == "a-1.2"
    assert edges(workflow) == {"a-1.2": [], "a-1": ["a-1.2"]}
    with pytest.raises(DuplicateNode):
        workflow.add(c.s(), name="a-1")


def test_failed_call_adds_nothing() -> None:
    """A call that raises leaves the workflow as it was, so that a caller may go on with it."""
    workflow = Workflow()
    other = Workflow("other")
    first, foreign = workflow.add(a.s(), name="first"), other.add(b.s(), name="foreign")
    with pytest.raises(BadNode, match="'x': `after` names 'foreign', a node of another workflow"):
        workflow.add(c.s(), after=foreign, name="x")
    with pytest.raises(BadNode, match="`after` has a 'str' in it"):
        workflow.join(["first"])  # type: ignore[list-item]
    with pytest.raises(NotACanvas, match="member 2 of the group"):
        workflow.add_canvas(group([b.s(), 5]), after=[first], name="group")
    with pytest.raises(DuplicateNode):
        workflow.add_canvas(group([b.s()]), name="first")
    with pytest.raises(BadRequest, match="1 to 200 characters"):
        workflow.add(a.s(), name="")
    workflow.add(b.s(), name="group", after=first)
    assert edges(workflow) == {"first": [], "group": ["first"]}


def test_definition_of_takes_all_three() -> None:
    """A canvas, a workflow and a definition are taken alike, and what is given in the call goes first."""
    workflow = Workflow(labels={"x": "1", "y": "1"})
    workflow.add(a.s())
    ready = definition_of(workflow, key="k", labels={"y": "2"})
    assert (ready.name, ready.key, ready.labels) == ("tests.a", "k", {"x": "1", "y": "2"})
    again = definition_of(ready, name="n")
    assert (again.name, again.key, again.graph) == ("n", "k", ready.graph)
    assert definition_of(a.s(), name="n").name == "n"
    assert isinstance(definition_of(a.s()), Definition)
    with pytest.raises(EmptyWorkflow):
        definition_of(Workflow())


@pytest.mark.parametrize("labels", [{"x": 5}, {"": "x"}, {"x": "y" * 201}, {str(n): "" for n in range(51)}])
def test_labels_are_checked(labels: Any) -> None:
    """Labels that the daemon would refuse are refused where the caller can see them."""
    with pytest.raises(BadRequest, match="label"):
        Workflow(labels=labels)


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 1, "ż", [1, {"a": None}], Decimal("1.5"), b"\xff", datetime(2030, 1, 1, tzinfo=UTC)])
def test_value_round_trip(value: Any) -> None:
    """What is encoded is decoded as the same, with the types that kombu knows."""
    assert decode_value(encode_value(value)) == value


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b'{"__type__":"x","__value__":1}', b'{"__type__":"datetime","__value__":1}', b"[" * 100_000]
)
def test_malformed_value_is_our_error(text: bytes) -> None:
    """Text that cannot be read raises an error of this package, whatever the reason."""
    with pytest.raises(DyrygentError, match="not valid JSON"):
        decode_value(text)


@pytest.mark.parametrize("value", [object(), float("nan"), {"x": {1, 2}}])
def test_value_json_cannot_carry_is_our_error(value: Any) -> None:
    """A value that cannot be written raises an error of this package, with its type."""
    with pytest.raises(DyrygentError, match=f"JSON cannot carry the {type(value).__name__}"):
        encode_value(value)


# --- against Celery, and at random ----------------------------------------------------------------------------------


def test_values_are_those_of_celery() -> None:
    """Sums of sums come out as Celery computes them in eager mode."""
    canvas = chain(
        add.s(1, 2),
        group(add.s(1), add.s(2), add.s(3) | add.s(4)),
        total.s(),
        chord([add.s(5), group(add.s(6), add.s(7))], total.s()),
        group([add.s(8)]),
        group(add.s(9), add.si(1, 1)),
    )
    assert value_of(definition_of(canvas).graph) == canvas.apply().get() == [92, 2]


# A random canvas as nested lists: ["task", number, immutable], ["chain", …], ["group", …] or ["chord", header, body].
Tree = list[Any]


def _build(tree: Tree) -> Any:
    match tree:
        case ["task", number, immutable]:
            return noop.signature((number,), immutable=immutable)
        case ["chain", *steps]:
            return chain([_build(step) for step in steps])
        case ["group", *members]:
            return group([_build(member) for member in members], app=app)
        case ["chord", header, body]:
            return chord([_build(member) for member in header], _build(body), app=app)
    raise AssertionError(tree)


def _numbered(tree: Tree, counter: Iterator[int]) -> Tree:
    match tree:
        case ["task", _, immutable]:
            return ["task", next(counter), immutable]
        case ["chord", header, body]:
            return ["chord", [_numbered(member, counter) for member in header], _numbered(body, counter)]
    return [tree[0], *(_numbered(part, counter) for part in tree[1:])]


def _tasks(tree: Tree) -> set[int]:
    match tree:
        case ["task", number, _]:
            return {number}
        case ["chord", header, body]:
            return _tasks(body).union(*map(_tasks, header))
    return set[int]().union(*map(_tasks, tree[1:]))


def _orders(tree: Tree) -> Iterator[tuple[set[int], set[int]]]:
    """List ``(before, after)``: every task of the second set must come behind every task of the first."""
    match tree:
        case ["task", *_]:
            return
        case ["chord", header, body]:
            yield set[int]().union(*map(_tasks, header)), _tasks(body)
            parts = [*header, body]
        case [kind, *parts]:
            steps = [_tasks(part) for part in parts if _tasks(part)]
            if kind == "chain":
                yield from pairwise(steps)
    for part in parts:
        yield from _orders(part)


def _part_counts(tree: Tree) -> int:
    match tree:
        case ["task", *_]:
            return 1
        case ["chord", header, body]:
            return 1 + sum(map(_part_counts, [*header, body]))
    return 1 + sum(map(_part_counts, tree[1:]))


TASK = st.tuples(st.just("task"), st.just(0), st.booleans()).map(list)


def _containers(part: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    several = st.lists(part, max_size=4)
    return st.one_of(
        several.map(lambda parts: ["chain", *parts]),
        several.map(lambda parts: ["group", *parts]),
        # A chord whose body has no tasks is a group; Celery's `|` puts what follows into that body, and it is a chord again.
        st.tuples(several, part.map(lambda body: body if _tasks(body) else ["task", 0, False])).map(
            lambda parts: ["chord", *parts]
        ),
    )


ANY_TREE = st.recursive(TASK, _containers, max_leaves=25)


@settings(max_examples=100, deadline=None)
@given(ANY_TREE)
def test_random_canvas(tree: Tree) -> None:
    """Any nesting keeps all its tasks, all its orders, few edges, and its shape as a dict."""
    tree = _numbered(tree, iter(range(10_000)))
    canvas = _build(tree)
    if not _tasks(tree):
        with pytest.raises(EmptyWorkflow):
            definition_of(canvas)
        return
    graph = definition_of(canvas).graph
    before: dict[int, set[int]] = {}
    behind: list[set[int]] = []
    for node in range(len(graph)):
        signature = graph.signatures[node]
        mine = set[int]().union(*(behind[other] for other in graph.dependencies(node)))
        if signature is not None:
            number = json.loads(signature.args)[-1]
            before[number] = mine
            mine = mine | {number}
        behind.append(mine)
    assert graph.output is not None
    assert set(before) == _tasks(tree) == behind[graph.output]
    assert graph.task_count == len(before)
    for earlier, later in _orders(tree):
        assert all(earlier <= before[number] for number in later)
    assert len(graph) - graph.task_count <= _part_counts(tree)
    assert graph.edge_count <= 2 * len(graph)
    assert edges(json.loads(json.dumps(canvas))) == edges(canvas)


def _worth_one(part: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    """Containers worth one task, made of such parts; groups stand where Celery's eager mode reads them as we do."""
    inner_group = st.lists(part, min_size=1, max_size=2).map(lambda parts: ["group", *parts])
    # Celery 5.6 reverses the members of an inner group, even in eager mode.
    members = st.lists(st.one_of(part, inner_group) if celery.VERSION >= (5, 7) else part, min_size=1, max_size=3)
    # Eager mode does not unroll a group of one group, as Celery's `prepare_steps` and we do.
    rolled = members.map(lambda parts: parts if len(parts) > 1 or parts[0][0] != "group" else parts[0][1:])
    steps = st.lists(st.one_of(part, rolled.map(lambda parts: ["group", *parts])), max_size=3)
    return st.one_of(
        st.tuples(steps, part).map(lambda parts: ["chain", *parts[0], parts[1]]),
        st.tuples(members, part).map(lambda parts: ["chord", *parts]),
    )


@settings(max_examples=100, deadline=None)
@given(st.recursive(TASK, _worth_one, max_leaves=12))
def test_random_values_are_those_of_celery(tree: Tree) -> None:
    """Our value rules give what Celery's eager mode gives.

    Left out: empty parts, and groups at the end of a chain or body inside a group. There eager mode makes lists of lists, while
    Celery's workers, as we do, count each of their tasks towards the outer chord (``_chord._descend``).
    """
    canvas = _build(_numbered(tree, iter(range(10_000))))
    assert value_of(definition_of(canvas).graph) == json.loads(json.dumps(canvas.apply().get()))


# --- whatever comes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"task": "celery.chunks", "kwargs": {"task": {}, "it": 5, "n": 2}}, "chunks of a 'int'"),
        ({"task": "celery.group", "kwargs": {"tasks": []}, "options": {"stamped_headers": 5}}, "'5' as its `stamped_headers`"),
        ({"task": "t", "options": {"stamped_headers": [["x"]]}}, "as its `stamped_headers`"),
        ({"task": "t", "subtask_type": ["x"]}, "has a 'list' as its `subtask_type`"),
        ({"task": "celery.chord", "kwargs": {"header": [], "kwargs": 5}}, "are no mapping"),
        ({"task": "t", "options": {"serializer": ["json"]}}, "serializer '\\['json'\\]' is not accepted"),
        ({"task": "t", "options": {"countdown": 10**400}}, "`countdown` must be a number of seconds"),
        ({"task": "t", "options": {"eta": 10**400}}, "`eta` must be a datetime"),
    ],
)
def test_what_is_malformed_is_our_error(what: Any, words: str) -> None:
    """What others write by hand is refused with what is wrong, and not by an accident on the way."""
    with pytest.raises((NotACanvas, BadNode), match=words):
        definition_of(what)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=5), st.just(object()), st.just((1,))
)


def _perhaps(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, JUNK, st.lists(JUNK, max_size=2), st.dictionaries(st.text(max_size=3), JUNK, max_size=2))


def _some_signature(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = _perhaps(st.lists(part, max_size=4))
    options_of_it = st.fixed_dictionaries(
        {},
        optional={
            "link": several,
            "link_error": several,
            "stamped_headers": _perhaps(st.just(["x"])),
            "serializer": _perhaps(st.just("json")),
            "countdown": JUNK,
            "eta": _perhaps(st.just("2030-01-01")),
            "queue": JUNK,
        },
    )
    contents = st.fixed_dictionaries(
        {},
        optional={"tasks": several, "header": st.one_of(several, part), "body": part, "task": part, "it": several, "n": JUNK}
        | {"kwargs": _perhaps(st.just({"x": 1}))},
    )
    kinds = ["chain", "group", "chord", "chunks", "xmap", "other"]
    return st.fixed_dictionaries(
        {"task": _perhaps(st.sampled_from(["t", "celery.chain", "celery.group", "celery.chord", "celery.chunks"]))},
        optional={
            "subtask_type": _perhaps(st.sampled_from(kinds)),
            "args": _perhaps(st.just([1])),
            "kwargs": _perhaps(contents),
            "options": _perhaps(options_of_it),
            "immutable": JUNK,
        },
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(JUNK | st.just({"task": "t"}), lambda part: _perhaps(_some_signature(part)), max_leaves=20))
def test_only_our_errors_come_out(what: Any) -> None:
    """Whatever is handed over becomes a definition that can be written and read, or an error of this package."""
    with contextlib.suppress(DyrygentError):
        definition = definition_of(what)
        assert len(decode_definition(encode_definition(definition), nodes_max=10_000).graph) == len(definition.graph)
