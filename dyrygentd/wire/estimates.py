"""Views of estimates: how long a workflow goes on, what bounds it, and in words. And of the run times that they are made of."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from dyrygentd.core.states import WorkflowState
from dyrygentd.core.words import counted, span, span_range
from dyrygentd.wire.plain import View

if TYPE_CHECKING:
    # Whoever reads a view needs nothing of what it is made of.
    from dyrygentd.core.estimate import Estimate
    from dyrygentd.core.run_times import RunTime
    from dyrygentd.core.workflow import RunningWorkflow

#: Nodes of a path that are named in words, and characters of each name.
_NAMED_MAX: Final = 4
_NAME_MAX: Final = 60


class PathView(Struct, View):
    """A node of the longest path through what is left.

    Attributes:
        task: Empty if it has none.
        seconds: How long it takes from now, or once it is its turn.
    """

    name: str
    task: str
    seconds: float
    state: str


class EstimateView(Struct, View):
    """How long a workflow goes on.

    Attributes:
        low_s, high_s: In so many seconds from now it ends; None if nobody can tell.
        bound: What that depends on: ``path`` (the longest path), ``workers``, ``pool``, ``limit`` (of what is in flight),
            ``person``, ``time`` (a pause, or a time that somebody named), ``failing`` (a node keeps failing), ``unknown``, or
            ``nothing`` (it has finished).
        bound_name: Which pool or limit, which node waits for a person or a time or keeps failing, or the task that is not known.
        words: All of it as a sentence; names in it are as they were submitted.
        known: The share of the open tasks whose run times were measured, 0 to 1.
        path: The longest path through what is left, joins left out, the first 50 nodes of it.
        path_nodes, path_s: How many nodes and seconds it has in all.
    """

    id: str
    state: str
    low_s: float | None
    high_s: float | None
    bound: str
    bound_name: str
    words: str
    known: float
    path: list[PathView]
    path_nodes: int
    path_s: float


class RunTimeView(Struct, View):
    """How long a task takes, as far as it was measured; old measurements fade.

    Attributes:
        count: How many measurements that is.
        p50_s, p95_s: What a half, and 95 of 100, did not exceed, to within an eighth.
        failing: The share of attempts that failed, 0 to 1.
    """

    task: str
    count: int
    mean_s: float
    p50_s: float
    p95_s: float
    failing: float


class RunTimesView(Struct, View):
    """The run times of tasks, those measured last first.

    Attributes:
        left_out: How many further ones there are.
    """

    tasks: list[RunTimeView]
    left_out: int


def view_of_estimate(workflow: "RunningWorkflow", estimate: "Estimate") -> EstimateView:
    """Show an estimate."""
    from dyrygentd.core.estimate import Bound

    graph, is_told = workflow.graph, estimate.bound not in (Bound.PERSON, Bound.FAILING, Bound.UNKNOWN)
    named = zip(estimate.path, estimate.path_seconds, strict=True)
    tasks = ((node, graph.signatures[node], seconds) for node, seconds in named)
    person = graph.names[estimate.persons[0]] if estimate.persons else ""
    return EstimateView(
        id=workflow.workflow_id,
        state=workflow.state.value,
        low_s=estimate.low_s if is_told else None,
        high_s=estimate.high_s if is_told else None,
        bound=estimate.bound.value,
        bound_name=person if estimate.bound is Bound.PERSON else estimate.name,
        words=_words(workflow, estimate),
        known=round(estimate.known, 3),
        path=[
            PathView(graph.names[node], "" if signature is None else signature.task, seconds, workflow.state_of(node).word)
            for node, signature, seconds in tasks
        ],
        path_nodes=estimate.path_nodes,
        path_s=estimate.path_s,
    )


def view_of_run_times(times: "Iterable[tuple[str, RunTime]]", left_out: int) -> RunTimesView:
    """Show run times."""
    return RunTimesView(
        [
            RunTimeView(
                task, round(time.number), time.mean_s, time.quantile_s(0.5), time.quantile_s(0.95), round(time.failing, 3)
            )
            for task, time in times
        ],
        left_out,
    )


def _words(workflow: "RunningWorkflow", estimate: "Estimate") -> str:
    from dyrygentd.core.estimate import Bound

    low_s, high_s, names = estimate.low_s, estimate.high_s, workflow.graph.names
    range_ = "" if low_s is None or high_s is None else span_range(low_s, high_s)
    match estimate.bound:
        case Bound.NOTHING:
            return "it has finished" if workflow.state.is_finished else "it is about to end"
        case Bound.UNKNOWN if estimate.is_of_child:
            return f"not known yet: nobody can tell how long the workflow of {_named(estimate.name)} will take"
        case Bound.UNKNOWN:
            return f"not known yet: nothing of task {_named(estimate.name)} has ended, in this workflow or another one"
        case Bound.FAILING:
            return f"nobody can tell when it ends: {_named(estimate.name)} keeps failing"
        case Bound.PERSON:
            rest = f"; without that, about {range_}" if range_ else ""
            return f"nobody can tell when it ends: {_for_whom(workflow, estimate, names)}{rest}"
        case Bound.PATH:
            return f"about {range_} left, bounded by the longest path: {_path(estimate, names)}"
        case Bound.WORKERS:
            slots = max(1, round(estimate.slots))
            return f"about {range_} left, bounded by the workers: about {counted(slots, 'task')} of it at a time"
        case Bound.POOL:
            return f"about {range_} left, bounded by pool {_named(estimate.name)}"
        case Bound.LIMIT:
            return f"about {range_} left, bounded by {estimate.name}"
        case Bound.TIME:
            what = f"the time for which {_named(estimate.name)} is held" if estimate.name else "the time at which it starts"
            return f"about {range_} left, bounded by {what}"


def _for_whom(workflow: "RunningWorkflow", estimate: "Estimate", names: Sequence[str]) -> str:
    if workflow.state is WorkflowState.PAUSED:
        return "it is paused"
    first, more = _named(names[estimate.persons[0]]), estimate.person_count - 1
    others = f" and {counted(more, 'node')} more" if more else ""
    return f"{first}{others} wait{'' if more else 's'} for a person, or will"


def _path(estimate: "Estimate", names: Sequence[str]) -> str:
    shown = [_shortened(names[node]) for node in estimate.path[:_NAMED_MAX]]
    more = estimate.path_nodes - len(shown)
    return " -> ".join(shown) + (f" -> … ({counted(more, 'node')} more, {span(estimate.path_s)} in all)" if more else "")


def _named(name: str) -> str:
    return f"'{_shortened(name)}'"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_MAX else f"{name[: _NAME_MAX - 1]}…"
