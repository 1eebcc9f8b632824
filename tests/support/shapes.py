"""Workflows of every shape that users have, in any size, and the check that each task was executed once and in order."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from celery import chain, chord, group
from celery.canvas import Signature

from dyrygentd import Workflow
from dyrygentd.canvas import NodeRef, definition_of
from dyrygentd.core.graph import Definition, Graph
from tests.support import tasks
from tests.support.servers import Executions


@dataclass(frozen=True, slots=True)
class Shape:
    """A workflow with fixed task ids, and how many tasks its author wrote down."""

    name: str
    definition: Definition
    task_count: int

    @property
    def task_ids(self) -> list[str]:
        """Return the ids of all tasks; joins have none."""
        return [task_id for task_id in self.definition.graph.task_ids if task_id]

    def assert_executed(self, executions: Executions) -> None:
        """Check that each task was executed exactly once, and none before everything it depends on had finished."""
        assert self.definition.graph.task_count == self.task_count
        executions.assert_each_once(self.task_ids)
        _assert_in_order(self.definition.graph, executions.started(), executions.finished())


def _assert_in_order(graph: Graph, started: Mapping[str, int], finished: Mapping[str, int]) -> None:
    """Compare each start with the latest end among the dependencies, looking through joins; linear in the edges."""
    ends: list[int] = []
    wrong = []
    for node in range(len(graph)):
        latest = max((ends[dependency] for dependency in graph.dependencies(node)), default=0)
        task_id = graph.task_ids[node]
        if task_id and started[task_id] <= latest:
            wrong.append(f"{graph.names[node]} started at {started[task_id]}, a dependency of it ended at {latest}")
        ends.append(finished[task_id] if task_id else latest)
    assert not wrong, f"{len(wrong)} of {len(graph)} nodes came too early: {'; '.join(wrong[:3])}"


def _noop() -> Signature:
    """A task that takes no value."""
    return tasks.noop.si()


def _taking() -> Signature:
    """A task that takes the value of what precedes it."""
    return tasks.noop.s()


def _chain(n: int) -> Any:
    return chain([_taking() for _ in range(n)]), n


def _group(n: int) -> Any:
    return group([_noop() for _ in range(n)]), n


def _chord(n: int) -> Any:
    return chord([_noop() for _ in range(n - 1)], _taking()), n


def _five_chords(n: int) -> Any:
    width = n // 5 - 1
    return chain([chord([_noop() for _ in range(width)], _taking()) for _ in range(5)]), 5 * (width + 1)


def _two_groups(n: int) -> Any:
    half = n // 2
    return group([_noop() for _ in range(half)]) | group([_noop() for _ in range(half)]), 2 * half


def _blog_chords(n: int) -> Any:
    """The first workflow of the blog post, a chain of chords of ten tasks, as long as need be.

    https://blog.ovhcloud.com/doing-big-automation-with-celery/
    """
    count = n // 11
    return chain([chord([_noop() for _ in range(10)], _noop()) for _ in range(count)]), 11 * count


def _blog_fans(n: int) -> Any:
    """The second one: single tasks and groups of ten in turn.

    Built node by node: Celery's own ``chain`` takes 45 s to put this together for n = 1,000, and 428 s for 2,000.
    """
    count = n // 11
    workflow = Workflow()
    before = workflow.add(_noop())
    for _ in range(count):
        fan = [workflow.add(_noop(), after=before) for _ in range(10)]
        before = workflow.add(_noop(), after=fan)
    return workflow, 11 * count + 1


def _blog_nested(n: int) -> Any:
    """The nested one: groups of chains that hold groups of chains."""
    inner = 10

    def branch() -> Any:
        return chain(_noop(), group([chain(_noop(), _noop()) for _ in range(inner)]), _noop())

    branches = max(2, n // (2 * inner + 2))
    return chain(_noop(), group([branch() for _ in range(branches)]), _noop()), branches * (2 * inner + 2) + 2


def layered_workflow(n: int, *, seed: int = 1, dependencies: int = 3) -> Workflow:
    """Make layers about as wide as there are layers; each node depends on some of the layer above, chosen by the seed."""
    chance = random.Random(seed)
    workflow = Workflow(f"layered {n}")
    width = math.isqrt(n)
    above: list[NodeRef] = []
    layer: list[NodeRef] = []
    for _ in range(n):
        layer.append(workflow.add(_noop(), after=chance.sample(above, min(dependencies, len(above)))))
        if len(layer) == width:
            above, layer = layer, []
    return workflow


def _layered(n: int) -> Any:
    return layered_workflow(n), n


#: ``{name: n -> (canvas or workflow, its number of tasks)}``; the number is n or a little less.
_MAKERS: Final[Mapping[str, Callable[[int], Any]]] = {
    "chain": _chain,
    "group": _group,
    "chord": _chord,
    "five chords": _five_chords,
    "group after group": _two_groups,
    "blog chords": _blog_chords,
    "blog fans": _blog_fans,
    "blog nested": _blog_nested,
    "layered": _layered,
}

NAMES: Final = tuple(_MAKERS)


def make(name: str, n: int) -> Shape:
    """Make a shape of about ``n`` tasks."""
    canvas, task_count = _MAKERS[name](n)
    return Shape(name, definition_of(canvas, name=f"{name} {n}"), task_count)
