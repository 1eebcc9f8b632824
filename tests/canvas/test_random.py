"""Values as Celery's own, of canvases drawn at random too."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import celery
import pytest
from celery import chain, chord, group
from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd.canvas import definition_of
from dyrygentd.errors import EmptyWorkflow
from tests.canvas.support import add, app, edges, noop, total, value_of


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
        if canvas["task"] == "celery.chain":
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
