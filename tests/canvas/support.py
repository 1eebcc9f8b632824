"""Tasks called a, b, c …, and what becomes of a canvas of them, in words that a test can compare."""

import json
from typing import Any

from celery import Celery

from dyrygentd.canvas import definition_of
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import Signature

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


def chosen_of(canvas: Any) -> dict[str, str]:
    """Return ``{node: task id}`` of the nodes whose ids came with the canvas."""
    definition = definition_of(canvas)
    assert definition.chosen is not None
    return {definition.graph.names[node]: definition.graph.task_ids[node] for node in sorted(definition.chosen)}


def guarded(canvas: Any, *errbacks: Any) -> Any:
    for errback in errbacks:
        canvas.options.setdefault("link_error", []).append(errback)
    return canvas
