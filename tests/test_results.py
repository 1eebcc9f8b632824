"""Celery's own results of a workflow are those that `apply_async` of the same canvas would have returned."""

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from celery import Celery, chain, chord, group
from celery.result import AsyncResult, GroupResult

from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.core.graph import Definition
from dyrygentd.core.origin import Origin
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.results import celery_result
from dyrygentd.testing import FakeBroker
from dyrygentd.wire import NodeView, view_of_node
from tests.scheduler.support import scheduler

app = Celery("results", broker="memory://", backend="cache+memory://", set_as_current=False)


def nothing(*_: object) -> None:
    """Do nothing."""


a, b, c, d, e = (app.task(name=f"tests.results.{name}")(nothing) for name in "abcde")


def views(definition: Definition) -> list[NodeView]:
    """Show all nodes of a definition, as a daemon does."""
    workflow = RunningWorkflow(
        workflow_id="w", name="w", graph=definition.graph, origin=Origin(0.0), value_bytes_max=100, policy=definition.policy
    )
    return [view_of_node(workflow, node) for node in range(len(definition.graph))]


def shape(result: Any) -> Any:
    """Return kinds, ids and parents; a group has an id of its own on each side."""
    if isinstance(result, GroupResult):
        return "group", [shape(member) for member in result.results], result.parent and shape(result.parent)
    return result.id, result.parent and shape(result.parent)


@pytest.mark.parametrize(
    "canvas",
    [
        lambda: a.s(),
        lambda: chain(a.s(), b.s()),
        lambda: chain(a.s(), b.s(), c.s(), d.s()),
        lambda: group(a.s(), b.s()),
        lambda: group(a.s()),
        lambda: group(chain(a.s(), b.s()), c.s()),
        lambda: chord([a.s(), b.s()], c.s()),
        lambda: chord([chain(a.s(), b.s()), c.s()], d.s()),
        lambda: chord([a.s(), b.s()], chain(c.s(), d.s())),
        lambda: chain(a.s(), group(b.s(), c.s())),
        lambda: chain(a.s(), group(b.s(), c.s()), d.s()),
        lambda: chain(group(a.s(), b.s()), c.s(), d.s()),
        lambda: chain(a.s(), chord([b.s(), c.s()], d.s()), e.s()),
        lambda: group(chord([a.s(), b.s()], c.s()), d.s()),
        lambda: chord([a.s(), b.s()], group(c.s(), d.s())),
        lambda: group(chain(a.s(), b.s())),
        lambda: a.starmap([(1,), (2,)]),
    ],
)
def test_same_tree_as_celery(canvas: Any) -> None:
    """Which task has which parent, and what is a group of what, is as Celery's own ``freeze`` has it."""
    frozen = canvas()
    native = frozen.freeze()
    assert shape(celery_result("w", views(definition_of(frozen)), app=app)) == shape(native)


def test_graphs_that_are_no_canvas() -> None:
    """Several ends are a group; gates and pauses are seen through; a task that waits for several has them as a group."""
    workflow = Workflow()
    first = workflow.add(a.s(), name="first")
    gate = workflow.gate("gate", after=first)
    left, right = workflow.add(b.s(), after=gate), workflow.add(c.s(), after=gate)
    with workflow.section("s") as section:
        last = workflow.add(d.s(), after=[left, right])
    other = workflow.add(e.s(), after=first)
    workflow.hook("always", a.s())
    section.finally_(c.s())
    section.hook("failure", d.s())
    definition = workflow.definition()
    ids = dict(zip(definition.graph.names, definition.graph.task_ids, strict=True))
    result = celery_result("w", views(definition), app=app)
    start = (ids["first"], None)
    both = ("group", [(ids[left.name], None), (ids[right.name], None)], start)
    assert shape(result) == ("group", [(ids[last.name], ("group", both[1], None)), (ids[other.name], None)], start)


def test_a_deep_and_a_wide_one() -> None:
    """What is long or wide costs no recursion, and neither does a lattice of joins, whose paths are without number."""
    long = celery_result("w", views(definition_of(chain(a.si() for _ in range(3000)))), app=app)
    assert len(list(_line(long))) == 3000
    wide = celery_result("w", views(definition_of(chain(a.si(), group(b.si() for _ in range(2000)), c.si()))), app=app)
    assert len(wide.parent.results) == 2000
    workflow = Workflow()
    row = [workflow.add(a.si()) for _ in range(3)]
    for _ in range(400):
        joins = [workflow.join([row[0], row[1]]), workflow.join([row[1], row[2]])]
        row = [workflow.add(a.si(), after=join) for join in (*joins, joins[0])]
    workflow.join(row)
    assert isinstance(celery_result("w", views(workflow.definition()), app=app), GroupResult)


def _line(result: Any) -> Iterator[Any]:
    while result is not None:
        yield result
        result = result.parent


def test_from_the_scheduler() -> None:
    """A program that embeds the scheduler goes on with Celery's results, of more nodes than fit on a page."""
    canvas = group(a.si() for _ in range(1500))

    async def main() -> None:
        async with scheduler(FakeBroker()) as running:
            handle = await running.submit(canvas)
            result = await handle.celery_result(app)
            await handle.wait(timeout_s=20)
            assert len({each.id for each in result.results}) == 1500
            assert all(type(each) is AsyncResult for each in result.results)

    anyio.run(main)
