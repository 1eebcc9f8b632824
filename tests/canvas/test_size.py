"""Large and deep canvases: costs are linear, and depth costs no recursion."""

from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import _chain

from dyrygentd.canvas import definition_of
from tests.canvas.support import noop

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


@pytest.mark.long
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
