"""What a canvas or definition will do that its author may not expect: a report, made without running anything.

A canvas is read twice. As it was written, it tells where Celery itself would run it in another way, and what is lost on the way
into a graph. As a graph, it tells what each task is given, after containers have handed down their options. Tasks come in the
same order in both, so that a node can be found in the canvas.

What Celery does while a canvas is being built cannot be seen any more: ``chord(chain(a, b), c)`` holds a and b side by side,
and ``a.s() | group([b.s()])`` is a chain of two tasks. Canvases that came as JSON still have these forms.

LintReport of one code are one finding with a count; costs are linear in the canvas, and its depth costs no recursion. What Celery
does was seen on 5.6.3 and 5.7.0 with a worker.

- `written`: the canvas as it was written; `differences`: the known differences from Celery, as data.
- `documents`: definition documents; `graph`: what each task is given; `options`: its publish options.
- `surroundings`, `fleet`: the app, and the workers that answered.
- `report`, `faults`: findings, their texts, and how they are folded.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from dyrygentd import wire
from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.core.graph import Definition
from dyrygentd.errors import BadNode, DefinitionError, RequestError
from dyrygentd.lint.documents import check_unread_tasks, read_document
from dyrygentd.lint.graph import check_graph
from dyrygentd.lint.maps import check_map
from dyrygentd.lint.report import Finding, LintReport
from dyrygentd.lint.surroundings import Surroundings
from dyrygentd.lint.written import Task, read_canvas
from dyrygentd.tasks.fleet import Fleet

__all__ = ["Finding", "lint"]


def lint(
    what: object,
    *,
    app: Any = None,
    known_tasks: Collection[str] | None = None,
    known_queues: Collection[str] | None = None,
    fleet: Fleet | None = None,
    visibility_timeout_s: float | None = None,
    imports_companion: bool = False,
) -> list[Finding]:
    """Report on a canvas, a `Workflow`, a `Definition`, or a definition document (JSON text or a mapping with ``nodes``).

    Args:
        app: The Celery app: brings the signatures and options of its tasks, its routes and its broker's visibility timeout.
        known_tasks: Names of the tasks that workers have; by default tasks are not looked up.
        known_queues: Names of the queues that workers consume; by default queues are not looked up.
        fleet: The workers that answered, instead of both: each has its tasks, queues and settings.
        imports_companion: Whether the workers' app imports `dyrygentd.worker`; that it calls `install` is seen.
        visibility_timeout_s: Of the broker, in seconds; by default the app's, else kombu's for Redis.

    Returns:
        Errors first, then warnings. What cannot be read at all is a finding, not an exception.
    """
    report = LintReport()
    tasks: list[Task] = []
    definition: Definition | None = None
    try:
        if isinstance(what, str | bytes | bytearray) or (isinstance(what, Mapping) and "nodes" in what):
            definition = read_document(what, tasks)
        elif isinstance(what, Definition | Workflow):
            # What the app says, and refuses, is told below.
            definition = definition_of(what, has_good_options=False)
            definition = replace(definition, inner=wire.inner_of(definition, has_good_options=False))
        else:
            tasks = read_canvas(what, app, report)
            definition = definition_of(what, has_good_options=False)
    except (DefinitionError, RequestError) as error:
        is_told = check_unread_tasks(tasks, report)
        # The error tells of one node what may have been told of all of them, in the place where they stand.
        if not (isinstance(error, BadNode) and is_told):
            report.add(error.code, None, node=getattr(error, "node", None), said=error.message, next_step=error.next_step)
    if definition is not None:
        if fleet is not None:
            known_tasks, known_queues = fleet.tasks, fleet.queues
        surroundings = Surroundings(
            app,
            known_tasks=known_tasks,
            known_queues=known_queues,
            visibility_timeout_s=visibility_timeout_s,
            fleet=fleet or Fleet(),
        )
        surroundings.imports_companion = imports_companion
        surroundings.has_bound = definition.policy.redeliveries_max is not None
        check_graph(definition.graph, tasks, surroundings, report)
        _check_inner(definition, surroundings, report)
    return report.findings()


def _check_inner(definition: Definition, surroundings: Surroundings, report: LintReport) -> None:
    """Check what nodes begin as workflows of their own; a node of one is told with the node around it."""
    stack = [("", definition)]
    while stack:
        prefix, outer = stack.pop()
        for name, inner in outer.inner.items():
            if inner.graph.item_nodes:
                # The names of its nodes begin with its own.
                check_map(outer.graph, name, inner.graph, surroundings, report)
                stack.append((prefix, inner))
                continue
            around = f"{prefix}{name}."
            check_graph(inner.graph, (), surroundings, report, around=around)
            stack.append((around, inner))
