"""Canvases become the edges, values and options that Celery's documentation promises, whatever tree Celery builds.

Tasks are called a, b, c …; a node's name is its task and its position, so ``{"c-4": ["join-3"]}`` reads as it stands.
"""

import copy
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import _chain

from dyrygentd.canvas import definition_of
from tests.canvas.support import a, b, c, d, e, edges, f, noop, options, value_of


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
    """A canvas that Celery has frozen runs under the ids that it got, with nothing else of the freezing in its options."""
    canvas = chord([a.s().set(queue="q"), b.s()], c.s())
    canvas.freeze()
    canvas.body.options |= {"chain": [d.s()], "reply-to": "x", "retries": 3}
    frozen_ids = [task.options["task_id"] for task in (*canvas.tasks.tasks, canvas.body)]
    assert options(canvas) == {"a-1": {"queue": "q"}, "b-2": {}, "c-4": {}}
    assert [task_id for task_id in definition_of(canvas).graph.task_ids if task_id] == frozen_ids
    assert canvas.body.options["task_id"] == frozen_ids[2]


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
