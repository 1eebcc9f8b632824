"""Workflows to measure with, and the check that each of their tasks was executed once and in order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from celery import chain, group, signature

from dyrygentd import Workflow, wire
from dyrygentd.canvas import NodeRef, definition_of
from dyrygentd.core.graph import Definition
from tests.benchmarks.report import Count

TASK = "tests.support.tasks.noop"
UNATTENDED = "unattended"
"""A queue that nobody consumes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A workflow, built and encoded before anything is timed."""

    name: str
    definition: Definition
    body: bytes

    @property
    def task_count(self) -> int:
        """Number of nodes that are no joins."""
        return self.definition.graph.task_count

    @property
    def task_ids(self) -> list[str]:
        """Return the task ids, without joins."""
        return [task_id for task_id in self.definition.graph.task_ids if task_id]


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a task, on any clock that orders all of them."""

    task_id: str
    began: float
    ended: float


def chain_of(n: int) -> Shape:
    """Make a chain."""
    return _shape(f"chain({n:,})", definition_of(chain(_noop() for _ in range(n))))


def group_of(n: int) -> Shape:
    """Make a group; its result, a list of all values, is kept as any user's would be."""
    return _shape(f"group({n:,})", definition_of(group(_noop() for _ in range(n))))


def group_after_group(n: int) -> Shape:
    """Make ``group(n / 2) | group(n / 2)``."""
    canvas = group(_noop() for _ in range(n // 2)) | group(_noop() for _ in range(n // 2))
    return _shape(f"group|group({n:,})", definition_of(canvas))


def layered(n: int, *, dependencies: int = 3, queue: str | None = None) -> Shape:
    """Make layers as wide as there are layers; each node depends on some neighbours in the layer above."""
    workflow = Workflow(f"layered({n:,})")
    width = max(1, round(n**0.5))
    nodes: list[NodeRef] = []
    for number in range(n):
        row, column = divmod(number, width)
        above = (
            [nodes[(row - 1) * width + (column + offset) % width] for offset in range(min(dependencies, width))] if row else []
        )
        nodes.append(workflow.add(_noop(queue), after=above))
    return _shape(f"layered({n:,})", definition_of(workflow))


def waiting(n: int) -> Shape:
    """Make a head that nobody executes, and a group of ``n`` behind it."""
    workflow = Workflow(f"waiting({n:,})")
    head = workflow.add(_noop(UNATTENDED), name="head")
    for _ in range(n):
        workflow.add(_noop(), after=[head])
    return _shape(f"waiting({n:,})", definition_of(workflow))


def count(benchmark: str, shapes: Sequence[Shape], executions: Iterable[Execution]) -> Count:
    """Check what was executed against the graphs."""
    seen: dict[str, list[Execution]] = {}
    for execution in executions:
        seen.setdefault(execution.task_id, []).append(execution)
    ours = {task_id for shape in shapes for task_id in shape.task_ids}
    return Count(
        benchmark=benchmark,
        name=shapes[0].name if len(shapes) == 1 else f"{len(shapes)} x {shapes[0].name}",
        n=len(ours),
        executed=sum(len(times) for times in seen.values()),
        missing=len(ours - seen.keys()),
        repeated=sum(len(times) > 1 for times in seen.values()),
        foreign=len(seen.keys() - ours),
        out_of_order=sum(_out_of_order(shape, seen) for shape in shapes),
    )


def _out_of_order(shape: Shape, seen: Mapping[str, list[Execution]]) -> int:
    """Count the tasks that began before something they depend on, through joins too, had ended."""
    graph = shape.definition.graph
    # When everything before a node, or the node itself, had ended. Our shapes name dependencies before dependents.
    ended = [0.0] * len(graph)
    wrong = 0
    for node in range(len(graph)):
        before = max((ended[dependency] for dependency in graph.dependencies(node)), default=0.0)
        executions = seen.get(graph.task_ids[node], ())
        wrong += any(execution.began < before for execution in executions)
        ended[node] = max((execution.ended for execution in executions), default=before)
    return wrong


def _noop(queue: str | None = None) -> signature:
    return signature(TASK, immutable=True, options={"queue": queue} if queue else {})


def _shape(name: str, definition: Definition) -> Shape:
    return Shape(name, definition, wire.encode_definition(definition))
